"""A CLIP_VISION of the host (CLIP, SigLIP, DINOv2, DINOv3) as the vision model whose patches Eq. 1 compares."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
from comfy.clip_vision import ClipVisionModel
from torch import Tensor

from ...p3s.errors import MaskError
from ...p3s.reference.framing import CLIP_MEAN
from ...p3s.reference.layer_states import has_layers, layer_states
from ...p3s.reference.masks import FEATURES
from ...p3s.reference.vision import Encode, PatchVision
from ...p3s.reference.vision_models import patch_side
from .encoders import clip_encoder, clip_encoder_in_place, clip_image_size, last_hidden_state


def patch_vision(clip_vision: Any, encode: Encode | None = None) -> PatchVision:
    """For a run: the model is loaded to where it computes.

    ``encode``: how its last hidden state is computed; by default as for ``last_hidden_state``. Models of other classes
    than the host's have that state alone, unless they offer ``layer_states(picture, names)``, whose names are listed as
    ``features``. Raises MaskError for models whose pictures have no fixed size.
    """

    def computed(picture: Tensor) -> Tensor:
        comfy.model_management.load_model_gpu(clip_vision.patcher)
        return last_hidden_state(clip_vision, picture)

    own = type(clip_vision) is ClipVisionModel
    return _vision(clip_vision, encode or (computed if own else clip_encoder(clip_vision)))


def patch_vision_in_place(clip_vision: Any) -> PatchVision | None:
    """The same with the weights where they lie, or None where that cannot be, as ``clip_encoder_in_place``."""
    encode = clip_encoder_in_place(clip_vision)
    return encode and _vision(clip_vision, encode)


def _vision(clip_vision: Any, last: Encode) -> PatchVision:
    size = clip_image_size(clip_vision)
    if size < 1:
        raise MaskError(
            "This vision model takes pictures of any shape (SigLIP 2 NaFlex), but one with pictures of a fixed, square "
            "size is expected, such as DINOv2, SigLIP 384 or CLIP ViT-L/14."
        )
    offered: Callable[..., dict[str, Tensor]] | None = getattr(clip_vision, "layer_states", None)
    if offered is not None:
        return PatchVision(offered, size, features=tuple(clip_vision.features), name=_name(clip_vision))
    mean = tuple(getattr(clip_vision, "image_mean", CLIP_MEAN))
    if type(clip_vision) is not ClipVisionModel:
        return PatchVision(
            lambda picture, _: {"last": last(picture)}, size, None, mean, ("last",), name=_name(clip_vision)
        )
    model = clip_vision.model

    def encode(picture: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        return layer_states(model, lambda: last(picture), names)

    features = FEATURES if has_layers(model) else ("last",)
    return PatchVision(encode, size, patch_side(model), mean, features, _name(model))


def _name(model: Any) -> str:
    return f"vision model ({type(model).__name__})"
