"""The arithmetic of a training step, by ``TrainSettings.precision``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

#: What the frozen base may be held in.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The arithmetic of a step in a ``precision``."""
    dtype = DTYPES[precision]
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)
