"""How the copy's features enter the frozen U-Net: Eq. 7-9 as pure functions, and the hooks that apply them."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MaskError
from .hooks import AttentionHooks
from .image_latent import fit_condition
from .logit_bias import BLOCKED, LogitBias, log_share
from .resize import resize
from .subject_tokens import SubjectTokens
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


def fit_tokens(
    f: Tensor, grid: tuple[int, int], target: tuple[int, int], fit: Callable[..., Tensor] = resize
) -> Tensor:
    """Tokens [batch, h*w, channels] of one (height, width) grid on another; the same tensor if equal. ``fit``, of
    pictures and a size: :func:`resize`, or :func:`fit_condition` for tokens that lie as a reference does."""
    if grid == target:
        return f
    return fit(f.transpose(1, 2).unflatten(2, grid), target).flatten(2).transpose(1, 2)


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

    With ``subject`` they lie on the grids of the reference instead of the image's and are 0 where a token does not show
    the subject; keys and values are appended for those that do (see :meth:`SubjectCopy.cached`).
    """

    self_attention: Mapping[Layer, Tensor]
    cross_attention: Mapping[Layer, Tensor]
    grids: Mapping[Layer, tuple[int, int]]
    subject: SubjectTokens | None = None

    def for_layers(self, layers: Collection[Layer]) -> Features:
        """The same for some of the base's layers."""
        kept = [{k: v for k, v in part.items() if k in layers} for part in (self.self_attention, self.cross_attention)]
        return replace(self, self_attention=kept[0], cross_attention=kept[1])

    def of_subject(self, subject: SubjectTokens) -> Features:
        """Those of a reference where it shows its ``subject``."""

        def cut(part: Mapping[Layer, Tensor]) -> dict[Layer, Tensor]:
            return _times(part, lambda layer, f: subject.share(self.grids[layer], f.device))

        return Features(cut(self.self_attention), cut(self.cross_attention), self.grids, subject)

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
            self_attention=_times(self.self_attention, lambda layer, f: weight),
            cross_attention=_times(self.cross_attention, lambda layer, f: weight),
        )


def _times(features: Mapping[Layer, Tensor], factor: Callable[[Layer, Tensor], float | Tensor]) -> dict[Layer, Tensor]:
    """Features times what ``factor`` gives for them; those of several layers that are one tensor stay one."""
    found: dict[int, Tensor] = {}
    for layer, f in features.items():
        if id(f) not in found:
            found[id(f)] = (f * factor(layer, f)).to(f.dtype)
    return {layer: found[id(f)] for layer, f in features.items()}


class SelfAttentionPart(NamedTuple):
    """What one subject does to one self-attention.

    sums: added to the image's own values, [batch, n, channels].
    added: appended to keys and values, [batch, m, channels].
    mask: m, where it acts, [1 or batch, n]; None: everywhere.
    weight: w, a factor of its share of the softmax, a number above 0 or a tensor that holds one; None: 1.
    isolated: whether it and each other subject with a mask are kept apart.
    whole: whether ``added`` is not of the image's own grid, so that each part of an image sees all of it.
    """

    sums: Tensor
    added: Tensor
    mask: Tensor | None
    weight: float | Tensor | None = None
    isolated: bool = False
    whole: bool = False


# (not in the paper)  logits + log(w m_i) on the keys that a subject has appended, + a_i log(1 - b_j) on the image's own
def subject_bias(parts: Sequence[SelfAttentionPart], start: int, queries: int, keys: int) -> LogitBias | None:
    """The bias of a self-attention's logits under its ``parts``; None where they need none.

    The image's own tokens are the first of the ``keys``. The tokens that the parts have appended begin at ``start``, in
    the order of the parts; other extensions' may lie before and after them, and get no bias.

    A subject has its share of query i's softmax multiplied by w m_i. Where m is 0 its keys are not seen at all; a mask
    of ones changes nothing.

    Of isolated subjects s with the others t: the query i belongs to s alone by a_i = m_s,i prod_t (1 - m_t,i), and the
    key j to others and not to s by b_j = (1 - m_s,j) (1 - prod_t (1 - m_t,j)). The key's share is multiplied by
    (1 - b_j)^a_i. With hard masks a query of one subject does not see the image's tokens of another at all, those
    outside all masks see and are seen by all, and those in several masks see all.
    """
    device = parts[0].added.device
    columns: list[tuple[Tensor, Tensor]] = []  # [1 or batch, queries] and [1 or batch, keys] each
    end = start
    for part in parts:
        begin, end = end, end + part.added.shape[1]
        if part.mask is None and part.weight is None:
            continue
        seen = torch.zeros(1, queries, device=device) if part.mask is None else log_share(part.mask)
        if part.weight is not None:
            w = part.weight
            seen = seen + (log_share(w.float()) if isinstance(w, Tensor) else max(math.log(w), BLOCKED))
        own = torch.ones(1, end - begin, device=device)
        columns.append((seen, F.pad(own, (begin, keys - end))))
    masked = [(part, part.mask) for part in parts if part.mask is not None]
    for part, m in masked:
        others = [o for other, o in masked if other is not part and (part.isolated or other.isolated)]
        if others:
            free = (1 - _stacked(others)).prod(-1)
            left = log_share(1 - (1 - m) * (1 - free))
            columns.append((m * free, F.pad(left, (0, keys - left.shape[1]))))
    if not columns:
        return None
    return LogitBias(*(_stacked(side) for side in zip(*columns, strict=True)))


