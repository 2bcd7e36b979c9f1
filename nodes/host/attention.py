"""The injection (Eq. 7-9) as patches of the host's attention, made for one call of the U-Net."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules import attention
from torch import Tensor

from ...p3s.errors import P3SError
from ...p3s.network.injection import EffectMask, Injection, extend_keys, extend_values
from ...p3s.network.unet import repeat_rows
from ...p3s.network.unet_config import Layer

#: Patches of other nodes after which the chunks of a batch may differ before the first self-attention.
BEFORE_ATTENTION = (
    "emb_patch",
    "input_block_patch",
    "input_block_patch_after_skip",
    "attn1_patch",
    "attn1_output_patch",
)
#: The channels of a head are extended by multiples of this, the step of the widths that fast attention kernels take.
HEAD_STEP = 8


def with_patches(
    options: Mapping[str, Any],
    injections: Sequence[Injection],
    first: Layer,
    chunks_are_equal: bool,
    masked_attention: MaskedAttention,
) -> dict[str, Any]:
    """The call's transformer_options with our patches beside those of other nodes.

    In self-attention ours comes last, because it appends tokens. In cross-attention it comes first, because it only
    adds to the queries of the rows there are, and others multiply these. ``first`` is the U-Net's first transformer
    block. ``chunks_are_equal`` says that its input repeats itself over the chunks of the batch, as do the features for
    it: they are then attended to once.
    """
    # Guidance nodes (PAG, SAG) replace a block's attention with code that expects as many keys as queries.
    replaced = options.get("patches_replace", {}).get("attn1", {})
    masks: dict[Layer, tuple[list[EffectMask | None], list[int]]] = {}

    def attn1_patch(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        layer, grid = layer_of(extra), grid_of(extra)
        if extra["block"] in replaced or tuple(layer) in replaced:
            return q, k, v
        present = [i for i in injections if layer in i.features.self_attention]
        if not present:
            return q, k, v
        if len(k) != extra["activations_shape"][0]:
            raise P3SError(
                f"Apply P3S does not work together with a node that multiplies the rows of self-attention (from "
                f"{extra['activations_shape'][0]} to {len(k)} here): remove that node, or Apply P3S"
            )
        if layer == first and chunks_are_equal:
            rows = min(len(i.features.self_attention[layer]) for i in present)
            q, k, v = q[:rows], k[:rows], v[:rows]
        parts = [part for i in present if (part := i.self_attention_part(layer, grid, k)) is not None]
        sums, added = [part.sums for part in parts], [part.added for part in parts]
        masks[layer] = [i.mask for i in present], [f.shape[1] for f in added]
        k, v = as_tiles(k, len(q)), as_tiles(v, len(q))
        sums, added = [as_tiles(t, len(q)) for t in sums], [as_tiles(t, len(q)) for t in added]
        return q, extend_keys(k, added), extend_values(v, sums, added)

    def attn1_output_patch(n: Tensor, extra: Mapping[str, Any]) -> Tensor:
        return repeat_rows(n, extra["activations_shape"][0])

    def attn1_replace(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> Tensor:
        return masked_attention(q, k, v, *masks.pop(layer_of(extra)), extra)

    def attn2_patch(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        layer, grid = layer_of(extra), grid_of(extra)
        for injection in injections:
            q = injection.cross_attention_query(layer, grid, q)
        return q, k, v

    patches = {name: list(found) for name, found in options.get("patches", {}).items()}
    patches["attn1_patch"] = [*patches.get("attn1_patch", ()), attn1_patch]
    patches["attn2_patch"] = [attn2_patch, *patches.get("attn2_patch", ())]
    if chunks_are_equal:
        patches["attn1_output_patch"] = [*patches.get("attn1_output_patch", ()), attn1_output_patch]
    masked = {layer for i in injections if i.mask is not None for layer in i.features.self_attention}
    own: dict[tuple[Any, ...], Callable[..., Any]] = {
        tuple(layer): attn1_replace for layer in masked if layer[:2] not in replaced
    }
    replace = {**options.get("patches_replace", {}), "attn1": {**own, **replaced}}
    return {**options, "patches": patches, **({"patches_replace": replace} if own else {})}


def layer_of(extra: Mapping[str, Any]) -> Layer:
    side, block = extra["block"]
    return Layer(side, block, extra["block_index"])


def grid_of(extra: Mapping[str, Any]) -> tuple[int, int]:
    return tuple(extra["activations_shape"][2:])


def alone_before_attention(options: Mapping[str, Any], control: Any, key: str) -> bool:
    """Whether no other node can make the chunks of a batch differ before the first self-attention."""
    patches, wrappers = options.get("patches", {}), options.get("wrappers", {})
    others = set(wrappers.get("diffusion_model", {})) - {key}
    return control is None and not others and not any(patches.get(name) for name in BEFORE_ATTENTION)


def as_tiles(tokens: Tensor, batch: int) -> Tensor:
    """Cut tokens [b, n, channels] as HyperTile has cut the queries, [batch, n b / batch, channels]; else unchanged.

    Keys and values reach a patch uncut, and the host's attention regroups them in memory order: the same is done here,
    before features are appended, so that every tile sees its own part of both.
    """
    return tokens if len(tokens) == batch else tokens.reshape(batch, -1, tokens.shape[-1])


class QueryGroup(NamedTuple):
    """Queries that see the same subjects.

    ``rows`` are those of the batch whose image it is, out of as many as there are images (None: all), ``queries`` the
    numbers of the tokens (None: all). ``logs`` is None where they see these subjects fully; otherwise log m of each
    subject seen, [subjects seen, queries].
    """

    rows: int | None
    queries: Tensor | None
    sees: tuple[bool, ...]
    logs: Tensor | None

    def to(self, device: torch.device) -> QueryGroup:
        return self._replace(
            **{name: t.to(device) for name in ("queries", "logs") if (t := getattr(self, name)) is not None}
        )


def query_groups(masks: Sequence[EffectMask | None], grid: tuple[int, int]) -> list[QueryGroup]:
    """The queries of a grid by what they see under the masks, on the CPU.

    Together they are the softmax with the bias of :func:`p3s.network.injection.mask_bias`, but what a query does not
    see is not computed for it.
    """
    n = grid[0] * grid[1]
    images = max(1 if m is None else m.images for m in masks)
    shares = torch.stack([(torch.ones(1, n) if m is None else m.tokens(grid)).expand(images, -1) for m in masks])
    kinds = torch.cat([(shares > 0).int(), ((shares > 0) & (shares < 1)).any(0, keepdim=True).int()])
    groups = []
    for image in range(images):
        for kind in kinds[:, image].unique(dim=1).T:
            queries = (kinds[:, image] == kind[:, None]).all(0).nonzero().flatten()
            sees = tuple(bool(s) for s in kind[:-1])
            logs = shares[:, image, queries][list(sees)].log() if kind[-1] else None
            everything = len(queries) == n
            groups.append(QueryGroup(None if images == 1 else image, None if everything else queries, sees, logs))
    return groups


class MaskedAttention:
    """Self-attention under effect masks, with the host's own attention. Keeps the groups of queries over a run."""

    def __init__(self) -> None:
        self._groups: dict[Any, tuple[int, list[QueryGroup]]] = {}

    def __call__(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        masks: Sequence[EffectMask | None],
        lengths: Sequence[int],
        extra: Mapping[str, Any],
    ) -> Tensor:
        """``q`` [batch, n, channels], ``k`` and ``v`` with the appended tokens of the subjects, in their order and of
        these ``lengths``, at the end; all after their projections. Raises P3SError where the queries are not the
        tokens of the image any more."""
        grid = grid_of(extra)
        if q.shape[1] != grid[0] * grid[1] or len(q) > extra["activations_shape"][0]:
            raise P3SError(
                "the mask of Apply P3S does not work together with nodes that merge or cut the tokens of the attention "
                "(ToMe, HyperTile): remove that node, or the mask"
            )
        own = k.shape[1] - sum(lengths)
        ends = [own + sum(lengths[: i + 1]) for i in range(len(lengths))]
        heads, precision = extra["n_heads"], extra.get("attn_precision")
        out = torch.empty_like(q)
        images, groups = self._groups_of(masks, grid, q.device)
        for group in groups:
            spans = [(b - n, b) for b, n, sees in zip(ends, lengths, group.sees, strict=True) if sees]
            rows = slice(group.rows, None, images)  # a batch holds the images once or several times, in their order
            seen = slice(None) if group.queries is None else group.queries
            keys, values = (torch.cat([t[rows, a:b] for a, b in [(0, own), *spans]], 1) for t in (k, v))
            if group.logs is None:
                found = attention.optimized_attention(
                    q[rows][:, seen], keys, values, heads, attn_precision=precision, transformer_options=extra
                )
            else:
                widths = [b - a for a, b in spans]
                found = soft_attention(q[rows][:, seen], keys, values, heads, group.logs, widths, precision)
            out[rows, seen] = found
        return out

    def _groups_of(
        self, masks: Sequence[EffectMask | None], grid: tuple[int, int], device: torch.device
    ) -> tuple[int, list[QueryGroup]]:
        """How many images the masks distinguish, and the groups."""
        key = tuple(map(id, masks)), grid, device
        if key not in self._groups:
            images = max(1 if m is None else m.images for m in masks)
            self._groups[key] = images, [group.to(device) for group in query_groups(masks, grid)]
        return self._groups[key]


