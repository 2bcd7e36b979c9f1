"""Subjects whose network runs once, in the host: pictures, what is kept from run to run, and for how long."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    names = {"slim": "sd15-slim", "topo": "sd15-topo", "micro": "sd15-micro", "lora-topo": "lora-topo"}
    arguments = {name: inside.model(model) for name, model in names.items()}
    arguments["lora-micro"] = inside.model("lora-micro")
    return inside.run(Path(__file__).with_name("inside_cached.py"), arguments, timeout=900)


def test_pictures_are_those_of_the_equations(facts: Any) -> None:
    wrong = [name for name, holds in facts["pictures"].items() if not holds]
    assert len(facts["pictures"]) == 11
    assert not wrong


def test_the_copy_runs_once_for_all_runs_until_it_is_unloaded(facts: Any) -> None:
    keeping = facts["keeping"]
    assert keeping["runs of the copy"] == 1
    assert keeping["a kept picture is the same"]
    assert (keeping["kept when unloaded"], keeping["runs after unloading"], keeping["kept"]) == (0, 1, 1)
    assert keeping["and it is the same again"]
    assert facts["kept for nobody"] == 0


def test_a_low_rank_copy_follows_the_loras_of_its_model(facts: Any) -> None:
    assert all(facts["loras"].values()), facts["loras"]
    assert all(facts["hook loras"].values()), facts["hook loras"]
    assert all(facts["bypass loras"].values()), facts["bypass loras"]  # of ComfyUI 0.3.64 none: it has no such node


def test_a_later_run_costs_hardly_more_than_the_plain_model(facts: Any) -> None:
    price = facts["price"]
    assert price["later"] < price["first"] < price["noisy"]
    assert price["later"] < 1.06


def test_the_host_is_asked_for_room_that_does_not_grow_with_the_image(facts: Any) -> None:
    memory = facts["memory"]
    for size in (16, 32):
        assert memory["needed"] <= memory[f"asked for {size}"] < 1.5 * memory["needed"] + 2**16
