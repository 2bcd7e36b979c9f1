"""Run by benchmarks/training_start.py inside a ComfyUI: the parts of the start of a training."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import torch
from comfyui_p3s.nodes.host import base_model
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.network.unet_config import UNetConfig
from comfyui_p3s.p3s.training import memory_estimate
from comfyui_p3s.p3s.training.driver import new_copy
from comfyui_p3s.p3s.training.examples import Example
from comfyui_p3s.p3s.training.key import TrainingInputs
from comfyui_p3s.p3s.training.precision import DTYPES
from comfyui_p3s.p3s.training.settings import TrainSettings
from random_models import random_model

ROWS = [(kind, precision) for precision in ("fp32", "bf16") for kind in ("full", "lora")]


class Start:
    """That of one training."""

    def __init__(self, model: Any, config: UNetConfig, kind: str, precision: str) -> None:
        shown = Example(torch.randn(4, 64, 64), torch.randn(257, 1024), torch.randn(77, config.context_dim))
        settings, noise = TrainSettings(steps=1, precision=precision), base_model.noise_schedule(model)
        self.inputs = TrainingInputs("", ("",), [shown], shown.prompt, noise, CopySettings(kind=kind), settings)
        self.model, self.config, self.precision = model, config, DTYPES[precision]
        self.dtype = self.precision if kind == "lora" else torch.float32

    def fingerprints(self) -> None:
        for patched in (True, False):
            base_model.base_fingerprint(self.model, patched)

    def bound(self) -> None:
        inputs = self.inputs
        memory_estimate.upper_bound(self.config, inputs.examples, inputs.copy_settings, inputs.settings)

    def estimate(self) -> None:
        memory_estimate._estimate.cache_clear()
        inputs = self.inputs
        memory_estimate.estimate_memory(self.config, inputs.examples, inputs.copy_settings, inputs.settings)

    def widened(self) -> dict[str, torch.Tensor]:
        return {key: weight.to(self.dtype) for key, weight in base_model.base_weights(self.model).items()}

    def weights(self) -> dict[str, torch.Tensor]:
        return base_model.base_weights(self.model, self.dtype)

    def networks(self, weights: dict[str, torch.Tensor]) -> None:
        new_copy(weights, self.inputs)
        UNet.from_state_dict(weights, dtype=self.precision)


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main(arguments: dict[str, Any]) -> dict[str, dict[str, float]]:
    config = UNetConfig.build()
    model = random_model(config)
    model.model.diffusion_model.half()
    found: dict[str, dict[str, float]] = {}
    for kind, precision in ROWS:
        start = Start(model, config, kind, precision)
        times: dict[str, list[float]] = {}
        for _ in range(arguments["rounds"]):
            with torch.inference_mode(False):
                networks = partial(start.networks, start.weights())
                parts: dict[str, Callable[[], Any]] = {"fingerprints": start.fingerprints}
                parts |= {"bound of memory": start.bound, "weights": start.weights, "networks": networks}
                now = {name: seconds(run) for name, run in parts.items()}
                now["together"] = sum(now.values())
                now["estimate of memory"] = seconds(start.estimate)
                now["weights through 32 bits"] = seconds(start.widened)
                del networks, parts
            for name, value in now.items():
                times.setdefault(name, []).append(value)
        found[f"{kind} {precision}"] = {name: median(values) for name, values in times.items()}
        print(kind, precision, found[f"{kind} {precision}"], flush=True)
    return found
