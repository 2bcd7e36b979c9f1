"""How the copy's features enter the frozen U-Net: Eq. 7-9 as pure functions, and the hooks that apply them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .resize import resize
from .unet import AttentionHooks
from .unet_config import Layer


def extend_keys(k: Tensor, f: Tensor) -> Tensor:
    """Eq. 7 and 8, K' = W_K [z, f]: the input of W_K. ``k`` [batch, n, channels], ``f`` [batch, m, channels]."""
    return torch.cat([k, f], dim=1)


def extend_values(v: Tensor, f: Tensor, lam: float) -> Tensor:
    """Eq. 7 and 8, V' = W_V [z + lambda f, f]: the input of W_V.

    ``v`` may already be longer than ``f`` (a subject applied before this one): lambda f is added to the image's own
    tokens alone, which come first.
    """
    n = f.shape[1]
    return torch.cat([v[:, :n] + lam * f, v[:, n:], f], dim=1)


def add_to_query(q: Tensor, g: Tensor) -> Tensor:
    """The cross-attention part (caption of Fig. 3): the query's input z becomes z + Z'(copy's norm2 output)."""
    return q + g


def fit_tokens(f: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resize tokens [batch, h*w, channels] from one (height, width) grid to another; the same tensor if equal."""
    if grid == target:
        return f
    return resize(f.transpose(1, 2).unflatten(2, grid), target).flatten(2).transpose(1, 2)


@dataclass(frozen=True)
class Features:
    """What the copy hands to the frozen U-Net in one step, by the layer of the BASE that reads it.

    ``self_attention`` holds f of Eq. 6, ``cross_attention`` its counterpart for the queries (empty when that part is
    off), both [batch, tokens, channels]; ``grids`` the (height, width) of the tokens. Base layers that read the same
    copy layer share one tensor.
    """

    self_attention: Mapping[Layer, Tensor]
    cross_attention: Mapping[Layer, Tensor]
    grids: Mapping[Layer, tuple[int, int]]

    def weighted(self, weight: float | Tensor) -> Features:
        """Eq. 9, eps_t * f; ``weight`` is a number, or one number per batch row."""
        if isinstance(weight, Tensor):
            weight = weight[:, None, None]
        elif weight == 1:
            return self
        return replace(
            self,
            self_attention=_scale(self.self_attention, weight),
            cross_attention=_scale(self.cross_attention, weight),
        )


def _scale(features: Mapping[Layer, Tensor], weight: float | Tensor) -> dict[Layer, Tensor]:
    scaled: dict[int, Tensor] = {}
    for f in features.values():
        if id(f) not in scaled:
            scaled[id(f)] = (f * weight).to(f.dtype)
    return {layer: scaled[id(f)] for layer, f in features.items()}


class InjectionHooks(AttentionHooks):
    """The frozen U-Net's attention under injection (Eq. 7-9). ``features`` are already weighted with eps_t.

    A weight of 0 is not the same as f = 0, whose keys would still take part in the softmax: leave the hooks away.
    """

    def __init__(self, features: Features, lam: float) -> None:
        self.features = features
        self.lam = lam

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        f = self.features.self_attention.get(layer)
        if f is None:
            return z, z, z
        f = fit_tokens(f, self.features.grids[layer], grid).to(z.dtype)
        return z, extend_keys(z, f), extend_values(z, f, self.lam)

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        g = self.features.cross_attention.get(layer)
        if g is None:
            return z
        return add_to_query(z, fit_tokens(g, self.features.grids[layer], grid).to(z.dtype))
