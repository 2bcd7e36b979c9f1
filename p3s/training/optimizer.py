"""The optimiser of a training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.nn import Parameter

from ..errors import TrainingError
from ..network.subject_copy import SubjectCopy
from .settings import TrainSettings


def make_optimizer(copy: SubjectCopy, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser of all that is trained. Matrices and convolutions decay; biases, norms and other scales of channels
    do not. Raises TrainingError when its package is not installed."""
    trained, fresh = _parameters(copy)
    groups: list[dict[str, Any]] = [
        {"params": [p for p in trained if p.ndim > 1]},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    if fresh:
        groups.append({"params": fresh, "lr": settings.weight_learning_rate, "weight_decay": 0.0})
    rate, decay = settings.learning_rate, settings.weight_decay
    if settings.optimizer == "adamw":
        # Fused where it is at its best: no temporary tensors as large as the weights.
        fused = True if next(copy.parameters()).is_cuda else None
        return torch.optim.AdamW(groups, lr=rate, weight_decay=decay, fused=fused)
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise TrainingError(
            "the optimizer adamw8bit needs the package bitsandbytes, which is not installed: install it "
            "(pip install bitsandbytes), or choose adamw"
        ) from None
    return AdamW8bit(groups, lr=rate, weight_decay=decay)


def load_optimizer(optimizer: torch.optim.Optimizer, state: Mapping[str, Any], copy: SubjectCopy) -> None:
    """Continue with the ``state_dict`` of an earlier :func:`make_optimizer` of ``copy``.

    Earlier versions had one group for all but the learned weight, so that biases decayed, too. What was started so is
    continued so: its group is split with the decay that it has.
    """
    first, *others = state["param_groups"]
    if 1 + len(others) < len(optimizer.param_groups):
        of_number = dict(zip(first["params"], _parameters(copy)[0], strict=True))
        matrices = [number for number, p in of_number.items() if p.ndim > 1]
        rest = [number for number, p in of_number.items() if p.ndim <= 1]
        state = {**state, "param_groups": [{**first, "params": matrices}, {**first, "params": rest}, *others]}
    optimizer.load_state_dict(dict(state))


def rate_share(step: int, settings: TrainSettings) -> float:
    """The share of the learning rates that holds in a step (1, 2, ...): a linear warm-up, then 1."""
    return min(1.0, step / settings.warmup_steps) if settings.warmup_steps else 1.0


def _parameters(copy: SubjectCopy) -> tuple[list[Parameter], list[Parameter]]:
    """Those of the copy, and those of its learned weight, which start from nothing."""
    fresh = [] if copy.learned_weight is None else list(copy.learned_weight.parameters())
    known = {id(p) for p in fresh}
    return [p for p in copy.parameters() if id(p) not in known], fresh
