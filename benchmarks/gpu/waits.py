"""Counts where the processor waits for a GPU.

torch warns of every operation for which it waits (``torch.cuda.set_sync_debug_mode``), and Python says from which line
it was called.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

import torch

WARNING = "called a synchronizing CUDA operation"


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
