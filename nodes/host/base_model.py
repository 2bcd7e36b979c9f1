"""Reading a MODEL: its family, its weights with LoRA applied, its noise schedule."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import comfy.lora
import comfy.model_management
import torch
from comfy.model_patcher import get_key_weight
from torch import Tensor

from ...p3s.errors import FamilyError
from ...p3s.network.unet_config import UNetConfig
from ...p3s.sampling.diffusion import NoiseSchedule
from ...p3s.subject.base_fingerprint import fingerprint

PREFIX = "diffusion_model."
FIRST = "input_blocks.0.0.weight"


def unet_config(model: Any) -> UNetConfig:
    """The configuration of a MODEL's U-Net. Raises FamilyError, naming what came, for other families."""
    stored = _stored_weights(model)
    shapes: dict[str, Any] = {key: each.weight for key, each in stored.items()}
    if FIRST in stored and stored[FIRST].patches:
        shapes[FIRST] = stored[FIRST].patched()  # some patches let it read more channels
    try:
        return UNetConfig.from_state_dict(shapes)
    except FamilyError as error:
        came = type(model.model.model_config).__name__
        raise FamilyError(
            f"P3S works with SD 1.x, SD 2.x and SDXL models and their fine-tunes; got {came}: {error}"
        ) from None


def base_weights(model: Any, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The U-Net's weights by their original keys, on the CPU, with the LoRAs of this MODEL applied in float32.

    They are normal tensors also inside the host's inference mode, and never those of another clone of the model that
    happens to be loaded. Weights stored in 8 bits are widened.
    """
    stored = _stored_weights(model)
    with torch.inference_mode(False):
        return {key: each.in_use(dtype) for key, each in stored.items()}


def base_fingerprint(model: Any, patched: bool = False) -> str:
    """Fingerprint of the U-Net as its checkpoint holds it; ``patched``: with the LoRAs of this MODEL applied."""
    return fingerprint(_Fingerprinted(_stored_weights(model), patched))


def check_trainable(model: Any) -> None:
    """Raise FamilyError for a MODEL that nodes change in ways that are not in its weights, which a training reads."""
    changed = sorted(key for key, injections in model.injections.items() if injections)
    if changed:
        raise FamilyError(
            f"this MODEL is changed while it samples ({', '.join(changed)}), which training would not see. Load a "
            "LoRA with Load LoRA instead of its bypass node; connect the MODEL before other such nodes (AnimateDiff)"
        )


def channels_read(convolution: Any) -> int:
    """How many channels a convolution of the host reads, with the patches that are applied to its weight: some pad it
    (IC-Light). Of a model that is loaded in part they are applied when it is called."""
    functions = [*getattr(convolution, "weight_function", ()), getattr(convolution, "weight_lowvram_function", None)]
    weight = convolution.weight
    for function in functions:
        if hasattr(function, "patches"):
            weight = function(torch.empty_like(weight, device="meta"))
    return weight.shape[1]


@contextmanager
def ejected(model: Any) -> Iterator[None]:
    """Within, the U-Net has its own modules only. Nodes may insert others into it for sampling (AnimateDiff), and leave
    them there while one of the MODEL's clones is loaded."""
    with ExitStack() as stack:
        for patcher in comfy.model_management.loaded_models():  # None for one that is gone
            if patcher is not None and patcher.model is model.model:
                stack.enter_context(patcher.use_ejected())
        yield


class _Stored(NamedTuple):
    """A weight as the host keeps it, and what makes the one in use of it. ``convert`` applies a scale that the host
    keeps beside it, if there is one."""

    key: str
    weight: Tensor
    convert: Callable[..., Tensor] | None
    patches: list[Any]

    @property
    def packed(self) -> bool:
        """Whether the stored numbers are not the weight's."""
        return self.convert is not None or type(self.weight) not in (Tensor, torch.nn.Parameter)

    def in_use(self, dtype: torch.dtype) -> Tensor:
        """With the LoRAs of the MODEL, on the CPU; its own memory."""
        if self.packed or self.patches:
            return self.patched().to(dtype)
        with torch.inference_mode(False), torch.no_grad():  # at once, which is exact and half the copying
            return self.weight.detach().to("cpu", dtype, copy=True)

    def unpatched(self) -> Tensor:
        """As the checkpoint holds it, float32 on the CPU; its own memory."""
        with torch.inference_mode(False), torch.no_grad():
            weight = self.weight.detach().to("cpu", torch.float32, copy=True)
            if type(weight) is not Tensor and hasattr(weight, "dequantize"):  # 0.33 keeps a scale inside a tensor type
                weight = weight.dequantize()
            return weight if self.convert is None else self.convert(weight, inplace=True)

    def patched(self) -> Tensor:
        """With the LoRAs of the MODEL, float32 on the CPU; its own memory."""
        weight = self.unpatched()
        with torch.inference_mode(False), torch.no_grad():
            return comfy.lora.calculate_weight(self.patches, weight, self.key) if self.patches else weight


class _Fingerprinted(Mapping[str, Tensor]):
    """Weights that are made when they are asked for: float32 copies of all of them would take gigabytes."""

    def __init__(self, stored: Mapping[str, _Stored], patched: bool) -> None:
        self._stored, self._patched = stored, patched

    def __getitem__(self, key: str) -> Tensor:
        each = self._stored[key]
        if self._patched and each.patches:
            return each.patched()
        return each.unpatched() if each.packed else each.weight

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def _stored_weights(model: Any) -> dict[str, _Stored]:
    """The U-Net's own weights by their original keys.

    As the host's ``get_key_patches``, which cannot read weights that have a scale: 0.33 fails on them, and 0.3.64 takes
    the scales for weights. Raises FamilyError for GGUF weights.
    """
    _refuse_packed(model)
    with ejected(model):
        names = [name for name, _ in model.model.diffusion_model.named_parameters()]
        own = [name for name in names if name.endswith((".weight", ".bias"))]
        return {name: _stored(model, PREFIX + name) for name in own}


def _stored(model: Any, key: str) -> _Stored:
    weight, _, convert = get_key_weight(model.model, key)
    if key in model.backup:  # the one in place has another clone's patches
        weight = model.backup[key].weight
    if key in model.hook_backup:
        weight = model.hook_backup[key][0]
    return _Stored(key, weight, convert, model.patches.get(key, []))


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
            f"{type(sampling).__name__} (an LCM or flow setting?): connect the model before the node that sets it"
        )
    x0 = sampling.calculate_denoised(one.flatten(), one, 0 * one).item()
    predictions = [kind for kind, answer in (("eps", -1.0), ("v", -(0.5**0.5))) if abs(x0 - answer) < 1e-4]
    if not predictions:
        raise FamilyError(
            "P3S trains on models that predict noise or v; this one is set to predict something else "
            "(ModelSamplingDiscrete?): connect the model before the node that sets it"
        )
    with torch.inference_mode(False):
        sigmas = sigmas.detach().float().cpu().clone()
        return NoiseSchedule(1 / (1 + sigmas.square()), predictions[0])


def _refuse_packed(model: Any) -> None:
    """GGUF keeps its weights packed in its own tensor type, which cannot be read through the host's interface."""
    if any(getattr(weight, "tensor_type", None) is not None for weight in model.model.diffusion_model.parameters()):
        raise FamilyError(
            "this MODEL holds GGUF weights, which P3S cannot read: load the model's .safetensors checkpoint "
            "(fp16, fp32 or fp8) with Load Checkpoint instead"
        )
