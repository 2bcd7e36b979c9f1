"""The memory of a training: what running out of it looks like, and what to do about it."""

from __future__ import annotations

import gc

import torch

from .subject_copy import CopySettings
from .training_settings import TrainSettings

#: What errors without a type of their own say: torch on other devices and the CPU, cuBLAS and cuDNN.
SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory ran out, on any kind of device."""
    text = str(error).lower()
    known = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
    return known or any(sign in text for sign in SIGNS)


def free_cached_memory(device: torch.device) -> None:
    """Hand back what torch keeps for later."""
    gc.collect()
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).empty_cache()


def ways_to_save(copy_settings: CopySettings, settings: TrainSettings) -> str:
    """What a user can change so that a training needs less memory, the most effective first."""
    ways = []
    if copy_settings.kind == "full":
        ways.append('train a low-rank copy (kind = "lora")')
    if settings.batch_size > 1:
        ways.append(f"lower batch_size (now {settings.batch_size})")
    if not settings.checkpointing:
        ways.append("turn checkpointing on")
    if settings.precision == "fp32":
        ways.append('set precision to "bf16"')
    if settings.optimizer == "adamw" and copy_settings.kind == "full":
        ways.append('set optimizer to "adamw8bit"')
    return ", or ".join([*ways, "lower the resolution"])
