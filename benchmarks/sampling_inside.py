"""Run by benchmarks/sampling.py inside a ComfyUI: the floating-point work of each variant, then all of them in turn."""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest import mock

import comfy.controlnet
import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import attention, patch
from comfyui_p3s.nodes.host.sampling import Run
from comfyui_p3s.p3s.injection import EffectMask
from comfyui_p3s.p3s.sampling import FAST, SamplingSettings
from comfyui_p3s.p3s.schedule import Schedule
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "tests" / "host"))

from inside_peers import ipadapter, load_nodes, node
from inside_subjects import apply, conditioning, draw, load, sample, subject_for

CONTROLNET = "ControlNet"


def reference_only(model: Any, side: int) -> Any:
    """A second pass of the whole U-Net on a noised reference, whose self-attention inputs the first one sees too."""

    def wrapper(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        kept: dict[Any, torch.Tensor] = {}

        def write(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> Any:
            kept[extra["block"]] = k
            return q, k, v

        def read(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> Any:
            f = kept[extra["block"]]
            return q, torch.cat([k, f], 1), torch.cat([v, f], 1)

        for patched, given in ((write, draw(*x.shape, seed=7).to(x) + x), (read, x)):
            options = {**transformer_options, "patches": {"attn1_patch": [patched]}}
            out = executor(given, timesteps, context, y, control, options, **kwargs)
        return out

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "reference-only", wrapper)
    return clone


def variants(model: Any, side: int, with_ipadapter: bool) -> dict[str, Any]:
    """Name -> MODEL. ControlNet is the plain one."""
    one, two, lora = subject_for(model, 1), subject_for(model, 2), subject_for(model, 3, kind="lora")
    half = torch.zeros(side, side)
    half[:, : side // 2] = 1
    left, right = EffectMask(half), EffectMask(1 - half)
    models = {
        "plain model": model,
        CONTROLNET: model,
        "reference-only": reference_only(model, side),
        "P3S, exact": apply(model, one),
        "P3S, exact, a low-rank subject": apply(model, lora),
        "P3S, exact, conditional half": apply(model, one, settings=SamplingSettings("conditional")),
        "P3S, fast": apply(model, one, settings=FAST),
        "P3S, off": apply(model, one, schedule=Schedule("fixed", value=0.0)),
        "P3S, exact, half masked": apply(model, one, mask=left),
        "P3S, two subjects": apply(apply(model, one), two),
        "P3S, two subjects, a half each": apply(apply(model, one, mask=left), two, mask=right),
        "P3S, fast, two subjects, a half each": apply(
            apply(model, one, mask=left, settings=FAST), two, mask=right, settings=FAST
        ),
    }
    if with_ipadapter:
        models["IPAdapter-plus"] = ipadapter(model)
    return models


@contextmanager
def shapes_alone() -> Iterator[FlopCounterMode]:
    """Counts floating-point work, and does none of it: tensors are shapes. What reads a tensor is answered: the halves
    of the guidance are equal, masks and the weight are real."""
    real_groups, real_weight = attention.query_groups, Run.weight

    def groups(*args: Any) -> Any:
        with unset_fake_temporarily():
            return real_groups(*args)

    def weight(self: Run, index: int, timesteps: torch.Tensor) -> Any:
        if self._always_on[index]:
            return real_weight(self, index, timesteps)
        with unset_fake_temporarily():
            return real_weight(self, index, torch.full((1,), 500.0))

    with (
        mock.patch.object(Run, "weight", weight),
        mock.patch.object(torch, "equal", lambda a, b: True),
        mock.patch.object(attention, "query_groups", groups),
        mock.patch.object(comfy.model_management, "get_torch_device", lambda: torch.device("cpu")),
        FakeTensorMode(allow_non_fake_inputs=True),
        FlopCounterMode(display=False) as counter,
    ):
        yield counter


def work(model: Any, side: int, steps: int, control: Any = None) -> float:
    """TFLOP of so many steps with guidance."""
    options = dict(model.model_options["transformer_options"])
    options |= {"wrappers": model.wrappers, "cond_or_uncond": [1, 0], "uuids": ["a", "b"]}
    subjects = model.get_attachment(patch.KEY)
    if subjects:
        options[patch.KEY] = Run(subjects)
        for applied in subjects:
            if applied.application.mask is not None:  # or it would keep shapes without values
                for scale in (1, 2, 4, 8):
                    applied.application.mask.tokens((side // scale, side // scale))
    with torch.no_grad(), shapes_alone() as counter:
        x, t, context = torch.zeros(2, 4, side, side), torch.full((2,), 500.0), torch.zeros(2, 77, 768)
        for _ in range(steps):
            given = {}
            if control is not None:
                hint = torch.zeros(2, 3, 8 * side, 8 * side)
                made = control.control_model(x=x, hint=hint, timesteps=t, context=context)
                given = {"control": {key: list(parts) for key, parts in made.items()}}
            step = {**options, "sigmas": torch.zeros(1)}
            model.model.diffusion_model(x, t, context, transformer_options=step, **given)
    return counter.get_total_flops() / 1e12


def runs(models: dict[str, Any], arguments: dict[str, Any], control: Any) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> a sampling run."""
    side = arguments["size"] // 8
    settings = {"steps": arguments["steps"], "size": (side, side), "latent": torch.zeros(1, 4, side, side)}
    hint = draw(1, 8 * side, 8 * side, 3).clamp(0, 1)
    given = {"positive": conditioning(1), "negative": conditioning(2), "control_net": control, "image": hint}
    positive, negative = node("ControlNetApplyAdvanced", **given, strength=1.0, start_percent=0.0, end_percent=1.0)
    found = {name: lambda m=m: sample(m, **settings) for name, m in models.items()}
    if CONTROLNET in found:
        found[CONTROLNET] = lambda: sample(models[CONTROLNET], positive=positive, negative=negative, **settings)
    return found


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    load_nodes(arguments["peers"])
    torch.set_num_threads(arguments["threads"] or torch.get_num_threads())
    control = comfy.controlnet.load_controlnet(arguments["controlnet"])
    model = load(arguments["checkpoint"])
    wanted = [text.strip() for text in arguments["only"].split(";") if text.strip()]

    def chosen(side: int) -> dict[str, Any]:
        models = variants(model, side, bool(arguments["peers"]))
        names = [n for n in models if n == "plain model" or not wanted or any(text in n for text in wanted)]
        return {name: models[name] for name in names}

    flops = {}
    steps, side = arguments["steps"], arguments["work_size"] // 8
    for name, patched in chosen(side).items():
        flops[name] = work(patched, side, steps, control if name == CONTROLNET else None)
        print(f"{name}: {flops[name] / steps:.3f} TFLOP, {flops[name] / flops['plain model']:.3f}", flush=True)
    found = {n: {"tflop": f / steps, "work": f / flops["plain model"]} for n, f in flops.items()}
    timed = runs(chosen(arguments["size"] // 8), arguments, control)
    for name, figures in measure(timed, arguments["rounds"]).items():
        found[name] |= {**figures, "seconds": figures["seconds"] / steps}
    return found


def measure(timed: dict[str, Callable[[], torch.Tensor]], rounds: int) -> dict[str, dict[str, Any]]:
    """Seconds of each run, and relative to the plain model's of the same round, so that what else runs on the machine
    weighs on both."""
    device = comfy.model_management.get_torch_device()
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    memory: dict[str, float] = {}
    for number in range(rounds + 1 if rounds else 0):  # the first one, which loads the models, does not count
        for name, run in timed.items():
            gc.collect()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize()
                memory[name] = torch.cuda.max_memory_allocated() / 2**30
            if number:
                seconds[name].append(time.perf_counter() - started)
            print(f"round {number}: {name} {time.perf_counter() - started:.1f} s", flush=True)
    found = {}
    for name, own in seconds.items():
        ratios = [a / b for a, b in zip(own, seconds["plain model"], strict=True)]
        if ratios:
            found[name] = {
                "time": median(ratios),
                "times": [min(ratios), max(ratios)],
                "seconds": median(own),
                "memory": memory.get(name),
            }
    return found
