"""Subjects where the host computes on a GPU, which is pretended (tools/pretend_gpu.py), in the host's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def facts(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> Any:
    arguments = {
        "model": inside.model("sd15-micro"),
        "larger": inside.model("sd15-slim"),
        "sdxl": inside.model("sdxl-slim"),
        "vision": inside.model("clip-vision"),
        "folder": str(tmp_path_factory.mktemp("states")),
    }
    script = Path(__file__).with_name("inside_two_devices.py")
    # In fp16, which the host chooses for a GPU, the CPU is slow and rounds differently.
    return inside.run(script, arguments, timeout=900, options=("--cpu", "--force-fp32"))


def test_images_are_the_cpus(facts: Any) -> None:
    found = facts["sampling"]
    assert len(found) == 13
    assert all(error < 1e-3 for error in found.values()), found


@pytest.mark.parametrize("model", ["larger", "sdxl"])
def test_images_are_the_cpus_where_the_models_do_not_fit(facts: Any, model: str) -> None:
    full, lora, cached = (facts["little memory"][model][kind] for kind in ("full", "lora", "cached"))
    # Some weights, or all, stay with the processor, and go to the GPU when they are used.
    assert all("cpu" in places for places in (full["model"], full["copy"], lora["model"], cached["copy"]))
    assert all(found["error"] < 1e-3 for found in (full, lora, cached)), (full, lora, cached)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_training_is_the_cpus(facts: Any, kind: str) -> None:
    found = facts["training"][kind]
    on_cpu, on_gpu = found["losses"]
    assert on_gpu == pytest.approx(on_cpu, rel=1e-4)
    assert found["weights"] == ["cpu"]  # of the subject, which goes into a file
    assert found["image"] < 1e-2
    assert found["previews"] == 1
    assert found["notes"] == []


def test_clip_tokens_are_the_cpus(facts: Any) -> None:
    assert set(facts["clip"]) == {"run", "route"}
    assert all(error < 1e-3 for error in facts["clip"].values()), facts["clip"]
