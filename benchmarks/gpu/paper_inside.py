"""Run by ``python -m benchmarks.gpu`` inside a host: Train P3S from references to a subject file.

The model has the true shapes with random weights, and the VAE is a small one. Masks are given: RNGR Mask has no part.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from statistics import median
from types import SimpleNamespace
from typing import Any

import comfy.sd
import comfy.utils
import no_server  # noqa: F401
import torch
from comfyui_p3s.nodes.host import memory
from comfyui_p3s.nodes.training import execution, inputs, saved_subjects
from comfyui_p3s.nodes.training.prepare import prepared
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.unet_config import UNetConfig
from comfyui_p3s.p3s.reference.points import PointSet
from comfyui_p3s.p3s.reference.rngr import Reference
from comfyui_p3s.p3s.subject.file import load_subject
from comfyui_p3s.p3s.training.sample_preview import EVERY
from comfyui_p3s.p3s.training.settings import TrainSettings
from comfyui_p3s.p3s.training.state import Checkpoints

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2] / "tests" / "host"))
sys.path.append(str(Path(__file__).parents[2] / "tests" / "tools"))

from inside_subjects import conditioning, draw
from partial_results import keep
from random_models import random_model
from tiny_parts import Maker, taesd

TOKENS = 257, 1024


def reference(number: int, pixels: int) -> Reference:
    """A photo of noise whose middle is the subject."""
    mask, none = torch.zeros(pixels, pixels), torch.zeros(pixels, pixels)
    mask[pixels // 4 : 3 * pixels // 4, pixels // 4 : 3 * pixels // 4] = 1
    photo, tokens = draw(pixels, pixels, 3, seed=number).sigmoid(), draw(*TOKENS, seed=100 + number)
    return Reference(photo, tokens, mask, none, mask, PointSet(((0.5, 0.5),)), f"{number:064x}")


def trained(model: Any, vae: Any, precision: str, arguments: dict[str, Any]) -> dict[str, Any]:
    """The seconds of each part, and what came of it."""
    settings = TrainSettings(epochs=arguments["epochs"], views="whole", precision=precision)
    references = [reference(number, arguments["pixels"]) for number in range(arguments["photos"])]
    texts = conditioning(1, model=model), conditioning(2, model=model)
    steps: list[float] = []
    comfy.utils.set_progress_bar_global_hook(lambda *_, **__: steps.append(time.perf_counter()))
    node = SimpleNamespace(hidden=SimpleNamespace(unique_id="1"))
    with tempfile.TemporaryDirectory() as folder:
        marks = [time.perf_counter()]
        wanted, info = prepared(model, vae, references, *texts, arguments["pixels"], CopySettings(), settings)
        marks.append(time.perf_counter())
        kept = Checkpoints(Path(folder) / "state", inputs.CHECKPOINT_EVERY)
        outcome = execution.run(node, model, wanted, info, EVERY, kept, False)
        marks.append(time.perf_counter())
        saved = saved_subjects.save(outcome.subject, f"paper {precision}")
        marks.append(time.perf_counter())
    if not outcome.result.completed or not saved.path:
        raise RuntimeError(f"{outcome.result.error} {saved.told}")
    found = load_subject(Path(saved.path))
    before, rest = steps[0] - marks[1], [b - a for a, b in pairwise(steps)]
    return {
        "seconds": marks[3] - marks[0],
        "prepare": marks[1] - marks[0],
        "until the first step is done": before,
        "train": marks[2] - marks[1],
        "write": marks[3] - marks[2],
        "step": median(rest) if rest else None,
        "steps": len(outcome.result.reports),
        "file": Path(saved.path).stat().st_size,
        "file_loads": found.info.steps == len(outcome.result.reports) and found.info.completed,
        "finite": all(bool(torch.isfinite(w).all()) for w in found.weights.values()),
        "losses": [outcome.result.reports[i].loss for i in (0, -1)],
        "peak": memory.in_use() if memory.device().type == "cuda" else None,
        "notes": list(outcome.notes),
        "settings": asdict(settings),
    }


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    small = UNetConfig.build(320, (1,), 1, (1,))
    model, vae = random_model(small if arguments["tiny"] else UNetConfig.build()), Maker(0)
    taesd(vae, "")
    codec = comfy.sd.VAE(sd=vae.tensors)
    found: dict[str, Any] = {}
    for precision in arguments["precisions"]:
        found[precision] = trained(model, codec, precision, arguments)
        print(precision, found[precision], flush=True)
        keep(arguments, found)
    return found
