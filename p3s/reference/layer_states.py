"""States inside a vision transformer, by hooks on its modules: those of its last layers that Eq. 1 may compare.

Works with the vision models of transformers (CLIP, SigLIP, DINOv2 with and without registers) and of ComfyUI, which
name their parts alike. Nothing of a model is changed; the hooks are gone when a call returns.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

SURGERY_LAYERS = 6  # CLIP Surgery changes the last six layers of ViT-B and ViT-L

_NORMS = ("layer_norm1", "norm1")
_ATTENTIONS = ("self_attn", "attention")
_VALUES = ("v_proj", "attention.value")
_OUTPUTS = ("out_proj", "o_proj", "output.dense")
_HEADS = ("num_heads", "heads", "num_attention_heads", "attention.heads", "attention.num_attention_heads")


@dataclass(frozen=True)
class _Layer:
    """What value-value attention needs of a layer. ``scale``: DINOv2's factor of each channel; nothing for CLIP."""

    whole: nn.Module
    norm: nn.Module
    value: nn.Module
    output: nn.Module
    scale: Callable[[Tensor], Tensor]
    heads: int


def has_layers(model: nn.Module) -> bool:
    """Whether :func:`layer_states` knows the parts of a model."""
    return bool(_layers(model))


def surgery_layers(count: int) -> int:
    """How many of ``count`` layers are read with value-value attention: the last six, or half of a shallow model's."""
    return min(SURGERY_LAYERS, (count + 1) // 2)


def value_attention(values: Tensor, heads: int) -> Tensor:
    """softmax(V V^T / sqrt(d)) V of each head, for values [B, tokens, heads * d]: [B, tokens, heads * d], float32."""
    batch, count, width = values.shape
    v = values.float().view(batch, count, heads, width // heads).transpose(1, 2)
    mixed = functional.scaled_dot_product_attention(v, v, v)
    return mixed.transpose(1, 2).reshape(batch, count, width)


def layer_states(model: nn.Module, run: Callable[[], Tensor], names: Collection[str]) -> dict[str, Tensor]:
    """The named states of a vision transformer, each [B, tokens, width], from one pass.

    last          what ``run`` gives: the model's last hidden state.
    penultimate   x_(N-1): what the last of the N layers reads, without a norm.
    value-value   CLIP Surgery (Li et al. 2023, arXiv 2304.05653). Beside the model's own path x_l a second one collects
                  the attention of the last L = :func:`surgery_layers` layers with keys and queries replaced by the
                  values, and skips their feed-forward networks:
                      y_(N-L) = x_(N-L);   y_(l+1) = y_l + W_O softmax(V_l V_l^T / sqrt(d)) V_l,   V_l = W_V LN_1(x_l),
                  head by head, with the biases of W_V and W_O, and with the factors of DINOv2's LayerScale after W_O.
                  The state is y_N, without a norm.

    Args:
        model: the model, or one that holds it.
        run: calls it once.

    Raises:
        ValueError: a model whose parts have other names (:func:`has_layers`), or that computes otherwise.
    """
    layers = _layers(model)
    found: dict[str, Tensor] = {}
    values: dict[int, Tensor] = {}
    handles = []

    def keep(name: str) -> Callable[..., None]:
        # A copy: ComfyUI's layers add to their input in place.
        return lambda _module, arguments, _output: found.update({name: arguments[0].clone()})

    def mix(number: int, layer: _Layer) -> Callable[..., None]:
        def after(*_: Any) -> None:
            value = values.pop(number)
            mixed = layer.output(value_attention(value, layer.heads).to(value.dtype))
            found["value-value"] = found["value-value"] + layer.scale(mixed)

        return after

    try:
        if layers and "penultimate" in names:
            handles.append(layers[-1].norm.register_forward_hook(keep("penultimate")))
        if layers and "value-value" in names:
            chosen = layers[-surgery_layers(len(layers)) :]
            handles.append(chosen[0].norm.register_forward_hook(keep("value-value")))
            for number, layer in enumerate(chosen):
                handles.append(
                    layer.value.register_forward_hook(lambda _m, _i, out, number=number: values.update({number: out}))
                )
                handles.append(layer.whole.register_forward_hook(mix(number, layer)))
        found["last"] = run()
    finally:
        for handle in handles:
            handle.remove()
    if missing := [name for name in names if name not in found]:
        raise ValueError(f"{type(model).__name__} has no layers that give {', '.join(missing)}")
    return {name: found[name] for name in names}


def _layers(model: nn.Module) -> list[_Layer]:
    """The layers of the longest stack of transformer layers in a model; none where they are of an unknown make."""
    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    for stack in sorted(stacks, key=len, reverse=True):
        layers = [_layer(each, model) for each in stack]
        if layers and all(layers):
            return [layer for layer in layers if layer]
    return []


def _layer(whole: nn.Module, model: nn.Module) -> _Layer | None:
    norm, attention = _part(whole, _NORMS), _part(whole, _ATTENTIONS)
    if norm is None or attention is None:
        return None
    value, output = _part(attention, _VALUES), _part(attention, _OUTPUTS)
    heads = _part(attention, _HEADS) or getattr(getattr(model, "config", None), "num_attention_heads", None)
    if value is None or output is None or not isinstance(heads, int):
        return None
    return _Layer(whole, norm, value, output, getattr(whole, "layer_scale1", None) or torch.nn.Identity(), heads)


def _part(module: nn.Module, names: Collection[str]) -> Any:
    for name in names:
        try:
            return attrgetter(name)(module)
        except AttributeError:
            continue
    return None
