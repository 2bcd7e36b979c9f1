"""What stands in for CLIP, the VAE, the text encoder and Stable Diffusion where nothing can be downloaded.

They have the interfaces and shapes of the real ones and are small enough for a minute on a CPU. None is trained.
"""

from __future__ import annotations

import hashlib

import torch
import torch.nn.functional as F
from torch import Tensor

from ..unet import UNet, UNetConfig

IMAGE_SIZE = 128  # side of the picture that the patch encoder reads
GRID = 16
TOKEN_DIM = 256
CONTEXT_DIM = 64
TEXT_TOKENS = 16
DEPTH = 4  # side of the block of pixels that one place of a latent holds


def encode_patches(picture: Tensor) -> Tensor:
    """Stands in for CLIP's vision tower: [1, S, S, 3] in 0..1 -> [1, 1 + 16*16, 256], a class token first.

    A token is made of random Fourier features of the patch's mean colour and contrast, so that the cosine of two
    tokens is near 1 for patches that look alike and falls to 0 with the difference of their colours. Unlike CLIP it
    knows nothing of shapes or things.
    """
    pixels = picture.permute(0, 3, 1, 2).float()
    side = pixels.shape[-1] // GRID
    mean = F.avg_pool2d(pixels, side)
    contrast = (F.avg_pool2d(pixels.square(), side) - mean.square()).clamp(min=0).sqrt()
    statistics = torch.cat([mean, 0.5 * contrast], 1).flatten(2).transpose(1, 2)
    generator = torch.Generator().manual_seed(0)
    frequencies = torch.randn(statistics.shape[-1], TOKEN_DIM // 2, generator=generator) * 7
    angles = statistics @ frequencies
    tokens = torch.cat([angles.cos(), angles.sin()], -1)
    return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)


def encode_text(prompt: str) -> Tensor:
    """Stands in for CLIP's text tower: a random vector per word and place, [16, 64]; the same for the same prompt."""
    words = (prompt.lower().split() + [""] * TEXT_TOKENS)[:TEXT_TOKENS]
    rows = []
    for place, word in enumerate(words):
        seed = int.from_bytes(hashlib.sha256(f"{place} {word}".encode()).digest()[:4], "big")
        rows.append(torch.randn(CONTEXT_DIM, generator=torch.Generator().manual_seed(seed)))
    return torch.stack(rows)


def to_latent(image: Tensor) -> Tensor:
    """Stands in for the VAE's encoder: [H, W, 3] in 0..1 -> [48, H/4, W/4], the pixels rearranged, around -1..1."""
    return F.pixel_unshuffle(image.permute(2, 0, 1) * 2 - 1, DEPTH)


def to_picture(latent: Tensor) -> Tensor:
    """Stands in for the VAE's decoder, the inverse of ``to_latent``: [48, h, w] -> [4h, 4w, 3], held in 0..1."""
    return (F.pixel_shuffle(latent, DEPTH).permute(1, 2, 0) / 2 + 0.5).clamp(0, 1)


def random_unet(seed: int = 0) -> UNet:
    """Stands in for Stable Diffusion: a small U-Net of the same kind with random weights, which has learned nothing."""
    channels = 3 * DEPTH**2
    config = UNetConfig.build(
        model_channels=32,
        channel_mult=(1, 2, 2),
        transformer_depth=(1, 1, 0),
        context_dim=CONTEXT_DIM,
        in_channels=channels,
        out_channels=channels,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(config).requires_grad_(False).eval()
