"""Attention backends, and little memory, as far as a CPU can show them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from host.inside import Inside

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).with_name("inside_memory.py")


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    arguments = {"model": inside.model("sd15-micro"), "sdxl": inside.model("sdxl-topo"), "memory": True}
    return inside.run(SCRIPT, arguments, timeout=1800)


@pytest.mark.parametrize(
    ("option", "name"),
    [
        ("--use-split-cross-attention", "attention_split"),
        ("--use-quad-cross-attention", "attention_sub_quad"),
        ("--use-pytorch-cross-attention", "attention_pytorch"),
    ],
)
def test_attention_backends_agree(inside: Inside, facts: Any, option: str, name: str) -> None:
    """More keys than queries, and soft masks, give the same with each of them."""
    arguments = {"model": inside.model("sd15-micro"), "memory": False}
    found = inside.run(SCRIPT, arguments, timeout=900, options=("--cpu", option))
    assert found["backend"].removesuffix("_wrapper") in (name, "wrapper")
    for case, values in found["images"].items():
        expected = torch.tensor(facts["images"][case])
        assert ((torch.tensor(values) - expected).abs().max() / expected.std()).item() < 1e-3, case


@pytest.mark.parametrize("kind", ["full", "lora", "cached"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_models_that_are_partly_loaded_give_the_same(facts: Any, family: str, kind: str) -> None:
    """But for rounding: the host also runs the branches of the guidance apart when memory is short."""
    found = facts[f"{family}, {kind}"]["partly"]
    assert found["NO_VRAM"]["lowvram"]
    for state in ("NO_VRAM", "LOW_VRAM", "NORMAL_VRAM"):
        assert found[state]["error"] < 1e-3, state
    assert found["after unloading"]


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_host_is_asked_for_what_a_subject_takes(facts: Any, family: str, kind: str) -> None:
    """Of weights exactly what the copy has, and beside them four times its features of a step, rounded up; on the
    prompt alone no less, because a run may have several prompts, and the host may run each by itself."""
    asked = facts[f"{family}, {kind}"]["asked for"]
    for found in asked.values():
        assert found["copy"] == found["weights"] > 0
        assert found["taken"] <= found["room"]
    both, prompt_alone = asked["both"], asked["conditional"]
    assert 4 * both["features"] <= both["room"] < 6 * both["features"]  # in rows of the latent
    assert prompt_alone["room"] == both["room"]
    assert asked["both"]["features"] < asked["both"]["taken"]


@pytest.mark.parametrize("family", ["sd15", "sdxl"])
def test_the_host_is_asked_for_what_a_subject_keeps(facts: Any, family: str) -> None:
    """One whose network runs once, where it runs and its features stay."""
    for found in facts[f"{family}, cached"]["asked for"].values():
        assert found["copy"] == found["weights"] > 0
        assert found["features"] < found["taken"] <= found["room"]


def test_every_weight_of_the_copy_is_cast_by_the_host(facts: Any) -> None:
    assert all(facts[f"{family}, full"]["partly"]["every layer can be cast"] for family in ("sd15", "sdxl"))
    assert facts["halved"] == {"finite": True, "another": True}
