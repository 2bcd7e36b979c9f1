"""Sampling without a host, by DDIM, on the frozen U-Net with subjects' features injected (Eq. 7-10)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import P3SError
from ..network.hooks import PLAIN, AttentionHooks
from ..network.injection import Features, Injection, InjectionHooks
from ..network.unet import UNet
from .application import AppliedSubject
from .diffusion import NoiseSchedule, ddim
from .schedule import percent_of
from .settings import FeatureCache, early_end, injection, schedule_for

#: The paper's DDIM steps and scale of classifier-free guidance.
STEPS, GUIDANCE = 50, 7.5
#: Hooks over others, at a timestep, of a call whose batch has these parts: for each, whether it is the prompt's.
Over = Callable[[AttentionHooks, int, Sequence[bool]], AttentionHooks]
#: What goes from noise to images, as :func:`p3s.sampling.diffusion.ddim`: of ``predict``, the schedule, the starting
#: noise and the number of steps. Yields images [batch, channels, h, w] after every step, the last of which are the
#: result.
Solver = Callable[[Callable[[Tensor, int], Tensor], NoiseSchedule, Tensor, int], Iterator[Tensor]]


def alone(hooks: AttentionHooks, t: int, prompts: Sequence[bool]) -> AttentionHooks:
    """The ``Over`` of no other method."""
    return hooks


@torch.no_grad()
def generate(
    base: UNet,
    prompt: Tensor,
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    latents: Tensor,
    subjects: Sequence[AppliedSubject] = (),
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    over: Over = alone,
    solver: Solver = ddim,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Iterator[Tensor]:
    """DDIM, or another ``solver``, with classifier-free guidance; yields what it does after every step, of DDIM the
    estimate of x_0 [batch, channels, h, w].

    ``latents`` is the starting noise, ``prompt`` and ``empty_prompt`` are [text tokens, context_dim]. Where a subject's
    weight is 0 its copy is not run at all; where that holds for all of them the step is the plain model's. ``over``
    puts another method's hooks over those of the subjects. ``labels``, each [label_dim], are what SDXL's U-Net reads
    beside the prompt and beside the empty prompt (:func:`p3s.network.label.label_of`).

    Raises MaskError for an effect mask with another number of images than ``latents``, and P3SError for a ``guidance``
    that is not finite.
    """
    if not math.isfinite(guidance):
        raise P3SError(f"guidance must be a finite number; got {guidance!r}")
    for subject in subjects:
        if subject.application.mask is not None:
            subject.application.mask.check(len(latents))
        subject.copy.borrow(base)
    runs = [_SubjectRun(subject) for subject in subjects]
    evaluations: dict[int, int] = {}
    texts = {"prompt": prompt} if guidance == 1 else {"empty": empty_prompt, "prompt": prompt}
    label_of = dict(zip(("prompt", "empty"), labels, strict=True)) if labels else None

    def call(x: Tensor, t: int, branches: Sequence[str], active: Sequence[tuple[_SubjectRun, float]]) -> Tensor:
        """The U-Net's output for some branches of the guidance, in one batch."""
        time = torch.full((len(x),), t, device=x.device)
        context = torch.cat([texts[branch].expand(len(x), -1, -1) for branch in branches])
        label = torch.cat([label_of[branch].expand(len(x), -1) for branch in branches]) if label_of else None
        found = [run.injection(x, t, context, w, tuple(branches), evaluations[t], label) for run, w in active]
        hooks = over(InjectionHooks(*found) if found else PLAIN, t, [branch == "prompt" for branch in branches])
        return base(x, time, context, hooks, label=label)

    def predict(x: Tensor, t: int) -> Tensor:
        evaluations.setdefault(t, len(evaluations))
        active = [(run, weight) for run in runs if (weight := run.weight(t))]
        everywhere = [(run, weight) for run, weight in active if run.settings.branches == "both"]
        if len(everywhere) == len(active) or len(texts) == 1:
            outputs = call(x, t, list(texts), active).chunk(len(texts))
        else:
            outputs = call(x, t, ["empty"], everywhere), call(x, t, ["prompt"], active)
        return outputs[0] if len(outputs) == 1 else outputs[0] + guidance * (outputs[1] - outputs[0])

    yield from solver(predict, noise, latents, steps)


class _SubjectRun:
    """What a subject keeps from one step to the next."""

    def __init__(self, subject: AppliedSubject) -> None:
        self.subject, self.how = subject, subject.application
        self.settings = self.how.settings
        self._schedule = early_end(schedule_for(subject.copy, self.how.schedule), self.settings)
        self._cache = FeatureCache(self.settings.reuse)
        self._cached: Features | None = None

    def weight(self, t: int) -> float:
        """eps_t times the application's factor."""
        return 0.0 if self.how.off else self.how.factor * self._schedule.weight(float(t))

    def injection(
        self,
        x: Tensor,
        t: int,
        context: Tensor,
        weight: float,
        branches: tuple[str, ...],
        evaluation: int,
        label: Tensor | None,
    ) -> Injection:
        copy, time = self.subject.copy, torch.full((len(x),), t, device=x.device)
        if copy.settings.cached:
            if self._cached is None:
                self._cached = copy.cached(self.subject.condition, self.subject.subject)
            features = self._cached
        else:
            run = partial(copy, x, time, context, self.subject.condition, label)
            features = self._cache.get(branches, evaluation, run)
        isolated = self.how.isolates_at(float(percent_of(torch.tensor(float(t), dtype=torch.float64))))
        how = self.how
        return injection(copy, features, weight, how.mask, how.layers, self.settings, how.weight_on, isolated)
