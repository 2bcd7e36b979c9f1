"""Weights that the host keeps in ways of its own are read as they are, and what is no weight is not overlooked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside
from host.job import Job
from host.server import Server

from p3s.subject.file import load_subject

#: The layouts of 8-bit checkpoints, and the first tested version that reads them.
LAYOUTS = {"scaled": "sd15-slim-scaled-fp8", "quantised": "sd15-slim-quantised"}


@pytest.fixture(scope="session")
def facts(inside: Inside) -> dict[str, Any]:
    models = {"slim": "sd15-slim", "lora": "lora-slim", **LAYOUTS}
    if inside.host.version == "0.3.64":  # which takes the later layout for plain weights
        del models["quantised"]
    return inside.run(
        Path(__file__).with_name("inside_weights.py"), {name: inside.model(model) for name, model in models.items()}
    )


def is_the_method(found: dict[str, float]) -> bool:
    return found["error"] < 1e-4 and found["effect"] > 0.01


def test_weights_in_8_bits_with_a_scale_are_served(facts: dict[str, Any]) -> None:
    assert facts["scaled"]
    for layout, found in facts["scaled"].items():
        for kind in ("full", "low rank"):
            assert is_the_method(found.pop(kind)), (layout, kind)
        assert all(found.values()), (layout, found)


def test_weights_are_widened_or_rounded_once(facts: dict[str, Any]) -> None:
    assert len(facts["of types"]) == 24
    assert all(facts["of types"].values()), facts["of types"]


def test_modules_that_nodes_insert_are_not_taken_for_the_models(facts: dict[str, Any]) -> None:
    found = facts["inserted"]
    said = found.pop("refused in training")
    assert said.startswith("FamilyError: this MODEL is changed while it samples (ADE), which training would not see")
    assert is_the_method(found.pop("a low-rank copy"))
    assert all(found.values()), found


def test_a_lora_in_bypass_mode_is_not_trained_past(facts: dict[str, Any]) -> None:
    assert facts["bypassed"].startswith("FamilyError: this MODEL is changed while it samples (bypass_lora)")
    assert "Load LoRA instead of its bypass node" in facts["bypassed"]


def test_a_lora_that_a_hook_brings_with_the_prompt_is_not_trained_past(facts: dict[str, Any]) -> None:
    of_the_model, of_clip = facts["hooked"]
    assert of_the_model.startswith("TrainingError: positive carries a hook that changes the MODEL (Create Hook LoRA?)")
    assert of_clip.startswith("TrainingError: no reference to train on")


def test_a_patch_may_let_the_first_convolution_read_more(facts: dict[str, Any]) -> None:
    found = facts["padded"]
    assert found["channels"] == [4, 8]
    assert "reads 8 channels and predicts 4 (an InstructPix2Pix or IC-Light model)" in found["training"]
    for way in ("loaded", "in part", "the plain model again"):
        assert is_the_method(found[way]), way
    assert found["patched at each call"]


@pytest.mark.parametrize("checkpoint", ["sd15-slim-scaled-fp8"])
def test_a_checkpoint_in_8_bits_is_trained_and_applied(server: Server, checkpoint: str) -> None:
    job = Job(server, checkpoint)
    trained = job.train(job.reference(), steps=1, name="eight", kind="lora")
    images = [job.image(job.apply(trained)), job.image(job.model)]
    result = server.client.run_ok(job.g.graph)
    assert load_subject(result.outputs[trained.id]["text"][0].split("saved to ")[1]).info.completed
    applied, plain = (result.images(node)[0].astype(int) for node in images)
    assert abs(applied - plain).mean() > 0.1
