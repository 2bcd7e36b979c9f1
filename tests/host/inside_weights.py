"""Run by test_weights.py inside a host: weights in 8 bits with a scale, patches that pad, and what nodes insert."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.hooks
import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfy.patcher_extension import PatcherInjection
from comfyui_p3s.nodes.host import apply_subject, base_model
from comfyui_p3s.nodes.training.prepare import prepared
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.injection import Injection, InjectionHooks
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.subject.base_fingerprint import fingerprint
from comfyui_p3s.p3s.subject.file import Subject
from comfyui_p3s.p3s.training.settings import TrainSettings
from inside_subjects import apply, call, draw, load, message, sample, subject_for

UNET = "model.diffusion_model."
LAYER = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def task(model: Any) -> Any:
    return prepared(model, None, (), [], [], 128, CopySettings(), TrainSettings())


def against_the_core(model: Any, subject: Subject, channels: int = 4, load: Callable[[Any], Any] | None = None) -> Any:
    """The host's U-Net with the subject against our own U-Net with the weights of this MODEL."""
    with torch.inference_mode(False):
        base = UNet.from_state_dict(base_model.base_weights(model))
    copy = apply_subject.build_copy(base.config, subject, torch.float32)
    copy.borrow(base)
    x, t, context = draw(2, channels, 16, 16), torch.full((2,), 500.0), draw(2, 77, 768, seed=1)
    condition = copy.condition(subject.references[0].latent[None], subject.references[0].tokens[None])
    features = copy(x[:, :4], t, context, condition)
    expected = base(x, t, context, InjectionHooks(Injection(features, copy.settings.lam)))
    plain = base(x, t, context)
    applied = apply(model, subject)
    (load or (lambda applied: comfy.model_management.load_models_gpu([applied])))(applied)
    found = call(applied, x, t, context)
    return {
        "error": ((found - expected).abs().max() / expected.std()).item(),
        "effect": ((expected - plain).abs().mean() / expected.std()).item(),
    }


def expected_of(path: str) -> dict[str, torch.Tensor]:
    """The U-Net's weights of a file in 8 bits and scales, by hand."""
    state = comfy.utils.load_torch_file(path)
    found = {}
    for key, value in state.items():
        name = key.removeprefix(UNET)
        if key.startswith(UNET) and name.endswith((".weight", ".bias")):
            scales = [state[scale] for end in ("scale_weight", "weight_scale") if (scale := name_of(key, end)) in state]
            found[name] = value.float() * (scales[0] if scales else 1)
    return found


def name_of(key: str, end: str) -> str:
    return f"{key.rpartition('.')[0]}.{end}"


def scaled(path: str, plain: Any, lora: Any) -> dict[str, Any]:
    model, expected = load(path), expected_of(path)
    found = base_model.base_weights(model)
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)
    plain_patched, _ = comfy.sd.load_lora_for_models(plain, None, lora, 0.7, 0.0)
    change = base_model.base_weights(plain_patched)[LAYER] - base_model.base_weights(plain)[LAYER]
    return {
        "stored in 8 bits": comfy.utils.load_torch_file(path)[UNET + LAYER].dtype == torch.float8_e4m3fn,
        "other than the plain ones": not torch.equal(expected[LAYER], base_model.base_weights(plain)[LAYER]),
        "weights": found.keys() == expected.keys()
        and all(torch.allclose(found[key], expected[key], rtol=1e-6, atol=0) for key in expected),
        "normal tensors": not any(weight.is_inference() or weight.requires_grad for weight in found.values()),
        "fingerprint": base_model.base_fingerprint(model) == fingerprint(expected),
        "LoRA": torch.allclose(base_model.base_weights(patched)[LAYER] - found[LAYER], change, atol=1e-5),
        "its fingerprint": base_model.base_fingerprint(patched, patched=True)
        == fingerprint(base_model.base_weights(patched)),
        "the LoRA counts": base_model.base_fingerprint(patched, patched=True) != fingerprint(expected),
        "and is no part of the checkpoint": base_model.base_fingerprint(patched) == fingerprint(expected),
        "configuration": base_model.unet_config(model) == base_model.unet_config(plain),
        "full": against_the_core(model, subject_for(model)),
        "low rank": against_the_core(model, subject_for(model, kind="lora")),
        "sampled": bool(torch.isfinite(sample(apply(model, subject_for(model)))).all()),
    }


def of_types(path: str, lora: Any) -> dict[str, bool]:
    """Weights of each type, stored in each: the 32 bits rounded once; and their own memory."""
    facts = {}
    for stored in (torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn):
        model = load(path)
        model.model.diffusion_model.to(stored)
        patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)
        for name, each in (("plain", model), ("with a LoRA", patched)):
            wide = base_model.base_weights(each)
            for wanted in (torch.float32, torch.float16, torch.bfloat16):
                found = base_model.base_weights(each, wanted)
                equal = all(torch.equal(found[key], wide[key].to(wanted)) for key in wide)
                apart = found[LAYER].data_ptr() != each.model.get_parameter(f"diffusion_model.{LAYER}").data_ptr()
                facts[f"{name}, {stored} as {wanted}"] = equal and apart and not found[LAYER].is_inference()
    return facts


