"""The U-Net of Stable Diffusion 1.x, 2.x and XL, with the original checkpoint's key names.

One class serves as the frozen base and as the trainable copy. Its configuration is read from a state dict, and its
attention layers let :class:`.hooks.AttentionHooks` read and change what they attend to: all that a subject needs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from enum import Enum
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import FamilyError
from .hooks import PLAIN, AttentionHooks
from .logit_bias import LogitBias, widened
from .unet_config import Layer, UNetConfig, unet_state


class BlockStage(Enum):
    """Places inside a transformer block where a pass may end early (see :meth:`UNet.forward`)."""

    NORM1 = "norm1"
    ATTN1 = "attn1"
    NORM2 = "norm2"


class Attention(nn.Module):
    """Multi-head attention: softmax(Q K^T / sqrt(d)) V, then the output projection."""

    def __init__(self, dim: int, context_dim: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = operations.Linear(dim, dim, bias=False, **factory)
        self.to_k = operations.Linear(context_dim, dim, bias=False, **factory)
        self.to_v = operations.Linear(context_dim, dim, bias=False, **factory)
        self.to_out = nn.Sequential(operations.Linear(dim, dim, **factory), nn.Identity())

    def forward(
        self,
        q_in: Tensor,
        k_in: Tensor,
        v_in: Tensor,
        bias: LogitBias | None = None,
        result: Callable[[Tensor, Tensor], Tensor] | None = None,
    ) -> Tensor:
        """``bias`` is added to the logits; ``result``, of softmax(...) V and Q, both [batch, queries, channels], gives
        what the output projection reads."""
        queries = self.to_q(q_in)
        q, k, v = (self.split(t) for t in (queries, self.to_k(k_in), self.to_v(v_in)))
        if bias is None:
            out = F.scaled_dot_product_attention(q, k, v)
        else:
            out = F.scaled_dot_product_attention(*widened(q, k, v, bias))[..., : v.shape[-1]]
        out = out.transpose(1, 2).flatten(2)
        return self.to_out(out if result is None else result(out, queries))

    # Eq. 13:  M = softmax(Q K^T / sqrt(d))
    def attention_map(self, q_in: Tensor, k_in: Tensor) -> Tensor:
        """The attention map of inputs of W_Q and W_K, in float32, [batch, heads, queries, keys]."""
        q, k = self.split(self.to_q(q_in)).float(), self.split(self.to_k(k_in)).float()
        device = q.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            return (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)

    def split(self, x: Tensor) -> Tensor:
        """[batch, tokens, channels] -> [batch, heads, tokens, channels / heads]."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class GEGLU(nn.Module):
    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.proj = operations.Linear(dim, 8 * dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        x, gate = self.proj(x).chunk(2, dim=-1)
        return x * F.gelu(gate)


class FeedForward(nn.Module):
    def __init__(self, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.net = nn.Sequential(
            GEGLU(dim, operations, **factory), nn.Identity(), operations.Linear(4 * dim, dim, **factory)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention, feed-forward, each on the normalised input and added to it."""

    def __init__(self, layer: Layer, dim: int, context_dim: int, heads: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.layer = layer
        self.attn1 = Attention(dim, dim, heads, operations, **factory)
        self.attn2 = Attention(dim, context_dim, heads, operations, **factory)
        self.ff = FeedForward(dim, operations, **factory)
        self.norm1 = operations.LayerNorm(dim, **factory)
        self.norm2 = operations.LayerNorm(dim, **factory)
        self.norm3 = operations.LayerNorm(dim, **factory)

    def forward(
        self, x: Tensor, context: Tensor, hooks: AttentionHooks, grid: tuple[int, int], until: BlockStage | None
    ) -> Tensor | None:
        q, k, v = hooks.self_attention(self.layer, self.norm1(x), grid)
        if until is BlockStage.NORM1:
            return None
        out = self.attn1(q, k, v, hooks.self_attention_bias(self.layer, k.shape[1], grid))
        hooks.self_attention_output(self.layer, out)
        if until is BlockStage.ATTN1:
            return None
        x = x + out
        q = hooks.cross_attention(self.layer, self.norm2(x), context, grid)
        if until is BlockStage.NORM2:
            return None
        x, q = repeat_rows(x, len(context)), repeat_rows(q, len(context))

        def result(out: Tensor, queries: Tensor) -> Tensor:
            return hooks.cross_attention_result(self.layer, out, queries, self.attn2.heads, grid)

        x = x + self.attn2(q, context, context, result=result)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the pixels of a feature map, between two projections."""

    def __init__(self, config: UNetConfig, layer: Layer, depth: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        dim = config.channels(layer)
        self.linear = config.linear_projection
        self.norm = operations.GroupNorm(32, dim, eps=1e-6, **factory)
        project = operations.Linear if self.linear else _conv1x1(operations)
        self.proj_in = project(dim, dim, **factory)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(layer._replace(depth=d), dim, config.context_dim, config.heads(dim), operations, **factory)
            for d in range(depth)
        )
        self.proj_out = project(dim, dim, **factory)

    def forward(
        self, x: Tensor, context: Tensor, hooks: AttentionHooks, until: tuple[Layer, BlockStage] | None
    ) -> Tensor | None:
        height, width = x.shape[2:]
        h = self.norm(x)
        h = h if self.linear else self.proj_in(h)
        h = h.flatten(2).transpose(1, 2)
        h = self.proj_in(h) if self.linear else h
        for block in self.transformer_blocks:
            stage = until[1] if until is not None and until[0] == block.layer else None
            h = block(h, context, hooks, (height, width), stage)
            if h is None:
                return None
        h = self.proj_out(h) if self.linear else h
        h = h.transpose(1, 2).unflatten(2, (height, width))
        h = h if self.linear else self.proj_out(h)
        return repeat_rows(x, len(h)) + h


def _conv1x1(operations: Any) -> Any:
    return lambda inp, out, **factory: operations.Conv2d(inp, out, 1, **factory)


class ResBlock(nn.Module):
    def __init__(self, inp: int, out: int, embedding: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            operations.GroupNorm(32, inp, **factory), nn.SiLU(), operations.Conv2d(inp, out, 3, padding=1, **factory)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), operations.Linear(embedding, out, **factory))
        self.out_layers = nn.Sequential(
            operations.GroupNorm(32, out, **factory),
            nn.SiLU(),
            nn.Identity(),  # the checkpoint's dropout: keeps the numbering of the keys
            operations.Conv2d(out, out, 3, padding=1, **factory),
        )
        self.skip_connection = nn.Identity() if inp == out else operations.Conv2d(inp, out, 1, **factory)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(embedding)[:, :, None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Downsample(nn.Module):
    def __init__(self, inp: int, out: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.op = operations.Conv2d(inp, out, 3, stride=2, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    def __init__(self, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor, size: tuple[int, int]) -> Tensor:
        return self.conv(F.interpolate(x, size=tuple(size), mode="nearest"))


class UNet(nn.Module):
    """The noise prediction network.

    ``operations`` supplies Linear, Conv2d, GroupNorm and LayerNorm (``torch.nn``, or a host's own layers that stream
    or cast their weights); ``factory`` takes ``dtype`` and ``device``.

    ``checkpointing``: while gradients are recorded, of each block only the input is kept, and the block is run again
    for the backward pass (gradient checkpointing): less memory, more work, the same result. Hooks are called twice.
    """

    checkpointing = False

    def __init__(self, config: UNetConfig, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.config = config
        width = 4 * config.model_channels
        self.time_embed = nn.Sequential(
            operations.Linear(config.model_channels, width, **factory),
            nn.SiLU(),
            operations.Linear(width, width, **factory),
        )
        if config.label_dim:
            inner = operations.Linear(config.label_dim, width, **factory), nn.SiLU()
            self.label_emb = nn.Sequential(nn.Sequential(*inner, operations.Linear(width, width, **factory)))

        def transformer(side: str, index: int, depth: int) -> list[nn.Module]:
            return [SpatialTransformer(config, Layer(side, index), depth, operations, **factory)] if depth else []

        self.input_blocks = nn.ModuleList()
        for i, b in enumerate(config.input_blocks):
            if b.kind == "conv":
                parts: list[nn.Module] = [operations.Conv2d(b.in_channels, b.out_channels, 3, padding=1, **factory)]
            elif b.kind == "down":
                parts = [Downsample(b.in_channels, b.out_channels, operations, **factory)]
            else:
                parts = [ResBlock(b.in_channels, b.out_channels, width, operations, **factory)]
            self.input_blocks.append(nn.ModuleList(parts + transformer("input", i, b.depth)))
        mid = config.middle_channels
        self.middle_block = nn.ModuleList(
            [
                ResBlock(mid, mid, width, operations, **factory),
                *transformer("middle", 0, config.middle_depth),
                ResBlock(mid, mid, width, operations, **factory),
            ]
        )
        self.output_blocks = nn.ModuleList()
        for i, b in enumerate(config.output_blocks):
            parts = [ResBlock(b.in_channels, b.out_channels, width, operations, **factory)]
            parts += transformer("output", i, b.depth)
            if b.upsample:
                parts.append(Upsample(b.out_channels, operations, **factory))
            self.output_blocks.append(nn.ModuleList(parts))
        last = config.output_blocks[-1].out_channels
        self.out = nn.Sequential(
            operations.GroupNorm(32, last, **factory),
            nn.SiLU(),
            operations.Conv2d(last, config.out_channels, 3, padding=1, **factory),
        )

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor], operations: Any = nn, dtype: Any = None) -> UNet:
        """A U-Net that holds the tensors of ``state`` (a U-Net's or a whole checkpoint's), cast to ``dtype``.

        Tensors that need no cast are shared, not copied. Raises :class:`FamilyError` for another family.
        """
        state = unet_state(state)
        net = cls(UNetConfig.from_state_dict(state), operations, device="meta")
        load(net, state, dtype)
        return net

    def forward(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        hooks: AttentionHooks = PLAIN,
        until: tuple[Layer, BlockStage] | None = None,
        label: Tensor | None = None,
    ) -> Tensor | None:
        """Predict the noise of ``x`` [batch, in_channels, h, w] at ``timesteps`` [batch] (0..999, may be fractional)
        under ``context`` [n * batch, text tokens, context_dim].

        Usually n is 1. Otherwise ``x`` stands for itself n times over, as both sides of guidance read it: what
        comes before the first cross-attention is computed once, and the result has the rows of ``context``.
        ``label`` [batch or n * batch, label_dim] is SDXL's pooled text and sizes; where it differs between the
        repetitions, nothing can be computed once. Raises FamilyError without a label that the network needs, or with
        one that it has no use for.
        With ``until`` the pass ends at that stage of that layer, after its hook was called, and returns None.
        """
        embedding = self.time_embed(timestep_embedding(timesteps, self.config.model_channels).to(x.dtype))
        if label is not None or self.config.label_dim:
            added = self._label_embedding(label, x.dtype)
            embedding = repeat_rows(embedding, len(added)) + added
            x = repeat_rows(x, len(added))
        again = self.checkpointing and torch.is_grad_enabled()
        # Nothing in a block is random: there is no random state to keep for its second run.
        call = partial(checkpoint, use_reentrant=False, preserve_rng_state=False) if again else _call

        def run(parts: Any, h: Tensor | None, size: tuple[int, ...] | None = None) -> Tensor | None:
            for part in parts:
                if h is None:
                    return None
                if isinstance(part, ResBlock):
                    h = call(part, h, repeat_rows(embedding, len(h)))
                elif isinstance(part, SpatialTransformer):
                    h = call(part, h, context, hooks, until)
                elif isinstance(part, Upsample):
                    h = call(part, h, size)
                else:
                    h = call(part, h)
            return h

        h: Tensor | None = x
        skips = []
        for parts in self.input_blocks:
            h = run(parts, h)
            if h is None:
                return None
            skips.append(h)
        h = run(self.middle_block, h)
        for parts in self.output_blocks:
            if h is None:
                return None
            h = torch.cat([h, repeat_rows(skips.pop(), len(h))], dim=1)
            # The size to upsample to is the next skip's, so that odd latent sizes come out right.
            h = run(parts, h, skips[-1].shape[2:] if skips else None)
        return None if h is None else self.out(h)

    def _label_embedding(self, label: Tensor | None, dtype: torch.dtype) -> Tensor:
        width = self.config.label_dim
        if label is None or label.shape[-1:] != (width,):
            came = "none came" if label is None else f"{tuple(label.shape)} came"
            wanted = f"{width} numbers of pooled text and sizes" if width else "no pooled text and sizes"
            raise FamilyError(f"this U-Net reads {wanted} beside the prompt; {came}")
        return self.label_emb(label.to(dtype))

    def block(self, layer: Layer) -> TransformerBlock:
        """The transformer block at an address."""
        parts: Any = self.middle_block if layer.side == "middle" else getattr(self, f"{layer.side}_blocks")[layer.block]
        blocks: Any = next(p for p in parts if isinstance(p, SpatialTransformer)).transformer_blocks
        return blocks[layer.depth]


def _call(part: nn.Module, *arguments: Any) -> Any:
    return part(*arguments)


def repeat_rows(x: Tensor, rows: int) -> Tensor:
    """``x`` repeated as a whole to a multiple of its rows; the same tensor if it has them."""
    if len(x) == rows:
        return x
    if rows % len(x):
        raise ValueError(f"{len(x)} rows cannot be repeated to {rows}")
    return x.repeat(rows // len(x), *[1] * (x.ndim - 1))


def timestep_embedding(timesteps: Tensor, dim: int) -> Tensor:
    """Sinusoidal embedding [batch, dim] in float32, cosines first, wavelengths up to 10000 (as in the original)."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, device=timesteps.device, dtype=torch.float32) / half)
    angles = timesteps.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)


def load(module: nn.Module, state: Mapping[str, Tensor], dtype: Any = None) -> None:
    """Give a module built on the meta device its tensors, cast to ``dtype``, without a second copy in memory.

    Keys that the module lacks are ignored; a missing or misshapen one raises :class:`FamilyError`.
    """
    wanted = module.state_dict()
    missing = [k for k in wanted if k not in state]
    if missing:
        raise FamilyError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    for k, v in wanted.items():
        if v.shape != state[k].shape:
            raise FamilyError(f"{k} has the shape {tuple(state[k].shape)}, expected {tuple(v.shape)}")
    module.load_state_dict({k: state[k].to(dtype or state[k].dtype) for k in wanted}, assign=True)
