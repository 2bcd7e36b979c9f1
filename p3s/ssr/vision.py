"""CLIP's vision tower from transformers as the :class:`.embeds.Vision` of a query; not needed in ComfyUI."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import MaskError
from ..reference.framing import CLIP_MEAN, CLIP_STD
from .aligner import chosen_states
from .embeds import Vision


def clip_vision(model: Any, scales: int = 6) -> Vision:
    """Wrap a ``transformers.CLIPVisionModel``, with its device and dtype, for an aligner of ``scales`` scales.

    Its states raise MaskError for a picture of another size, FamilyError where ``scales`` do not divide its layers.
    """
    model.train(False)
    size = model.config.image_size

    @torch.no_grad()
    def read(pixels: Tensor) -> Tensor:
        pixels = pixels.to(model.device, model.dtype)
        hidden = model(pixel_values=pixels, output_hidden_states=True).hidden_states
        return chosen_states(torch.stack(hidden[1:], 1), scales)  # the first are the embeddings

    def states(picture: Tensor) -> Tensor:
        if picture.ndim != 4 or tuple(picture.shape[1:]) != (size, size, 3):
            raise MaskError(f"This CLIP vision model takes pictures [B, {size}, {size}, 3], got {list(picture.shape)}.")
        mean, std = (torch.tensor(values, device=picture.device) for values in (CLIP_MEAN, CLIP_STD))
        return read(((picture.float() - mean) / std).permute(0, 3, 1, 2))

    return Vision(size, states, lambda: read(torch.zeros(1, 3, size, size)))
