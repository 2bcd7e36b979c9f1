"""Training: a frozen U-Net, a copy and the references of a subject in, a trained copy out."""

from __future__ import annotations

import logging
import math
import traceback
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import Parameter

from ..arithmetic import deterministic, few_threads
from ..errors import TrainingError
from ..network.subject_copy import SubjectCopy
from ..network.unet import UNet
from ..subject.base_fingerprint import fingerprint
from .key import BASE, TrainingInputs
from .losses import total_loss
from .memory import free_cached_memory, is_out_of_memory, ways_to_save
from .precision import autocast
from .settings import TrainSettings
from .state import Checkpoints, Divergence, SettingChange, TrainState, remedies
from .state_file import mark_diverged, save_state
from .step import Batch, StepReport, batch_losses, check_examples, draw_batch, epoch_batches, total_steps

log = logging.getLogger("p3s")


@dataclass(frozen=True)
class TrainResult:
    """The result of a training: a report per step, whether it ran to its end, and the error that ended it early, if one
    did. The weights are in the copy. ``warnings``: what went wrong without ending it, such as a checkpoint that could
    not be written. ``kept``: the step of the state that is on the disk, 0 for none or an untrained one. ``diverged``:
    whether it ended because the loss or a gradient was not finite. ``changes``: settings that were changed on the way,
    see :class:`TrainState`."""

    reports: tuple[StepReport, ...]
    completed: bool
    error: Exception | None = None
    warnings: tuple[str, ...] = ()
    diverged: bool = False
    changes: tuple[SettingChange, ...] = ()
    kept: int = 0


#: Called after every step; a training stops early when it returns False.
Callback = Callable[[StepReport], bool | None]


def train(
    base: UNet,
    copy: SubjectCopy,
    inputs: TrainingInputs,
    callback: Callback | None = None,
    checkpoints: Checkpoints | None = None,
    resume: TrainState | None = None,
) -> TrainResult:
    """Train ``copy`` (:func:`p3s.training.driver.new_copy`) in place on the examples of ``inputs``; ``base`` is frozen
    and only read.

    Both networks must be on one device, the copy in float32, the base in float32 or in the type of the ``precision``
    that is set. All random choices come from the ``seed`` through a CPU generator, so that they do not depend on the
    device. Equal seeds give equal weights, bit for bit, on one CPU; on a GPU where the environment variable
    CUBLAS_WORKSPACE_CONFIG allows it (see :func:`p3s.arithmetic.deterministic`). The weight of the
    condition is 1 in training, or the one that is learned: the schedule of Eq. 10 belongs to sampling.

    Nothing trained is lost: if a loss or gradient is no longer finite, a later step raises, or the callback asks to
    stop, the training ends with the weights of the last good step; the result says why. (An exception in the
    optimiser may leave some weights a step ahead; a warning says so.) A step that runs out of memory is retried
    once with gradient checkpointing. With ``checkpoints`` the state is written to disk;
    ``resume``, such a state, continues from there with a copy made as before: interrupted and resumed is the same as
    uninterrupted, bit for bit on one machine.

    The weights just before a loss that is not finite are seldom worth resuming from: the last state written before
    stays on disk or, if there is none, an untrained one. It is resumed only with a lower learning rate or a more exact
    precision. Raises :class:`TrainingError` for inputs that do not fit
    together or are not those of ``resume``, before the first step.
    """
    check_examples(base.config, inputs.examples, inputs.empty_prompt)
    run = _Run(base, copy, inputs, checkpoints)
    if resume is not None:
        run.restore(resume)
    error: Exception | None = None
    with torch.inference_mode(False), torch.enable_grad(), deterministic(run.device), few_threads(base), run.prepared():
        try:
            while len(run.reports) < run.total:
                report = run.step()
                due = checkpoints is not None and checkpoints.every and report.step % checkpoints.every == 0
                if due and report.step < run.total:
                    run.save()
                if callback is not None and callback(report) is False:
                    break
        except Exception as problem:
            if not run.reports:
                raise
            traceback.clear_frames(problem.__traceback__)  # its frames hold the tensors of the step
            error = problem
    completed = len(run.reports) == run.total
    if run.diverged:
        run.mark_diverged()
    elif not completed:
        run.save()
    return TrainResult(tuple(run.reports), completed, error, tuple(run.warnings), run.diverged, run.changes, run.saved)


