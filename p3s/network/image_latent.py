"""The image latent of the RNGR encoder: the clean reference, biased towards what CLIP sees in it (Eq. 4-5)."""

from __future__ import annotations

import math
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from .resize import resize


class ImageLatent(nn.Module):
    """The reference I' biased by cross-attention to its CLIP tokens c_s (Eq. 4-5).

    V has the latent's channels, so there is no output projection. Z is a 1x1 convolution that starts at zero; W_V
    starts at zero as well, so that training starts from I'' = I'.
    """

    def __init__(self, channels: int, token_dim: int, dim: int = 64, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.dim = dim
        self.zero = operations.Conv2d(channels, channels, 1, **factory)
        self.to_q = operations.Linear(channels, dim, bias=False, **factory)
        self.to_k = operations.Linear(token_dim, dim, bias=False, **factory)
        self.to_v = operations.Linear(token_dim, channels, bias=False, **factory)

    # Eq. 4-5:  I'' = I' + softmax(Q K^T / sqrt(d)) V,  Q = W_Q Z(I'), K = W_K c_s, V = W_V c_s
    def forward(self, latent: Tensor, tokens: Tensor) -> Tensor:
        """``latent`` I' [batch, channels, h, w] and ``tokens`` c_s [batch, 1 + patches, token_dim] to I''."""
        q = self.to_q(self.zero(latent).flatten(2).transpose(1, 2))
        k, v = self.to_k(tokens), self.to_v(tokens)
        attention = (q @ k.transpose(1, 2) / math.sqrt(self.dim)).softmax(-1)
        return latent + (attention @ v).transpose(1, 2).unflatten(2, latent.shape[2:])


def fit_condition(condition: Tensor, size: tuple[int, int]) -> Tensor:
    """Place a condition [batch, channels, h, w] on the grid of another latent, (height, width) = ``size``.

    It is scaled to fit inside, keeping its proportions (a subject is not stretched), and centred; outside it the
    condition is 0. The same tensor comes back when the sizes agree.
    """
    height, width = condition.shape[2:]
    if (height, width) == tuple(size):
        return condition
    scale = min(size[0] / height, size[1] / width)
    h, w = (max(1, round(n * scale)) for n in (height, width))
    if (h, w) != (height, width):
        condition = resize(condition, (h, w))
    top, left = (size[0] - h) // 2, (size[1] - w) // 2
    return F.pad(condition, (left, size[1] - w - left, top, size[0] - h - top))
