"""Sampling without a host: DDIM on the frozen U-Net with subjects' features injected (Eq. 7-10)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import P3SError
from ..network.hooks import PLAIN, AttentionHooks
from ..network.injection import Injection, InjectionHooks
from ..network.subject_copy import SubjectCopy
from ..network.unet import UNet
from .diffusion import NoiseSchedule, ddim, ddim_timesteps
from .schedule import Schedule
from .settings import EXACT, AppliedSubject, FeatureCache, SamplingSettings, early_end, injection, schedule_for

#: The paper's DDIM steps and scale of classifier-free guidance.
STEPS, GUIDANCE = 50, 7.5
#: Hooks over others, at a timestep, of a call whose batch has these parts: for each, whether it is the prompt's.
Over = Callable[[AttentionHooks, int, Sequence[bool]], AttentionHooks]


def generate(
    base: UNet,
    prompt: Tensor,
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    latents: Tensor,
    copy: SubjectCopy | None = None,
    condition: Tensor | None = None,
    weight: Schedule | None = None,
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    halves: str = "both",
) -> Iterator[Tensor]:
    """:func:`generate_subjects` with one subject or, without ``copy``, with none. ``condition`` is I''
    [1, channels, h', w'] (:meth:`SubjectCopy.condition`); ``weight`` gives eps_t (default: the one learned with the
    copy, or Eq. 10)."""
    settings = SamplingSettings(halves=halves)
    if copy is not None and condition is None:
        raise P3SError("a copy needs its condition: pass copy.condition(latent, tokens)")
    subjects = []
    if copy is not None and condition is not None:
        subjects.append(AppliedSubject(copy, condition, weight))
    return generate_subjects(base, prompt, empty_prompt, noise, latents, subjects, steps, guidance, settings)


@torch.no_grad()
def generate_subjects(
    base: UNet,
    prompt: Tensor,
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    latents: Tensor,
    subjects: Sequence[AppliedSubject] = (),
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    settings: SamplingSettings = EXACT,
    over: Over = lambda hooks, t, prompts: hooks,
) -> Iterator[Tensor]:
    """DDIM with classifier-free guidance; yields the estimate of x_0 [batch, channels, h, w] after every step.

    ``latents`` is the starting noise, ``prompt`` and ``empty_prompt`` are [text tokens, context_dim]. Where a subject's
    weight is 0 its copy is not run at all; where that holds for all of them the step is the plain model's. ``over``
    puts another method's hooks over those of the subjects.

    Raises MaskError for an effect mask with another number of images than ``latents``, and P3SError for a ``guidance``
    that is not finite and a strength that is not or is negative.
    """
    if not math.isfinite(guidance):
        raise P3SError(f"guidance must be a finite number; got {guidance!r}")
    for subject in subjects:
        if not 0 <= subject.strength < math.inf:
            raise P3SError(f"strength must be a finite number, 0 or more; got {subject.strength!r}")
    schedules = [early_end(schedule_for(s.copy, s.weight), settings) for s in subjects]
    for subject in subjects:
        if subject.mask is not None:
            subject.mask.check(len(latents))
        subject.copy.borrow(base)
    caches = [FeatureCache(settings.reuse) for _ in subjects]
    evaluations = {t: i for i, t in enumerate(ddim_timesteps(noise, steps))}
    texts = (prompt,) if guidance == 1 else (empty_prompt, prompt)
    seen = texts if settings.halves == "both" else texts[-1:]

    def injections(x: Tensor, t: int, context: Tensor) -> list[Injection]:
        found = []
        for subject, schedule, cache in zip(subjects, schedules, caches, strict=True):
            weight = subject.strength * schedule.weight(float(t))
            if weight and not (subject.mask and subject.mask.nowhere):
                copy, time, condition = subject.copy, torch.full((len(x),), t, device=x.device), subject.condition
                features = cache.get("", evaluations[t], partial(copy, x, time, context, condition))
                found.append(injection(copy, features, weight, subject.mask, subject.layers, settings))
        return found

    def call(x: Tensor, t: int, context: Tensor, prompts: Sequence[bool], found: Sequence[Injection] = ()) -> Tensor:
        hooks = over(InjectionHooks(*found) if found else PLAIN, t, prompts)
        return base(x, torch.full((len(x),), t, device=x.device), context, hooks)

    def predict(x: Tensor, t: int) -> Tensor:
        contexts = [text.expand(len(x), -1, -1) for text in texts]
        found = injections(x, t, torch.cat(contexts[-len(seen) :]))
        if found and len(seen) < len(texts):
            outputs = [call(x, t, contexts[0], (False,)), call(x, t, contexts[1], (True,), found)]
        else:
            outputs = list(call(x, t, torch.cat(contexts), (False, True)[-len(texts) :], found).chunk(len(texts)))
        return outputs[0] if len(outputs) == 1 else outputs[0] + guidance * (outputs[1] - outputs[0])

    yield from ddim(predict, noise, latents, steps)
