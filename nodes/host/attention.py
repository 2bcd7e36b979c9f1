"""The injection (Eq. 7-9) as patches of the host's attention, made for one call of the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from comfy.ldm.modules import attention
from torch import Tensor

from ...p3s.errors import P3SError
from ...p3s.network.injection import (
    EffectMask,
    Injection,
    SelfAttentionPart,
    extend_keys,
    extend_values,
    subject_bias,
)
from ...p3s.network.logit_bias import LogitBias, widened
from ...p3s.network.unet import repeat_rows
from ...p3s.network.unet_config import Layer
from .guidance import chunks_of
from .rows import Rows, folded, folded_length, unfolded

#: Under which the host keeps what is of Apply P3S, and what is of Apply SSR.
SUBJECT_KEY, SSR_KEY = "p3s", "p3s_ssr"
#: Patches of other nodes after which the chunks of a batch may differ before the first self-attention.
BEFORE_ATTENTION = (
    "emb_patch",
    "input_block_patch",
    "input_block_patch_after_skip",
    "attn1_patch",
    "attn1_output_patch",
)


class Placed(NamedTuple):
    """A subject's part in a call, and the rows of the batch that see it; None: all."""

    injection: Injection
    rows: Rows | None = None


def with_patches(
    options: Mapping[str, Any],
    subjects: Sequence[Placed],
    first: Layer,
    shared_rows: int | None,
    own_attention: SubjectAttention,
) -> dict[str, Any]:
    """The call's transformer_options with our patches beside those of other nodes.

    In self-attention ours comes last, because it appends tokens. In cross-attention it comes first, because it only
    adds to the queries of the rows there are, and others multiply these. ``first`` is the U-Net's first transformer
    block. Where its input repeats itself over the chunks of the batch, as do the features for it, ``shared_rows`` are
    the rows of a chunk: they are then attended to once.
    """
    # Guidance nodes (PAG, SAG) replace a block's attention with code that expects as many keys as queries.
    replaced = options.get("patches_replace", {}).get("attn1", {})
    appended: dict[Layer, Appended] = {}
    ours = {layer for i, rows in subjects if i.biased or rows is not None for layer in i.features.self_attention}

    def attn1_patch(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        layer, grid, batch = layer_of(extra), grid_of(extra), extra["activations_shape"][0]
        if extra["block"] in replaced or tuple(layer) in replaced:
            return q, k, v
        present = [placed for placed in subjects if layer in placed.injection.features.self_attention]
        if not present:
            return q, k, v
        if len(k) != batch:
            raise P3SError(
                f"Apply P3S does not work together with a node that multiplies the rows of self-attention (from "
                f"{batch} to {len(k)} here): remove that node, or Apply P3S"
            )
        if layer == first and shared_rows:
            q, k, v = q[:shared_rows], k[:shared_rows], v[:shared_rows]
        parts, sums = [], []
        for injection, rows in present:
            part = injection.self_attention_part(layer, grid, k if rows is None else rows.pick(k))
            assert part is not None, f"{layer} is not of the features"
            sums.append(as_tiles(part.sums if rows is None else rows.spread(part.sums), len(q)))
            parts.append(part._replace(added=added_to_tiles(part, len(q) * len(part.added) // len(k))))
        k, v = as_tiles(k, len(q)), as_tiles(v, len(q))
        added = [part.added for part in parts]
        if layer in ours:
            appended[layer] = Appended(parts, [i.mask for i, _ in present], [rows for _, rows in present], k.shape[1])
            if any(rows is not None for _, rows in present):
                added = [folded(added, len(k))]
        return q, extend_keys(k, added), extend_values(v, sums, added)

    def attn1_output_patch(n: Tensor, extra: Mapping[str, Any]) -> Tensor:
        return repeat_rows(n, extra["activations_shape"][0])

    def attn1_replace(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> Tensor:
        if layer_of(extra) not in appended:
            raise P3SError(
                "Apply P3S does not work together with a node that computes a self-attention in several parts "
                "(Advanced-ControlNet's Reference ControlNet with a style_fidelity above 0) while the subject is on "
                "the prompt alone (the modes standard and fast), under a mask or weighed on attention: set mode to "
                "exact, guidance to both and weight_on to features, without a mask, or style_fidelity to 0"
            )
        return own_attention(q, k, v, appended.pop(layer_of(extra)), extra)

    def attn2_patch(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        layer, grid = layer_of(extra), grid_of(extra)
        for injection, rows in subjects:
            if rows is None:
                q = injection.cross_attention_query(layer, grid, q)
            elif layer in injection.features.cross_attention:
                q = rows.put(injection.cross_attention_query(layer, grid, rows.pick(q)), q.clone())
        return q, k, v

    if ours:  # torch.compile cannot trace what one patch hands to another
        attn1_patch, attn1_replace = torch.compiler.disable(attn1_patch), torch.compiler.disable(attn1_replace)
    patches = {name: list(found) for name, found in options.get("patches", {}).items()}
    patches["attn1_patch"] = [*patches.get("attn1_patch", ()), attn1_patch]
    patches["attn2_patch"] = [attn2_patch, *patches.get("attn2_patch", ())]
    if shared_rows:
        patches["attn1_output_patch"] = [*patches.get("attn1_output_patch", ()), attn1_output_patch]
    own: dict[tuple[Any, ...], Callable[..., Any]] = {
        tuple(layer): attn1_replace for layer in ours if layer[:2] not in replaced
    }
    replace = {**options.get("patches_replace", {}), "attn1": {**own, **replaced}}
    return {**options, "patches": patches, **({"patches_replace": replace} if own else {})}


def layer_of(extra: Mapping[str, Any]) -> Layer:
    side, block = extra["block"]
    return Layer(side, block, extra["block_index"])


def grid_of(extra: Mapping[str, Any]) -> tuple[int, int]:
    return tuple(extra["activations_shape"][2:])


def alone_before_attention(options: Mapping[str, Any], control: Any) -> bool:
    """Whether no other node can make the chunks of a batch differ before the first self-attention. Apply SSR, which
    changes cross-attention alone, cannot."""
    patches, wrappers = options.get("patches", {}), options.get("wrappers", {})
    others = set(wrappers.get("diffusion_model", {})) - {SUBJECT_KEY, SSR_KEY}
    return control is None and not others and not any(patches.get(name) for name in BEFORE_ATTENTION)


def as_tiles(tokens: Tensor, batch: int) -> Tensor:
    """Cut tokens [b, n, channels] as HyperTile has cut the queries, [batch, n b / batch, channels]; else unchanged.

    Keys and values reach a patch uncut, and the host's attention regroups them in memory order: the same is done here,
    before features are appended, so that every tile sees its own part of both.
    """
    return tokens if len(tokens) == batch else tokens.reshape(batch, -1, tokens.shape[-1])


def added_to_tiles(part: SelfAttentionPart, batch: int) -> Tensor:
    """The tokens that a subject appends to a batch of tiles: each tile's own part of them, or all."""
    if part.whole:
        return part.added.repeat_interleave(batch // len(part.added), 0)
    return as_tiles(part.added, batch)


class Appended(NamedTuple):
    """What subjects do to one self-attention: their parts, masks and rows, in their order, and the number of the first
    key that they have appended. Where some have rows of their own, all that is appended is :func:`folded`."""

    parts: Sequence[SelfAttentionPart]
    masks: Sequence[EffectMask | None]
    rows: Sequence[Rows | None]
    start: int


class QueryGroup(NamedTuple):
    """Queries that see the same subjects.

    ``rows`` are those of the batch whose image it is, out of as many as there are images (None: all), ``queries`` the
    numbers of the tokens (None: all). ``soft``: whether they see a subject in part.
    """

    rows: int | None
    queries: Tensor | None
    sees: tuple[bool, ...]
    soft: bool

    def to(self, device: torch.device) -> QueryGroup:
        return self if self.queries is None else self._replace(queries=self.queries.to(device))


def query_groups(masks: Sequence[EffectMask | None], grid: tuple[int, int]) -> list[QueryGroup]:
    """The queries of a grid by what they see under the masks, on the CPU.

    Together they are the softmax with the bias of :func:`p3s.network.injection.subject_bias`, but what a query does
    not see is not computed for it.
    """
    n = grid[0] * grid[1]
    images = max(1 if m is None else m.images for m in masks)
    shares = torch.stack([(torch.ones(1, n) if m is None else m.tokens(grid)).expand(images, -1) for m in masks])
    kinds = torch.cat([(shares > 0).int(), ((shares > 0) & (shares < 1)).any(0, keepdim=True).int()])
    groups = []
    for image in range(images):
        for kind in kinds[:, image].unique(dim=1).T:
            queries = (kinds[:, image] == kind[:, None]).all(0).nonzero().flatten()
            *sees, soft = (bool(value) for value in kind)
            everything = len(queries) == n
            groups.append(
                QueryGroup(None if images == 1 else image, None if everything else queries, tuple(sees), soft)
            )
    return groups


class SubjectAttention:
    """Self-attention where subjects act under effect masks, by weights on the attention, or on some rows of a batch.
    Keeps the groups of queries over a run.

    A group that sees some subjects and the others not at all, as under hard masks, is attended to with the host's
    attention of choice. For a bias it is torch's, because others may round all channels of a head to a common scale.
    """

    def __init__(self) -> None:
        self._groups: dict[Any, tuple[int, list[QueryGroup]]] = {}

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, subjects: Appended, extra: Mapping[str, Any]) -> Tensor:
        """``q`` [batch, n, channels], ``k`` and ``v`` with the tokens that the subjects have appended; all after their
        projections. Raises P3SError under masks where the queries are not the tokens of the image any more."""
        parts, masks, rows, start = subjects
        grid = grid_of(extra)
        masked = any(mask is not None for mask in masks)
        if masked and (q.shape[1] != grid[0] * grid[1] or len(q) > extra["activations_shape"][0]):
            raise P3SError(
                "the mask of Apply P3S does not work together with nodes that merge or cut the tokens of the attention "
                "(ToMe, HyperTile): remove that node, or the mask"
            )
        prompt = next((each for each in rows if each is not None), None)
        if prompt is None:
            return self._attend(q, k, v, parts, masks, start, extra)
        shapes = [(len(part.added), part.added.shape[1]) for part in parts]
        end = start + folded_length(shapes, len(k))
        keys, values = ((t[:, :start], unfolded(t[:, start:end], shapes), t[:, end:]) for t in (k, v))
        out = torch.empty_like(q)
        for branch in (prompt, prompt.others):
            seen = [i for i, of in enumerate(rows) if of is None or branch is prompt]

            def read(
                before: Tensor,
                added: Sequence[Tensor],
                behind: Tensor,
                branch: Rows = branch,
                seen: Sequence[int] = seen,
            ) -> Tensor:
                of_subjects = [added[i] if rows[i] is not None else branch.pick(added[i]) for i in seen]
                return torch.cat([branch.pick(before), *of_subjects, branch.pick(behind)], 1)

            here = [parts[i] if rows[i] is not None else part_of(parts[i], branch) for i in seen]
            its_masks, options = [masks[i] for i in seen], options_of(extra, branch)
            found = self._attend(branch.pick(q), read(*keys), read(*values), here, its_masks, start, options)
            branch.put(found, out)
        return out

    def _attend(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        parts: Sequence[SelfAttentionPart],
        masks: Sequence[EffectMask | None],
        start: int,
        extra: Mapping[str, Any],
    ) -> Tensor:
        heads, precision = extra["n_heads"], extra.get("attn_precision")

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            return attention.optimized_attention(q, k, v, heads, attn_precision=precision, transformer_options=extra)

        bias = subject_bias(parts, start, q.shape[1], k.shape[1]) if parts else None
        if bias is None:
            return attend(q, k, v)
        masked = [mask for mask in masks if mask is not None]
        isolated = len(masked) > 1 and any(p.isolated for p in parts if p.mask is not None)
        out = torch.empty_like(q)
        images, groups = self._groups_of(masks, grid_of(extra), q.device)
        for group in groups:
            seen = slice(None) if group.queries is None else group.queries
            spans = seen_keys(parts, start, group.sees, k.shape[1])

            def of_rows(t: Tensor, row: int | None = group.rows) -> Tensor:
                # A batch holds the images once or several times, in their order.
                return t if row is None or len(t) == 1 else t[row::images]

            def keys(t: Tensor, spans: Sequence[slice] = spans) -> Tensor:
                return torch.cat([of_rows(t)[:, span] for span in spans], 1)

            weighed = any(sees and p.weight is not None for sees, p in zip(group.sees, parts, strict=True))
            if group.soft or weighed or isolated:
                here = LogitBias(of_rows(bias.on_queries)[:, seen], keys(bias.on_keys))
                found = attention_with(here, of_rows(q)[:, seen], keys(k), keys(v), heads, precision)
            else:
                found = attend(of_rows(q)[:, seen], keys(k), keys(v))
            of_rows(out)[:, seen] = found
        return out

    def _groups_of(
        self, masks: Sequence[EffectMask | None], grid: tuple[int, int], device: torch.device
    ) -> tuple[int, list[QueryGroup]]:
        """How many images the masks distinguish, and the groups."""
        if all(m is None for m in masks):
            return 1, [QueryGroup(None, None, (True,) * len(masks), False)]
        key = tuple(map(id, masks)), grid, device
        if key not in self._groups:
            images = max(1 if m is None else m.images for m in masks)
            self._groups[key] = images, [group.to(device) for group in query_groups(masks, grid)]
        return self._groups[key]


def part_of(part: SelfAttentionPart, rows: Rows) -> SelfAttentionPart:
    """A subject's part in the attention of some of the rows that it acts on."""
    return part if part.mask is None else part._replace(mask=rows.pick(part.mask))


def options_of(extra: Mapping[str, Any], rows: Rows) -> dict[str, Any]:
    """A patch's options as they are in a call of these rows alone, where they are whole chunks: attentions of other
    nodes may read them."""
    chunks, uuids = chunks_of(extra), extra.get("uuids") or ()
    size = max(1, rows.of // len(chunks))
    kept = sorted({number // size for number in rows.numbers})
    found = {**extra, "activations_shape": [len(rows.numbers), *extra["activations_shape"][1:]]}
    if len(kept) * size == len(rows.numbers):
        found["cond_or_uncond"] = [chunks[i] for i in kept]
        found |= {"uuids": [uuids[i] for i in kept]} if len(uuids) == len(chunks) else {}
    return found


def seen_keys(parts: Sequence[SelfAttentionPart], start: int, sees: Sequence[bool], keys: int) -> list[slice]:
    """The keys that queries see which see these subjects: theirs, and all those before and behind the subjects'."""
    spans, end = [slice(0, start)], start
    for part, seen in zip(parts, sees, strict=True):
        begin, end = end, end + part.added.shape[1]
        spans += [slice(begin, end)] if seen else []
    return [*spans, slice(end, keys)]


def attention_with(bias: LogitBias, q: Tensor, k: Tensor, v: Tensor, heads: int, precision: Any = None) -> Tensor:
    """Attention of q, k and v [batch, tokens, channels] with a bias on the logits, in the memory of one without."""
    width = q.shape[-1] // heads
    q, k, v = (t.unflatten(2, (heads, width)).transpose(1, 2) for t in (q, k, v))
    wide = widened(q, k, v, bias)
    found = attention.attention_pytorch(*wide, heads, attn_precision=precision, skip_reshape=True)
    return found.unflatten(2, (heads, -1))[..., :width].flatten(2)
