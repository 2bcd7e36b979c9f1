"""The memory of the device that the host computes on."""

from __future__ import annotations

import os

import comfy.model_management
import psutil
import torch


def device() -> torch.device:
    """Where the host computes."""
    return comfy.model_management.get_torch_device()


def unload_models() -> None:
    """Move every model of the host out of the way before training needs the room."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def room() -> tuple[int, int]:
    """Bytes that are free on the device that the host computes on, and the most that it can have: on a CPU with the
    swap, and with the system's memory where the driver lends it to a GPU (Windows)."""
    place = device()
    free, total = (
        get(place) for get in (comfy.model_management.get_free_memory, comfy.model_management.get_total_memory)
    )
    if place.type == "cpu":
        return int(free), int(total + psutil.swap_memory().total)
    return int(free), int(total + (psutil.virtual_memory().total if os.name == "nt" else 0))


def give_back() -> None:
    """Hand memory that torch keeps for later back to the host."""
    comfy.model_management.soft_empty_cache()


def reset_peak() -> None:
    """Restart the measurement of :func:`in_use`, where the device makes one."""
    place = device()
    if place.type == "cuda":
        torch.cuda.reset_peak_memory_stats(place)


def in_use() -> int:
    """Bytes in use: on a CUDA device the most that tensors took at a time since :func:`reset_peak`, else what the
    process holds now."""
    place = device()
    if place.type == "cuda":
        return torch.cuda.max_memory_allocated(place)
    return psutil.Process().memory_info().rss
