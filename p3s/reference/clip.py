"""CLIP's vision tower from transformers as the ``encode`` that ``make_reference`` takes; not needed in ComfyUI."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import MaskError
from .framing import CLIP_MEAN, CLIP_STD
from .rngr import Encode


def clip_encoder(model: Any) -> Encode:
    """Wrap a vision tower so that it takes pictures as ``Frame.clip_input`` makes them.

    Args:
        model: a ``transformers.CLIPVisionModel`` (with its device and dtype, both are kept), or the name or folder of
            one to load, such as "openai/clip-vit-large-patch14".

    Returns:
        A function from [B, S, S, 3], values 0..1, to the last hidden state [B, 1 + g*g, D] without the final layer
        norm, class token first. It only normalises colours; S must be the model's own image size.

    Raises:
        ImportError: transformers is not installed and a name was given.
        MaskError: (the returned function) a picture of another size.
    """
    if isinstance(model, (str, Path)):
        model = load_clip_vision(model)
    model.train(False)
    size = model.config.image_size

    def encode(picture: Tensor) -> Tensor:
        if picture.ndim != 4 or tuple(picture.shape[1:]) != (size, size, 3):
            raise MaskError(
                f"This CLIP vision model takes pictures [B, {size}, {size}, 3], got {list(picture.shape)}. "
                f"Call make_reference with image_size={size}."
            )
        picture = picture.to(model.device, torch.float32)
        mean, std = (torch.tensor(values, device=picture.device) for values in (CLIP_MEAN, CLIP_STD))
        pixels = ((picture - mean) / std).permute(0, 3, 1, 2).to(model.dtype)
        with torch.no_grad():
            return model(pixel_values=pixels).last_hidden_state

    return encode


def load_clip_vision(name: str | Path) -> Any:
    """The ``transformers.CLIPVisionModel`` of a folder or name. Raises ImportError without transformers."""
    return load_by_name("CLIPVisionModel", name, "CLIP vision model")


def load_by_name(kind: str, name: str | Path, what: str) -> Any:
    """A model of a folder or name by transformers' class ``kind``; ``what``: what to call it in a message. Raises
    ImportError without transformers."""
    try:
        import transformers
    except ImportError as error:
        raise ImportError(
            f"Loading a {what} by name needs transformers: pip install transformers. Or pass a loaded model."
        ) from error
    with quiet(transformers):
        return getattr(transformers, kind).from_pretrained(name)


@contextmanager
def quiet(*packages: Any) -> Iterator[None]:
    """Within, transformers and diffusers report errors only: no progress bars, no list of the weights of CLIP's text
    tower, which are rightly left out where only its vision tower is wanted."""
    logs = [package.utils.logging for package in packages]
    before = [(log, log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, verbosity, bars in before:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()
