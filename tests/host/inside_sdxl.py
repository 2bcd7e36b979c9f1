"""Run by test_sdxl.py inside a host: SDXL-shaped models in its own code, under our patches and in our training."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.model_management
import comfy.model_sampling
import torch
from comfyui_p3s.nodes.host import base_model
from comfyui_p3s.nodes.training.prepare import prepared
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.network.label import Sizes, label_of
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.reference.points import PointSet
from comfyui_p3s.p3s.reference.rngr import Reference
from comfyui_p3s.p3s.sampling.schedule import Schedule
from comfyui_p3s.p3s.sampling.settings import FAST, SamplingSettings
from comfyui_p3s.p3s.subject.file import Subject, SubjectReference, load_info, save_subject
from comfyui_p3s.p3s.training import gradients
from comfyui_p3s.p3s.training.driver import new_copy, subject_of, with_result
from comfyui_p3s.p3s.training.loop import train
from comfyui_p3s.p3s.training.settings import TrainSettings
from comfyui_p3s.p3s.training.step import batch_losses
from inside_literal import Literal, literal
from inside_subjects import apply, difference, draw, load, message, sample, subject_for

LEFT, RIGHT = torch.zeros(16, 16), torch.zeros(16, 16)
LEFT[:, :8], RIGHT[:, 8:] = 1, 1


def prompt(seed: int, **options: Any) -> list[Any]:
    return [[draw(1, 77, 2048, seed=seed), {"pooled_output": draw(1, 1280, seed=seed), **options}]]


def run(model: Any, **options: Any) -> torch.Tensor:
    return sample(model, **{"positive": prompt(1), "negative": prompt(2), **options})


def same_unet(model: Any) -> dict[str, float]:
    """Largest differences between the host's U-Net and ours, and of its own under another y."""
    x, t, context, y = draw(2, 4, 16, 16), torch.full((2,), 500.0), draw(2, 77, 2048, seed=1), draw(2, 2816, seed=2)
    with torch.inference_mode(False):
        ours = UNet.from_state_dict(base_model.base_weights(model))
    comfy.model_management.load_models_gpu([model])
    theirs = model.model.diffusion_model(x, t, context, y=y, transformer_options={})
    other = model.model.diffusion_model(x, t, context, y=y.flip(0), transformer_options={})
    return {"error": difference(ours(x, t, context, label=y), theirs), "effect of y": difference(other, theirs)}


def same_label(model: Any) -> float:
    """The host's vector of pooled text and sizes beside ours."""
    pooled, sizes = draw(1, 1280), Sizes(500, 300, 20, 40, 1024, 512)
    named = {"height": 500, "width": 300, "crop_h": 20, "crop_w": 40, "target_height": 1024, "target_width": 512}
    theirs = model.model.encode_adm(pooled_output=pooled, device=torch.device("cpu"), **named)
    return difference(label_of(pooled[0], sizes), theirs[0])


def agreement(model: Any) -> dict[str, float]:
    """Whole runs of the sampler beside the equations as they are written."""
    full, low = subject_for(model, 1), subject_for(model, 2, kind="lora")
    sparse = subject_for(model, 3, depth_stride=2)
    conditional = SamplingSettings(branches="conditional")
    mask = EffectMask(LEFT)
    cases = {
        "exact": (apply(model, full, 0.8), [Literal(full, 0.8)]),
        "low rank": (apply(model, low, 0.8), [Literal(low, 0.8)]),
        "every second layer": (apply(model, sparse, 0.8), [Literal(sparse, 0.8)]),
        "conditional": (apply(model, full, 0.8, settings=conditional), [Literal(full, 0.8, guidance="conditional")]),
        "mask": (apply(model, full, 0.8, mask=mask), [Literal(full, 0.8, LEFT)]),
        "two isolated": (
            apply(apply(model, full, 0.8, mask=mask, isolate=1.0), low, 1.1, mask=EffectMask(RIGHT), isolate=1.0),
            [Literal(full, 0.8, LEFT, isolate=True), Literal(low, 1.1, RIGHT, isolate=True)],
        ),
    }
    return {name: difference(run(ours), run(literal(model, *used))) for name, (ours, used) in cases.items()}


