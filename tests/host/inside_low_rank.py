"""Run by test_low_rank.py inside a host: subjects with a low-rank copy, whose weights are those of the MODEL itself."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfyui_p3s.nodes.host import apply_subject, base_model
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.copy_start import start_copy
from comfyui_p3s.p3s.network.injection import Injection, InjectionHooks
from comfyui_p3s.p3s.network.low_rank import Borrowed
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.sampling.application import Application
from comfyui_p3s.p3s.sampling.schedule import Schedule
from comfyui_p3s.p3s.subject.file import Subject, SubjectReference
from comfyui_p3s.p3s.subject.info import SubjectInfo
from inside_literal import Literal, literal
from inside_subjects import difference, draw, sample

FIXED = Schedule("fixed")


def subject_for(model: Any, **settings: Any) -> Subject:
    """A subject whose every weight differs from its start, as after training."""
    chosen = CopySettings(kind="lora", rank=4, **settings)
    with torch.inference_mode(False):
        copy = start_copy(base_model.base_weights(model), chosen, 20)
        state = {
            k: v + 0.1 * draw(*v.shape, seed=i) * v[0].numel() ** -0.5
            for i, (k, v) in enumerate(copy.state_dict().items())
        }
    reference = SubjectReference(draw(4, 16, 16, seed=1), draw(17, 20, seed=1))
    config = base_model.unet_config(model)
    info = SubjectInfo(
        config.family, base_model.base_fingerprint(model), chosen.to_dict(), {}, ("",), ("",), 1, True, "", ""
    )
    return Subject(state, (reference,), info)


def apply(model: Any, subject: Subject, schedule: Schedule = FIXED) -> Any:
    return apply_subject.apply_subject(model, subject, 0, Application(schedule, 0.8))[0]


def call(model: Any) -> torch.Tensor:
    """One U-Net call with a model's wrappers and patches, as the sampler makes it."""
    options = dict(model.model_options["transformer_options"])
    options |= {"wrappers": model.wrappers, "cond_or_uncond": [1, 0], "uuids": ["a", "b"]}
    return model.model.diffusion_model(*inputs(), transformer_options=options)


def inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return draw(2, 4, 16, 16), torch.full((2,), 500.0), draw(2, 77, 768, seed=1)


def against_the_core(model: Any, subject: Subject) -> dict[str, Any]:
    """The host's U-Net with the subject against our own U-Net with the weights of this MODEL, LoRAs included."""
    with torch.inference_mode(False):
        base = UNet.from_state_dict(base_model.base_weights(model))
    copy = apply_subject.build_copy(base.config, subject, torch.float32)
    copy.borrow(base)
    condition = copy.condition(subject.references[0].latent[None], subject.references[0].tokens[None])
    features = copy(*inputs(), condition).with_weight(0.8)
    expected = base(*inputs(), InjectionHooks(Injection(features, copy.settings.lam)))
    comfy.model_management.load_models_gpu([model])
    found = call(apply(model, subject))
    return {
        "error": ((found - expected).abs().max() / expected.std()).item(),
        "effect": ((found - base(*inputs())).abs().mean() / expected.std()).item(),
    }


def sharing(model: Any, subject: Subject) -> dict[str, Any]:
    applied = apply(model, subject)
    (patcher,) = applied.get_additional_models_with_key(apply_subject.KEY)
    copy = patcher.model
    base = model.model.diffusion_model
    layers = {name: layer for name, layer in copy.unet.named_modules() if isinstance(layer, Borrowed)}
    lent = {name: base.get_submodule(copy.map.base_key(name)) for name in layers}
    del layers["input_blocks.0.0"]  # called through a function that pads
    image = sample(applied)
    return {
        "the layers are the MODEL's own": len(layers) > 50
        and all(layer._lender[0] is lent[name] for name, layer in layers.items()),
        "their tensors are the MODEL's own": all(
            layer._lender[0].weight.data_ptr() == lent[name].weight.data_ptr() for name, layer in layers.items()
        ),
        "the copy counts little": patcher.model_size() < model.model_size() / 4,
        "sampled": as_written(model, subject),
        "again the same": torch.equal(sample(apply(model, subject)), image),
        "a clone shares the copy": apply(model.clone(), subject)
        .get_additional_models_with_key(apply_subject.KEY)[0]
        .model
        is copy,
    }


def as_written(model: Any, subject: Subject) -> bool:
    """Whether a picture is that of the equations written out, and another one than without the subject."""
    image, expected, without = (
        sample(each) for each in (apply(model, subject), literal(model, Literal(subject, 0.8)), model)
    )
    return difference(image, expected) < 2e-3 and difference(without, expected) > 0.01


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    def load(name: str) -> Any:
        return comfy.sd.load_checkpoint_guess_config(arguments[name], output_vae=False, output_clip=False)[0]

    model, slim = load("topo"), load("slim")
    subject, small = subject_for(model), subject_for(slim, weight="learned")
    lora = comfy.utils.load_torch_file(arguments["lora"])
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)
    plain = call(apply(model, subject))
    facts = {
        "plain": against_the_core(model, subject),
        "with a LoRA": against_the_core(patched, subject),
        "the LoRA's effect": (call(apply(patched, subject)) - plain).abs().max().item(),
        "sharing": sharing(slim, small),
    }
    sdxl = load("sdxl")
    facts["sharing, SDXL"] = sharing(sdxl, subject_for(sdxl))
    other = load("slim")  # the same checkpoint in a MODEL of its own
    facts["another MODEL has its own copy"] = apply_subject.patcher_of_copy(
        other, base_model.unet_config(other), small
    ).model is not (apply_subject.patcher_of_copy(slim, base_model.unet_config(slim), small).model)
    comfy.model_management.unload_all_models()
    state = {
        k: v for k, v in comfy.utils.load_torch_file(arguments["slim"]).items() if k.startswith("model.diffusion_")
    }
    eight = comfy.sd.load_diffusion_model_state_dict(state, model_options={"dtype": torch.float8_e4m3fn})
    facts["8 bits"] = as_written(eight, small)
    plain_small = load("micro")
    narrow, inpaint = subject_for(plain_small), load("inpaint")
    facts["inpainting"] = as_written(inpaint, narrow)
    learned = sample(apply(slim, small, Schedule("learned")))
    facts["the learned weight counts"] = not torch.equal(learned, sample(apply(slim, small)))
    return facts
