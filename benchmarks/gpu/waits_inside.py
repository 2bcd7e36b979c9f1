"""Run by ``python -m benchmarks.gpu`` inside a host with a GPU: where a step of training or sampling waits for it.

torch warns of every operation for which the processor waits (``torch.cuda.set_sync_debug_mode``), and Python says from
which line it was called. How many there are does not depend on the size of the models.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch
from comfyui_p3s.p3s.network.unet_config import UNetConfig

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parents[2] / "tests" / "host"))

from inside_subjects import apply, sample, subject_for
from partial_results import keep
from random_models import random_model

from benchmarks.training_step import copy_settings, example, network, train_settings
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.driver import new_copy
from p3s.training.key import TrainingInputs
from p3s.training.loop import train
from p3s.training.precision import DTYPES

WARNING = "called a synchronizing CUDA operation"
STEPS = 6
MODEL = UNetConfig.build(320, (1, 1), 1, (1, 1))
TRAININGS = {
    "full fp32": {"kind": "full", "precision": "fp32"},
    "lora bf16": {"kind": "lora", "precision": "bf16"},
    "full bf16, checkpointed": {"kind": "full", "precision": "bf16", "checkpointing": True},
    "full bf16, cached": {"kind": "full", "precision": "bf16", "copy_input": "cached"},
}


class Waits:
    """The waits of each step: ``after_step`` ends one."""

    def __init__(self) -> None:
        self.steps: list[list[str]] = []
        self._seen: list[warnings.WarningMessage] = []
        self._told = 0

    @contextmanager
    def counting(self) -> Iterator[None]:
        with warnings.catch_warnings(record=True) as self._seen:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                yield
            finally:
                torch.cuda.set_sync_debug_mode("default")

    def after_step(self, *_: Any) -> None:
        new = [w for w in self._seen[self._told :] if WARNING in str(w.message)]
        self.steps.append([f"{short(w.filename)}:{w.lineno}" for w in new])
        self._told = len(self._seen)

    def found(self) -> dict[str, Any]:
        """Of the steps after the first, which sets things up: how many on the median, how many at most, and where."""
        later = self.steps[1:]
        places = Counter(place for step in later for place in step)
        counts = [len(step) for step in later]
        by_step = {place: number / len(later) for place, number in places.most_common()}
        return {"waits": median(counts), "most": max(counts), "steps": len(later), "places": by_step}


def short(file: str) -> str:
    """A file by its last three names."""
    return "/".join(Path(file).parts[-3:])


def training(row: dict[str, Any]) -> dict[str, Any]:
    """A training as the library does it; reading and reporting the losses is part of a step."""
    device, waits = torch.device("cuda"), Waits()
    examples = [example(MODEL, 16, row.get("copy_input") == "cached")] * STEPS
    settings = train_settings({"checkpointing": False, **row}, examples)
    base = network(MODEL, DTYPES[settings.precision], device)
    text, noise = torch.zeros(77, MODEL.context_dim), NoiseSchedule.stable_diffusion()
    inputs = TrainingInputs("", ("",) * STEPS, examples, text, noise, copy_settings(row), settings)
    copy = new_copy(base.state_dict(), inputs).to(device)
    with waits.counting():
        result = train(base, copy, inputs, waits.after_step)
    if not result.completed:
        raise RuntimeError(str(result.error))
    return waits.found()


def sampling(model: Any) -> dict[str, Any]:
    waits = Waits()
    sample(model, steps=STEPS)  # loads it
    with waits.counting():
        sample(model, steps=STEPS, callback=waits.after_step)
    return waits.found()


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    from comfyui_p3s.p3s.sampling.settings import FAST, STANDARD

    found: dict[str, Any] = {}

    def add(name: str, measure: Callable[[], dict[str, Any]]) -> None:
        try:
            found[name] = measure()
        except Exception as error:
            found[name] = {"error": f"{type(error).__name__}: {error}"}
        print(name, found[name], flush=True)
        keep(arguments, found)

    for name, row in TRAININGS.items():
        with torch.inference_mode(False):
            add(f"training, {name}", lambda row=row: training(row))  # type: ignore[misc]
    model = random_model(MODEL)
    models = {
        "plain model": lambda: model,
        "P3S, exact": lambda: apply(model, subject_for(model)),
        "P3S, standard": lambda: apply(model, subject_for(model), settings=STANDARD),
        "P3S, fast": lambda: apply(model, subject_for(model), settings=FAST),
        "P3S, cached, standard": lambda: apply(model, subject_for(model, copy_input="cached"), settings=STANDARD),
    }
    for name, made in models.items():
        add(f"sampling, {name}", lambda made=made: sampling(made()))  # type: ignore[misc]
    return found
