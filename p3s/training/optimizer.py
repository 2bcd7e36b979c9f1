"""The optimiser of a training."""

from __future__ import annotations

from typing import Any

import torch

from ..errors import TrainingError
from ..network.subject_copy import SubjectCopy
from .settings import TrainSettings


def make_optimizer(copy: SubjectCopy, settings: TrainSettings) -> torch.optim.Optimizer:
    """The optimiser of all that is trained. Raises TrainingError when its package is not installed."""
    fresh = [] if copy.learned_weight is None else list(copy.learned_weight.parameters())
    known = {id(p) for p in fresh}
    groups: list[dict[str, Any]] = [{"params": [p for p in copy.parameters() if id(p) not in known]}]
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