def identities(model: Any) -> dict[str, bool]:
    one = subject_for(model, 1)
    plain, applied = run(model), apply(model, one)
    image = run(applied)
    with_sizes = run(applied, positive=prompt(1, height=512, width=512, target_height=64, target_width=64))
    first = next(iter(base_model.unet_config(model).layers()))
    left_out = dict.fromkeys(base_model.unet_config(model).layers(), 0.0)
    return {
        "a subject changes the image": not torch.equal(image, plain),
        "strength 0 is plain": torch.equal(run(apply(model, one, 0.0)), plain),
        "weight 0 is plain": torch.equal(run(apply(model, one, 1.0, Schedule("fixed", value=0.0))), plain),
        "without layers it is plain": torch.equal(run(apply(model, one, layers=left_out)), plain),
        "one layer counts": not torch.equal(run(apply(model, one, layers={**left_out, first: 1.0})), plain),
        "a second run is the same": torch.equal(run(applied), image),
        "the given model stays plain": torch.equal(run(model), plain),
        "sizes of the prompt reach both": not torch.equal(with_sizes, image),
        "fast is another image": not torch.equal(run(apply(model, one, settings=FAST), steps=6), run(model, steps=6)),
    }


def clean_reference() -> Reference:
    subject = torch.zeros(96, 128)
    subject[24:56, 40:72] = 1
    nothing = torch.zeros(96, 128)
    return Reference(
        torch.rand(96, 128, 3, generator=torch.Generator().manual_seed(0)),
        draw(17, 20),
        subject,
        nothing,
        subject,
        PointSet(((0.1, 0.2),)),
        "0" * 64,
    )


class PoolingVae:
    """Latents that are pictures of an eighth of the size."""

    def encode(self, pixels: torch.Tensor) -> torch.Tensor:
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat([small, small[:, :1]], 1)


def training(model: Any) -> dict[str, Any]:
    """Prepared by the node's own code, trained by the core, applied in the host."""
    settings = TrainSettings(steps=3, views="whole+subject", batch_size=2, learning_rate=1e-3)
    copied = CopySettings(kind="lora", rank=4)

    def inputs(positive: Any, empty: Any) -> Any:
        return prepared(model, PoolingVae(), [clean_reference()], positive, empty, 96, copied, settings)

    text_alone = [[draw(1, 77, 2048), {}]]
    made, info = inputs(prompt(1), prompt(2))
    # The crop of 48 x 48 pixels begins at (16, 32), and is twice as large where it is trained.
    sizes = Sizes(96, 128, 0, 0, 80, 112), Sizes(48, 48, 32, 64, 96, 96)
    labels = [
        torch.equal(found, label_of(draw(1, 1280, seed=seed)[0], expected))
        for one, expected in zip(made.examples, sizes, strict=True)
        for seed, found in ((1, one.label), (2, one.label_without_prompt))
    ]
    facts = {
        "family": info.family,
        "views": len(made.examples),
        "labels": labels,
        "latents": [list(one.learned_latent.shape) for one in made.examples],
        "no pooled text": message(lambda: inputs(text_alone, prompt(2))),
        "another pooled text": message(lambda: inputs(prompt(1), prompt(2, pooled_output=draw(1, 768)))),
    }
    with torch.inference_mode(False):
        weights = base_model.base_weights(model)
        base = UNet.from_state_dict(weights)
        copy = new_copy(weights, made)
        result = train(base, copy, made)
    facts["steps"] = [len(result.reports), result.completed, all(r.loss > 0 for r in result.reports)]
    return facts


def schedules(model: Any) -> dict[str, Any]:
    """Of fine-tunes that predict v down to pure noise (NoobAI-vpred), and of models that are set otherwise."""
    sampling = comfy.model_sampling

    def with_sampling(base: Any, kind: Any, **settings: Any) -> Any:
        changed, config = model.clone(), model.model.model_config
        made = type("Advanced", (base, kind), {})
        before = config.sampling_settings
        config.sampling_settings = {**before, **settings}
        try:
            changed.add_object_patch("model_sampling", made(config))
        finally:
            config.sampling_settings = before
        return changed

    zero = base_model.noise_schedule(with_sampling(sampling.ModelSamplingDiscrete, sampling.V_PREDICTION, zsnr=True))
    edm = with_sampling(sampling.ModelSamplingContinuousEDM, sampling.V_PREDICTION)
    return {
        "plain": base_model.noise_schedule(model).prediction,
        "zero": [zero.prediction, zero.alphas_cumprod[-1].item()],
        "edm": message(lambda: base_model.noise_schedule(edm)),
    }


