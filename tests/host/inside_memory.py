"""Run by test_memory.py inside a host: attention backends, models that are partly loaded, and what is asked for."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.ldm.modules.attention
import comfy.model_management as management
import torch
from comfyui_p3s.nodes.host import apply_subject, kept_features
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.sampling.settings import SamplingSettings
from inside_subjects import apply, difference, load, sample, subject_for

sys.path.append(str(Path(__file__).parents[1]))
from alive import Alive

KINDS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"kind": "lora"}, "cached": {"copy_input": "cached"}}
SOFT = EffectMask(torch.linspace(-0.5, 1.5, 12).clamp(0, 1).expand(12, 12))


@contextmanager
def little_memory(state: Any) -> Iterator[None]:
    """The host believes that it has a GPU, in this state of memory, with next to nothing free on it."""
    names = ("is_device_cpu", "vram_state", "get_free_memory")
    before = {name: getattr(management, name) for name in names}
    pretended = {
        "is_device_cpu": lambda device: False,
        "vram_state": state,
        "get_free_memory": lambda device=None, torch_free_too=False: (2**20, 2**20) if torch_free_too else 2**20,
    }
    for name, value in pretended.items():
        setattr(management, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(management, name, value)


def cast(copy: Any) -> list[bool]:
    """Of each layer with weights: whether the host casts and moves them at every use."""
    return [getattr(m, "comfy_cast_weights", False) for m in copy.modules() if m._parameters]


def partly(model: Any, **settings: Any) -> dict[str, Any]:
    applied = apply(model, subject_for(model, **settings))
    (copy,) = [p.model for p in applied.get_additional_models_with_key(apply_subject.KEY)]
    whole = sample(applied)
    found: dict[str, Any] = {}
    for name in ("NO_VRAM", "LOW_VRAM", "NORMAL_VRAM"):
        management.unload_all_models()
        with little_memory(getattr(management.VRAMState, name)):
            image = sample(applied)
            found[name] = {"error": difference(image, whole), "lowvram": bool(applied.model.model_lowvram)}
        management.unload_all_models()
    found["every layer can be cast"] = all(cast(copy))
    found["after unloading"] = torch.equal(sample(applied), whole)
    return found


def halved(model: Any) -> dict[str, bool]:
    """Weights in another type than the computation: whatever would use them uncast is an error."""
    applied = apply(model, subject_for(model))
    (copy,) = [p.model for p in applied.get_additional_models_with_key(apply_subject.KEY)]
    image = sample(applied)
    copy.to(torch.bfloat16)
    return {"finite": bool(torch.isfinite(sample(applied)).all()), "another": not torch.equal(sample(applied), image)}


def run(model: Any) -> dict[str, Any]:
    """A step of both prompts: the bytes and the models that the host is asked to make room for, and the bytes that it
    takes beside the weights, where it takes most."""
    real, asked = management.load_models_gpu, []

    def load_models(models: Any, memory_required: float = 0, **more: Any) -> Any:
        asked.append((memory_required, {patcher.model: patcher.model_size() for patcher in models}))
        return real(models, memory_required=memory_required, **more)

    with mock.patch.object(management, "load_models_gpu", load_models):
        sample(model, steps=1)
    room, models = asked[0]
    kept_features._kept.clear()  # or what a subject keeps would be there already
    alive = Alive([weight for each in models for weight in each.parameters()])
    before = alive.now
    with alive:
        sample(model, steps=1)
    return {"room": room, "models": models, "taken": alive.peak - before}


def request(model: Any, without: dict[str, Any], branches: str, **settings: Any) -> dict[str, float]:
    """What is asked for on behalf of a subject, and what it takes; ``without`` is a run of the model alone."""
    applied = apply(model, subject_for(model, **settings), 0.8, settings=SamplingSettings(branches))
    (copy,) = [p.model for p in applied.get_additional_models_with_key(apply_subject.KEY)]
    found = run(applied)
    features: list[int] = []

    def count(self: Any, given: Any) -> Any:
        made = type(self).features(self, given)
        parts = [*made.self_attention.values(), *made.cross_attention.values()]
        features.append(sum({id(t): t.numel() for t in parts}.values()))
        return made

    kept_features._kept.clear()
    with mock.patch.object(copy, "features", lambda given: count(copy, given)):
        sample(applied, steps=1)
    return {
        "room": found["room"] - without["room"],
        "taken": found["taken"] - without["taken"],
        "features": features[0] * apply_subject.compute_dtype(model).itemsize,
        "copy": found["models"][copy],
        "weights": sum(w.numel() * w.element_size() for w in copy.parameters()),
    }


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    model = load(arguments["model"])
    one, two = subject_for(model, 1), subject_for(model, 2)
    images = {
        "one": sample(apply(model, one)),
        "two, soft mask": sample(apply(apply(model, one, mask=SOFT), two)),
    }
    found = {
        "backend": comfy.ldm.modules.attention.optimized_attention.__name__,
        "images": {name: image.flatten().tolist() for name, image in images.items()},
    }
    if arguments["memory"]:
        found["halved"] = halved(model)
        for name, each in (("sd15", model), ("sdxl", load(arguments["sdxl"]))):
            plain = run(each)
            for kind, settings in KINDS.items():
                asked = {branches: request(each, plain, branches, **settings) for branches in ("both", "conditional")}
                found[f"{name}, {kind}"] = {"partly": partly(each, **settings), "asked for": asked}
    return found