class _Run:
    """A training in progress."""

    def __init__(self, base: UNet, copy: SubjectCopy, inputs: TrainingInputs, checkpoints: Checkpoints | None) -> None:
        self.base, self.copy, self.checkpoints = base, copy, checkpoints
        self._facts = inputs.facts()
        self.examples, self.empty_prompt = inputs.examples, inputs.empty_prompt
        self.noise, self.settings = inputs.noise, inputs.settings
        self.device = next(copy.parameters()).device
        self.optimizer = make_optimizer(copy, self.settings)
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.precision == "fp16")
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.total = total_steps(self.examples, self.settings)
        self.queue: list[list[int]] = []  # the batches that are left of the epoch
        self.reports: list[StepReport] = []
        self.warnings: list[str] = []
        self.diverged = False
        self.changes: tuple[SettingChange, ...] = ()
        self._good: _RandomChoices | None = (
            None  # the parts of the state that a step changes before it is known to be good
        )
        self.saved = 0  # the step of the state on the disk

    @contextmanager
    def prepared(self) -> Iterator[None]:
        """The networks as training needs them, and afterwards as sampling does."""
        self.base.requires_grad_(False).train(False)
        self.copy.requires_grad_(True).train()
        self._checkpointing(self.settings.checkpointing)
        try:
            yield
        finally:
            self._checkpointing(False)
            self.optimizer.zero_grad(set_to_none=True)
            self.copy.requires_grad_(False).train(False)

    def _checkpointing(self, on: bool) -> None:
        self.base.checkpointing = self.copy.unet.checkpointing = on

    def step(self) -> StepReport:
        """One step; raises with the weights as they were, unless the optimiser itself fails."""
        number = len(self.reports) + 1
        self.queue = self.queue or epoch_batches(self.examples, self.settings.batch_size, self.generator)
        rows, *self.queue = self.queue
        batch = draw_batch(self.examples, rows, self.empty_prompt, self.noise, self.settings, self.generator)
        loss, denoising, consistency = self._gradients(batch, number)
        self._check_finite(loss, number)
        self._good = None
        self._update(number)
        # Before the next forward pass, so that its activations do not add to the gradients' memory.
        self.optimizer.zero_grad(set_to_none=True)
        self.reports.append(StepReport(number, self.total, loss.item(), denoising.item(), consistency.item()))
        self._good = _RandomChoices(self.generator.get_state(), list(self.queue))
        return self.reports[-1]

    def _update(self, number: int) -> None:
        """Let the optimiser change the weights. It allocates as much as two copies of them in the first step."""
        try:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        except (RuntimeError, MemoryError) as error:
            if self.reports:
                self._warn(
                    f"step {number} was interrupted halfway: some of the weights are those after it, others before"
                )
            if not is_out_of_memory(error):
                raise
            raise TrainingError(
                f"out of memory in the optimizer at step {number} of {self.total}: "
                f"{ways_to_save(self.copy.settings, self.settings)} ({error})"
            ) from None

    def _gradients(self, batch: Batch, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """The losses of a batch, with their gradients computed. A pass that runs out of memory is retried with
        gradient checkpointing; what is random in a step is in the batch already."""
        found = self._try(batch)
        if isinstance(found, Exception) and not self.base.checkpointing:
            self._warn(f"step {number} ran out of memory: gradient checkpointing was turned on")
            self._checkpointing(True)
            found = self._try(batch)
        if isinstance(found, Exception):
            raise TrainingError(
                f"out of memory at step {number} of {self.total}, even with gradient checkpointing: "
                f"{ways_to_save(self.copy.settings, replace(self.settings, checkpointing=True))} ({found})"
            )
        return found

    def _try(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor] | Exception:
        found = self._pass(batch)
        if isinstance(found, Exception):
            self.optimizer.zero_grad(set_to_none=True)
            free_cached_memory(self.device)
        return found

    def _pass(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor] | Exception:
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

    def _warn(self, text: str) -> None:
        self.warnings.append(text)
        log.warning("P3S: %s", text)

    def _check_finite(self, loss: Tensor, number: int) -> None:
        """Refuse a step that would ruin the weights."""
        self.scaler.unscale_(self.optimizer)
        scaled = self.scaler.is_enabled() and self.scaler.get_scale() > 1  # then the scaler skips infinite gradients
        finite = bool(torch.isfinite(loss)) if scaled else gradients_are_finite(loss, self.copy.parameters())
        if not finite:
            self.diverged = True
            advice = remedies(self._facts)
            raise TrainingError(f"the loss is no longer finite at step {number} of {self.total}: {advice}")

    def restore(self, state: TrainState) -> None:
        """Resume from ``state``. Raises TrainingError when it belongs to another training."""
        # Earlier versions kept the fingerprint of the base as it was trained on, which bf16 has rounded.
        was = state.inputs.get(BASE)
        if was != self._facts[BASE] and was == fingerprint(self.base.state_dict(), torch.bfloat16):
            state = replace(state, inputs={**state.inputs, BASE: self._facts[BASE]})
        state.check(self._facts, self.examples, self.empty_prompt)
        done = len(state.reports)
        if not done:
            return
        if done > self.total:
            raise TrainingError(
                f"the interrupted training already has {done} steps, and {self.total} are asked for: ask for at "
                f"least {done}, or turn resume off to start over"
            )
        changed = [n for n in self.settings.REMEDIES if state.inputs[n] != self._facts[n]]
        texts = ((n, state.inputs[n].strip("'"), self._facts[n].strip("'")) for n in changed)
        self.changes = (*state.changes, *((done, *text) for text in texts))
        self.examples, self.empty_prompt = state.examples, state.empty_prompt  # exactly those of before
        self.copy.load_state_dict(state.weights)
        rates = [group["lr"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(dict(state.optimizer))
        for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self.scaler.load_state_dict(dict(state.scaler))
        self.generator.set_state(state.generator)
        self.queue = list(state.queue)
        self.reports = [replace(report, total=self.total) for report in state.reports]
        self.saved = done
        self._good = _RandomChoices(state.generator, list(state.queue))

    def save(self) -> None:
        """Write the state after the last good step. A failure to write becomes a warning."""
        if self.checkpoints is None or self._good is None or self.saved == len(self.reports):
            return
        state = TrainState(
            self._facts,
            tuple(self.examples),
            self.empty_prompt,
            tuple(self.reports),
            self.copy.state_dict(),
            self.optimizer.state_dict(),
            self.scaler.state_dict(),
            self._good.generator,
            self._good.queue,
            changes=self.changes,
        )
        try:
            save_state(state, self.checkpoints.path)
            self.saved = len(self.reports)
        except Exception as error:  # the training is worth more than its state
            self._warn(f"the checkpoint after step {len(self.reports)} could not be saved: {error}")

    def mark_diverged(self) -> None:
        """Keep the last state, and record in it that the loss was no longer finite after it."""
        if self.checkpoints is None:
            return
        tried = {name: self._facts[name] for name in self.settings.REMEDIES}
        diverged = Divergence(len(self.reports) + 1, tried)
        try:
            if self.saved:
                mark_diverged(self.checkpoints.path, diverged)
            else:
                untrained = TrainState.untrained(self._facts, self.examples, self.empty_prompt, diverged)
                save_state(untrained, self.checkpoints.path)
        except Exception as error:
            self._warn(f"that the loss was no longer finite could not be recorded in {self.checkpoints.path}: {error}")


class _RandomChoices(NamedTuple):
    """Where in its random choices a training is."""

    generator: Tensor
    queue: list[list[int]]


def gradients_are_finite(loss: Tensor, parameters: Iterable[Parameter]) -> bool:
    """Whether a loss and all gradients are finite. Reads each gradient once, and waits for the device once."""
    peaks = [torch.linalg.vector_norm(p.grad, math.inf) for p in parameters if p.grad is not None]
    return bool(torch.isfinite(torch.stack([loss, *peaks])).all())


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
