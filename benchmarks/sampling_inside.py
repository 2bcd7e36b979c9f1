"""Run by benchmarks/sampling.py inside a ComfyUI: the variants, interleaved."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import comfy.controlnet
import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.p3s.injection import EffectMask
from comfyui_p3s.p3s.sampling import FAST, SamplingSettings
from comfyui_p3s.p3s.schedule import Schedule
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "tests" / "host"))

from inside_peers import ipadapter, load_nodes, node
from inside_subjects import apply, conditioning, draw, load, sample, subject_for


def reference_only(model: Any, latent: torch.Tensor) -> Any:
    """A second pass of the whole U-Net on a noised reference, whose self-attention inputs the first one sees too."""

    def wrapper(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        kept: dict[Any, torch.Tensor] = {}

        def write(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> Any:
            kept[extra["block"]] = k
            return q, k, v

        def read(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> Any:
            f = kept[extra["block"]]
            return q, torch.cat([k, f], 1), torch.cat([v, f], 1)

        for patch, given in ((write, latent.to(x) + x), (read, x)):
            options = {**transformer_options, "patches": {"attn1_patch": [patch]}}
            out = executor(given, timesteps, context, y, control, options, **kwargs)
        return out

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "reference-only", wrapper)
    return patched


def variants(arguments: dict[str, Any], model: Any) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> a sampling run."""
    side, steps = arguments["size"] // 8, arguments["steps"]
    settings = {"steps": steps, "size": (side, side), "latent": torch.zeros(1, 4, side, side)}
    control = comfy.controlnet.load_controlnet(arguments["controlnet"])
    hint = draw(1, 8 * side, 8 * side, 3).clamp(0, 1)
    given = {"positive": conditioning(1), "negative": conditioning(2), "control_net": control, "image": hint}
    positive, negative = node("ControlNetApplyAdvanced", **given, strength=1.0, start_percent=0.0, end_percent=1.0)
    one, two, lora = subject_for(model, 1), subject_for(model, 2), subject_for(model, 3, kind="lora")
    half = torch.zeros(side, side)
    half[:, : side // 2] = 1
    left, right = EffectMask(half), EffectMask(1 - half)
    models = {
        "plain model": model,
        "reference-only": reference_only(model, draw(1, 4, side, side, seed=7)),
        "P3S, exact": apply(model, one),
        "P3S, exact, a low-rank subject": apply(model, lora),
        "P3S, exact, conditional half": apply(model, one, settings=SamplingSettings("conditional")),
        "P3S, fast": apply(model, one, settings=FAST),
        "P3S, off": apply(model, one, schedule=Schedule("fixed", value=0.0)),
        "P3S, exact, half masked": apply(model, one, mask=left),
        "P3S, two subjects": apply(apply(model, one), two),
        "P3S, two subjects, a half each": apply(apply(model, one, mask=left), two, mask=right),
    }
    if arguments["peers"]:
        models["IPAdapter-plus"] = ipadapter(model)
    runs = {name: lambda m=m: sample(m, **settings) for name, m in models.items()}
    runs["ControlNet"] = lambda: sample(model, positive=positive, negative=negative, **settings)
    return runs


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    load_nodes(arguments["peers"])
    torch.set_num_threads(arguments["threads"] or torch.get_num_threads())
    runs = variants(arguments, load(arguments["checkpoint"]))
    if arguments["only"]:
        runs = {name: run for name, run in runs.items() if name == "plain model" or arguments["only"] in name}
    device = comfy.model_management.get_torch_device()
    flops, seconds, memory = {}, {name: [] for name in runs}, {}
    for name, run in runs.items():
        with FlopCounterMode(display=False) as counter:
            run()
        flops[name] = counter.get_total_flops() / 1e12
        print(f"{name}: {flops[name]:.3f} TFLOP", flush=True)
    for _ in range(arguments["rounds"]):
        for name, run in runs.items():
            gc.collect()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
            seconds[name].append(time.perf_counter() - started)
    plain = seconds["plain model"]
    return {
        name: {
            "tflop": flops[name] / arguments["steps"],
            "work": flops[name] / flops["plain model"],
            # Of the same round, so that what else runs on the machine weighs on both.
            "time": median(a / b for a, b in zip(seconds[name], plain, strict=True)),
            "times": [min(r := [a / b for a, b in zip(seconds[name], plain, strict=True)]), max(r)],
            "seconds": median(seconds[name]) / arguments["steps"],
            "memory": memory.get(name),
        }
        for name in runs
    }
