"""Sampling without a host: DDIM on the frozen U-Net with a subject's features injected (Eq. 7-10)."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .diffusion import NoiseSchedule, ddim
from .errors import P3SError
from .injection import InjectionHooks
from .schedule import Schedule
from .subject_copy import SubjectCopy
from .unet import PLAIN, AttentionHooks, UNet


@torch.no_grad()
def generate(
    base: UNet,
    prompt: Tensor,
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    latents: Tensor,
    copy: SubjectCopy | None = None,
    condition: Tensor | None = None,
    weight: Schedule | None = None,
    steps: int = 50,
    guidance: float = 7.5,
    halves: str = "both",
) -> Iterator[Tensor]:
    """DDIM with classifier-free guidance; yields the estimate of x_0 [batch, channels, h, w] after every step.

    ``latents`` is the starting noise, ``prompt`` and ``empty_prompt`` are [text tokens, context_dim]. ``condition`` is
    I'' [1, channels, h', w'] (:meth:`SubjectCopy.condition`); without ``copy`` the plain model samples. ``weight``
    gives eps_t (default: Eq. 10). ``halves`` (m): the injection serves "both" halves of the guidance or only the
    "conditional" one. At weight 0 the copy is not run at all.
    """
    if halves not in ("both", "conditional"):
        raise P3SError(f"halves must be both or conditional; got {halves!r}")
    if copy is not None and condition is None:
        raise P3SError("a copy needs its condition: pass copy.condition(latent, tokens)")
    weight = weight or Schedule()

    def call(x: Tensor, t: int, text: Tensor, subject: bool) -> Tensor:
        times, context = torch.full((len(x),), t, device=x.device), text.expand(len(x), -1, -1)
        eps_t = float(weight.weight(float(t))) if subject and copy is not None else 0.0
        hooks: AttentionHooks = PLAIN
        if eps_t and copy is not None and condition is not None:
            hooks = InjectionHooks(copy(x, times, context, condition).weighted(eps_t), copy.settings.lam)
        return base(x, times, context, hooks)

    def predict(x: Tensor, t: int) -> Tensor:
        if guidance == 1:
            return call(x, t, prompt[None], True)
        uncond = call(x, t, empty_prompt[None], halves == "both")
        return uncond + guidance * (call(x, t, prompt[None], True) - uncond)

    yield from ddim(predict, noise, latents, steps)
