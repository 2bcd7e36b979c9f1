"""How subjects enter the U-Net's cross-attention: as a pure function of one call, over a run, and as hooks.

A host that gives q and the text's attention before its output projection needs :class:`SubjectRun` alone.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import P3SError
from ..network.hooks import PLAIN, AttentionHooks
from ..network.injection import EffectMask
from ..network.logit_bias import LogitBias
from ..network.unet_config import Layer
from ..sampling.ddim import Over
from ..sampling.schedule import percent_of
from ..settings import check, setting
from .embeds import WEIGHTING, Joint, SubjectEmbeds
from .layers import SubjectLayers

#: softmax(q k^T / sqrt(d)) v of q, k, v [rows, tokens, channels] and the number of heads, [rows, tokens, channels]
Attend = Callable[[Tensor, Tensor, Tensor, int], Tensor]


def attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, torch's own; see ``Attend``."""
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


class KeysValues(NamedTuple):
    """K and V of a subject in one layer, each [1 or rows, tokens, channels]."""

    k: Tensor
    v: Tensor


class Reach(NamedTuple):
    """Where a subject acts in one image: the numbers of the queries (None: all) and its share of each,
    [queries, 1] (None: fully)."""

    queries: Tensor | None = None
    shares: Tensor | None = None


EVERYWHERE = (Reach(),)


def reach_of(mask: EffectMask | None, grid: tuple[int, int], device: torch.device) -> tuple[Reach, ...]:
    """Where a subject acts under an effect mask, on a grid of tokens, for each image that it distinguishes."""
    if mask is None or mask.everywhere:
        return EVERYWHERE
    found = []
    for m in mask.tokens(grid):
        queries = m.nonzero().flatten()
        shares = m[queries, None]
        found.append(
            Reach(
                None if len(queries) == len(m) else queries.to(device),
                None if (shares == 1).all() else shares.to(device),
            )
        )
    return tuple(found)