class Inserted(torch.nn.Module):
    """As a motion module, behind a transformer block."""

    def __init__(self) -> None:
        super().__init__()
        self.transformer_blocks = torch.nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def inserted(path: str) -> dict[str, Any]:
    """While a clone with inserted modules is loaded, and another one that it was copied to."""
    model = load(path)
    unet = model.model.diffusion_model
    blocks = [block for block in unet.output_blocks if len(block) > 1]

    def inject(_: Any) -> None:
        for block in blocks:
            block.insert(2, Inserted())

    def eject(_: Any) -> None:
        for block in blocks:
            for i in [i for i, part in enumerate(block) if isinstance(part, Inserted)][::-1]:
                block.pop(i)

    config, before, mark = (
        base_model.unet_config(model),
        base_model.base_weights(model),
        base_model.base_fingerprint(model),
    )
    low_rank = subject_for(model, kind="lora")
    animated = model.clone()
    animated.set_injections("ADE", [PatcherInjection(inject=inject, eject=eject)])
    comfy.model_management.load_models_gpu([animated])

    def are_there() -> bool:
        return [sum(isinstance(part, Inserted) for part in block) for block in blocks] == [1] * len(blocks)

    facts: dict[str, Any] = {"inserted": are_there()}
    for name, each in (("the plain one", model), ("the changed one", animated), ("its clone", animated.clone())):
        found = base_model.base_weights(each)
        facts[name] = (
            base_model.unet_config(each) == config
            and found.keys() == before.keys()
            and all(torch.equal(found[key], before[key]) for key in before)
            and base_model.base_fingerprint(each) == mark
        )
        facts[f"{name}, inserted"] = are_there()
    applied = apply(model, low_rank)
    facts["a low-rank copy, inserted"] = are_there()
    # What it has borrowed is right whether they are there or not.
    (patcher,) = applied.get_additional_models_with_key(apply_subject.KEY)
    comfy.model_management.unload_all_models()
    facts["gone with the clone"] = not any(isinstance(part, Inserted) for block in blocks for part in block)
    facts["a low-rank copy"] = against_the_core(model, low_rank)
    facts["the same copy"] = (
        apply(model, low_rank).get_additional_models_with_key(apply_subject.KEY)[0].model is patcher.model
    )
    facts["refused in training"] = message(lambda: task(animated))
    return facts


def bypassed(path: str, lora: Any) -> str:
    """What training says of a LoRA in bypass mode, where the host has one."""
    model = load(path)
    if hasattr(comfy.sd, "load_bypass_lora_for_models"):
        model, _ = comfy.sd.load_bypass_lora_for_models(model, None, lora, 0.7, 0.0)
    else:
        model.set_injections("bypass_lora", [PatcherInjection(inject=lambda _: None, eject=lambda _: None)])
    return message(lambda: task(model))


def hooked(path: str, lora: Any) -> list[str]:
    """What training says of a LoRA that a hook brings with the prompt, and of one that changes the CLIP model alone."""
    model, text = load(path), draw(1, 77, 768)
    said = []
    for strength in (0.7, 0.0):
        hooks = comfy.hooks.create_hook_lora(lora, strength, 1.0)
        positive = comfy.hooks.set_hooks_for_conditioning([[text, {}]], hooks)
        said.append(
            message(lambda p=positive: prepared(model, None, (), p, [[text, {}]], 128, CopySettings(), TrainSettings()))
        )
    return said


def padded(path: str) -> dict[str, Any]:
    """A patch that lets the first convolution read eight channels (IC-Light), with all of the model loaded and with
    none of it, so that patches are applied at each call."""
    model = load(path)
    low_rank = subject_for(model, kind="lora")
    relit = model.clone()
    wider = draw(320, 8, 3, 3, seed=3) / 8
    relit.add_patches({"diffusion_model.input_blocks.0.0.weight": ("diff", [wider, {"pad_weight": True}])})

    def in_part(applied: Any) -> None:
        applied.patch_model(torch.device("cpu"), lowvram_model_memory=1)

    facts: dict[str, Any] = {
        "channels": [base_model.unet_config(model).in_channels, base_model.unet_config(relit).in_channels],
        "training": message(lambda: task(relit)),
        "loaded": against_the_core(relit, low_rank, 8),
    }
    comfy.model_management.unload_all_models()
    facts["in part"] = against_the_core(relit, low_rank, 8, in_part)
    convolution = relit.model.diffusion_model.input_blocks[0][0]
    facts["patched at each call"] = convolution.weight.shape[1] == 4 and base_model.channels_read(convolution) == 8
    relit.unpatch_model(torch.device("cpu"))
    facts["the plain model again"] = against_the_core(model, low_rank)
    return facts


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    lora = comfy.utils.load_torch_file(arguments["lora"])
    plain = load(arguments["slim"])
    return {
        "scaled": {name: scaled(arguments[name], plain, lora) for name in ("scaled", "quantised") if name in arguments},
        "of types": of_types(arguments["slim"], lora),
        "inserted": inserted(arguments["slim"]),
        "bypassed": bypassed(arguments["slim"], lora),
        "hooked": hooked(arguments["slim"], lora),
        "padded": padded(arguments["slim"]),
    }
