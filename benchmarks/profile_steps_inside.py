"""Run by benchmarks/profile_steps.py inside a ComfyUI: a step of each variant and of each training under the profiler,
after one that loads and prepares it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from comfyui_p3s.p3s.network.unet_config import UNetConfig
from comfyui_p3s.p3s.subject.file import SubjectReference

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "tests" / "host"))

from inside_subjects import draw, sample, subject_for
from random_models import random_model
from sampling_inside import P3S, PLAIN, prompt, variant

from benchmarks.operations import Operations
from benchmarks.training_step import copy_settings, example, network, train_settings
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.driver import new_copy
from p3s.training.key import TrainingInputs
from p3s.training.loop import train

CONFIGS = {"full": UNetConfig.build(), "small": UNetConfig.build(320, (1,), 1, (1,))}
SAMPLED = ("P3S, exact", "P3S, standard", "P3S, fast", "P3S, cached, standard")
STEPS = 15  # of sampling: the modes standard and fast end after 12 of them, and fast runs its network in every third


def sampling(model: Any, config: UNetConfig, side: int) -> dict[str, Any]:
    positive, negative = (prompt(config, seed) for seed in (1, 2))
    given: dict[str, Any] = {"positive": positive, "negative": negative, "size": (side, side)}
    given["latent"] = torch.zeros(1, 4, side, side)
    sample(model, steps=1, **given)
    operations = Operations()
    operations.start()
    sample(model, steps=STEPS, **given)
    operations.stop()
    seconds, count = operations.found.values()
    return {"seconds": {kind: value / STEPS for kind, value in seconds.items()}, "operations": round(count / STEPS)}


def applied(model: Any, name: str, side: int) -> Any:
    (use,) = P3S[name]
    subject = subject_for(model, use.number, **use.copy_settings())
    tokens = subject.references[0].tokens
    reference = SubjectReference(draw(4, side, side, seed=use.number), tokens, use.subject_mask(side))
    return variant(name, model, side, P3S, lambda _: replace(subject, references=(reference,)))


def training(config: UNetConfig, side: int, kind: str) -> dict[str, Any]:
    """Of the second step of two."""
    shown = [example(config, side)] * 2
    settings, row = train_settings({"checkpointing": False}, shown), {"kind": kind}
    base, noise = network(config), NoiseSchedule.stable_diffusion()
    text = torch.zeros(77, config.context_dim)
    inputs = TrainingInputs("", ("",) * 2, shown, text, noise, copy_settings(row), settings)
    copy = new_copy(base.state_dict(), inputs)
    operations = Operations()
    train(base, copy, inputs, lambda report: operations.start() if report.step == 1 else operations.stop())
    return operations.found


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(arguments["threads"])
    config, side = CONFIGS[arguments["preset"]], arguments["size"] // 8
    found: dict[str, Any] = {}

    def add(name: str, figures: dict[str, Any]) -> None:
        found[name] = figures
        print(name, figures, flush=True)

    model = random_model(config)
    add(PLAIN, sampling(model, config, side))
    for name in SAMPLED:
        add(name, sampling(applied(model, name, side), config, side))
    del model
    with torch.inference_mode(False):
        for kind in ("full", "lora"):
            add(f"training, {kind}", training(config, side, kind))
    return found