# out + s m softmax(q K_S^T / sqrt(d)) V_S
def add_subject(
    out: Tensor,
    q: Tensor,
    heads: int,
    prompt: KeysValues | None,
    other: KeysValues | None,
    prompts: Sequence[bool],
    strength: float,
    reach: Sequence[Reach] = EVERYWHERE,
    attend: Attend = attention,
) -> Tensor:
    """Add a subject's attention to the text's, before the output projection.

    Args:
        out: softmax(q k^T / sqrt(d)) v of the text, [rows, n, channels]; it is not changed.
        q: the queries, after W_Q, [rows, n, channels].
        prompt: the subject's K and V in the rows of the prompt.
        other: those in all other rows (negative prompt, empty text); None adds nothing there.
        prompts: for each chunk of the batch, equally many rows, whether it is the prompt's.
        strength: s.
        reach: m, for every image (:func:`reach_of`); a batch holds the images in their order, once or several times.

    Returns:
        [rows, n, channels]; ``out`` itself where nothing is added, and its very values in the rows and queries that the
        subject does not reach.
    """
    size, rest = divmod(len(q), len(prompts))
    if rest or size % len(reach):
        raise P3SError(
            f"Apply SSR cannot tell the images of a batch apart: it has {len(q)} rows in {len(prompts)} parts, and the "
            f"mask distinguishes {len(reach)} images. Give one mask for all images, or sample one image at a time."
        )
    result = out
    for of_prompt, subject in ((True, prompt), (False, other)):
        rows = [] if subject is None else [r for r in range(len(q)) if prompts[r // size] == of_prompt]
        for image, (queries, shares) in enumerate(reach):
            mine = rows[image :: len(reach)]
            if subject is None or not mine or (queries is not None and not len(queries)):
                continue
            chosen = _selection(mine)
            part = q[chosen] if queries is None else q[chosen][:, queries]
            # K and V of all rows stay one for all; expanded, they take no memory.
            k, v = (t[chosen] if len(t) == len(q) else t.expand(len(mine), -1, -1) for t in subject)
            added = strength * attend(part, k, v, heads)
            added = added if shares is None else added * shares.to(added.dtype)
            if len(mine) == len(q) and queries is None:
                result = result + added
                continue
            result = result.clone() if result is out else result
            if queries is None:
                result[chosen] = result[chosen] + added
            else:
                block = result[chosen]
                block[:, queries] = block[:, queries] + added
                result[chosen] = block
    return result


def _selection(rows: list[int]) -> slice | list[int]:
    """Row numbers as a slice where they are evenly spaced: an index would wait for the device."""
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    return slice(rows[0], rows[-1] + 1, step) if rows == list(range(rows[0], rows[-1] + 1, step)) else rows


@dataclass(frozen=True, eq=False)
class AppliedSSR:
    """Subjects in a sampling run: when, where and how strongly they act.

    ``strength`` is s, ``start`` and ``end`` are denoising percents in 0..1. ``mask``: where in the generated image.
    ``layers`` multiplies the strength in single layers, 0 or more.

    Raises P3SError for a value out of its range.
    """

    embeds: SubjectEmbeds
    strength: float = setting(
        0.65,
        "How strongly the subject acts; 0 is the plain model. The authors of SSR-Encoder advise 0.5 to 0.8: above "
        "that, the photo's layout is copied and the prompt has less say.",
        low=0.0,
        high=2.0,
        step=0.01,
    )
    guidance: str = setting(
        "both",
        "both: the negative prompt's side of guidance sees the embedding of an empty picture, as the authors of "
        "SSR-Encoder do. conditional: that side sees nothing.",
        ("both", "conditional"),
    )
    start: float = setting(
        0.0,
        "The subject acts from this fraction of denoising on. A later start leaves the layout to the prompt.",
        low=0.0,
        high=1.0,
        step=0.001,
    )
    end: float = setting(1.0, "The subject acts up to this fraction of denoising.", low=0.0, high=1.0, step=0.001)
    mask: EffectMask | None = None
    layers: Mapping[Layer, float] = field(default_factory=dict)
    weighting: str = setting(WEIGHTING.default, WEIGHTING.help, WEIGHTING.choices)

    def __post_init__(self) -> None:
        check(self)
        if self.start > self.end:
            raise P3SError(f"start ({self.start:g}) must not be greater than end ({self.end:g}): swap them")

    @property
    def never(self) -> bool:
        """Whether nothing of it can act, in any layer and at any step."""
        masked = self.mask is not None and self.mask.nowhere
        return masked or self.strength == 0 or self.start == self.end or not any(s.weight for s in self.embeds.subjects)

    def acts_at(self, percent: float) -> bool:
        """Whether it acts at a denoising percent, 0 (noise) .. 1 (image)."""
        return not self.never and self.start <= percent and (percent < self.end or self.end == 1)

    def factor(self, layer: Layer) -> float:
        """s of a layer."""
        return 0.0 if self.never else self.strength * self.layers.get(layer, 1.0)


class SubjectRun:
    """Applied subjects over one sampling run: K and V of every layer are computed once for a device and dtype.
    ``layers`` are those of the U-Net."""

    def __init__(self, applied: AppliedSSR, layers: SubjectLayers) -> None:
        self.applied = applied
        self._projections = layers
        self.layers = tuple(layers.index)
        self._joint = applied.embeds.joint(applied.weighting)
        self._kept: dict[tuple[Layer, torch.device, torch.dtype], tuple[KeysValues, KeysValues | None]] = {}
        self._reach: dict[Hashable, tuple[Reach, ...]] = {}
        self._moved: dict[tuple[torch.device, torch.dtype], Joint] = {}

    def add(
        self,
        layer: Layer,
        out: Tensor,
        q: Tensor,
        heads: int,
        grid: tuple[int, int],
        prompts: Sequence[bool],
        attend: Attend = attention,
        images: tuple[int, ...] | None = None,
    ) -> Tensor:
        """:func:`add_subject` in a layer; ``grid`` is (height, width) of the tokens, ``images`` are the numbers of
        those that the batch holds (None: all). ``out`` itself where the subjects do not act.

        Raises P3SError for an effect mask where the queries are not the tokens of the image.
        """
        factor = self.applied.factor(layer)
        if factor == 0 or self._joint is None:
            return out
        reach = self._reach_on(grid, q.device, images)
        if reach is not EVERYWHERE and q.shape[1] != grid[0] * grid[1]:
            raise P3SError(
                "the mask of Apply SSR does not work together with a node that merges or cuts the tokens of the "
                "cross-attention: remove that node, or the mask"
            )
        return add_subject(out, q, heads, *self._keys_values(layer, q), prompts, factor, reach, attend)

    def _keys_values(self, layer: Layer, q: Tensor) -> tuple[KeysValues, KeysValues | None]:
        key = layer, q.device, q.dtype
        if key not in self._kept:
            c, for_values, unconditional = self._joint_on(q.device, q.dtype)
            both = self.applied.guidance == "both"
            self._kept[key] = (
                KeysValues(*self._projections.project(layer, c, for_values)),
                KeysValues(*self._projections.project(layer, unconditional)) if both else None,
            )
        return self._kept[key]

    def _joint_on(self, device: torch.device, dtype: torch.dtype) -> Joint:
        key = device, dtype
        if key not in self._moved:
            assert self._joint is not None
            self._moved[key] = Joint(*(part.to(device, dtype) for part in self._joint))
        return self._moved[key]

    def _reach_on(
        self, grid: tuple[int, int], device: torch.device, images: tuple[int, ...] | None
    ) -> tuple[Reach, ...]:
        mask = self.applied.mask
        images = None if mask is None or mask.images == 1 else images
        key = grid, device, images
        if key not in self._reach:
            chosen = mask if mask is None or images is None else mask.of(images)
            self._reach[key] = reach_of(chosen, grid, device)
        return self._reach[key]


class SSRHooks(AttentionHooks):
    """The cross-attention of the U-Net with subjects added; several runs are a sum.

    ``prompts``: for each chunk of the batch, whether it is the prompt's. All else is left to ``over``, such as a P3S
    subject's :class:`p3s.network.injection.InjectionHooks`.
    """

    def __init__(self, runs: Sequence[SubjectRun], prompts: Sequence[bool], over: AttentionHooks = PLAIN) -> None:
        self.runs, self.prompts, self.over = tuple(runs), tuple(prompts), over

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        return self.over.self_attention(layer, z, grid)

    def self_attention_output(self, layer: Layer, out: Tensor) -> None:
        self.over.self_attention_output(layer, out)

    def self_attention_bias(self, layer: Layer, keys: int, grid: tuple[int, int]) -> LogitBias | None:
        return self.over.self_attention_bias(layer, keys, grid)

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        return self.over.cross_attention(layer, z, context, grid)

    def cross_attention_result(self, layer: Layer, out: Tensor, q: Tensor, heads: int, grid: tuple[int, int]) -> Tensor:
        out = self.over.cross_attention_result(layer, out, q, heads, grid)
        for run in self.runs:
            out = run.add(layer, out, q, heads, grid, self.prompts)
        return out


def over_sampling(runs: Sequence[SubjectRun]) -> Over:
    """What lets runs act in :func:`p3s.sampling.ddim.generate`, each within its window."""

    def over(hooks: AttentionHooks, t: int, prompts: Sequence[bool]) -> AttentionHooks:
        percent = float(percent_of(torch.tensor(float(t), dtype=torch.float64)))
        acting = [run for run in runs if run.applied.acts_at(percent)]
        return SSRHooks(acting, prompts, hooks) if acting else hooks

    return over
