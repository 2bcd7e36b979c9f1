"""Training: a frozen U-Net, a copy and the references of a subject in, a trained copy out."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from ..arithmetic import deterministic, few_threads
from ..errors import TrainingError
from ..network.subject_copy import SubjectCopy
from ..network.unet import UNet
from ..subject.base_fingerprint import fingerprint
from .gradients import Gradients
from .key import BASE, TrainingInputs
from .memory import is_out_of_memory, ways_to_save
from .optimizer import load_optimizer, make_optimizer, rate_share
from .state import Checkpoints, SettingChange, TrainState, remedies
from .state_keeper import StateKeeper
from .step import StepReport, check_examples, draw_batch, epoch_batches, total_steps

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
    run = _Loop(base, copy, inputs)
    keeper = StateKeeper(checkpoints, run.warn)
    if resume is not None:
        run.restore(resume)
        keeper.saved = len(run.reports)
    error: Exception | None = None
    with torch.inference_mode(False), torch.enable_grad(), deterministic(run.device), few_threads(base), run.networks():
        try:
            while len(run.reports) < run.total:
                report = run.step()
                if report.step < run.total and keeper.due(report.step):
                    keeper.save(run.state())
                if callback is not None and callback(report) is False:
                    break
        except Exception as problem:
            if not run.reports:
                raise
            traceback.clear_frames(problem.__traceback__)  # its frames hold the tensors of the step
            error = problem
    completed = len(run.reports) == run.total
    if run.diverged:
        keeper.mark_diverged(len(run.reports) + 1, run.facts, run.examples, run.empty_prompt)
    elif not completed:
        keeper.save(run.state())
    return TrainResult(
        tuple(run.reports), completed, error, tuple(run.warnings), run.diverged, run.changes, keeper.saved
    )


class _Loop:
    """A training in progress: its networks, its optimiser, its random choices and what was reported so far."""

    def __init__(self, base: UNet, copy: SubjectCopy, inputs: TrainingInputs) -> None:
        self.base, self.copy = base, copy
        self.facts = inputs.facts()
        self.examples, self.empty_prompt = inputs.examples, inputs.empty_prompt
        self.noise, self.settings = inputs.noise, inputs.settings
        self.device = next(copy.parameters()).device
        self.optimizer = make_optimizer(copy, self.settings)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]  # after the warm-up
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=self.settings.precision == "fp16")
        self.gradients = Gradients(base, copy, self.settings, self.optimizer, self.scaler, self.warn)
        self.generator = torch.Generator().manual_seed(self.settings.seed)
        self.total = total_steps(self.examples, self.settings)
        self.queue: list[list[int]] = []  # the batches that are left of the epoch
        self.reports: list[StepReport] = []
        self.warnings: list[str] = []
        self.diverged = False
        self.changes: tuple[SettingChange, ...] = ()
        #: After the last step whose weights are good; None while the optimiser works and if it has failed.
        self._good: _RandomChoices | None = None

    @contextmanager
    def networks(self) -> Iterator[None]:
        """The networks as training needs them, and afterwards as sampling does."""
        self.base.requires_grad_(False).train(False)
        self.copy.requires_grad_(True).train()
        self.gradients.checkpointing(self.settings.checkpointing)
        try:
            yield
        finally:
            self.gradients.checkpointing(False)
            self.optimizer.zero_grad(set_to_none=True)
            self.copy.requires_grad_(False).train(False)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        log.warning("P3S: %s", text)

    def step(self) -> StepReport:
        """One step; raises with the weights as they were, unless the optimiser itself fails."""
        number = len(self.reports) + 1
        self.queue = self.queue or epoch_batches(self.examples, self.settings.batch_size, self.generator)
        rows, *self.queue = self.queue
        batch = draw_batch(
            self.examples, rows, self.empty_prompt, self.noise, self.settings, self.generator, number - 1
        )
        (loss, denoising, consistency), finite = self.gradients.read(self.gradients.compute(batch, number, self.total))
        if not finite:
            self.diverged = True
            advice = remedies(self.facts)
            raise TrainingError(f"the loss is no longer finite at step {number} of {self.total}: {advice}")
        self._good = None
        self._update(number)
        # Before the next forward pass, so that its activations do not add to the gradients' memory.
        self.optimizer.zero_grad(set_to_none=True)
        self.reports.append(StepReport(number, self.total, loss, denoising, consistency))
        self._good = _RandomChoices(self.generator.get_state(), list(self.queue))
        return self.reports[-1]

    def _update(self, number: int) -> None:
        """Let the optimiser change the weights. It allocates as much as two copies of them in the first step."""
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * rate_share(number, self.settings)
        try:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        except (RuntimeError, MemoryError) as error:
            if self.reports:
                self.warn(
                    f"step {number} was interrupted halfway: some of the weights are those after it, others before"
                )
            if not is_out_of_memory(error):
                raise
            advice = ways_to_save(self.copy.settings, self.settings)
            raise TrainingError(
                f"out of memory in the optimizer at step {number} of {self.total}: {advice} ({error})"
            ) from None

    def state(self) -> TrainState | None:
        """The state after the last good step; None where the weights are none."""
        if self._good is None:
            return None
        return TrainState(
            self.facts,
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

    def restore(self, state: TrainState) -> None:
        """Resume from ``state``. Raises TrainingError when it belongs to another training."""
        # Earlier versions kept the fingerprint of the base as it was trained on, which bf16 has rounded.
        was = state.inputs.get(BASE)
        if was != self.facts[BASE] and was == fingerprint(self.base.state_dict(), torch.bfloat16):
            state = replace(state, inputs={**state.inputs, BASE: self.facts[BASE]})
        state.check(self.facts, self.examples, self.empty_prompt)
        done = len(state.reports)
        if not done:
            return
        if done > self.total:
            raise TrainingError(
                f"the interrupted training already has {done} steps, and {self.total} are asked for: ask for at "
                f"least {done}, or turn resume off to start over"
            )
        changed = [n for n in self.settings.REMEDIES if state.inputs[n] != self.facts[n]]
        texts = ((n, state.inputs[n].strip("'"), self.facts[n].strip("'")) for n in changed)
        self.changes = (*state.changes, *((done, *text) for text in texts))
        self.examples, self.empty_prompt = state.examples, state.empty_prompt  # exactly those of before
        self.copy.load_state_dict(state.weights)
        load_optimizer(self.optimizer, state.optimizer, self.copy)
        self.scaler.load_state_dict(dict(state.scaler))
        self.generator.set_state(state.generator)
        self.queue = list(state.queue)
        self.reports = [replace(report, total=self.total) for report in state.reports]
        self._good = _RandomChoices(state.generator, list(state.queue))


class _RandomChoices(NamedTuple):
    """Where in its random choices a training is."""

    generator: Tensor
    queue: list[list[int]]
