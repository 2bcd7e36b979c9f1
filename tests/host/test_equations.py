"""Apply P3S against the equations as they are written, in the host's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    arguments = {"micro": inside.model("sd15-micro"), "inpaint": inside.model("sd15-inpaint-micro")}
    return inside.run(Path(__file__).with_name("inside_equations.py"), arguments, timeout=900)


def test_pictures_are_those_of_the_equations_as_they_are_written(facts: Any) -> None:
    found = facts["pictures"]
    assert len(found) == 17
    assert all(of["effect"] > 0.05 for of in found.values()), found
    assert all(of["error"] < 2e-3 for of in found.values()), found


def test_tokens_of_another_node_stay_in_place(facts: Any) -> None:
    """Appended before ours or after, they are seen by all, and masks, weights and isolation stay with our own."""
    assert set(facts["tokens"]) == {"before", "after", "last"}
    assert all(of["error"] < 2e-3 < 0.02 < of["effect"] for of in facts["tokens"].values()), facts["tokens"]


def test_a_soft_mask_takes_no_more_memory_than_the_attention(facts: Any) -> None:
    """With a bias it would be a number for each query and key: here 14 times the keys."""
    assert facts["soft mask"]["error"] < 1e-4
    assert facts["soft mask"]["largest"] < 1.5


def test_a_mask_keeps_the_attention_that_another_node_has_chosen(facts: Any) -> None:
    """Four transformer blocks, a self- and a cross-attention in each."""
    assert facts["overridden"] == [8, 12]
