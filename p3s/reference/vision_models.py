"""Vision models of transformers as the :class:`.vision.PatchVision` of Eq. 1; not needed in ComfyUI."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import MaskError
from .clip import load_by_name
from .framing import CLIP_MEAN, CLIP_STD
from .layer_states import has_layers, layer_states
from .masks import FEATURES
from .vision import PatchVision

Colours = tuple[tuple[float, ...], tuple[float, ...]]  # mean, deviation

IMAGENET: Colours = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
#: By the first letters of ``config.model_type``, for folders without a preprocessor's file.
COLOURS: dict[str, Colours] = {
    "clip": (CLIP_MEAN, CLIP_STD),
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "dino": IMAGENET,
}


def patch_vision(model: Any) -> PatchVision:
    """A vision model of transformers, to compare patches with.

    Args:
        model: a ``CLIPVisionModel``, ``SiglipVisionModel``, ``Dinov2Model`` or ``Dinov2WithRegistersModel`` (with its
            device and dtype, both are kept), or the name or folder of one, or of a model that holds one.

    Raises:
        ImportError: transformers is not installed and a name was given.
        MaskError: a model whose pictures have no fixed, square size, or whose normalisation is not known.
    """
    colours = None
    if isinstance(model, (str, Path)):
        colours = _stored_colours(model)
        model = load_by_name("AutoModel", model, "vision model")
    model = getattr(model, "vision_model", model)
    model.train(False)
    config = model.config
    size, kind = getattr(config, "image_size", None), type(model).__name__
    if not isinstance(size, int) or size < 1:
        raise MaskError(f"A vision model for square pictures of a fixed size is expected, but {kind} takes {size}.")
    mean, std = colours or _usual_colours(config.model_type)

    def encode(pictures: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        if pictures.ndim != 4 or tuple(pictures.shape[1:]) != (size, size, 3):
            raise MaskError(f"This vision model takes pictures [B, {size}, {size}, 3], got {list(pictures.shape)}.")
        pictures = pictures.to(model.device, torch.float32)
        low, span = (torch.tensor(values, device=pictures.device) for values in (mean, std))
        pixels = ((pictures - low) / span).permute(0, 3, 1, 2).to(model.dtype)
        with torch.no_grad():
            return layer_states(model, lambda: model(pixel_values=pixels).last_hidden_state, names)

    features = FEATURES if has_layers(model) else ("last",)
    return PatchVision(encode, size, patch_side(model), mean, features, kind)


def patch_side(model: nn.Module) -> int | None:
    """Pixels along a side of the square patches that a vision model's first convolution reads; None without one."""
    first = next((part for part in model.modules() if isinstance(part, nn.Conv2d)), None)
    square = first is not None and first.kernel_size == first.stride and len(set(first.kernel_size)) == 1
    return int(first.kernel_size[0]) if first is not None and square else None


def _stored_colours(folder: str | Path) -> Colours | None:
    """The normalisation that the model was saved with; None without a file of it."""
    path = Path(folder) / "preprocessor_config.json"
    if not path.is_file():
        return None
    stored = json.loads(path.read_text(encoding="utf-8"))
    found = tuple(tuple(float(v) for v in stored.get(name) or ()) for name in ("image_mean", "image_std"))
    return (found[0], found[1]) if all(len(values) == 3 for values in found) else None


def _usual_colours(kind: str) -> Colours:
    for start, colours in COLOURS.items():
        if kind.startswith(start):
            return colours
    raise MaskError(
        f"How a vision model of the type {kind} normalises colours is not known: put its preprocessor_config.json, "
        "with image_mean and image_std, into its folder."
    )
