"""How a training that was done before, or was not finished, is found again.

A GPU may give the latents and prompts of an unchanged graph with other last bits the next time. So the keys are made of
what is exactly the same each time (photos by their pixels, settings, weights, sizes), and encoded tensors are compared
with a tolerance: by their sketches in a subject file, which does not hold them, and as they are in a state
(:meth:`p3s.training.state.TrainState.same_references`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..network.copy_settings import CopySettings
from ..safetensors_format import as_bytes
from ..sampling.diffusion import NoiseSchedule
from ..settings import as_before
from .examples import Example
from .settings import TrainSettings
from .step import total_steps

#: Raise this when the same inputs no longer train to the same weights.
METHOD = 2
#: Relative difference allowed to a tensor computed again: a GPU may change last bits, another picture or mask changes
#: more. The weight of a single word in a prompt changes little, and text is encoded more exactly.
TOLERANCE = 0.02
TOLERANCE_OF_PROMPTS = 0.002
#: The base model, in :meth:`TrainingInputs.facts`.
BASE = "the base model"
#: What :meth:`TrainingInputs.facts` leaves out, as it would have it.
UNSAID = {name: repr(value) for name, value in {**TrainSettings.ADDED, **CopySettings.ADDED}.items()}
LABELS = ("label", "label_without_prompt")
#: Numbers of a sketch. Of tensors that differ by twice the tolerance, one pair in 900 passes for equal (the chi-squared
#: distribution of 16 degrees of freedom), by three times, 4 in a million.
SKETCH = 16

#: Sketches of the tensors of a training, by what they are.
Sketches = dict[str, list[list[float]]]


@dataclass(frozen=True, eq=False)
class TrainingInputs:
    """All that the result of a training depends on.

    ``base_fingerprint``: :func:`p3s.subject.base_fingerprint.fingerprint` of the base's weights as they are trained on,
    LoRAs included.
    ``image_hashes``: of the references' photos (``Reference.image_hash``). ``examples``: of each reference the whole
    picture first. ``empty_prompt`` [text tokens, context_dim] replaces a dropped prompt.
    """

    base_fingerprint: str
    image_hashes: Sequence[str]
    examples: Sequence[Example]
    empty_prompt: Tensor
    noise: NoiseSchedule
    copy_settings: CopySettings
    settings: TrainSettings

    def key(self) -> str:
        """sha256 (hex) of all but the values of the tensors: trainings with equal keys and :func:`same` sketches give
        the same weights, but for the last bits (and but for a training whose settings were changed on the way, see
        ``TrainState.changes``)."""
        return self._key(total_steps(self.examples, self.settings))

    def state_key(self) -> str:
        """The key (16 hex digits) of a training that is not finished: the number of its steps does not count, since it
        may be resumed with more. The first half does not depend on ``TrainSettings.REMEDIES`` either."""
        return self._key(left_out=TrainSettings.REMEDIES)[:8] + self._key()[:8]

    def sketches(self) -> Sketches:
        """A sketch of each tensor."""
        seen: dict[int, tuple[str, Tensor]] = {id(t): (name, t) for name, t in tensors(self.examples)}
        found: Sketches = {"empty": [sketch(self.empty_prompt)]}
        for name, tensor in seen.values():
            found.setdefault(name, []).append(sketch(tensor))
        return found

    def facts(self) -> dict[str, str]:
        """What an unfinished training depends on apart from its examples, by names that users know; values as text. The
        number of steps is left out: it may be resumed with more."""
        values = self._relevant() | as_before(asdict(self.copy_settings), CopySettings.ADDED)
        return {name: repr(value) for name, value in values.items()} | {
            BASE: self.base_fingerprint,
            "the noise schedule": self._noise(),
            "prediction": self.noise.prediction,
        }

    def _relevant(self, left_out: Collection[str] = ()) -> dict[str, Any]:
        """The settings that change what a step does to the weights."""
        left_out = {*TrainSettings.NEUTRAL, *left_out}
        values = as_before(asdict(self.settings), TrainSettings.ADDED)
        return {name: value for name, value in values.items() if name not in left_out}

    def _noise(self) -> str:
        return hashlib.sha256(as_bytes(self.noise.alphas_cumprod.float().cpu().contiguous())).hexdigest()

    def _key(self, steps: int | None = None, left_out: Collection[str] = ()) -> str:
        content = [
            METHOD,
            self.base_fingerprint,
            list(self.image_hashes),
            [(name, list(tensor.shape)) for name, tensor in tensors(self.examples)],
            list(self.empty_prompt.shape),
            [self._noise(), self.noise.prediction],
            self.copy_settings.to_dict(),
            self._relevant(left_out),
            steps,
        ]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def tensors(examples: Sequence[Example]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of examples, by their stored names."""
    for example in examples:
        yield from example.stored().items()


def sketch(tensor: Tensor) -> list[float]:
    """A few sums of a tensor's values under random signs. Their differences are about as large as those of the tensors
    themselves, for ever: this generator's numbers never change."""
    values = tensor.detach().to("cpu", torch.float64).flatten().numpy()
    signs = np.random.RandomState(0).randint(0, 2, len(values)) * 2 - 1
    signed = np.zeros(-(-len(values) // SKETCH) * SKETCH)
    signed[: len(values)] = values * signs
    return [float(f"{value:.5g}") for value in signed.reshape(-1, SKETCH).sum(0)]


def same(before: Sketches, now: Sketches) -> bool:
    """Whether two sketches are those of one training."""
    sizes = ({name: len(rows) for name, rows in sketches.items()} for sketches in (before, now))
    return len({json.dumps(size, sort_keys=True) for size in sizes}) == 1 and all(
        close(name, torch.tensor(a), torch.tensor(b))
        for name in before
        for a, b in zip(before[name], now[name], strict=True)
    )


def close(name: str, before: Tensor, now: Tensor) -> bool:
    """Whether a tensor of a training, or its sketch, is the one from before, computed again. ``name``: what it is."""
    tolerance = TOLERANCE_OF_PROMPTS if name in ("prompt", "empty", *LABELS) else TOLERANCE
    if before.shape != now.shape:
        return False
    before, now = before.double().cpu(), now.double().cpu()
    return bool((before - now).norm() <= tolerance * before.norm())
