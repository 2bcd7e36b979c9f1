"""SSR-Encoder's core on what a host gives: its vision tower's states, and its attention before the projection."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    return inside.run(Path(__file__).with_name("inside_ssr.py"), {"model": inside.model("sd15-topo")}, timeout=900)


def test_the_hosts_vision_tower_gives_the_states_of_transformers(facts: Any) -> None:
    tower = facts["tower"]
    assert (tower["not loaded"], tower["unknown"], tower["shape"]) == ([], [], [2, 24, 17, 32])
    assert tower["states"] < 1e-5 and tower["zeros"] < 1e-5


@pytest.mark.parametrize("name", ["both", "conditional", "masked"])
def test_the_hosts_u_net_equals_the_cores_with_subjects(facts: Any, name: str) -> None:
    found = facts["network"][name]
    assert found["error"] < 1e-4 < 0.01 < found["effect"]
    assert found["first half plain"] == (name == "conditional")


@pytest.mark.parametrize("name", ["off", "nowhere"])
def test_where_nothing_acts_the_host_gives_the_plain_model_bit_for_bit(facts: Any, name: str) -> None:
    assert facts["network"][name]["plain"]
