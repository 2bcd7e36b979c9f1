"""How strongly the subject acts at each timestep: the weight eps_t of Eq. 10, its alternatives, and the curve of
one that was learned (Fig. 5).

Two clocks are in use. A *timestep* t runs from T = 1000 (pure noise) down to 0 (the finished image). A *percent* runs
from 0 (the first sampling step) to 1 (the last one), as in ComfyUI: ``percent = 1 - t / 999``, held inside 0..1.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from ..errors import P3SError
from ..network.learned_weight import T
from ..settings import check, setting

LAST_TIMESTEP = 999.0

Number = TypeVar("Number", float, Tensor)


def percent_of(t: Tensor) -> Tensor:
    """Denoising percent (0..1) of timesteps ``t`` (any shape, 0..1000)."""
    return (1.0 - t / LAST_TIMESTEP).clamp(0.0, 1.0)


def timestep_of(percent: Number) -> Number:
    """Timestep (0..999) of a denoising percent (0..1)."""
    return (1.0 - percent) * LAST_TIMESTEP


def _keyframe_curve(schedule: Schedule, t: Tensor) -> Tensor:
    percent = percent_of(t)
    (first, weight), *rest = schedule.keyframes
    result = torch.full_like(percent, weight)
    for second, next_weight in rest:
        inside = ((percent - first) / (second - first)).clamp(0.0, 1.0)
        result = torch.where(percent > first, weight + (next_weight - weight) * inside, result)
        first, weight = second, next_weight
    return result


@lru_cache(maxsize=8)
def _learned_weights(learned: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Kept, so that a curve is not sent to the GPU again at every step."""
    with torch.inference_mode(False):  # it may be used outside of it later
        return torch.tensor(learned, dtype=dtype, device=device)


def _learned_curve(schedule: Schedule, t: Tensor) -> Tensor:
    if len(schedule.learned) < 2:
        raise P3SError('Weight schedule: "learned" needs a subject that was trained with a learned weight.')
    weights = _learned_weights(schedule.learned, t.dtype, t.device)
    place = t / T * (len(weights) - 1)
    left = place.floor().long().clamp(0, len(weights) - 2)
    return torch.lerp(weights[left], weights[left + 1], place - left)


# One entry per kind: (schedule, t in 0..1000) -> weight of t's shape, before clamping and windowing.
CURVES: dict[str, Callable[[Schedule, Tensor], Tensor]] = {
    # Eq. 10:  eps_t = 1 - alpha (t / T)^k + beta
    "paper": lambda s, t: 1.0 - s.alpha * (t / T) ** s.k + s.beta,
    "fixed": lambda s, t: torch.full_like(t, s.value),
    "increasing": lambda s, t: s.value * (1.0 - t / T) ** s.k,
    "decreasing": lambda s, t: s.value * (t / T) ** s.k,
    "keyframes": _keyframe_curve,
    "learned": _learned_curve,
    "ease": lambda s, t: 1.0 - s.alpha * (3.0 - 2.0 * t / T) * (t / T) ** 2 + s.beta,
}
KINDS = tuple(CURVES)


