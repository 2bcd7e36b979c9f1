"""SDXL-shaped models: the host's own code beside ours, sampling beside the equations, and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    models = {"slim": "sdxl-slim", "topo": "sdxl-topo", "vpred": "sdxl-slim-vpred", "refiner": "sdxl-refiner"}
    arguments = {name: inside.model(model) for name, model in {**models, "sd2": "sd2-micro"}.items()}
    return inside.run(Path(__file__).with_name("inside_sdxl.py"), arguments, timeout=900)


def test_the_host_takes_them_for_sdxl(facts: Any) -> None:
    assert facts["classes"] == ["SDXL", "SDXL"]
    assert facts["families"] == ["SDXL of 26 blocks", "SDXL"]


def test_our_unet_equals_the_hosts(facts: Any) -> None:
    for found in facts["unet"].values():
        assert found["error"] < 1e-4
        assert found["effect of y"] > 1e-2


def test_pooled_text_and_sizes_are_put_together_as_the_host_does(facts: Any) -> None:
    assert facts["label"] < 1e-5


def test_sampling_is_as_the_equations_are_written(facts: Any) -> None:
    assert len(facts["agreement"]) == 6
    assert {name: error for name, error in facts["agreement"].items() if not error < 2e-3} == {}
    assert facts["all blocks"] < 2e-3


def test_identities(facts: Any) -> None:
    broken = [name for name, holds in facts["identities"].items() if not holds]
    assert not broken


def test_training_is_prepared_with_pooled_text_and_the_sizes_of_each_view(facts: Any) -> None:
    found = facts["training"]
    assert found["family"] == "SDXL of 26 blocks"
    assert found["views"] == 2
    assert found["latents"] == [[4, 10, 14], [4, 12, 12]]
    assert found["labels"] == [True] * 4
    assert found["steps"] == [3, True, True]


def test_a_prompt_of_another_models_clip_is_named(facts: Any) -> None:
    found = facts["training"]
    assert (
        "positive must hold a pooled text embedding of 1280 numbers for this model, and holds none"
        in found["no pooled text"]
    )
    assert "empty must hold a pooled text" in found["another pooled text"]
    assert "one of 768 numbers" in found["another pooled text"]


def test_noise_schedules_of_fine_tunes(facts: Any) -> None:
    found = facts["schedules"]
    assert found["plain"] == "eps"
    prediction, last = found["zero"]
    assert prediction == "v"
    assert 0 < last < 1e-6  # SD's own schedule ends at 0.0047
    assert "full discrete noise schedule" in found["edm"]


def test_a_checkpoint_that_predicts_v_is_trained_on_v(facts: Any) -> None:
    found = facts["v"]
    prediction, last = found["schedule"]
    assert prediction == "v"
    assert last == pytest.approx(4.897e-8, rel=1e-3)  # what the host has in place of 0
    assert found["filed"] == ["v", 2]
    assert len(found["losses"]) == 2
    assert found["losses"] == pytest.approx(found["expected"], rel=1e-3)


def test_sd2_is_trained_and_sampled(facts: Any) -> None:
    found = facts["sd2"]
    assert (found["family"], found["steps"], found["off"]) == ("SD2.x", 2, True)
    assert found["error"] < 2e-3 < 0.02 < found["effect"]


def test_subjects_of_other_families_are_refused_by_name(facts: Any) -> None:
    assert (
        "trained on a model of another kind (SDXL of 26 blocks), but this is an SD 2.x model" in facts["another family"]
    )
    assert "but this is an SDXL model" in facts["a distilled one"]
    assert "got SDXLRefiner: this is SDXL's refiner" in facts["the refiner"]
