"""Picture files: reading them upright, writing them whole."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import MaskError
from .files import write_atomic, write_new

OVERSHOOT = 0.3  # of resampling at hard edges, at most; pictures in -1..1 or 0..255 reach further


def read_picture(path: str | os.PathLike[str]) -> Tensor:
    """A picture file, turned upright as its EXIF says, as [H, W, 3] float32 in 0..1.

    Raises MaskError for a file that is not a whole picture, OSError for one that cannot be opened.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    with open(path, "rb") as file:  # so that what goes wrong below is the content
        try:
            return to_tensor(ImageOps.exif_transpose(Image.open(file)))
        except UnidentifiedImageError:
            raise MaskError(f"{path} is not a picture that can be read") from None
        except (OSError, SyntaxError) as error:  # the latter from damaged PNG files
            raise MaskError(f"{path} is a damaged picture ({error})") from None


def to_tensor(image: Any) -> Tensor:
    """A Pillow image of any mode as [H, W, 3] float32 in 0..1; transparency is left out. Decodes what is not yet."""
    if image.mode.startswith("I"):  # 16 bits a pixel; convert("RGB") would cut them off at 255
        grey = np.asarray(image, dtype=np.float32) / 65535
        pixels = np.repeat(grey.clip(0, 1)[..., None], 3, axis=2)
    else:
        pixels = np.asarray(image.convert("RGB"), dtype=np.float32) / 255
    return torch.from_numpy(pixels)


def frames(pictures: Any, name: str) -> Tensor:
    """A batch of pictures [batch, h, w, channels] as [batch, h, w, 3], float32 on the CPU in 0..1.

    Its channels are grey, or grey and alpha, or red, green and blue, or these and alpha; what is transparent shows
    white. Raises MaskError, which calls it ``name``, for anything else and as :func:`in_range`.
    """
    if not isinstance(pictures, Tensor) or pictures.ndim != 4 or not 1 <= pictures.shape[-1] <= 4:
        raise MaskError(
            f"{name} must be a batch of pictures [batch, height, width, 1 to 4 channels], got {_kind(pictures)}."
        )
    pictures = in_range(pictures, name)
    colours, alpha = pictures[..., : 3 if pictures.shape[-1] > 2 else 1], pictures[..., -1:]
    if pictures.shape[-1] in (2, 4):
        colours = colours * alpha + (1 - alpha)
    return colours if colours.shape[-1] == 3 else colours.repeat(1, 1, 1, 3)


def in_range(pixels: Tensor, name: str) -> Tensor:
    """Pixels of any shape as float32 on the CPU; what resampling has overshot is cut off at 0 and 1.

    Raises MaskError, which calls them ``name``, for none at all, whole numbers, and values that are not finite or far
    from 0..1.
    """
    if not pixels.is_floating_point() or not pixels.numel():
        raise MaskError(f"{name} must hold pixels in floating point, got {_kind(pixels)}.")
    pixels = pixels.detach().to("cpu", torch.float32)
    low, high = (bound.item() for bound in pixels.aminmax())
    if not math.isfinite(low + high):
        raise MaskError(f"{name} holds values that are not finite (NaN or infinity). Check what made it.")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise MaskError(f"{name} must hold values in 0..1, but they span {low:g} to {high:g}. Check what made it.")
    return pixels.clamp(0, 1) if low < 0 or high > 1 else pixels


def _kind(value: Any) -> str:
    return f"{list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def write_png(picture: Tensor, path: str | os.PathLike[str]) -> None:
    """Write [H, W, 3] or a mask [H, W], values in 0..1, over whatever is at ``path``, all or nothing."""
    write_atomic(Path(path), lambda file: _image(picture).save(file, "PNG"), overwrite=True)


def write_new_png(picture: Tensor, folder: str | os.PathLike[str], name: str) -> Path:
    """Write a picture to the first free name in ``folder`` (<name>.png, <name>_00002.png, ...) and return the path."""
    return write_new(Path(folder), name, lambda file: _image(picture).save(file, "PNG"), ".png")


def _image(picture: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((picture.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy())
