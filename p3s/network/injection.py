"""How the copy's features enter the frozen U-Net: Eq. 7-9 as pure functions, and the hooks that apply them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MaskError
from .hooks import AttentionHooks
from .resize import resize
from .unet import repeat_rows
from .unet_config import Layer

MASK_PRECISION = 1e-4  # a mask is rounded: nearer to 0 or 1 than this counts as 0 or 1
OVERSHOOT = 0.25  # how far past 0 and 1 a mask may reach: bicubic and Lanczos resizing overshoot at hard edges


# Eq. 7-8:  K' = W_K [z, f]
def extend_keys(k: Tensor, added: Sequence[Tensor]) -> Tensor:
    """The input of W_K, [z, f]. ``k`` [batch, n, channels]; ``added``, one for each subject,
    [batch, m, channels]."""
    return torch.cat([k, *added], dim=1)


# Eq. 7-8:  V' = W_V [z + lambda f, f]
def extend_values(v: Tensor, sums: Sequence[Tensor], added: Sequence[Tensor]) -> Tensor:
    """The input of W_V, [z + lambda f, f].

    ``sums`` are the lambda f of each subject, [batch, n, channels] for the n tokens of the image. ``v`` may be longer
    than that (tokens that another extension has appended); the sums go to the image's own tokens, which come first.
    """
    n = sums[0].shape[1]
    return torch.cat([sum(sums, v[:, :n]), v[:, n:], *added], dim=1)


# (effect mask, not in the paper):  softmax(q k / sqrt(d) + log m) on the keys that a subject has appended
def mask_bias(
    masks: Sequence[Tensor | None],
    lengths: Sequence[int],
    queries: int,
    keys: int,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Bias of the logits under effect masks, float32 [rows, queries, keys] on ``device``; rows is 1 where all rows of
    the batch are alike.

    A subject with the mask m [1 or rows, queries] in 0..1 has its share of query i's softmax multiplied by m_i: log m_i
    on the ``lengths`` keys that it has appended, in the order of the subjects, at the end of the ``keys``. Where m is 0
    these keys are not seen at all; a mask of ones, or None, changes nothing.
    """
    shares = [torch.ones(1, queries, device=device) if m is None else m.to(device).float() for m in masks]
    rows = max(len(share) for share in shares)
    columns = [torch.zeros(rows, queries, keys - sum(lengths), device=device)]
    for share, length in zip(shares, lengths, strict=True):
        columns.append(share.log()[:, :, None].expand(rows, -1, length))
    return torch.cat(columns, dim=2)


def fit_tokens(f: Tensor, grid: tuple[int, int], target: tuple[int, int]) -> Tensor:
    """Resize tokens [batch, h*w, channels] from one (height, width) grid to another; the same tensor if equal."""
    if grid == target:
        return f
    return resize(f.transpose(1, 2).unflatten(2, grid), target).flatten(2).transpose(1, 2)


def pool_tokens(f: Tensor, grid: tuple[int, int], by: int) -> Tensor:
    """Mean of every ``by`` x ``by`` tokens of [batch, h*w, channels]; at the far edges of fewer."""
    pictures = f.transpose(1, 2).unflatten(2, grid)
    return F.avg_pool2d(pictures, by, ceil_mode=True, count_include_pad=False).flatten(2).transpose(1, 2)


class EffectMask:
    """Where in the image a subject acts: ``mask`` in 0..1, of any size, [height, width] for every image of a batch or
    [images, height, width] for each its own.

    Values that overshoot a little, as resizing makes them, are cut. Raises MaskError for another shape and for values
    outside 0..1.
    """

    def __init__(self, mask: Tensor) -> None:
        if mask.ndim not in (2, 3) or mask.numel() == 0:
            raise MaskError(
                f"an effect mask must be [height, width] or [images, height, width]; got the shape {tuple(mask.shape)}"
            )
        low, high = (float(v) for v in torch.aminmax(mask))
        if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):  # also when they are NaN
            raise MaskError(f"an effect mask must lie in 0..1; this one spans {low:g} to {high:g}")
        self.everywhere, self.nowhere = low >= 1, high <= 0
        self._mask = mask.detach().float().cpu().clamp(0, 1).reshape(-1, *mask.shape[-2:])
        self._tokens: dict[tuple[tuple[int, int], torch.device], Tensor] = {}

    @property
    def images(self) -> int:
        """How many images it distinguishes; 1 for a mask that serves all."""
        return len(self._mask)

    def check(self, images: int) -> None:
        """Raise MaskError unless it has one mask, or as many as images are sampled."""
        if self.images not in (1, images):
            raise MaskError(
                f"mask holds {self.images} masks, and {images} image(s) are sampled: give one mask for all of them, or "
                "one for each"
            )

    def of(self, images: Sequence[int]) -> EffectMask:
        """The mask of some images of the batch, by their numbers."""
        return self if self.images == 1 else EffectMask(self._mask[list(images)])

    def tokens(self, grid: tuple[int, int], device: torch.device | str = "cpu") -> Tensor:
        """The mask on a (height, width) grid of tokens, float32 [images, height * width]; exact where it is 0 or 1."""
        key = grid, torch.device(device)
        if key not in self._tokens:
            m = resize(self._mask, grid).flatten(1)
            m = torch.where(m < MASK_PRECISION, 0.0, torch.where(m > 1 - MASK_PRECISION, 1.0, m))
            self._tokens[key] = m.to(device)
        return self._tokens[key]


