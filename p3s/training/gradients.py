"""The gradients of a step, also where memory is short: a pass that runs out of it is retried with checkpointing."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import Parameter

from ..errors import TrainingError
from ..network.subject_copy import SubjectCopy
from ..network.unet import UNet
from .losses import total_loss
from .memory import free_cached_memory, is_out_of_memory, ways_to_save
from .precision import autocast
from .settings import TrainSettings
from .step import Batch, batch_losses

#: The loss that is minimised, L_LDM and L_ac, scalars.
Losses = tuple[Tensor, Tensor, Tensor]


class Gradients:
    """Forward and backward passes of ``copy`` on ``base``. ``warn`` is called with what the user should know."""

    def __init__(
        self,
        base: UNet,
        copy: SubjectCopy,
        settings: TrainSettings,
        optimizer: torch.optim.Optimizer,
        scaler: torch.amp.GradScaler,
        warn: Callable[[str], None],
    ) -> None:
        self.base, self.copy, self.settings = base, copy, settings
        self.optimizer, self.scaler, self.warn = optimizer, scaler, warn
        self.device = next(copy.parameters()).device

    def checkpointing(self, on: bool) -> None:
        """Turn gradient checkpointing of both networks on or off."""
        self.base.checkpointing = self.copy.unet.checkpointing = on

    def compute(self, batch: Batch, number: int, total: int) -> Losses:
        """The losses of a batch; their gradients are in the copy's parameters.

        A pass that runs out of memory is retried once with gradient checkpointing; what is random in a step is in the
        batch already. Raises TrainingError, naming the step by ``number`` and ``total``, if that runs out of memory,
        too.
        """
        found = self._try(batch)
        if isinstance(found, Exception) and not self.base.checkpointing:
            self.warn(f"step {number} ran out of memory: gradient checkpointing was turned on")
            self.checkpointing(True)
            found = self._try(batch)
        if isinstance(found, Exception):
            advice = ways_to_save(self.copy.settings, replace(self.settings, checkpointing=True))
            raise TrainingError(
                f"out of memory at step {number} of {total}, even with gradient checkpointing: {advice} ({found})"
            )
        return found

    def read(self, losses: Losses) -> tuple[list[float], bool]:
        """The losses as numbers, and whether the optimiser may use their gradients: others would ruin the weights."""
        self.scaler.unscale_(self.optimizer)
        scaled = self.scaler.is_enabled() and self.scaler.get_scale() > 1  # then the scaler skips infinite gradients
        return read(losses, () if scaled else self.copy.parameters())

    def _try(self, batch: Batch) -> Losses | Exception:
        found = self._pass(batch)
        if isinstance(found, Exception):
            self.optimizer.zero_grad(set_to_none=True)
            free_cached_memory(self.device)
        return found

    def _pass(self, batch: Batch) -> Losses | Exception:
        try:
            batch = batch.to(self.device)
            with autocast(self.settings.precision, self.device):
                denoising, consistency = batch_losses(self.base, self.copy, batch, self.settings)
                loss = total_loss(denoising, consistency, self.settings.gamma)
            self.scaler.scale(loss).backward()
            return loss.detach(), denoising.detach(), consistency.detach()
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            return error.with_traceback(None)  # whose frames hold the tensors that need the memory


def read(losses: Losses, parameters: Iterable[Parameter]) -> tuple[list[float], bool]:
    """The losses as numbers, and whether the one that is minimised and the 2-norm of all gradients are finite. Reads
    each gradient once, and waits for the device once."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    # Not their largest number, which a CPU takes much longer to find.
    norm = torch.stack(torch._foreach_norm(gradients)).norm() if gradients else losses[0].new_zeros(())
    *numbers, found = torch.stack([*losses, norm]).tolist()
    return numbers, math.isfinite(numbers[0]) and math.isfinite(found)
