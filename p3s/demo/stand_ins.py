"""What stands in for CLIP where nothing can be downloaded, so that masks of a real photo can be tried."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..reference.vision import PatchVision

IMAGE_SIZE = 128  # side of the picture that the patch encoder reads
GRID = 16
TOKEN_DIM = 256


def patch_vision() -> PatchVision:
    """The stand-in below, as ``make_reference`` needs it."""
    side = IMAGE_SIZE // GRID
    return PatchVision(
        lambda picture, _: {"last": encode_patches(picture)}, IMAGE_SIZE, side, features=("last",), name="colours alone"
    )


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
