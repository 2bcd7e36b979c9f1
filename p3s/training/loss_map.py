"""The losses of a training over time, as ComfyUI's LOSS_MAP and subject files hold them."""

from __future__ import annotations

from collections.abc import Sequence

from .step import StepReport

CURVES = ("loss", "denoising", "consistency")
STORED_LOSSES = 1000  # values a subject file holds at most; a curve needs no more


def loss_map(reports: Sequence[StepReport], most: int | None = None) -> dict[str, list[float]]:
    """Lists of equal length: "loss" (all that ComfyUI's own loss graph reads), its parts "denoising" and
    "consistency" (L_LDM and L_ac, before gamma), and "step", the step (1, 2, ...) of each value.

    With more than ``most`` steps each value is the mean of as many neighbouring steps as needed, and "step" the last
    one of them.
    """
    size = 1 if most is None else -(-len(reports) // most) or 1
    groups = [reports[i : i + size] for i in range(0, len(reports), size)]
    result = {part: [sum(getattr(report, part) for report in g) / len(g) for g in groups] for part in CURVES}
    return {**result, "step": [group[-1].step for group in groups]}
