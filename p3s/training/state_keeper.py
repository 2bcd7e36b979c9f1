"""Keeping the state of a training on the disk while it runs. What cannot be written never ends the training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from torch import Tensor

from .examples import Example
from .settings import TrainSettings
from .state import Checkpoints, Divergence, TrainState
from .state_file import mark_diverged, save_state


class StateKeeper:
    """Writes states to the file of ``checkpoints``; without it, nothing. ``warn`` is called with what went wrong.

    ``saved`` is the step of the state on the disk, 0 for none or an untrained one.
    """

    def __init__(self, checkpoints: Checkpoints | None, warn: Callable[[str], None]) -> None:
        self.checkpoints, self.warn = checkpoints, warn
        self.saved = 0

    def due(self, step: int) -> bool:
        """Whether a state is to be written after this step."""
        every = 0 if self.checkpoints is None else self.checkpoints.every
        return every > 0 and step % every == 0

    def save(self, state: TrainState | None) -> None:
        """Write a state, if there is one that is not on the disk already."""
        if self.checkpoints is None or state is None or self.saved == len(state.reports):
            return
        try:
            save_state(state, self.checkpoints.path)
            self.saved = len(state.reports)
        except Exception as error:  # the training is worth more than its state
            self.warn(f"the checkpoint after step {len(state.reports)} could not be saved: {error}")

    def mark_diverged(
        self, step: int, facts: Mapping[str, str], examples: Sequence[Example], empty_prompt: Tensor
    ) -> None:
        """Keep the last state, and record in it that the loss of a later ``step`` was not finite. ``facts``: of
        :meth:`TrainingInputs.facts`."""
        if self.checkpoints is None:
            return
        diverged = Divergence(step, {name: facts[name] for name in TrainSettings.REMEDIES})
        try:
            if self.saved:
                mark_diverged(self.checkpoints.path, diverged)
            else:
                save_state(TrainState.untrained(facts, examples, empty_prompt, diverged), self.checkpoints.path)
        except Exception as error:
            self.warn(f"that the loss was no longer finite could not be recorded in {self.checkpoints.path}: {error}")
