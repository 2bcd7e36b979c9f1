"""The state of a training after a step: all that is needed to resume it. Its file: ``p3s/training/state_file.py``."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import TrainingError
from .examples import Example
from .key import UNSAID, close, tensors
from .settings import TrainSettings
from .step import StepReport

#: After which step, name of the setting, value before, value from then on.
SettingChange = tuple[int, str, str, str]


@dataclass(frozen=True)
class Divergence:
    """That the loss or a gradient of a later step was not finite: of which step, and the values of
    ``TrainSettings.REMEDIES`` then, as in ``TrainingInputs.facts``."""

    step: int
    inputs: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class StateHead:
    """What a training was trained on and how far it got: a state without its large parts.

    inputs: names and values of what the training depends on (``TrainingInputs.facts``). examples, empty_prompt: those
    it is trained on. reports: of the steps done. diverged: how the training diverged after this state, if it did.
    changes: what was changed to resume after that, as (after which step, name, value before, value from then on).
    """

    inputs: Mapping[str, str]
    examples: tuple[Example, ...]
    empty_prompt: Tensor
    reports: tuple[StepReport, ...]
    diverged: Divergence | None = field(default=None, kw_only=True)
    changes: tuple[SettingChange, ...] = field(default=(), kw_only=True)

    def same_references(self, examples: Sequence[Example], empty_prompt: Tensor) -> bool:
        """Whether it was trained on these, as far as another run on a GPU gives the same tensors."""
        return self._same_examples(examples) and close("empty", self.empty_prompt, empty_prompt)

    def _same_examples(self, examples: Sequence[Example]) -> bool:
        before, now = (list(tensors(each)) for each in (self.examples, examples))
        return [name for name, _ in before] == [name for name, _ in now] and all(
            close(name, a, b) for (name, a), (_, b) in zip(before, now, strict=True)
        )

    def may_go_on(self, settings: TrainSettings) -> bool:
        """Whether it diverged, and ``settings`` may keep it from doing so again."""
        wanted = {name: repr(getattr(settings, name)) for name in TrainSettings.REMEDIES}
        return self.diverged is not None and _remedied(self.diverged.inputs, wanted)

    def check(self, inputs: Mapping[str, str], examples: Sequence[Example], empty_prompt: Tensor) -> None:
        """Raise :class:`TrainingError` naming what differs unless these are what the state was trained on.

        A state that diverged would do so again: it needs a lower learning rate or a more exact precision.
        """
        remedied = self.diverged is not None and _remedied(self.diverged.inputs, inputs)
        was, now = UNSAID | dict(self.inputs), UNSAID | dict(inputs)
        wrong = [
            f"{name} (was {_short(was.get(name))}, is {_short(now.get(name))})"
            for name in sorted(was.keys() | now.keys())
            if was.get(name) != now.get(name) and not (remedied and name in TrainSettings.REMEDIES)
        ]
        if not self._same_examples(examples):
            wrong.append("the references or their prompts")
        if not close("empty", self.empty_prompt, empty_prompt):
            wrong.append("the empty prompt")
        if wrong:
            raise TrainingError(
                f"the interrupted training can only be resumed with the inputs it started with; these differ: "
                f"{'; '.join(wrong)}. Set them back, or start over"
            )
        if self.diverged is not None and not remedied:
            done = len(self.reports)
            raise TrainingError(
                f"with these settings the loss of this training was no longer finite at step {self.diverged.step}, and "
                f"running it unchanged would fail again. To {f'resume from step {done}' if done else 'start over'}, "
                f"{remedies(inputs)}; to try it once more as it is, turn resume off"
            )


@dataclass(frozen=True, eq=False)
class TrainState(StateHead):
    """A training after some steps; :func:`p3s.training.loop.train` resumes it as if it had not been interrupted.

    weights, optimizer, scaler: their state dicts. generator, queue: the state of the random generator, and the batches
    left in the epoch, as lists of example numbers. Without a report all these are empty, and the training starts
    over.
    """

    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Any]
    scaler: Mapping[str, Any]
    generator: Tensor
    queue: list[list[int]]

    @classmethod
    def untrained(
        cls, inputs: Mapping[str, str], examples: Sequence[Example], empty_prompt: Tensor, diverged: Divergence
    ) -> TrainState:
        """The state before the first step of a training that diverged before another state was kept."""
        nothing = torch.empty(0, dtype=torch.uint8)
        return cls(inputs, tuple(examples), empty_prompt, (), {}, {}, {}, nothing, [], diverged=diverged)


@dataclass(frozen=True)
class Checkpoints:
    """Where and how often a training keeps its state, for ``train(..., resume=load_state(path))``
    (:func:`p3s.training.state_file.load_state`).

    ``every`` n steps (0: never on the way) except at the last one, and whenever the training ends early. There is one
    file, replaced in one go. A state of SD 1.5 takes 7 GB with a full copy (weights and two numbers of AdamW for each,
    in float32), 160 MB with a low-rank one of rank 16.
    """

    path: Path
    every: int = 0

    def discard(self) -> None:
        """Remove the file, once the subject is saved."""
        with contextlib.suppress(OSError):
            self.path.unlink()


def _remedied(before: Mapping[str, str], now: Mapping[str, str]) -> bool:
    """Whether a setting that can keep a loss finite is better than before, and none is worse. The values are those of
    ``TrainingInputs.facts``."""

    def ranks(inputs: Mapping[str, str]) -> list[float]:
        rate, precision = _values(inputs)
        return [-rate, ("fp16", "bf16", "fp32").index(precision)]

    pairs = list(zip(ranks(before), ranks(now), strict=True))
    return all(b >= a for a, b in pairs) and any(b > a for a, b in pairs)


def remedies(inputs: Mapping[str, str]) -> str:
    """What a user can change so that a loss stays finite."""
    rate, precision = _values(inputs)
    return f"lower learning_rate (now {rate:g})" + (
        "" if precision == "fp32" else f", or train in fp32 (now {precision})"
    )


def _values(inputs: Mapping[str, str]) -> tuple[float, str]:
    """The values of ``TrainSettings.REMEDIES``, which ``TrainingInputs.facts`` has written with ``repr``."""
    rate, precision = (inputs[name] for name in TrainSettings.REMEDIES)
    return float(rate), precision.strip("'")


def _short(value: str | None) -> str:
    return "absent" if value is None else value if len(value) <= 24 else f"{value[:8]}..."
