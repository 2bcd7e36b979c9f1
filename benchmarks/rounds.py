"""Several runs in turn, round after round, in one process."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

import torch


def measure(
    timed: Mapping[str, Callable[[], torch.Tensor]],
    plain: str,
    rounds: int,
    device: torch.device,
    unload: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, dict[str, Any]]]:
    """After each round: seconds of each run, and relative to the one called ``plain`` of the same round, so that what
    else runs on the machine weighs on both. On a CPU also the time of the processor, in which waiting does not count.
    GiB that its tensors took on a GPU when ``unload`` had taken those of the others away; None on a CPU. Whether what
    it gave is finite."""
    seconds: dict[str, list[float]] = {name: [] for name in timed}
    processor: dict[str, list[float]] = {name: [] for name in timed}
    memory: dict[str, float] = {}
    finite: dict[str, bool] = {}
    for number in range(rounds + 1):  # the first one, which loads the models, does not count
        for name, run in timed.items():
            if not number:
                unload()
            gc.collect()
            if device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
                torch.cuda.synchronize()
            started, working = time.perf_counter(), time.process_time()
            result = run()
            if device.type == "cuda":
                torch.cuda.synchronize()
                memory.setdefault(name, torch.cuda.max_memory_allocated() / 2**30)
            taken = time.perf_counter() - started
            if number:
                seconds[name].append(taken)
                processor[name].append(time.process_time() - working)
            finite[name] = bool(torch.isfinite(result).all())
            print(f"round {number}: {name} {taken:.1f} s", flush=True)
        if number:
            yield {
                name: summed_up(own, seconds[plain])
                | (worked(processor[name], processor[plain]) if device.type == "cpu" else {})
                | {"memory": memory.get(name), "finite": finite[name]}
                for name, own in seconds.items()
            }


def summed_up(seconds: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    """The times of a run's rounds beside those of the plain one."""
    ratios = relative(seconds, plain)
    return {"time": median(ratios), "times": [min(ratios), max(ratios)], "seconds": median(seconds)}


def worked(seconds: Sequence[float], plain: Sequence[float]) -> dict[str, Any]:
    """The processor's times of a run's rounds beside those of the plain one."""
    ratios = relative(seconds, plain)
    return {"processor": median(ratios), "processors": [min(ratios), max(ratios)]}


def relative(seconds: Sequence[float], plain: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(seconds, plain, strict=True)]