@dataclass(frozen=True)
class Features:
    """What the copy hands to the frozen U-Net in one step, by the layer of the BASE that reads it.

    ``self_attention`` holds f of Eq. 6, ``cross_attention`` its counterpart for the queries (empty when that part is
    off), both [batch, tokens, channels]; ``grids`` the (height, width) of the tokens. Base layers that read the same
    copy layer share one tensor. Features from before the copy's first cross-attention may have fewer rows than the
    others (see :meth:`UNet.forward`).
    """

    self_attention: Mapping[Layer, Tensor]
    cross_attention: Mapping[Layer, Tensor]
    grids: Mapping[Layer, tuple[int, int]]

    def for_layers(self, layers: Collection[Layer]) -> Features:
        """The same for some of the base's layers."""
        kept = [{k: v for k, v in part.items() if k in layers} for part in (self.self_attention, self.cross_attention)]
        return replace(self, self_attention=kept[0], cross_attention=kept[1])

    def with_layer_strengths(self, layers: Mapping[Layer, float]) -> Features:
        """Features of single base layers multiplied by a number, 0 or more; layers with 0 are left out."""
        if not layers:
            return self

        def scale(part: Mapping[Layer, Tensor]) -> dict[Layer, Tensor]:
            return {k: v * layers.get(k, 1.0) if layers.get(k, 1.0) != 1 else v for k, v in part.items()}

        part = self.for_layers([layer for layer in self.grids if layers.get(layer, 1.0) != 0])
        return replace(part, self_attention=scale(part.self_attention), cross_attention=scale(part.cross_attention))

    # Eq. 9:  eps_t f
    def with_weight(self, weight: float | Tensor) -> Features:
        """All features times eps_t; ``weight`` is a number, a tensor that holds one, or one number per batch row."""
        if isinstance(weight, Tensor):
            weight = weight[:, None, None] if weight.ndim else weight
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


class SelfAttentionPart(NamedTuple):
    """What one subject does to one self-attention: added to the image's own values [batch, n, channels], appended to
    keys and values [batch, m, channels], and where [1 or batch, n] (None: everywhere)."""

    sums: Tensor
    added: Tensor
    mask: Tensor | None


@dataclass(frozen=True)
class Injection:
    """A subject in one step: its features, already weighted with eps_t, and how they enter.

    Under a ``mask`` queries where it is 0 see none of the subject (see :func:`mask_bias`); what is added to values and
    to the queries of cross-attention is multiplied by it. A mask with several images is repeated over the batch, which
    holds them in their order once or several times. With ``pool`` above 1 the appended tokens of the finest layers are
    means of pool x pool features.
    """

    features: Features
    lam: float
    mask: EffectMask | None = None
    pool: int = 1

    def self_attention_part(self, layer: Layer, grid: tuple[int, int], z: Tensor) -> SelfAttentionPart | None:
        """The subject's part in a self-attention on the input ``z``, or None where it has none."""
        f = self._on_grid(self.features.self_attention, layer, grid, z)
        if f is None:
            return None
        m = self._shares(grid, z)
        sums = self.lam * f if m is None else self.lam * m[:, :, None].to(f.dtype) * f
        finest = self.features.grids[layer] == max(self.features.grids.values())
        return SelfAttentionPart(sums, pool_tokens(f, grid, self.pool) if self.pool > 1 and finest else f, m)

    def cross_attention_query(self, layer: Layer, grid: tuple[int, int], z: Tensor) -> Tensor:
        """The input of W_Q of a cross-attention in place of ``z``: z + Z'(copy's norm2 output), caption of Fig. 3."""
        g = self._on_grid(self.features.cross_attention, layer, grid, z)
        if g is None:
            return z
        m = self._shares(grid, z)
        return z + (g if m is None else m[:, :, None].to(g.dtype) * g)

    def _shares(self, grid: tuple[int, int], z: Tensor) -> Tensor | None:
        """The mask at the tokens of ``z``, [1 or batch, n]."""
        if self.mask is None:
            return None
        m = self.mask.tokens(grid, z.device)
        return m if len(m) == 1 else repeat_rows(m, len(z))

    def _on_grid(
        self, features: Mapping[Layer, Tensor], layer: Layer, grid: tuple[int, int], z: Tensor
    ) -> Tensor | None:
        if layer not in features:
            return None
        return repeat_rows(fit_tokens(features[layer], self.features.grids[layer], grid).to(z.dtype), len(z))


class InjectionHooks(AttentionHooks):
    """The frozen U-Net's attention under the injection of one or several subjects (Eq. 7-9).

    A weight of 0 is not the same as f = 0, whose keys would still take part in the softmax: leave it out instead.
    """

    def __init__(self, *injections: Injection) -> None:
        self.injections = injections
        self._parts: tuple[SelfAttentionPart, ...] = ()

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        self._parts = tuple(p for i in self.injections if (p := i.self_attention_part(layer, grid, z)) is not None)
        if not self._parts:
            return z, z, z
        sums, added, _ = zip(*self._parts, strict=True)
        return z, extend_keys(z, added), extend_values(z, sums, added)

    def self_attention_bias(self, layer: Layer, keys: int, grid: tuple[int, int]) -> Tensor | None:
        parts, self._parts = self._parts, ()
        if all(p.mask is None for p in parts):
            return None
        sums, added, masks = zip(*parts, strict=True)
        bias = mask_bias(masks, [a.shape[1] for a in added], sums[0].shape[1], keys, sums[0].device)
        return bias.to(sums[0].dtype)[:, None]  # the same for every head

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        for injection in self.injections:
            z = injection.cross_attention_query(layer, grid, z)
        return z
