"""The latent space of the toy world: a small convolutional autoencoder, as Stable Diffusion's VAE in kind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 8  # of a latent
NOISE = 0.1  # of a latent's deviation, while training: what a sample's latent may be off by


class Residual(nn.Module):
    """x + what two convolutions make of it."""

    def __init__(self, width: int, operations: Any = nn) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            operations.GroupNorm(8, width),
            nn.SiLU(),
            operations.Conv2d(width, width, 3, padding=1),
            operations.GroupNorm(8, width),
            nn.SiLU(),
            operations.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Up(nn.Module):
    """Twice the resolution: each input pixel gives four, which a convolution over all of them then joins, so that no
    grid is left."""

    def __init__(self, inp: int, out: int, operations: Any = nn) -> None:
        super().__init__()
        self.spread = operations.Conv2d(inp, 4 * out, 3, padding=1)
        self.join = operations.Conv2d(out, out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.join(F.silu(F.pixel_shuffle(self.spread(x), 2)))


class Autoencoder(nn.Module):
    """Pictures [batch, h, w, 3], values 0..1, sides divisible by 4, to latents [batch, 8, h / 4, w / 4] of mean 0 and
    deviation 1 in every channel, and back."""

    preview: Tensor

    def __init__(self, channels: int = CHANNELS, width: int = 64, operations: Any = nn) -> None:
        super().__init__()
        half = width // 2
        conv = operations.Conv2d
        self.encoder = nn.Sequential(
            conv(3, half, 3, padding=1),
            nn.SiLU(),
            conv(half, width, 3, stride=2, padding=1),
            nn.SiLU(),
            conv(width, width, 3, padding=1),
            nn.SiLU(),
            conv(width, width, 3, stride=2, padding=1),
            Residual(width, operations),
            nn.SiLU(),
            conv(width, channels, 1),
        )
        self.scale = nn.BatchNorm2d(channels, affine=False, momentum=0.02)
        self.decoder = nn.Sequential(
            conv(channels, width, 3, padding=1),
            Residual(width, operations),
            nn.SiLU(),
            Up(width, width, operations),
            nn.SiLU(),
            Up(width, half, operations),
            nn.SiLU(),
            conv(half, 3, 3, padding=1),
        )
        # Colours (RGB, 0..1) of a latent pixel, [channels + 1, 3]: a linear approximation, the constant last.
        self.register_buffer("preview", torch.zeros(channels + 1, 3))

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Autoencoder:
        width, channels = state["decoder.0.weight"].shape[:2]
        codec = cls(channels, width)
        codec.load_state_dict(state)
        return codec

    def encode(self, pictures: Tensor) -> Tensor:
        return self.scale(self.encoder(pictures.permute(0, 3, 1, 2) * 2 - 1))

    def decode(self, latents: Tensor) -> Tensor:
        return (self.decoder(latents).permute(0, 2, 3, 1) / 2 + 0.5).clamp(0, 1).contiguous()

    def loss(self, pictures: Tensor) -> Tensor:
        """Mean absolute and squared errors of the pictures and mean absolute errors of their gradients (which keep
        edges sharp), decoded from latents with a little noise."""
        latents = self.encode(pictures)
        error = self.decoder(latents + NOISE * torch.randn_like(latents)) - (pictures.permute(0, 3, 1, 2) * 2 - 1)
        edges = error.diff(dim=2).abs().mean() + error.diff(dim=3).abs().mean()
        return error.abs().mean() + error.square().mean() + edges / 2

    @torch.no_grad()
    def fit(self, pictures: Tensor) -> None:
        """Take the scale of the latents, and the colours of their pixels (by least squares), from ``pictures``."""
        self.train(False)
        raw = torch.cat([self.encoder(part.permute(0, 3, 1, 2) * 2 - 1) for part in pictures.split(256)])
        variance, mean = torch.var_mean(raw, (0, 2, 3))
        self.scale.running_mean, self.scale.running_var = mean, variance
        latents = self.scale(raw).movedim(1, -1).flatten(0, -2)
        colours = F.avg_pool2d(pictures.permute(0, 3, 1, 2), 4).movedim(1, -1).flatten(0, -2)
        self.preview.copy_(torch.linalg.lstsq(F.pad(latents, (0, 1), value=1.0).double(), colours.double()).solution)
