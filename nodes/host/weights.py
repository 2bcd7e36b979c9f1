"""Reading a MODEL: its family, its weights with LoRA applied, its noise schedule."""

from __future__ import annotations

from typing import Any

import comfy.lora
import torch
from torch import Tensor

from ...p3s.diffusion import NoiseSchedule
from ...p3s.errors import FamilyError
from ...p3s.subject import fingerprint
from ...p3s.unet_config import UNetConfig

PREFIX = "diffusion_model."


def unet_config(model: Any) -> UNetConfig:
    """The configuration of a MODEL's U-Net. Raises FamilyError, naming what came, for other families."""
    _refuse_packed(model)
    shapes = {k[len(PREFIX) :]: v[0][0] for k, v in model.get_key_patches(PREFIX).items()}
    try:
        return UNetConfig.from_state_dict(shapes)
    except FamilyError as error:
        came = type(model.model.model_config).__name__
        raise FamilyError(f"P3S works with SD 1.x models (SD 1.5 and its fine-tunes); got {came}: {error}") from None


def base_weights(model: Any) -> dict[str, Tensor]:
    """The U-Net's weights by their original keys, float32 on the CPU, with the LoRAs of this MODEL applied.

    They are normal tensors also inside the host's inference mode, and never those of another clone of the model that
    happens to be loaded. Weights stored in 8 bits are widened.
    """
    _refuse_packed(model)
    weights = {}
    with torch.inference_mode(False):
        for key, entry in model.get_key_patches(PREFIX).items():
            weights[key[len(PREFIX) :]] = _weight(key, entry)
    return weights


def base_fingerprint(model: Any, patched: bool = False) -> str:
    """Fingerprint of the U-Net as its checkpoint holds it; ``patched``: with the LoRAs of this MODEL applied."""
    return fingerprint(
        {
            key[len(PREFIX) :]: _weight(key, entry) if patched and len(entry) > 1 else _dequantize(entry[0][0])
            for key, entry in model.get_key_patches(PREFIX).items()
        }
    )


def _weight(key: str, entry: Any) -> Tensor:
    """A weight in float32 on the CPU from its entry of ``get_key_patches``: (stored tensor, conversion), patches."""
    stored, convert = entry[0]
    weight = convert(_dequantize(stored).to("cpu", torch.float32, copy=True), inplace=True)
    return comfy.lora.calculate_weight(entry[1:], weight, key) if len(entry) > 1 else weight


def noise_schedule(model: Any) -> NoiseSchedule:
    """The discrete noise schedule that a MODEL samples with. Raises FamilyError for other kinds of model.

    What the model predicts is asked of its ``model_sampling``, which nodes such as ModelSamplingDiscrete replace: at
    sigma 1 an output of 1 for x = 0 stands for x_0 = -1 if it is the noise, and for -1 / sqrt(2) if it is v.
    """
    sampling = model.get_model_object("model_sampling")
    one = torch.ones(1, 1, 1, 1)
    sigmas = getattr(sampling, "sigmas", torch.empty(0))
    if len(sigmas) != getattr(sampling, "num_timesteps", -1):
        raise FamilyError(
            "P3S trains on models with a full discrete noise schedule; this one samples with "
            f"{type(sampling).__name__} (an LCM or flow setting?): connect the model before that setting is made"
        )
    x0 = sampling.calculate_denoised(one.flatten(), one, 0 * one).item()
    predictions = [kind for kind, answer in (("eps", -1.0), ("v", -(0.5**0.5))) if abs(x0 - answer) < 1e-4]
    if not predictions:
        raise FamilyError(
            "P3S trains on models that predict noise or v; this one's sampling settings (ModelSamplingDiscrete?) say "
            "something else"
        )
    with torch.inference_mode(False):
        sigmas = sigmas.detach().float().cpu().clone()
        return NoiseSchedule(1 / (1 + sigmas.square()), predictions[0])


def _dequantize(weight: Tensor) -> Tensor:
    """Newer hosts keep quantised weights in a tensor type of their own; torch's own types are left as they are."""
    plain = type(weight) in (torch.Tensor, torch.nn.Parameter)
    return weight if plain or not hasattr(weight, "dequantize") else weight.dequantize()


def _refuse_packed(model: Any) -> None:
    """GGUF keeps its weights packed in its own tensor type, which cannot be read through the host's interface."""
    if any(getattr(weight, "tensor_type", None) is not None for weight in model.model.diffusion_model.parameters()):
        raise FamilyError(
            "this MODEL holds GGUF weights, which P3S cannot read: load the model's .safetensors checkpoint "
            "(fp16, fp32 or fp8) with Load Checkpoint instead"
        )
