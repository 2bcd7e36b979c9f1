"""What a sampling run computes once, and what it keeps from one step to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ...p3s.injection import EffectMask, Features, Injection
from ...p3s.sampling import EXACT, FeatureCache, SamplingSettings, always_on, injection, schedule_of
from ...p3s.schedule import Schedule
from ...p3s.subject import SubjectReference
from ...p3s.subject_copy import SubjectCopy
from ...p3s.unet_config import Layer
from .attention import MaskedAttention
from .halves import chunks_of


@dataclass(frozen=True, eq=False)
class Application:
    """How a subject is applied: when, how strongly, where (None: everywhere), at which layers, and what is left out
    to be faster."""

    schedule: Schedule
    strength: float = 1.0
    settings: SamplingSettings = EXACT
    mask: EffectMask | None = None
    layers: Mapping[Layer, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Applied:
    """A subject on a MODEL."""

    copy: SubjectCopy
    reference: SubjectReference
    application: Application


class Run:
    """One sampling run of a MODEL with subjects. Lives in the run's own options, so that runs never meet.

    ``prompts``: see :func:`halves.prompts_of`; without any, the first conditioning of a call is the prompt.
    """

    def __init__(self, subjects: Sequence[Applied], prompts: frozenset[Hashable] = frozenset()) -> None:
        self.subjects = subjects
        self.prompts = prompts
        self.masked_attention = MaskedAttention()
        self._schedules = [schedule_of(s.application.schedule, s.application.settings) for s in subjects]
        self._always_on = [always_on(schedule) for schedule in self._schedules]
        self._caches = [FeatureCache(s.application.settings.reuse) for s in subjects]
        self._conditions: dict[Hashable, Tensor] = {}
        self._equal: dict[Hashable, bool] = {}
        self._evaluation = -1
        self._sigmas: Any = None
        self._timestep: float | None = None
        self._calls: Counter[Hashable] = Counter()

    def begin(self, options: Mapping[str, Any]) -> None:
        """Take note of a call of the U-Net. All calls of one evaluation of the model (halves run apart, crops, context
        windows, guidance nodes) share one tensor of sigmas; another one is a new evaluation."""
        sigmas = options.get("sigmas")
        if sigmas is None or sigmas is not self._sigmas:
            self._sigmas, self._timestep = sigmas, None
            self._evaluation += 1
            self._calls.clear()

    def weight(self, index: int, timesteps: Tensor) -> float | Tensor | None:
        """eps_t times the strength, or None where the subject is off.

        A schedule that is never 0 is computed where the timesteps are, because reading them would make the processor
        wait for the GPU. Of the others the timestep is read once an evaluation.
        """
        schedule, strength = self._schedules[index], self.subjects[index].application.strength
        if self._always_on[index]:
            return strength * schedule.weight(timesteps[:1].float())[0]
        if self._timestep is None:
            self._timestep = float(timesteps[0])
        return strength * schedule.weight(self._timestep) or None

    def injections(
        self,
        weights: Mapping[int, float | Tensor],
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        options: Mapping[str, Any],
    ) -> tuple[list[Injection], bool]:
        """The subjects' part in a call, by their numbers, and whether the chunks of the batch share their x_t."""
        conditionings = tuple(options.get("uuids", ()))
        of_this_shape = conditionings, x.shape
        call = *of_this_shape, self._calls[of_this_shape]
        self._calls[of_this_shape] += 1
        chunks = len(chunks_of(options))
        equal = chunks > 1 and self._chunks_are_equal(conditionings, x, chunks)
        rows = len(x) // chunks if equal else len(x)
        found = []
        for index, weight in weights.items():
            copy, application = self.subjects[index].copy, self.subjects[index].application

            def features(copy: SubjectCopy = copy, index: int = index) -> Features:
                return copy(x[:rows], timesteps[:rows], context, self._condition(index, x))

            kept = self._caches[index].get(call, self._evaluation, features)
            found.append(injection(copy, kept, weight, application.mask, application.layers, application.settings))
        return found, equal

    def _condition(self, index: int, x: Tensor) -> Tensor:
        """I'' of a subject, made once."""
        key = index, x.device, x.dtype
        if key not in self._conditions:
            copy, reference = self.subjects[index].copy, self.subjects[index].reference
            latent, tokens = (t[None].to(x.device, x.dtype) for t in (reference.latent, reference.tokens))
            self._conditions[key] = copy.condition(latent, tokens)
        return self._conditions[key]

    def _chunks_are_equal(self, conditionings: Hashable, x: Tensor, chunks: int) -> bool:
        """Whether all chunks of the batch are one x_t, as the halves of the guidance are. Crops of the image are not:
        so it is looked at, once for each set of conditionings, which does not change within a run."""
        if not conditionings:
            return False
        key = conditionings, x.shape
        if key not in self._equal:
            first, *others = x.chunk(chunks)
            self._equal[key] = all(torch.equal(first, other) for other in others)
        return self._equal[key]
