"""Run by ``python -m benchmarks.gpu`` inside a host with a GPU: where a step of training or sampling waits for it. How
many waits there are does not depend on the size of the models."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from comfyui_p3s.p3s.network.unet_config import UNetConfig
from comfyui_p3s.p3s.sampling.settings import FAST, STANDARD

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2]))
sys.path.append(str(Path(__file__).parents[2] / "tests" / "host"))

from inside_subjects import apply, sample, subject_for
from partial_results import keep
from random_models import random_model
from waits import Waits

from benchmarks.training_step import copy_settings, example, network, train_settings
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.driver import new_copy
from p3s.training.key import TrainingInputs
from p3s.training.loop import train
from p3s.training.precision import DTYPES

STEPS = 6
MODEL = UNetConfig.build(320, (1,), 1, (1,))
TRAININGS = {
    "full fp32": {"kind": "full", "precision": "fp32"},
    "lora bf16": {"kind": "lora", "precision": "bf16"},
    "full bf16, checkpointed": {"kind": "full", "precision": "bf16", "checkpointing": True},
    "full bf16, cached": {"kind": "full", "precision": "bf16", "copy_input": "cached"},
}


def training(row: dict[str, Any], device: torch.device) -> dict[str, Any]:
    """A training as the library does it; reading and reporting the losses is part of a step."""
    waits = Waits()
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
            add(f"training, {name}", lambda row=row: training(row, torch.device(arguments["device"])))  # type: ignore[misc]
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
