"""The memory of the device that the host computes on."""

from __future__ import annotations

import comfy.model_management
import psutil
import torch


def unload_models() -> None:
    """Move every model of the host out of the way before training needs the room."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def give_back() -> None:
    """Hand memory that torch keeps for later back to the host."""
    comfy.model_management.soft_empty_cache()


def reset_peak() -> None:
    """Start to measure :func:`in_use` anew, where the device measures it."""
    device = comfy.model_management.get_torch_device()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def in_use() -> int:
    """Bytes in use: on a CUDA device the most that tensors took at a time since :func:`reset_peak`, else what the
    process holds now."""
    device = comfy.model_management.get_torch_device()
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return psutil.Process().memory_info().rss
