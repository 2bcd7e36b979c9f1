"""Our U-Net, the weights we read and the patches we set, against the host's own code, in its process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside

from p3s.sampling.diffusion import NoiseSchedule


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    models = {
        "topo": "sd15-topo",
        "slim": "sd15-slim",
        "other": "sd15-slim-other",
        "micro": "sd15-micro",
        "inpaint": "sd15-inpaint-micro",
        "sd2": "sd2-micro",
        "lora": "lora-topo",
    }
    arguments = {name: inside.model(model) for name, model in models.items()}
    return inside.run(Path(__file__).with_name("inside_patch.py"), arguments, timeout=900)


def test_our_unet_equals_the_hosts(facts: Any) -> None:
    assert facts["unet"]["full"] < 1e-4
    assert facts["unet"]["one ResBlock"] < 1e-4


def test_weights_are_those_of_this_model_with_its_loras(facts: Any) -> None:
    lora = facts["lora"]
    assert lora.pop("changes") > 10
    assert lora.pop("equals what the sampler uses") < 1e-3  # the sampler's are rounded to its own type
    assert all(lora.values()), lora


def test_the_noise_schedule_is_stable_diffusions(facts: Any) -> None:
    ours = NoiseSchedule.stable_diffusion()
    prediction, length, first, last = facts["noise"]["plain"]
    assert (prediction, length) == ("eps", 1000)
    assert [first, last] == pytest.approx([ours.alphas_cumprod[0].item(), ours.alphas_cumprod[-1].item()], rel=1e-4)


def test_the_prediction_is_that_of_the_sampling_settings(facts: Any) -> None:
    noise = facts["noise"]
    assert noise["v"] == "v"
    assert "full discrete noise schedule" in noise["lcm"]
    assert "ModelSamplingDiscrete" in noise["x0"]


def test_each_row_of_a_call_gets_what_is_its(facts: Any) -> None:
    broken = [name for name, holds in facts["rows"].items() if not holds]
    assert len(facts["rows"]) == 63
    assert not broken


def test_the_prompts_of_another_guider_get_the_subject(facts: Any) -> None:
    assert facts["guiders"]["effect"] > 0.1
    assert facts["guiders"]["DualCFG"] < 1e-3


@pytest.mark.parametrize("settings", ["default", "no cross-attention", "attn1", "one to one", "reference alone"])
def test_the_hosts_attention_under_our_patches_is_the_methods(facts: Any, settings: str) -> None:
    """Eq. 7-9 through attn1_patch and attn2_patch equal the injection into our own U-Net."""
    found = facts["injection"][settings]
    assert found["effect"] > 0.01
    assert found["error"] < 1e-4
    assert found["unconditional half is plain"] < 1e-4
    assert found["conditional half is injected"] < 1e-4


def test_identities(facts: Any) -> None:
    broken = [name for name, holds in facts["identity"].items() if not holds]
    assert len(facts["identity"]) == 16
    assert not broken


@pytest.mark.parametrize(
    ("case", "parts"),
    [
        ("gguf", ("FamilyError", "GGUF", ".safetensors")),
        ("flux", ("FamilyError", "SD 1.x", "Flux", "double_blocks")),
        ("sd2", ("FamilyError", "SD 1.x", "SD 2.x")),
        ("other shapes", ("SubjectFileError", "do not fit this model")),
        ("no such photo", ("0..0", "got 3")),
        ("multiplied rows", ("multiplies the rows of self-attention (from 2 to 4 here)", "remove that node")),
        ("multiplied rows, off", ("no error",)),
        ("several gpus", ("several GPUs",)),
        ("copies on several gpus", ("several GPUs", "remove the multi-GPU node")),
        ("then copied to another gpu", ("several GPUs", "choose the model's device before Apply P3S")),
    ],
)
def test_what_does_not_fit_is_refused_by_name(facts: Any, case: str, parts: tuple[str, ...]) -> None:
    for part in parts:
        assert part in facts["refusals"][case]


def test_other_weights_of_the_family_are_a_warning(facts: Any) -> None:
    (warning,) = facts["refusals"]["other weights"]
    assert "trained on other weights" in warning
    assert facts["refusals"]["same weights"] == []


def test_weights_in_8_bits_are_served(facts: Any) -> None:
    fp8 = facts["fp8"]
    assert fp8.pop("works in") in ("torch.float32", "torch.float16", "torch.bfloat16")
    assert all(fp8.values()), fp8


def test_an_inpainting_model_is_served(facts: Any) -> None:
    found = facts["inpaint"]
    assert found["channels"] == 9
    assert found["error"] < 2e-3 and found["effect"] > 0.05, found
