"""Where a step's time goes, by kinds of operations, from torch's profiler."""

from __future__ import annotations

import time
from typing import Any

from torch.profiler import ProfilerActivity, profile

#: Kinds, and what the names of their operations (of ``torch.ops.aten``) hold. The first that fits counts.
KINDS: dict[str, tuple[str, ...]] = {
    "products": ("conv", "mm", "attention", "linear", "matmul"),
    "norms and softmax": ("norm", "softmax"),
    "copies": ("copy", "cat", "clone", "contiguous", "index", "gather", "empty", "fill", "zero", "pad", "upsample"),
    "elementwise": ("add", "mul", "sub", "div", "gelu", "silu", "exp", "sqrt", "lerp", "sum", "mean", "eq", "all"),
}
REST, OUTSIDE = "others", "outside of torch"


class Operations:
    """What is done between ``start`` and ``stop``: seconds by kinds of operations, each without those that it calls,
    and how many operations there were. "outside of torch": Python, and what it waits for; on a GPU, where the times are
    those of its kernels, which run beside Python, nothing is said of that."""

    def __init__(self, cuda: bool = False) -> None:
        self.cuda = cuda
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
        self._profile = profile(activities=activities, acc_events=True)
        self.found: dict[str, Any] = {}

    def start(self) -> None:
        self._profile.start()
        self._started = time.perf_counter()

    def stop(self) -> None:
        taken = time.perf_counter() - self._started
        self._profile.stop()
        seconds: dict[str, float] = dict.fromkeys((*KINDS, REST), 0.0)
        count = 0
        for event in self._profile.key_averages():
            own = event.self_device_time_total if self.cuda else event.self_cpu_time_total
            seconds[kind_of(event.key)] += own / 1e6
            count += event.count if event.key.startswith("aten::") else 0
        outside = {} if self.cuda else {OUTSIDE: max(0.0, taken - sum(seconds.values()))}
        self.found = {"seconds": seconds | outside, "operations": count}


def kind_of(operation: str) -> str:
    name = operation.removeprefix("aten::").removeprefix("mkldnn_").lower()
    return next((kind for kind, parts in KINDS.items() if any(part in name for part in parts)), REST)


def table(rows: dict[str, dict[str, Any]], plain: str) -> str:
    """Markdown: each kind's time relative to all of the row called ``plain``."""
    whole = sum(rows[plain]["seconds"].values())
    kinds = list(rows[plain]["seconds"])
    lines = [f"| | {' | '.join(kinds)} | together | operations |", "|---" * (len(kinds) + 3) + "|"]
    for name, row in rows.items():
        cells = [f"{row['seconds'][kind] / whole:.3f}" for kind in kinds]
        cells += [f"{sum(row['seconds'].values()) / whole:.2f}", str(row["operations"])]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)
