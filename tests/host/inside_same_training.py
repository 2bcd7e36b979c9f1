"""Run by test_same_training.py inside a host: the same by the nodes and by the library, on the toy world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.sample
import comfy.samplers
import torch
import torch.nn.functional as F
from comfyui_p3s.nodes.apply import Apply
from comfyui_p3s.nodes.host import toy_world
from comfyui_p3s.nodes.host.base_model import base_weights, noise_schedule
from comfyui_p3s.nodes.training import execution, saved_subjects
from comfyui_p3s.nodes.training.prepare import prepared
from comfyui_p3s.p3s.models.pipeline import apply_subject, train_subject
from comfyui_p3s.p3s.models.stable_diffusion import StableDiffusion
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.reference.points import PointSet
from comfyui_p3s.p3s.reference.rngr import Reference
from comfyui_p3s.p3s.sampling.application import application
from comfyui_p3s.p3s.sampling.diffusion import ddim_timesteps
from comfyui_p3s.p3s.subject.file import Subject, load_subject, save_new_subject
from comfyui_p3s.p3s.toyworld.world import click, picture_of
from comfyui_p3s.p3s.training.key import same
from comfyui_p3s.p3s.training.settings import TrainSettings
from comfyui_p3s.p3s.training.state import Checkpoints
from inside_subjects import load
from safetensors import safe_open
from server import PromptServer

import nodes

PROMPT = "a photo of a sks dog on the grass"
SETTINGS = TrainSettings(steps=3, batch_size=4, learning_rate=1e-3)
LATER = {"views": "whole", "timesteps": "stratified", "loss_weighting": "min_snr", "warmup_steps": 2}
NOTES = {"identifier": "sks", "licence": "CC0"}


def trained(model: Any, *inputs: Any) -> Subject:
    """The subject as Train P3S makes it; ``inputs`` as for ``prepared``."""
    wanted = prepared(model, *inputs, **NOTES)
    node = SimpleNamespace(hidden=SimpleNamespace(unique_id="1"))
    return execution.run(node, model, *wanted, 0, Checkpoints(Path("no.training")), resume=False).subject


def encoded(*texts: str) -> list[Any]:
    return [nodes.CLIPTextEncode().encode(toy_world.Text(), text)[0] for text in texts]


def content(path: str) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


def differing(a: Any, b: Any, name: str = "") -> Iterator[str]:
    """Names of the values that differ, of dictionaries within dictionaries."""
    if isinstance(a, dict) and isinstance(b, dict):
        for key in sorted(a.keys() | b.keys()):
            yield from differing(a.get(key), b.get(key), f"{name}.{key}" if name else key)
    elif a != b:
        yield name


def compared(node: str, library: str) -> dict[str, Any]:
    """Two subject files."""
    (tensors, metadata), (others, other_metadata) = content(node), content(library)
    info, other_info = (json.loads(each.pop("p3s")) for each in (metadata, other_metadata))
    return {
        "tensors": tensors.keys() == others.keys()
        and all(t.dtype == others[k].dtype and torch.equal(t, others[k]) for k, t in tensors.items()),
        "metadata": list(differing(metadata, other_metadata)),
        "info": list(differing(info, other_info)),
        "known": bool(info["training_key"] and info["sketches"] and info["loss_map"] and info["points"]),
    }


def files(folder: Path) -> dict[str, Any]:
    """The files of one training by the node and by the library."""
    # The host keeps sigmas, from which the schedule is computed back: other last bits than the world's own.
    world, facts = replace(toy_world.world(), noise=noise_schedule(toy_world.model())), {}
    scenes = toy_world.drawn("dog", 4), toy_world.drawn("dog", 7)
    references = [world.reference(picture_of(scene), click(scene, 1)) for scene in scenes]
    for name, count, copy, settings in (
        ("one photo", 1, CopySettings(), SETTINGS),
        ("two photos", 2, CopySettings(), replace(SETTINGS, batch_size=3)),
        ("low rank", 1, CopySettings(kind="lora", rank=4), replace(SETTINGS, views="whole")),
        (
            "all views",
            2,
            CopySettings(kind="lora", rank=4),
            replace(SETTINGS, background_weight=0.1, backdrop="random", crops=2, flip=True),
        ),
        ("all that came later", 1, CopySettings(kind="lora", rank=4, alpha=8.0), replace(SETTINGS, **LATER)),
    ):
        inputs = toy_world.Vae(), references[:count], *encoded(PROMPT, ""), 48, copy, settings
        node = saved_subjects.save(trained(toy_world.model(), *inputs), name)
        with torch.inference_mode(False):
            subject, _ = train_subject(world, references[:count], PROMPT, settings, copy, **NOTES)
            library = save_new_subject(subject, folder, f"{name} library")
            untrained = replace(settings, steps=1, learning_rate=1e-8)
            first, _ = train_subject(world, references[:count], PROMPT, untrained, copy)
        weights = load_subject(node.path).weights
        moved = max((weights[k].float() - v.float()).abs().max().item() for k, v in first.weights.items())
        facts[name] = compared(node.path, str(library)) | {"moved": moved}
    return facts


class Vae:
    """A VAE for either side: an eighth of the size, three colours and their mean."""

    config = SimpleNamespace(scaling_factor=0.18215)

    def __init__(self, of_diffusers: bool = False) -> None:
        self.of_diffusers = of_diffusers

    def encode(self, pixels: torch.Tensor) -> Any:
        if not self.of_diffusers:
            return self._small(pixels.movedim(-1, 1))
        latent = self._small(pixels / 2 + 0.5)
        return SimpleNamespace(latent_dist=SimpleNamespace(mode=lambda: latent))

    def _small(self, pixels: torch.Tensor) -> torch.Tensor:
        small = F.avg_pool2d(pixels, 8)
        return torch.cat([small, small.mean(1, keepdim=True)], 1)


class Told(StableDiffusion):
    """Stable Diffusion with texts as they come from the host."""

    def encode_text(self, text: str) -> torch.Tensor:
        return torch.full((77, 768), 0.1 if text else 0.2)


def upright(path: str) -> dict[str, Any]:
    """A photo of 3:4 whose view is a square, so that its two examples have latents of two sizes."""
    model = load(path)
    subject = torch.zeros(128, 96)
    subject[8:40, 8:40] = 1
    photo, tokens = (torch.rand(s, generator=torch.Generator().manual_seed(0)) for s in ((128, 96, 3), (17, 20)))
    reference = Reference(photo, tokens, subject, subject * 0, subject, PointSet(((0.2, 0.2),)), "0" * 64)
    settings = TrainSettings(epochs=2, batch_size=4)
    with torch.inference_mode(False):
        unet = UNet.from_state_dict(base_weights(model))
        models = Told(unet, noise_schedule(model), Vae(of_diffusers=True), None, None, None, resolution=128)
        prompts = ([[models.encode_text(text)[None], {}]] for text in (PROMPT, ""))
        node = trained(model, Vae(), [reference], *prompts, 128, CopySettings(kind="lora"), settings).info
        library, _ = train_subject(models, [reference], PROMPT, settings, CopySettings(kind="lora"))
    return {
        "steps": [node.steps, library.info.steps],
        "key": node.training_key == library.info.training_key,
        "sketches": same(node.sketches, library.info.sketches),
    }


def pictures() -> dict[str, dict[str, float]]:
    """A subject applied by Apply P3S and by the library; how far apart, and what it does, relative to the picture."""
    model, steps, guidance = toy_world.model(), 10, 3.0
    world, scene = replace(toy_world.world(), noise=noise_schedule(model)), toy_world.drawn("dog", 4)
    reference = world.reference(picture_of(scene), click(scene, 1))
    left = torch.zeros(48, 48)
    left[:, :30] = 1
    with torch.inference_mode(False):
        subject, _ = train_subject(world, [reference], PROMPT, replace(SETTINGS, steps=5), CopySettings())
    times = ddim_timesteps(world.noise, steps)
    sigmas = model.get_model_object("model_sampling").sigmas[times]
    noise = world.start([1]) * (1 + sigmas[0] ** 2).sqrt() / sigmas[0]  # the library starts from x_t itself
    positive, negative = encoded(PROMPT, "")

    def by_the_host(model: Any) -> torch.Tensor:
        latents = comfy.sample.sample_custom(
            model,
            noise,
            guidance,
            comfy.samplers.sampler_object("euler"),  # which is DDIM on these sigmas
            torch.cat([sigmas, torch.zeros(1)]),
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=0,
        )
        return world.codec.decode(latents)

    plain = world.sample(PROMPT, [1], steps=steps, guidance=guidance)
    found = {"plain": {"error": (by_the_host(model) - plain).abs().max().item(), "effect": 1.0}}
    for name, values in (
        ("as it is", {}),
        ("strength", {"strength": 0.4}),
        ("mask", {"mask": left}),
        ("layers", {"layer_strengths": "input: 0.5, middle: 0"}),
        ("exact", {"mode": "exact"}),
        ("conditional", {"mode": "exact", "branches": "conditional"}),
        ("fast", {"mode": "fast"}),
        ("all", {"strength": 1.5, "mask": left, "layer_strengths": "output: 0.5", "mode": "fast"}),
        ("off", {"strength": 0.0}),
        ("weight on attention", {"strength": 0.4, "weight_on": "attention"}),
        ("isolated", {"mask": left, "isolate": 0.5}),
    ):
        given = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "guidance": "both", "mode": "standard"}
        given |= {"guidance" if key == "branches" else key: value for key, value in values.items()}
        given = [given, given | {"mask": 1 - left}] if name == "isolated" else [given]
        patched, applied = model, []
        for each in given:
            (patched,) = Apply.EXECUTE_NORMALIZED(model=patched, subject=subject, **each).args
            masked = {**values, "mask": EffectMask(each["mask"]) if "mask" in each else None}
            with torch.inference_mode(False):
                how = application(world.unet.config, **masked)
                applied.append(apply_subject(world, subject, application=how)[0])
        with torch.inference_mode(False):
            expected = world.sample(PROMPT, [1], applied, steps, guidance)
        found[name] = {
            "error": (by_the_host(patched) - expected).abs().max().item(),
            "effect": (expected - plain).abs().max().item(),
        }
    return found


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    PromptServer.instance = SimpleNamespace(client_id=None, send_progress_text=lambda *_: None)
    return {"files": files(Path(arguments["folder"])), "upright": upright(arguments["micro"]), "pictures": pictures()}
