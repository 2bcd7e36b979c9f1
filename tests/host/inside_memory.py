"""Run by test_memory.py inside a host: attention backends, and models that are only partly loaded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.ldm.modules.attention
import comfy.model_management as management
import torch
from comfyui_p3s.nodes.host import apply_subject
from comfyui_p3s.p3s.network.injection import EffectMask
from inside_subjects import apply, difference, load, sample, subject_for

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
        found |= {"full": partly(model), "lora": partly(model, kind="lora"), "halved": halved(model)}
    return found
