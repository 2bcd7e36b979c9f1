"""The injection (Eq. 7-9) as patches of the host's attention, made for one call of the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules import attention
from torch import Tensor

from ...p3s.injection import EffectMask, Injection, extend_keys, extend_values, mask_bias
from ...p3s.unet import repeat_rows
from ...p3s.unet_config import Layer

#: Patches of other nodes after which the halves of the guidance may differ before the first self-attention.
BEFORE_ATTENTION = (
    "emb_patch",
    "input_block_patch",
    "input_block_patch_after_skip",
    "attn1_patch",
    "attn1_output_patch",
)


def with_patches(
    options: Mapping[str, Any],
    injections: Sequence[Injection],
    first: Layer,
    halves_are_equal: bool,
    masked_attention: MaskedAttention,
) -> dict[str, Any]:
    """The call's transformer_options with our patches appended, so that they run after those of other nodes.

    ``first`` is the U-Net's first transformer block. ``halves_are_equal`` says that its input repeats itself over the
    chunks of the batch, as do the features for it: they are then attended to once.
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
        if layer == first and halves_are_equal:
            rows = min(len(i.features.self_attention[layer]) for i in present)
            q, k, v = q[:rows], k[:rows], v[:rows]
        parts = [part for i in present if (part := i.at(layer, grid, k)) is not None]
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
            q = injection.query(layer, grid, q)
        return q, k, v

    ours: dict[str, Callable[..., Any]] = {"attn1_patch": attn1_patch, "attn2_patch": attn2_patch}
    if halves_are_equal:
        ours["attn1_output_patch"] = attn1_output_patch
    patches = dict(options.get("patches", {}))
    for name, patch in ours.items():
        patches[name] = [*patches.get(name, ()), patch]
    masked = {layer for i in injections if i.mask is not None for layer in i.features.self_attention}
    own = {tuple(layer): attn1_replace for layer in masked if layer[:2] not in replaced}
    replace = {**options.get("patches_replace", {}), "attn1": {**own, **replaced}}
    return {**options, "patches": patches, **({"patches_replace": replace} if own else {})}


def layer_of(extra: Mapping[str, Any]) -> Layer:
    side, block = extra["block"]
    return Layer(side, block, extra["block_index"])


def grid_of(extra: Mapping[str, Any]) -> tuple[int, int]:
    return tuple(extra["activations_shape"][2:])


def alone_before_attention(options: Mapping[str, Any], control: Any, key: str) -> bool:
    """Whether no other node can make the halves of the guidance differ before the first self-attention."""
    patches, wrappers = options.get("patches", {}), options.get("wrappers", {})
    others = set(wrappers.get("diffusion_model", {})) - {key}
    return control is None and not others and not any(patches.get(name) for name in BEFORE_ATTENTION)


def as_tiles(tokens: Tensor, batch: int) -> Tensor:
    """Cut tokens [b, n, channels] as HyperTile has cut the queries, [batch, n b / batch, channels]; else unchanged.

    Keys and values reach a patch uncut, and the host's attention regroups them in memory order: the same is done here,
    before features are appended, so that every tile sees its own part of both.
    """
    return tokens if len(tokens) == batch else tokens.reshape(batch, -1, tokens.shape[-1])


class Group(NamedTuple):
    """Queries (their numbers; None: all) that see the same subjects. ``bias`` is None where they see them fully."""

    queries: Tensor | None
    sees: tuple[bool, ...]
    bias: Tensor | None

    def to(self, q: Tensor) -> Group:
        """On the device, and the bias in the type, of ``q``."""
        queries = None if self.queries is None else self.queries.to(q.device)
        return Group(queries, self.sees, None if self.bias is None else self.bias.to(q))


def query_groups(
    masks: Sequence[EffectMask | None], lengths: Sequence[int], own: int, grid: tuple[int, int]
) -> list[Group]:
    """The queries of a grid by what they see under the masks, on the CPU.

    Together they are the softmax with the bias of :func:`mask_bias`, but nobody computes what he does not see, and
    only soft edges need a bias at all. ``own`` is the number of keys before those of the subjects.
    """
    n = grid[0] * grid[1]
    shares = torch.stack([torch.ones(n) if m is None else m.tokens(grid) for m in masks])
    kinds = torch.cat([(shares > 0).int(), ((shares > 0) & (shares < 1)).any(0, keepdim=True).int()])
    groups = []
    for kind in kinds.unique(dim=1).T:
        queries = (kinds == kind[:, None]).all(0).nonzero().flatten()
        sees = tuple(bool(s) for s in kind[:-1])
        bias = None
        if kind[-1]:
            seen = [(share[queries], length) for share, length, s in zip(shares, lengths, sees, strict=True) if s]
            m, columns = zip(*seen, strict=True)
            bias = mask_bias(m, columns, len(queries), own + sum(columns))
        groups.append(Group(None if len(queries) == n else queries, sees, bias))
    return groups


class MaskedAttention:
    """Self-attention under effect masks, with the host's own attention. Keeps the groups of queries over a run."""

    def __init__(self) -> None:
        self._groups: dict[Any, list[Group]] = {}

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
        these ``lengths``, at the end; all after their projections."""
        own = k.shape[1] - sum(lengths)
        ends = [own + sum(lengths[: i + 1]) for i in range(len(lengths))]
        heads, precision = extra["n_heads"], extra.get("attn_precision")
        out = torch.empty_like(q)
        for group in self._groups_of(masks, lengths, own, grid_of(extra), q):
            spans = [(0, own)]
            spans += [(b - n, b) for b, n, sees in zip(ends, lengths, group.sees, strict=True) if sees]
            seen = slice(None) if group.queries is None else group.queries
            keys, values = (torch.cat([t[:, a:b] for a, b in spans], 1) for t in (k, v))
            if group.bias is None:
                found = attention.optimized_attention(q[:, seen], keys, values, heads, attn_precision=precision)
            else:
                found = attention.attention_pytorch(q[:, seen], keys, values, heads, mask=group.bias)
            out[:, seen] = found
        return out

    def _groups_of(
        self, masks: Sequence[EffectMask | None], lengths: Sequence[int], own: int, grid: tuple[int, int], q: Tensor
    ) -> list[Group]:
        key = tuple(map(id, masks)), tuple(lengths), own, grid, q.device, q.dtype
        if key not in self._groups:
            self._groups[key] = [g.to(q) for g in query_groups(masks, lengths, own, grid)]
        return self._groups[key]