@dataclass(frozen=True)
class Schedule:
    """The weight of the condition as a pure function of the timestep. Immutable; equal settings are equal schedules.

    kind        | weight at t (noise level u = t / T, T = 1000)
    ------------|----------------------------------------------------------------------------------------------
    paper       | 1 - alpha u^k + beta (Eq. 10): 0.70 at the start of denoising, 1.20 at its end by default
    fixed       | value
    increasing  | value (1 - u)^k: grows from 0 as the noise falls
    decreasing  | value u^k: falls to 0 as the noise falls
    keyframes   | straight lines between (percent, weight) pairs, constant before the first and after the last
    learned     | the curve in ``learned``, of a subject that was trained with one (an error where there is none)
    ease        | 1 - alpha (3 u^2 - 2 u^3) + beta: between the same ends as Eq. 10, level at both

    "Increasing" and "decreasing" (Table III; docs/method.md, row p) are named by denoising progress, so Eq. 10 is of
    the increasing sort. ``fixed`` at 1 is the "fixed weight" row of Table I (row o).

    keyframes: percents in 0..1, each used once, weights 0 or more; kept sorted. learned: the weights at evenly spaced
    timesteps from 0 to T, straight lines between them; filled in by :func:`schedule_for` (settings.py). start, end:
    where ``start <= percent < end`` does not hold the weight is exactly 0 (an ``end`` of 1 includes the last step).
    Neighbouring windows therefore share no step, and a window with start = end is empty. Raises P3SError for a value
    that is not allowed.
    """

    kind: str = setting(
        "paper",
        "paper: 1 - alpha (t/T)^k + beta, with t/T falling from 1 to 0. fixed: value. increasing: value (1 - t/T)^k, "
        "grows as the image emerges. decreasing: value (t/T)^k. keyframes: your own curve. learned: the curve learned "
        "with the subject, if there is one. ease: alpha and beta as in paper, but level at both ends.",
        KINDS,
    )
    alpha: float = setting(
        0.5,
        "paper, ease: how much weaker the subject is at the first step than at the last.",
        low=-5.0,
        high=5.0,
        step=0.01,
    )
    beta: float = setting(0.2, "paper, ease: added at every step.", low=-5.0, high=5.0, step=0.01)
    k: float = setting(
        2.0,
        "paper, increasing, decreasing: the exponent; higher bends the curve more.",
        low=0.0,
        high=10.0,
        step=0.1,
    )
    value: float = setting(
        1.0,
        "fixed: the weight. increasing, decreasing: the highest weight. At 0 the subject is off.",
        low=0.0,
        high=10.0,
        step=0.01,
    )
    keyframes: tuple[tuple[float, float], ...] = setting(
        (),
        'keyframes: pairs "percent:weight", joined by straight lines; percent 0 is the first step, 1 the last. A JSON '
        "list [[0, 0.7], [1, 1.2]] works too.",
    )
    start: float = setting(
        0.0,
        "The subject is off before this fraction of denoising. A later start leaves the layout to the prompt.",
        low=0.0,
        high=1.0,
        step=0.001,
    )
    end: float = setting(1.0, "The subject is off after this fraction of denoising.", low=0.0, high=1.0, step=0.001)
    learned: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        check(self, prefix="Weight schedule: ")
        for name in ("alpha", "beta", "k", "value", "start", "end"):
            object.__setattr__(self, name, float(getattr(self, name)))
        if self.start > self.end:
            raise P3SError(f"Weight schedule: start = {self.start:g} lies after end = {self.end:g}; swap them.")
        object.__setattr__(self, "keyframes", _check_keyframes(self.keyframes))
        object.__setattr__(self, "learned", tuple(_number(weight, "a learned weight") for weight in self.learned))
        if self.kind == "keyframes" and not self.keyframes:
            raise P3SError(
                'Weight schedule: no keyframes. Write at least one "percent:weight" pair, as in "0:0.7, 1:1.2".'
            )

    def weight(self, t: Number) -> Number:
        """Weight at timestep ``t`` (0..1000; outside it is held at the nearer end). Never negative: clamped at 0.

        A float gives a float. A tensor gives a tensor of its shape, device and floating dtype (float32 for integers).
        """
        if not isinstance(t, Tensor):
            return float(self._weight(torch.tensor(float(t), dtype=torch.float64)))
        # Half precision cannot hold t / T well enough, so the curve is computed in at least float32.
        exact = t if t.dtype in (torch.float32, torch.float64) else t.float()
        return self._weight(exact).to(t.dtype if t.is_floating_point() else torch.float32)

    def _weight(self, t: Tensor) -> Tensor:
        weight = CURVES[self.kind](self, t.clamp(0.0, T)).clamp_min(0.0)
        percent = percent_of(t)
        inside = percent >= self.start
        if self.end < 1.0:
            inside &= percent < self.end
        return (
            torch.where(inside, weight, torch.zeros_like(weight)) if self.start < self.end else torch.zeros_like(weight)
        )

    def within(self, start: float, end: float) -> Schedule:
        """The same schedule, restricted further to the window start..end (percents in 0..1)."""
        window = replace(self, start=start, end=end)
        begin = max(self.start, window.start)
        return replace(self, start=begin, end=max(begin, min(self.end, window.end)))


def parse_keyframes(text: str) -> tuple[tuple[float, float], ...]:
    """Keyframes from ``"0:0.7, 0.5:1, 1:1.2"`` (or semicolons, or lines) or from a JSON list ``[[0, 0.7], [1, 1.2]]``.

    Sorted by percent. Raises P3SError that names the entry: not a pair of numbers, percent outside 0..1 or used twice,
    negative weight. An empty text gives no keyframes.
    """
    if text.lstrip().startswith("["):
        return _check_keyframes(_load_json(text, "the keyframes"))
    entries = [entry.strip() for entry in text.replace(";", ",").replace("\n", ",").split(",")]
    pairs = []
    for index, entry in enumerate((entry for entry in entries if entry), 1):
        try:
            percent, weight = (float(part) for part in entry.split(":"))
        except ValueError:
            raise P3SError(f'Keyframe {index}: {entry!r} is not "percent:weight", as in "0.5:1".') from None
        pairs.append((percent, weight))
    return _check_keyframes(pairs)


def _check_keyframes(value: Any) -> tuple[tuple[float, float], ...]:
    if not isinstance(value, (list, tuple)):
        raise P3SError("Keyframes: expected a list of [percent, weight] pairs.")
    seen: dict[float, float] = {}
    for index, pair in enumerate(value, 1):
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise P3SError(f"Keyframe {index}: {pair!r} is not a [percent, weight] pair.")
        percent, weight = _number(pair[0], f"keyframe {index}: percent"), _number(pair[1], f"keyframe {index}: weight")
        if not 0.0 <= percent <= 1.0:
            raise P3SError(f"Keyframe {index}: percent = {percent:g} lies outside 0..1 (half way is 0.5).")
        if weight < 0.0:
            raise P3SError(f"Keyframe {index}: weight = {weight:g} is negative; use 0 or more.")
        if percent in seen:
            raise P3SError(f"Keyframe {index}: percent {percent:g} is used twice.")
        seen[percent] = weight
    return tuple(sorted(seen.items()))


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise P3SError(f"Weight schedule: {name} = {value!r} is not a finite number.")
    return float(value)


def _load_json(text: str, what: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise P3SError(f"Weight schedule: {what} cannot be read as JSON ({error}).") from None
