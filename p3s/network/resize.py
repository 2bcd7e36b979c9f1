"""Resizing feature maps: antialiased bilinear, as two matrix products."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor


def resize(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [..., h, w] to (height, width) = ``size``; equal to torch's bilinear interpolation with antialias.

    Matrix products work in every type on every device and have a deterministic gradient; torch's own kernel has not.
    """
    rows, columns = (
        torch.tensor(_weights(source, target), dtype=picture.dtype, device=picture.device)
        for source, target in zip(picture.shape[-2:], size, strict=True)
    )
    return rows @ picture @ columns.T


@lru_cache(maxsize=64)
def _weights(source: int, target: int) -> np.ndarray:
    """[target, source]: how much of each source pixel goes into each target pixel, a triangle as wide as the coarser of
    the two grids. Not a tensor: a cached one would be tied to the mode, such as FakeTensorMode, that it was made in.
    """
    step = source / target
    centres = (np.arange(target) + 0.5)[:, None] * step
    weights = (1 - np.abs(np.arange(source) + 0.5 - centres) / max(step, 1.0)).clip(0.0)
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)