def _stacked(columns: Sequence[Tensor]) -> Tensor:
    rows = max(len(column) for column in columns)
    return torch.stack([column.expand(rows, -1) for column in columns], -1)


@dataclass(frozen=True)
class Injection:
    """A subject in one step: its features, and how they enter.

    Either the features are already weighted with eps_t (Eq. 9), or ``weights`` has eps_t for every layer that they are
    of: a number above 0, or a tensor that holds one. Then keys and values get the features as they are, and eps_t
    multiplies the subject's share of the softmax (see :func:`subject_bias`) and what is added to the image's own values
    and to the queries of cross-attention.

    Under a ``mask`` queries where it is 0 see none of the subject; what is added to values and to the queries of
    cross-attention is multiplied by it. A mask with several images is repeated over the batch, which holds them in
    their order once or several times. ``isolated`` keeps its tokens and those of other subjects with a mask apart. With
    ``pool`` above 1 the appended tokens of the finest layers are means of pool x pool features.
    """

    features: Features
    lam: float
    mask: EffectMask | None = None
    pool: int = 1
    weights: Mapping[Layer, float | Tensor] | None = None
    isolated: bool = False

    @property
    def biased(self) -> bool:
        """Whether self-attention may need a bias for it."""
        return self.mask is not None or self.weights is not None

    def self_attention_part(self, layer: Layer, grid: tuple[int, int], z: Tensor) -> SelfAttentionPart | None:
        """The subject's part in a self-attention on the input ``z``, or None where it has none."""
        f = self._on_grid(self.features.self_attention, layer, grid, z)
        if f is None:
            return None
        m, w = self._mask_at(grid, z), self._weight_at(layer)
        lam = self.lam if w is None else self.lam * w
        sums = lam * f if m is None else lam * m[:, :, None].to(f.dtype) * f
        return SelfAttentionPart(sums, self._added(layer, grid, f), m, w, self.isolated, self._subject is not None)

    @property
    def _subject(self) -> SubjectTokens | None:
        return self.features.subject

    def _added(self, layer: Layer, grid: tuple[int, int], f: Tensor) -> Tensor:
        """The tokens to append: of ``f``, on the ``grid`` of the image, or those that show the subject, on their
        own."""
        own = self.features.grids[layer]
        pooled = self.pool > 1 and own == max(self.features.grids.values())
        if self._subject is None:
            return pool_tokens(f, grid, self.pool) if pooled else f
        tokens = self.features.self_attention[layer].to(f.dtype)
        shown = self._subject.numbers(own, f.device)
        if pooled:  # the mean of those of its tokens that show the subject
            share = pool_tokens(self._subject.share(own, f.device)[None].to(f.dtype), own, self.pool)
            tokens = pool_tokens(tokens, own, self.pool) / share.clamp_min(torch.finfo(f.dtype).eps)
            shown = self._subject.numbers(own, f.device, self.pool)
        return repeat_rows(tokens[:, shown], len(f))

    def cross_attention_query(self, layer: Layer, grid: tuple[int, int], z: Tensor) -> Tensor:
        """The input of W_Q of a cross-attention in place of ``z``: z + Z'(copy's norm2 output), caption of Fig. 3."""
        g = self._on_grid(self.features.cross_attention, layer, grid, z)
        if g is None:
            return z
        m, w = self._mask_at(grid, z), self._weight_at(layer)
        g = g if w is None else w * g
        return z + (g if m is None else m[:, :, None].to(g.dtype) * g)

    def _mask_at(self, grid: tuple[int, int], z: Tensor) -> Tensor | None:
        """The mask at the tokens of ``z``, [1 or batch, n]."""
        if self.mask is None:
            return None
        m = self.mask.tokens(grid, z.device)
        return m if len(m) == 1 else repeat_rows(m, len(z))

    def _weight_at(self, layer: Layer) -> float | Tensor | None:
        """eps_t where the features are not weighted with it already; None: 1."""
        w = None if self.weights is None else self.weights[layer]
        return None if not isinstance(w, Tensor) and w == 1 else w

    def _on_grid(
        self, features: Mapping[Layer, Tensor], layer: Layer, grid: tuple[int, int], z: Tensor
    ) -> Tensor | None:
        if layer not in features:
            return None
        fit = resize if self._subject is None else fit_condition
        return repeat_rows(fit_tokens(features[layer], self.features.grids[layer], grid, fit).to(z.dtype), len(z))


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
        sums, added = [part.sums for part in self._parts], [part.added for part in self._parts]
        return z, extend_keys(z, added), extend_values(z, sums, added)

    def self_attention_bias(self, layer: Layer, keys: int, grid: tuple[int, int]) -> LogitBias | None:
        parts, self._parts = self._parts, ()
        n = grid[0] * grid[1]
        return subject_bias(parts, n, n, keys) if parts else None

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        for injection in self.injections:
            z = injection.cross_attention_query(layer, grid, z)
        return z
