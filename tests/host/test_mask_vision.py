"""Masks made with other states of the host's CLIP_VISION models, and with DINOv2 and SigLIP beside CLIP."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside

KINDS = ("clip", "siglip", "dinov2")


@pytest.fixture(scope="session")
def facts(inside: Inside) -> dict[str, Any]:
    return inside.run(Path(__file__).with_name("inside_mask_vision.py"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_equals_the_formula_on_the_models_weights(facts: dict[str, Any], kind: str) -> None:
    assert set(facts["far"][kind]) == {"last", "penultimate", "value-value"}
    assert max(facts["far"][kind].values()) < 1e-4, facts["far"][kind]


def test_in_half_precision_too(facts: dict[str, Any]) -> None:
    assert max(facts["half"].values()) < 1e-4, facts["half"]  # the host computes in float32, whatever is stored


def test_what_is_wrong_with_a_state_that_is_not_chosen_stops_no_run(facts: dict[str, Any]) -> None:
    same, grid, said = facts["unasked"]
    assert same is True
    assert grid == 4
    assert "not finite" in said


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("what", ["the host's own", "in place", "no hook is left"])
def test_the_hosts_model_is_read_as_the_host_reads_it(facts: dict[str, Any], kind: str, what: str) -> None:
    assert facts[f"{kind}, {what}"] is True


def test_class_tokens_and_grids_are_told_from_the_model(facts: dict[str, Any]) -> None:
    assert facts["prefix"] == {"clip": 1, "siglip": 0, "dinov2": 1}
    assert facts["grids"] == {"clip": [4, 7], "siglip": [4, 7], "dinov2": [37, 65]}


def test_registers_are_left_out(facts: dict[str, Any]) -> None:
    if facts["registers"] is None:
        pytest.skip("this host has no DINOv3, the one of its models with registers")
    assert facts["registers"] == [5, 4, True]


def test_without_the_new_inputs_nothing_changes(facts: dict[str, Any]) -> None:
    assert facts["off is as before"] is True
    assert facts["one pass reads all states"] is True


@pytest.mark.parametrize("case", ["dinov2", "siglip", "value-value", "tiles"])
def test_the_node_makes_what_the_library_makes(facts: dict[str, Any], case: str) -> None:
    assert facts["as the library"][case] is True
    assert facts["as the library"][f"{case}, another mask"] is True


@pytest.mark.parametrize(
    ("case", "begins"),
    [
        ("features", "features must be one of last, penultimate, value-value; got 'deepest'"),
        ("tiles", "tiles must be a whole number in 1..3; got 4"),
        ("foreign", "features: the vision model (Foreign) has no value-value; it has last"),
        ("nothing linked", "mask_vision is empty: "),
        ("two models", "mask_vision comes as a list of 2 values"),
        ("odd tokens", "This vision model (Foreign) was expected to give a square grid of patches for a picture of 64"),
        ("any shape", "This vision model takes pictures of any shape (SigLIP 2 NaFlex), but"),
    ],
)
def test_what_cannot_be_is_named(facts: dict[str, Any], case: str, begins: str) -> None:
    assert facts["said"][case].startswith(begins), facts["said"][case]


def test_the_toy_world_has_them_all(facts: dict[str, Any]) -> None:
    assert facts["said"]["toy"] == ""
