"""Where a step's time goes, by kinds of operations, from torch's profiler."""

from __future__ import annotations

import time
from typing import Any

from torch.profiler import ProfilerActivity, profile

#: Kinds, and how the names of their operations begin (of ``torch.ops.aten``, without "_" in front). The first that fits
#: counts.
KINDS: dict[str, tuple[str, ...]] = {
    "products": ("conv", "mkldnn_conv", "mm", "addmm", "bmm", "baddbmm", "matmul", "linear", "scaled_dot"),
    "norms and softmax": ("native_group_norm", "native_layer_norm", "group_norm", "layer_norm", "softmax"),
    "gradient check and optimizer": ("foreach", "linalg_vector_norm", "Optimizer", "addcmul", "addcdiv", "lerp"),
    "copies": (
        *("copy", "to_copy", "cat", "stack", "clone", "contiguous"),
        *("index", "gather", "fill", "zero", "constant_pad", "upsample"),
    ),
    "elementwise": ("add", "mul", "sub", "div", "gelu", "silu", "exp_", "sqrt", "sum", "mean", "eq", "all"),
}
REST, OUTSIDE = "others", "outside of torch"


class Operations:
    """What is done between ``start`` and ``stop``: seconds by kinds of operations, each without those that it calls,
    and how many operations there were. "outside of torch": Python, and what it waits for."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], acc_events=True)
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
            seconds[kind_of(event.key)] += event.self_cpu_time_total / 1e6
            count += event.count if event.key.startswith("aten::") else 0
        seconds[OUTSIDE] = max(0.0, taken - sum(seconds.values()))
        self.found = {"seconds": seconds, "operations": count}


def kind_of(operation: str) -> str:
    name = operation.removeprefix("aten::").lstrip("_")
    return next((kind for kind, beginnings in KINDS.items() if name.startswith(beginnings)), REST)


def table(rows: dict[str, dict[str, Any]]) -> str:
    """Markdown: the share of each kind in the time of its row."""
    kinds = list(next(iter(rows.values()))["seconds"])
    lines = [f"| | {' | '.join(kinds)} | operations |", "|---" * (len(kinds) + 2) + "|"]
    for name, row in rows.items():
        whole = sum(row["seconds"].values())
        shares = " | ".join(f"{row['seconds'][kind] / whole:.2f}" for kind in kinds)
        lines.append(f"| {name} | {shares} | {row['operations']} |")
    return "\n".join(lines)
