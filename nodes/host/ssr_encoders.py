"""What an SSR-Encoder reads of the host's CLIP and CLIP_VISION: the query's tokens, and hidden states of a picture."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, NamedTuple

import comfy.model_management
import torch
from torch import Tensor

from ...p3s.errors import FamilyError, shown
from ...p3s.ssr.aligner import chosen_states
from ...p3s.ssr.embeds import Vision, kept_tokens
from .encoders import clip_image_size


class Query(NamedTuple):
    """A query as an aligner reads it: the text encoder's last hidden state, float32 [1, L, width] on the CPU, and which
    of the tokens are its words (None: none)."""

    tokens: Tensor
    words: slice | None
    warnings: tuple[str, ...] = ()


def query(clip: Any, text: str) -> Query:
    """Encode a query with the text encoder of a CLIP, up to its last layer whatever CLIP Set Last Layer says.

    CLIPs of other classes than the host's may offer ``query(text)``, which gives the tokens and the words.
    """
    if (own := getattr(clip, "query", None)) is not None:
        return Query(*own(text))
    clip = clip.clone()
    clip.clip_layer(None)
    tokens = clip.tokenize(text)
    encoded, warnings = kept_tokens(clip.encode_from_tokens_scheduled(tokens)[0][0])
    return Query(encoded.float().cpu(), words_of(tokens, encoded.shape[1]), warnings)


def words_of(tokens: Mapping[str, Any], length: int) -> slice | None:
    """The place of the words among the tokens of the host: between the first token and the end, with which a text is
    also filled up."""
    row = [entry[0] for entry in next(iter(tokens.values()))[0]]
    end = next(i for i, token in enumerate(row) if isinstance(token, int) and token == row[-1])
    return slice(1, min(end, length)) if end > 1 else None


def vision(clip_vision: Any, scales: int) -> Vision:
    """A CLIP_VISION as :func:`p3s.ssr.embeds.encode` needs it. Its states raise FamilyError for models of other kinds.

    The states of the zero picture are kept as long as the model.
    """

    def states(picture: Tensor) -> Tensor:
        return chosen_states(layer_outputs(clip_vision, picture), scales).float().cpu()

    def zeros() -> Tensor:
        try:
            kept = _zeros.setdefault(clip_vision, {})
        except TypeError:  # a model of another pack may be of a class without weak references
            kept = {}
        if scales not in kept:
            kept[scales] = states(_mean(clip_vision).expand(1, size, size, 3))
        return kept[scales]

    size = clip_image_size(clip_vision)
    return Vision(size, states, zeros)


_zeros: weakref.WeakKeyDictionary[Any, dict[int, Tensor]] = weakref.WeakKeyDictionary()


def layer_outputs(clip_vision: Any, picture: Tensor) -> Tensor:
    """The outputs of all layers, [1, layers, tokens, width], for a picture [1, S, S, 3] in 0..1 of the model's size.

    The picture is not rounded to 8 bits, as the host does it, so that padding in the mean colour is exactly zero.
    Models of other classes than the host's may offer ``layer_outputs(picture)``. Raises FamilyError for others.
    """
    if (own := getattr(clip_vision, "layer_outputs", None)) is not None:
        return own(picture)
    if not all(hasattr(clip_vision, name) for name in ("model", "patcher", "load_device", "image_mean", "image_std")):
        raise FamilyError(f"clip_vision: load CLIP ViT-L/14 with Load CLIP Vision; got {shown(clip_vision)}")
    comfy.model_management.load_model_gpu(clip_vision.patcher)
    pixels = (picture - _mean(clip_vision)) / torch.tensor(clip_vision.image_std)
    pixels = pixels.movedim(-1, 1).to(clip_vision.load_device).float()
    found = clip_vision.model(pixel_values=pixels, intermediate_output="all")[1]
    if not isinstance(found, Tensor) or found.ndim != 4:
        raise FamilyError(
            "clip_vision: this vision model does not give the outputs of its layers. Load CLIP ViT-L/14 (1024 wide, 24 "
            "layers) with Load CLIP Vision."
        )
    return found


def _mean(clip_vision: Any) -> Tensor:
    return torch.tensor(clip_vision.image_mean)
