"""What may read and change the attention of a :class:`.unet.UNet`."""

from __future__ import annotations

from torch import Tensor

from .logit_bias import LogitBias
from .unet_config import Layer


class AttentionHooks:
    """What the attention layers of a U-Net read. This base class is the plain model; subjects override it.

    ``z`` is always the normalised hidden state, [batch, tokens, channels].
    """

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Inputs of W_Q, W_K and W_V of a self-attention; ``grid`` is (height, width) of the tokens."""
        return z, z, z

    def self_attention_output(self, layer: Layer, out: Tensor) -> None:
        """Called with the output of a self-attention, after its output projection."""

    def self_attention_bias(self, layer: Layer, keys: int, grid: tuple[int, int]) -> LogitBias | None:
        """Added to the logits of a self-attention; None for nothing."""
        return None

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        """Input of W_Q of a cross-attention; ``context`` [batch, text tokens, context_dim] feeds W_K and W_V."""
        return z

    def cross_attention_result(self, layer: Layer, out: Tensor, q: Tensor, heads: int, grid: tuple[int, int]) -> Tensor:
        """Input of the output projection of a cross-attention. ``out`` is softmax(Q K^T / sqrt(d)) V and ``q`` is Q,
        both [batch, tokens, channels] with the heads side by side."""
        return out


PLAIN = AttentionHooks()