def training_of_v(model: Any) -> dict[str, Any]:
    """On a checkpoint that says of itself that it predicts v down to pure noise."""
    settings = TrainSettings(steps=2, views="whole", learning_rate=1e-3)
    copied = CopySettings(kind="lora", rank=4)
    made, info = prepared(model, PoolingVae(), [clean_reference()], prompt(1), prompt(2), 96, copied, settings)
    (one,), expected = made.examples, []

    def watched(base: Any, copy: Any, batch: Any, settings: Any) -> Any:
        weights = {key: weight.detach().clone() for key, weight in copy.state_dict().items()}
        subject = Subject(weights, (SubjectReference(one.latent, one.tokens),), info)
        expected.append(loss_of_picture(model, subject, batch, one.latent))
        return batch_losses(base, copy, batch, settings)

    with torch.inference_mode(False), mock.patch.object(gradients, "batch_losses", watched):
        weights = base_model.base_weights(model)
        copy = new_copy(weights, made)
        result = train(UNet.from_state_dict(weights), copy, made)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "v.safetensors")
        save_subject(subject_of(copy, made.examples, with_result(info, result)), path)
        filed = load_info(path)
    return {
        "schedule": [made.noise.prediction, made.noise.alphas_cumprod[-1].item()],
        "filed": [filed.prediction, filed.steps],
        "losses": [report.denoising for report in result.reports],
        "expected": expected,
    }


def loss_of_picture(model: Any, subject: Subject, batch: Any, picture: torch.Tensor) -> float:
    """The error of v, from the picture that the host makes of what its U-Net predicts under the equations: of one x_t,
    v is wrong by 1 / sqrt(1 - abar) of what the picture is."""
    patched = literal(model, subject)
    options = {**patched.model_options["transformer_options"], "wrappers": patched.wrappers}
    options |= {"cond_or_uncond": [0], "uuids": ["a"]}
    comfy.model_management.load_models_gpu([patched])
    sigma = model.get_model_object("model_sampling").sigmas[batch.timesteps]
    with torch.inference_mode():
        noisy = batch.x * (1 + sigma.square()).sqrt()
        given = {"c_crossattn": batch.context, "y": batch.label, "transformer_options": options}
        found = patched.model.apply_model(noisy, sigma, **given)
        return ((found - picture).square().mean() * (1 + sigma**-2)).item()


def other_family(model: Any) -> dict[str, Any]:
    """SD 2.x, which is trained and sampled as SD 1.x is."""
    subject = subject_for(model)
    positive, empty = ([[draw(1, 77, 1024, seed=seed), {}]] for seed in (1, 2))
    settings = TrainSettings(steps=2)
    made, info = prepared(model, PoolingVae(), [clean_reference()], positive, empty, 96, CopySettings(), settings)
    with torch.inference_mode(False):
        weights = base_model.base_weights(model)
        copy = new_copy(weights, made)
        result = train(UNet.from_state_dict(weights), copy, made)
    prompts = {"positive": positive, "negative": empty}
    plain, applied = sample(model, **prompts), sample(apply(model, subject, 0.8), **prompts)
    return {
        "family": info.family,
        "steps": len(result.reports),
        "error": difference(applied, sample(literal(model, Literal(subject, 0.8)), **prompts)),
        "effect": difference(applied, plain),
        "off": torch.equal(sample(apply(model, subject, 0.0), **prompts), plain),
    }


def main(arguments: dict[str, Any]) -> Any:
    slim, topo = load(arguments["slim"]), load(arguments["topo"])
    sd2 = load(arguments["sd2"])
    subject = subject_for(slim)
    found = {
        "classes": [type(model.model).__name__ for model in (slim, topo)],
        "families": [base_model.unet_config(model).family for model in (slim, topo)],
        "unet": {"slim": same_unet(slim), "topo": same_unet(topo)},
        "label": same_label(slim),
        "agreement": agreement(slim),
        "identities": identities(slim),
        "training": training(slim),
        "schedules": schedules(slim),
        "v": training_of_v(load(arguments["vpred"])),
        "sd2": other_family(sd2),
        "another family": message(lambda: apply(sd2, subject)),
        "a distilled one": message(lambda: apply(topo, subject)),
        "the refiner": message(lambda: apply(load(arguments["refiner"]), subject)),
    }
    # All 70 blocks, with a copy of 46.
    sparse = subject_for(topo, kind="lora", depth_stride=5)
    found["all blocks"] = difference(
        run(apply(topo, sparse, 0.8), steps=1), run(literal(topo, Literal(sparse, 0.8)), steps=1)
    )
    return found
