"""Picture files: reading them upright and without transparency, writing them whole."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import MaskError
from .file_writing import write_atomic, write_new

OVERSHOOT = 0.3  # of resampling at hard edges, at most; pictures in -1..1 or 0..255 reach further
MOST_FLOAT = 2.0  # of a picture of floating point numbers, whose white is 1


def read_picture(path: str | os.PathLike[str]) -> Tensor:
    """A picture file, turned upright as its EXIF says, as [H, W, 3] float32 in 0..1; transparent parts are white.

    Raises MaskError for a file that is not a whole picture, OSError for one that cannot be opened.
    """
    from PIL import Image, ImageOps

    with open(path, "rb") as file, readable(str(path)):
        return to_tensor(ImageOps.exif_transpose(Image.open(file)))


def read_mask(path: str | os.PathLike[str]) -> Tensor:
    """A picture file of a mask, white where it is 1 and black where 0, as [H, W] float32.

    Raises MaskError and OSError as :func:`read_picture`, and MaskError for one with transparent parts.
    """
    from PIL import Image, ImageOps

    with open(path, "rb") as file, readable(str(path)):
        picture = ImageOps.exif_transpose(Image.open(file))
        if alpha_of(picture) is not None:
            raise MaskError(
                "it has transparent parts, which could mean either side of the mask. Save it without transparency: "
                "white where the mask is, black elsewhere."
            )
        return to_tensor(picture).mean(2)


@contextmanager
def readable(name: str) -> Iterator[None]:
    """What Pillow raises for a picture file that cannot be read, as a MaskError that names it and says what to do."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except MaskError as error:
        raise MaskError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise MaskError(f"{name} is not in a picture format that can be read. Save it as JPEG, PNG or WebP.") from None
    except Image.DecompressionBombError:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 1_000_000
        raise MaskError(f"{name} has more than {most} million pixels. Make it smaller.") from None
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        if isinstance(error, OSError) and error.errno:  # the disk's, not the picture's
            raise
        raise MaskError(f"{name} is a damaged picture ({error}). Save it again, or choose another.") from None


def to_tensor(image: Any) -> Tensor:
    """A Pillow image of any mode as [H, W, 3] float32 in 0..1; see ``to_array``."""
    pixels = to_array(image)
    return torch.from_numpy(pixels.astype(np.float32) / 255 if pixels.dtype == np.uint8 else pixels)


def to_array(image: Any) -> np.ndarray:
    """A Pillow image of any mode as [H, W, 3]: uint8, or float32 in 0..1 where its own steps are finer than 8 bits.

    Transparent parts are white: the colours that a file hides there were removed on purpose. Decodes if needed.

    Raises MaskError: a picture of floating point numbers whose white is not 1.
    """
    if image.mode == "F" or image.mode.startswith("I"):  # convert("RGB") would cut them off at 255
        return np.repeat(_fine_grey(image).clip(0, 1)[..., None], 3, axis=2)
    alpha = alpha_of(image)
    if alpha is None:
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))
    white = image.convert("RGB")
    white.paste((255, 255, 255), mask=alpha.point([255 - level for level in range(256)]))
    return np.array(white)


def alpha_of(image: Any) -> Any:
    """The opacity of a Pillow image, of mode L, or None where all of it is opaque."""
    has = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if image.mode.startswith("I") or not (has or getattr(image.palette, "mode", "RGB").endswith("A")):
        return None  # I;16 can have a transparent level, but no channel to show it in
    alpha = (image if image.mode == "RGBA" else image.convert("RGBA")).getchannel("A")
    return None if alpha.getextrema()[0] == 255 else alpha


def _fine_grey(image: Any) -> np.ndarray:
    """[H, W] float32, 0..1, of 16 bits or of floating point numbers."""
    levels = np.asarray(image, dtype=np.float32)
    if image.mode == "F":
        if not np.isfinite(levels).all() or levels.max(initial=0) > MOST_FLOAT:
            raise MaskError(
                "its floating point numbers must be finite and span 0..1, but they go up to "
                f"{levels.max():g}. Save it with 8 or 16 bits a channel."
            )
        return levels
    hidden = image.info.get("transparency")  # the one level that is transparent
    return np.where(levels == hidden, 1, levels / 65535) if isinstance(hidden, int) else levels / 65535


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
        raise MaskError(f"{name} holds values that are not finite (NaN or infinity). Check what it comes from.")
    if low < -OVERSHOOT or high > 1 + OVERSHOOT:
        raise MaskError(
            f"{name} must hold values in 0..1, but they span {low:g} to {high:g}. Check what it comes from."
        )
    return pixels.clamp(0, 1) if low < 0 or high > 1 else pixels


def _kind(value: Any) -> str:
    return f"{list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else type(value).__name__


def write_png(picture: Tensor, path: str | os.PathLike[str]) -> None:
    """Write [H, W, 3 or 4] or a mask [H, W], values in 0..1, over whatever is at ``path``, all or nothing."""
    write_atomic(Path(path), lambda file: _image(picture).save(file, "PNG"), overwrite=True)


def write_new_png(picture: Tensor, folder: str | os.PathLike[str], name: str) -> Path:
    """Write a picture to the first free name in ``folder`` (<name>.png, <name>_00002.png, ...) and return the path."""
    return write_new(Path(folder), name, lambda file: _image(picture).save(file, "PNG"), ".png")


def _image(picture: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((picture.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy())
