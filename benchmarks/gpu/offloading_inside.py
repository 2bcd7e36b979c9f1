"""Run by ``python -m benchmarks.gpu`` inside a host: a subject trained, saved, read, and applied to a small model.

It is run twice, on the CPU and on the GPU with all weights offloaded; the second run compares itself with the first.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.model_management as management
import no_server  # noqa: F401
import torch
from comfyui_p3s.nodes.host import base_model
from comfyui_p3s.nodes.training import execution, saved_subjects
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.unet_config import UNetConfig
from comfyui_p3s.p3s.subject.file import load_subject
from comfyui_p3s.p3s.training.examples import Example
from comfyui_p3s.p3s.training.key import TrainingInputs
from comfyui_p3s.p3s.training.settings import TrainSettings
from comfyui_p3s.p3s.training.state import Checkpoints

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2] / "tests" / "host"))

from inside_subjects import apply, difference, draw, sample, subject_for
from partial_results import keep
from random_models import random_model

MODEL = UNetConfig.build(320, (1,), 1, (1,))
KINDS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"kind": "lora"}, "cached": {"copy_input": "cached"}}
STEPS = 4


def trained(model: Any, kind: str) -> tuple[Any, list[float]]:
    """The subject as its file gives it, and the losses."""
    settings, copied = TrainSettings(steps=STEPS, learning_rate=1e-4), CopySettings(**KINDS[kind])
    mask = torch.zeros(16, 16) if copied.cached else None
    if mask is not None:
        mask[4:12, 4:12] = 1
    example = Example(draw(4, 16, 16, seed=7), draw(17, 20, seed=8), draw(77, 768, seed=9), subject_mask=mask)
    noise, base = base_model.noise_schedule(model), base_model.base_fingerprint(model, patched=True)
    inputs = TrainingInputs(base, ("",), [example], torch.zeros(77, 768), noise, copied, settings)
    info = subject_for(model, **KINDS[kind]).info
    node = SimpleNamespace(hidden=SimpleNamespace(unique_id="1"))
    outcome = execution.run(node, model, inputs, info, 0, Checkpoints(Path("none")), False)
    saved = saved_subjects.save(outcome.subject, kind)
    if not outcome.result.completed or not saved.path:
        raise RuntimeError(f"{outcome.result.error} {saved.told}")
    return load_subject(Path(saved.path)), [report.loss for report in outcome.result.reports]


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    before = torch.load(arguments["against"], weights_only=True) if arguments["against"] else {}
    found: dict[str, Any] = {}
    made: dict[str, Any] = {}
    for kind in KINDS:
        model = random_model(MODEL)
        subject, losses = trained(model, kind)
        applied = apply(model, subject)
        plain, image = sample(model, steps=STEPS), sample(applied, steps=STEPS)
        made[kind] = {"losses": losses, "image": image.cpu(), "weights": subject.weights}
        found[kind] = {"losses": losses, "effect": difference(image, plain), "on_gpu": on_gpu(applied)}
        found[kind] |= {"device": management.get_torch_device().type, "lowvram": bool(applied.model.model_lowvram)}
        if before:
            found[kind] |= compared(made[kind], before[kind])
        print(kind, found[kind], flush=True)
        keep(arguments, found)
    if arguments["out"]:
        torch.save(made, arguments["out"])
    return found


def compared(own: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """How far two runs are apart: of losses and weights the largest difference relative to the size of the value, of
    the image relative to its standard deviation."""
    losses = max(abs(a - b) / abs(b) for a, b in zip(own["losses"], other["losses"], strict=True))
    far = [(w.float() - other["weights"][key].float()).abs().max().item() for key, w in own["weights"].items()]
    image = difference(own["image"], other["image"])
    return {"losses_apart": losses, "weights_apart": max(far), "image_apart": image}


def on_gpu(applied: Any) -> float:
    """The share of the model's weights that lie on the GPU after sampling."""
    weights = list(applied.model.diffusion_model.parameters())
    return sum(w.numel() for w in weights if w.is_cuda) / sum(w.numel() for w in weights)
