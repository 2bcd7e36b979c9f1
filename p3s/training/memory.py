"""The memory of a training: what running out of it looks like, and what to do about it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch

from ..errors import TrainingError
from ..network.copy_settings import CopySettings
from .memory_estimate import MemoryEstimate
from .settings import TrainSettings

#: What errors without a type of their own say: torch on other devices and the CPU, cuBLAS and cuDNN.
SIGNS = ("out of memory", "not enough memory", "can't allocate memory", "status_alloc_failed")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error of torch says that memory ran out, on any kind of device."""
    text = str(error).lower()
    known = isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError))
    return known or any(sign in text for sign in SIGNS)


@contextmanager
def explained(doing: str, copy_settings: CopySettings, settings: TrainSettings) -> Iterator[None]:
    """Within, running out of memory is a :class:`TrainingError` that says while ``doing`` what, and what to change."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        change = ways_to_save(copy_settings, settings, whatever_the_picture=True)
        advice = change or "it needs a device with more memory"
        raise TrainingError(f"out of memory while {doing}: {advice} ({error})") from None


#: Share of the free memory up to which a training is expected to fit without being close.
CLOSE = 0.9


def check_memory(
    bound: MemoryEstimate,
    estimate: Callable[[CopySettings, TrainSettings], MemoryEstimate],
    free: int,
    largest: int,
    copy_settings: CopySettings,
    settings: TrainSettings,
) -> str | None:
    """A warning for the user before the first step, if memory is tight. ``bound``: no less than this training needs;
    ``estimate``: what it needs with the given settings, which takes seconds and is asked only where the bound does not
    fit; ``free``: bytes of the device that are free now; ``largest``: all that it can have, swap included.

    Raises :class:`TrainingError` where not even the smallest picture could be trained. Anything else may work: models
    are moved away, drivers lend memory, and a step that runs out of it is retried with checkpointing.
    """

    def fits(needed: MemoryEstimate) -> bool:
        return needed.least <= largest and needed.peak <= CLOSE * free

    if fits(bound) or fits(needed := estimate(copy_settings, settings)):
        return None
    changes, low_rank, lean = _leanest(copy_settings, settings)
    together = f"; with {changes} a step needs about {_gib(estimate(low_rank, lean).peak)}" if changes else ""
    if needed.least > largest:
        change = ways_to_save(copy_settings, settings, whatever_the_picture=True)
        advice = f"{change}{together}" if change else "it needs a device with more memory"
        raise TrainingError(
            f"weights, gradients and optimizer of this training take {_gib(needed.least)}, but the device has "
            f"{_gib(largest)}: {advice}"
        )
    return (
        f"memory is tight: a step needs about {_gib(needed.peak)}, and {_gib(free)} is free. If it fails or is very "
        f"slow: {ways_to_save(copy_settings, settings)}{together}"
    )


def _leanest(copy_settings: CopySettings, settings: TrainSettings) -> tuple[str, CopySettings, TrainSettings]:
    """The settings with which the same pictures, in batches as large, need least, and in words what they change."""
    changes = []
    if copy_settings.kind == "full":
        changes.append('kind "lora"')
    if settings.precision == "fp32":
        changes.append('precision "bf16"')
    if not settings.checkpointing:
        changes.append("checkpointing")
    precision = "bf16" if settings.precision == "fp32" else settings.precision
    *most, last = changes or [""]
    words = f"{', '.join(most)} and {last}" if most else last
    return words, replace(copy_settings, kind="lora"), replace(settings, precision=precision, checkpointing=True)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"


def free_cached_memory(device: torch.device) -> None:
    """Release the memory that torch caches."""
    gc.collect()
    if device.type in ("cuda", "mps", "xpu"):
        getattr(torch, device.type).empty_cache()


def ways_to_save(copy_settings: CopySettings, settings: TrainSettings, whatever_the_picture: bool = False) -> str:
    """What a user can change so that a training needs less memory, the most effective first; empty if all is done.
    ``whatever_the_picture``: only what makes weights, gradients and the optimiser's state smaller."""
    ways = []
    if copy_settings.kind == "full":
        ways.append('train low-rank changes only (kind = "lora")')
    if settings.batch_size > 1 and not whatever_the_picture:
        ways.append(f"lower batch_size (now {settings.batch_size})")
    if not settings.checkpointing and not whatever_the_picture:
        ways.append("turn checkpointing on")
    if settings.precision == "fp32":
        ways.append('set precision to "bf16"')
    if settings.optimizer == "adamw" and copy_settings.kind == "full":
        ways.append('set optimizer to "adamw8bit"')
    return ", or ".join([*ways, *([] if whatever_the_picture else ["lower the resolution"])])
