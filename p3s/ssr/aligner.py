"""From a query and a picture to the subject's embedding: token-to-patch aligner and detail-preserving encoder."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FamilyError


class Aligner(nn.Module):
    """Reads from several depths of CLIP's vision tower what a query means.

    ``query`` and ``vision`` are the widths of the query's tokens and of the vision tower, ``inner`` that of the
    attention, in ``heads`` heads; ``scales`` is how many depths are read. The defaults are the released weights'.
    ``operations`` and ``factory`` as of :class:`p3s.network.unet.UNet`.
    """

    def __init__(
        self,
        query: int = 768,
        vision: int = 1024,
        inner: int = 512,
        heads: int = 8,
        scales: int = 6,
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.heads = heads

        def linear(i: int, o: int) -> nn.Module:
            return operations.Linear(i, o, bias=False, **factory)

        self.to_q = linear(query, inner)
        self.to_k = linear(vision, inner)
        self.to_v = nn.ModuleList(linear(vision, inner) for _ in range(scales))
        self.to_out = nn.ModuleList(linear(inner, query) for _ in range(scales))
        self.norm = operations.LayerNorm(query, **factory)

    @property
    def scales(self) -> int:
        """K, how many depths of the vision tower are read."""
        return len(self.to_v)

    # A = softmax(z_q W_Q (s_K W_K)^T / sqrt(d) + b):  one map for all scales, keyed by the deepest state
    def map(self, states: Tensor, query: Tensor, bias: Tensor | None = None) -> Tensor:
        """Where every token of the query looks, [batch, heads, L, P].

        Args:
            states: the vision tower's hidden states, [batch, K, P, vision], shallow to deep, the class token first.
            query: the query's tokens z_q, [batch, L, query].
            bias: b, added to the logits, [P] or [batch, P] (:func:`p3s.ssr.query.query_bias`).
        """
        q, k = self._split(self.to_q(query)), self._split(self.to_k(states[:, -1]))
        logits = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
        if bias is not None:
            logits = logits + (bias if bias.ndim == 1 else bias[:, None, None]).to(logits)
        return logits.softmax(-1)

    # c_s = LayerNorm([A s_1 W_V1 W_O1, ..., A s_K W_VK W_OK])
    def forward(self, states: Tensor, query: Tensor, bias: Tensor | None = None) -> Tensor:
        """The subject's embedding c_s, [batch, K * L, query], all tokens of the first scale first; arguments as of
        :meth:`map`."""
        attention = self.map(states, query, bias)
        parts = []
        for state, to_v, to_out in zip(states.unbind(1), self.to_v, self.to_out, strict=True):
            parts.append(to_out((attention @ self._split(to_v(state))).transpose(1, 2).flatten(2)))
        return self.norm(torch.cat(parts, dim=1))

    def check(self, states: Tensor, query: Tensor) -> None:
        """Raise FamilyError, naming what came and what is needed, for states or a query of another width."""
        vision, text = self.to_k.in_features, self.to_q.in_features
        if states.ndim != 4 or states.shape[1] != self.scales or states.shape[-1] != vision:
            raise FamilyError(
                f"clip_vision: this SSR-Encoder reads {self.scales} states, {vision} wide"
                f"{' (CLIP ViT-L/14)' if vision == 1024 else ''}; this model gives {list(states.shape[1:])} (states, "
                "tokens, width). Load the CLIP vision model that it was trained with."
            )
        if query.ndim != 3 or query.shape[-1] != text:
            raise FamilyError(
                f"clip: this SSR-Encoder reads a query {text} wide"
                f"{' (the text encoder of SD 1.5)' if text == 768 else ''}; this text encoder gives "
                f"{list(query.shape[1:])} (tokens, width). Take the CLIP of the checkpoint that you sample with."
            )

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def chosen_states(outputs: Tensor, scales: int) -> Tensor:
    """The hidden states that an aligner of ``scales`` scales reads, [batch, scales, P, width], of the outputs of all
    layers of a vision tower, [batch, layers, P, width].

    They are evenly spaced and end with the last layer: of 24 layers, counted from 1, those of number 4, 8, ... 24.
    Raises FamilyError where the scales do not divide the layers.
    """
    layers = outputs.shape[1]
    if layers % scales:
        raise FamilyError(
            f"clip_vision: this SSR-Encoder reads {scales} evenly spaced layers (CLIP ViT-L/14 has 24), but this model "
            f"has {layers} layers, {outputs.shape[-1]} wide. Load the CLIP vision model that it was trained with."
        )
    step = layers // scales
    return outputs[:, step - 1 :: step]
