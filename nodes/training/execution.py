"""Running a training for Train P3S: networks from a MODEL, progress and previews on the node, a subject at the end."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ...p3s.errors import DamagedStateError, TrainingError
from ...p3s.network.unet import UNet
from ...p3s.network.unet_config import UNetConfig
from ...p3s.subject.file import Subject
from ...p3s.subject.info import SubjectInfo
from ...p3s.training.advice import advice
from ...p3s.training.driver import new_copy, subject_of, with_result
from ...p3s.training.key import TrainingInputs
from ...p3s.training.loop import TrainResult, train
from ...p3s.training.memory import check_memory, explained
from ...p3s.training.memory_estimate import estimate_memory, upper_bound
from ...p3s.training.precision import DTYPES
from ...p3s.training.sample_preview import sample_preview
from ...p3s.training.state import Checkpoints, TrainState
from ...p3s.training.state_file import load_state
from ...p3s.training.step import total_steps
from ..host import memory
from ..host.base_model import base_weights, unet_config
from ..host.preview_image import preview_image
from ..host.progress import Progress, check_cancelled, tell

log = logging.getLogger("p3s")


@dataclass(frozen=True)
class TrainingOutcome:
    """How a training ended.

    ``resumed``: the step after which it was resumed (0: it started over). ``notes``: what else the user should know.
    ``cancelled``: the host's own exception, if the user cancelled.
    """

    subject: Subject
    result: TrainResult
    resumed: int
    notes: tuple[str, ...]
    cancelled: Exception | None

    @property
    def ending(self) -> str:
        """Added to the name of the subject's file."""
        return "" if self.result.completed else "_cancelled" if self.cancelled else "_stopped"

    def told(self, saved: Sequence[str], state: Path, resumes: bool) -> tuple[str, ...]:
        """Messages for the user. ``saved``: those on the subject's file; ``state``: the file from which the training
        can be resumed; ``resumes``: whether queueing the same workflow does that."""
        told = [f"resumed after step {self.resumed}"] if self.resumed else []
        told += [f"{name} {before} up to there, {now} from there on" for _, name, before, now in self.result.changes]
        told += self.notes
        first = []
        how = "queue again" if resumes else "turn resume on and retrain off, then queue again"
        size = state.stat().st_size / 2**20 if state.exists() else 0
        file = f"{state} ({size:.0f} MiB; delete it if you will not resume)"
        if self.result.diverged:
            step, kept = len(self.result.reports), self.result.kept
            told.insert(
                0, f"these are the weights of step {step}, the last with a finite loss; they may already be damaged"
            )
            if kept and size:
                told.append(
                    f"{how} with a lower learning rate to resume after step {kept}, the last one saved, from {file}"
                )
                told.append("if that does not help, turn resume off to start over")
            else:
                told.append("no earlier step was saved: queue again with a lower learning rate to start over")
        elif size and not self.result.completed:
            # First: the box on the node may show two lines only.
            first.append(f"{'Cancelled: ' if self.cancelled else ''}{how} to resume")
            told.append(f"it resumes from {file}")
        return (*first, *saved, *told)

    def raise_if_ended_early(self, told: str) -> None:
        """Raise, for the host, that the training was cancelled or went wrong."""
        if self.cancelled is not None:
            raise self.cancelled
        if self.result.error is not None:
            raise TrainingError(f"{self.result.error} ({told})") from self.result.error


def run(
    node: Any,
    model: Any,
    inputs: TrainingInputs,
    info: SubjectInfo,
    preview_every: int,
    checkpoints: Checkpoints,
    resume: bool,
) -> TrainingOutcome:
    """Train, outside the host's inference mode, with all of the host's models out of the way. ``info``: as it is before
    the training.

    With ``resume`` the training continues from the state in ``checkpoints``, if there is one that can be read.
    """
    tell(node, "Freeing memory: unloading other models")
    memory.unload_models()  # in the host's own mode, because it may write to weights that were made in it
    with torch.inference_mode(False):
        try:
            # A function of its own, whose networks are gone when the memory is given back.
            return _run(node, model, inputs, info, preview_every, checkpoints, resume)
        finally:
            memory.give_back()


def _run(
    node: Any,
    model: Any,
    inputs: TrainingInputs,
    info: SubjectInfo,
    preview_every: int,
    checkpoints: Checkpoints,
    resume: bool,
) -> TrainingOutcome:
    settings, first = inputs.settings, inputs.examples[0]
    device = memory.device()
    state, notes = _state(checkpoints.path) if resume else (None, ())
    config = unet_config(model)
    warnings = advice(config, info.train_settings.get("resolution"), inputs.copy_settings), _scarce(config, inputs)
    given = [text for text in warnings if text]
    for text in given:
        log.warning("Train P3S: %s", text)
    notes = (*notes, *given)
    warning = "".join(f"\n{text}" for text in given)
    tell(node, f"Copying the model's weights{warning}")
    precision = DTYPES[settings.precision]
    # A low-rank copy takes nothing but the shapes: of SDXL, whose weights take 10 GB in float32, that saves half.
    weights = base_weights(model, precision if inputs.copy_settings.kind == "lora" else torch.float32)
    memory.reset_peak()
    with explained("moving the networks to the device", inputs.copy_settings, settings):
        copy = new_copy(weights, inputs).to(device)
        base = UNet.from_state_dict(weights, dtype=precision)
        del weights
        base.to(device)

    def look() -> Any:
        latent = sample_preview(
            base, copy, first, inputs.empty_prompt, inputs.noise, settings.precision, check_cancelled
        )
        return preview_image(model, latent)

    tell(node, f"Step {len(state.reports) + 1 if state else 1} of {total_steps(inputs.examples, settings)}{warning}")
    with Progress(node, look, preview_every) as progress:
        result = train(base, copy, inputs, progress.update, checkpoints, state)
    subject = subject_of(copy, inputs.examples, with_result(info, result))
    resumed = len(state.reports) if state is not None else 0
    return TrainingOutcome(subject, result, resumed, (*notes, *result.warnings), progress.cancelled)


def _scarce(config: UNetConfig, inputs: TrainingInputs) -> str | None:
    """A warning for the user if memory is tight for a training. Raises TrainingError where there is far too little."""
    try:
        bound = upper_bound(config, inputs.examples, inputs.copy_settings, inputs.settings)
        estimate = partial(estimate_memory, config, inputs.examples, device=memory.device())
        return check_memory(bound, estimate, *memory.room(), inputs.copy_settings, inputs.settings)
    except TrainingError:
        raise
    except Exception:  # it needs parts of torch that change, and an estimate must not stop a training
        log.warning("Train P3S: the memory that this training needs could not be estimated", exc_info=True)
        return None


def _state(path: Path) -> tuple[TrainState | None, tuple[str, ...]]:
    """The state of an interrupted training, and what is wrong with it. Raises TrainingError where a state that may be
    intact cannot be read: starting over would replace it."""
    if not path.exists():
        return None, ()
    try:
        return load_state(path), ()
    except DamagedStateError as error:
        return None, (f"not resumed: {error}",)
