"""Subjects with a low-rank copy on a real host: the copy runs on the MODEL's own layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    models = {
        "topo": "sd15-topo",
        "slim": "sd15-slim",
        "micro": "sd15-micro",
        "inpaint": "sd15-inpaint-micro",
        "sdxl": "sdxl-slim",
        "lora": "lora-topo",
    }
    arguments = {name: inside.model(model) for name, model in models.items()}
    return inside.run(Path(__file__).with_name("inside_low_rank.py"), arguments, timeout=900)


@pytest.mark.parametrize("case", ["plain", "with a LoRA"])
def test_the_hosts_result_is_the_cores(facts: Any, case: str) -> None:
    assert facts[case]["effect"] > 0.01
    assert facts[case]["error"] < 1e-3
    assert facts["the LoRA's effect"] > 0.01


@pytest.mark.parametrize("case", ["sharing", "sharing, SDXL"])
def test_the_models_weights_are_shared(facts: Any, case: str) -> None:
    assert len(facts[case]) == 6
    assert not [name for name, holds in facts[case].items() if not holds]
    assert facts["another MODEL has its own copy"]


@pytest.mark.parametrize("case", ["8 bits", "inpainting", "the learned weight counts"])
def test_other_models_and_schedules(facts: Any, case: str) -> None:
    assert facts[case]
