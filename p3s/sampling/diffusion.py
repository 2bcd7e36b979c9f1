"""Noise: how it is added, what a model predicts, and DDIM with classifier-free guidance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import P3SError


@dataclass(frozen=True)
class NoiseSchedule:
    """Cumulative products of alpha, [T] float32, falling from near 1 to near 0, and what the model predicts:
    "eps", the noise, or "v" = sqrt(abar) eps - sqrt(1 - abar) x_0."""

    alphas_cumprod: Tensor
    prediction: str = "eps"

    def __post_init__(self) -> None:
        if self.prediction not in ("eps", "v"):
            raise P3SError(f"a model must predict eps or v to be trained; this one predicts {self.prediction!r}")

    @classmethod
    def stable_diffusion(cls, prediction: str = "eps", steps: int = 1000) -> NoiseSchedule:
        """The schedule that Stable Diffusion was trained with: beta from 0.00085 to 0.012, linear in its root."""
        betas = torch.linspace(0.00085**0.5, 0.012**0.5, steps, dtype=torch.float64) ** 2
        return cls((1 - betas).cumprod(0).float(), prediction)

    def __len__(self) -> int:
        return len(self.alphas_cumprod)

    def scales(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """sqrt(abar) and sqrt(1 - abar) at integer timesteps ``t`` [batch], each [batch, 1, 1, 1]."""
        abar = self.alphas_cumprod.to(t.device)[t][:, None, None, None]
        return abar.sqrt(), (1 - abar).sqrt()

    def timesteps(self, sigmas: Tensor) -> Tensor:
        """The timesteps, 0..T-1, at which a model is asked for noise of these ``sigmas`` (noise / signal, above 0), any
        shape: the nearest in log sigma, as in ComfyUI."""
        levels = (1 / self.alphas_cumprod.double() - 1).sqrt().log()
        return (sigmas.double().log()[..., None] - levels).abs().argmin(-1)

    # x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) eps
    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t of a latent ``x0`` and a ``noise`` of its shape, [batch, channels, h, w]."""
        signal, sigma = self.scales(t)
        return signal * x0 + sigma * noise

    # eps, or v = sqrt(abar_t) eps - sqrt(1 - abar_t) x_0
    def target(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """What the model should predict for x_t."""
        if self.prediction == "eps":
            return noise
        signal, sigma = self.scales(t)
        return signal * noise - sigma * x0

    def split(self, x: Tensor, output: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, eps) that a model's ``output`` for x_t stands for."""
        signal, sigma = self.scales(t)
        if self.prediction == "eps":
            return (x - sigma * output) / signal, output
        return signal * x - sigma * output, signal * output + sigma * x


def ddim_timesteps(schedule: NoiseSchedule, steps: int) -> list[int]:
    """The timesteps of a DDIM run, from noise to image: evenly spaced and shifted by one, as in the original sampler,
    also where ``steps`` does not divide their number. (With a stride rounded down, as in diffusers, 600 steps of 1000
    would start at 600, where a model expects less noise than there is.)"""
    count = len(schedule)
    if not 1 <= steps <= count:
        raise P3SError(f"steps must lie in 1..{count}; got {steps}")
    shift = 1 if steps < count else 0
    return [i * count // steps + shift for i in reversed(range(steps))]


def ddim(
    predict: Callable[[Tensor, int], Tensor], schedule: NoiseSchedule, noise: Tensor, steps: int = 50
) -> Iterator[Tensor]:
    """Deterministic DDIM (eta = 0) from ``noise`` [batch, channels, h, w]; yields the estimate of x_0 after every
    step, the last of which is the result. ``predict(x, t)`` returns the model's (guided) output."""
    x = noise
    times = ddim_timesteps(schedule, steps)
    for t, following in zip(times, [*times[1:], 0], strict=True):
        batch = torch.full((len(x),), t, device=x.device)
        x0, eps = schedule.split(x, predict(x, t), batch)
        x = schedule.add_noise(x0, eps, torch.full_like(batch, following))
        yield x0