def soft_attention(
    q: Tensor, k: Tensor, v: Tensor, heads: int, logs: Tensor, lengths: Sequence[int], precision: Any = None
) -> Tensor:
    """Attention in which each subject's share of query i's softmax is multiplied by m_i.

    ``logs`` [subjects, n] holds log m; the last keys are the subjects', of these ``lengths``. As a bias, log m would
    take a number for each query and key. Here it is a product, of a channel of the queries that holds log m and one of
    the keys that marks the subject's: softmax(q k / sqrt(d) + log m) in the memory of an attention without a bias.
    """
    batch, n, channels = q.shape
    width, subjects = channels // heads, len(logs)
    more = math.ceil(subjects / HEAD_STEP) * HEAD_STEP
    scale = math.sqrt(width + more)  # the host divides by this instead of by sqrt(width)
    q, k, v = (t.unflatten(2, (heads, width)) for t in (q * (scale / math.sqrt(width)), k, v))
    on_q, on_k = q.new_zeros(n, more), k.new_zeros(k.shape[1], more)
    on_q[:, :subjects] = (logs.T * scale).to(q.dtype)
    for subject, keys in enumerate(on_k[len(on_k) - sum(lengths) :].split(list(lengths))):
        keys[:, subject] = 1

    def extended(t: Tensor, with_: Tensor) -> Tensor:
        return torch.cat([t, with_[None, :, None].expand(batch, -1, heads, -1)], 3).flatten(2)

    found = attention.attention_pytorch(
        extended(q, on_q), extended(k, on_k), extended(v, torch.zeros_like(on_k)), heads, attn_precision=precision
    )
    return found.unflatten(2, (heads, -1))[..., :width].flatten(2)
