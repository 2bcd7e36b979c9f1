"""The subject's own keys and values in the U-Net's cross-attention, and which tensor of a file belongs to which."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import FamilyError
from ..network.unet_config import Layer, UNetConfig, family_name

SIDES = ("input", "output", "middle")  # as diffusers lists a U-Net's attention: the middle last, though it runs between


def file_index(config: UNetConfig) -> dict[Layer, int]:
    """The number of each cross-attention in a file of subject layers: the only place that knows.

    A file numbers all attention of the U-Net, self- and cross-attention in turn from 0, by side in the order of
    ``SIDES``. So the j-th transformer block's cross-attention, from 0, has the number 2 j + 1.
    """
    layers = sorted(config.layers(), key=lambda layer: SIDES.index(layer.side))
    return {layer: 2 * j + 1 for j, layer in enumerate(layers)}


class KeysValues(nn.Module):
    """W_K^S and W_V^S of one layer, without bias, under the file's names."""

    def __init__(self, context: int, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.to_k_SSR = operations.Linear(context, dim, bias=False, **factory)
        self.to_v_SSR = operations.Linear(context, dim, bias=False, **factory)


class SubjectLayers(nn.Module):
    """W_K^S and W_V^S of every cross-attention of a U-Net. The keys of its state dict are the file's.

    ``operations`` and ``factory`` as of :class:`p3s.network.unet.UNet`.
    """

    def __init__(self, config: UNetConfig, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.index = file_index(config)
        for layer, number in self.index.items():
            part = KeysValues(config.context_dim, config.channels(layer), operations, **factory)
            self.add_module(str(number), part)

    @classmethod
    def from_state_dict(
        cls, state: Mapping[str, Tensor], config: UNetConfig, operations: Any = nn, dtype: torch.dtype | None = None
    ) -> SubjectLayers:
        """The layers of a file for a U-Net, frozen. Tensors that need no cast are shared, not copied.

        Raises FamilyError, with both families and the widths, where they do not fit each other.
        """
        check_layers(state, config)
        # Frozen first: tensors made in inference mode, as in a host, cannot be asked for gradients.
        layers = cls(config, operations, device="meta").requires_grad_(False)
        layers.load_state_dict({key: tensor.to(dtype or tensor.dtype) for key, tensor in state.items()}, assign=True)
        return layers

    # K = c W_K^S,  V = c W_V^S
    def project(self, layer: Layer, for_keys: Tensor, for_values: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """K and V of a layer, each [batch, tokens, channels], of embeddings [batch, tokens, context_dim]; of two where
        those of the values differ."""
        part: Any = self.get_submodule(str(self.index[layer]))
        return part.to_k_SSR(for_keys), part.to_v_SSR(for_keys if for_values is None else for_values)

    # W_K^S <- W_K,  W_V^S <- W_V
    @torch.no_grad()
    def copy_from(self, base: Any) -> None:
        """Start from the keys and values that a :class:`p3s.network.unet.UNet` has for its text."""
        for layer, number in self.index.items():
            part: Any = self.get_submodule(str(number))
            part.to_k_SSR.weight.copy_(base.block(layer).attn2.to_k.weight)
            part.to_v_SSR.weight.copy_(base.block(layer).attn2.to_v.weight)


def check_layers(state: Mapping[str, Tensor], config: UNetConfig) -> None:
    """Raise FamilyError unless a file's layers are those of a U-Net of this configuration."""
    needed = [(n, config.channels(layer), config.context_dim) for layer, n in file_index(config).items()]
    numbers = sorted({int(key.split(".")[0]) for key in state})
    found = [(n, *state[f"{n}.to_k_SSR.weight"].shape) for n in numbers]
    if found != needed:
        raise FamilyError(
            f"model: this SSR-Encoder was made for a U-Net with {_widths(found)}, but the model is "
            f"{family_name(config.family)} with {_widths(needed)}. The released SSR-Encoder needs SD 1.5 or a "
            "fine-tune of it."
        )


def _widths(layers: Sequence[tuple[int, ...]]) -> str:
    """In words, from (number, width, text width) of every layer."""
    widths = sorted({width for _, width, _ in layers})
    texts = "/".join(str(text) for text in sorted({text for _, _, text in layers}))
    return f"{len(layers)} cross-attentions, {', '.join(map(str, widths))} wide, and a text width of {texts}"
