"""Picture files: reading them upright and without transparency, writing them whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import MaskError
from .files import write_atomic, write_new

MOST_FLOAT = 2.0  # of a picture of floating point numbers, whose white is 1


def read_picture(path: str | os.PathLike[str]) -> Tensor:
    """A picture file, turned upright as its EXIF says, as [H, W, 3] float32 in 0..1; transparent parts are white.

    Raises MaskError for a file that is not a whole picture, OSError for one that cannot be opened.
    """
    from PIL import Image, ImageOps

    with open(path, "rb") as file, readable(str(path)):
        return to_tensor(ImageOps.exif_transpose(Image.open(file)))


@contextmanager
def readable(name: str) -> Iterator[None]:
    """What Pillow raises for a picture file that cannot be read, as a MaskError that names it and says what to do."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except MaskError as error:
        raise MaskError(f"{name}: {error}") from None
    except UnidentifiedImageError:
        raise MaskError(f"{name} is not a picture of a kind that can be read. Save it as JPEG, PNG or WebP.") from None
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

    What is transparent is white: the colours that a file hides there were removed by somebody. Decodes what is not yet.

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


def write_png(picture: Tensor, path: str | os.PathLike[str]) -> None:
    """Write [H, W, 3] or a mask [H, W], values in 0..1, over whatever is at ``path``, all or nothing."""
    write_atomic(Path(path), lambda file: _image(picture).save(file, "PNG"), overwrite=True)


def write_new_png(picture: Tensor, folder: str | os.PathLike[str], name: str) -> Path:
    """Write a picture to the first free name in ``folder`` (<name>.png, <name>_00002.png, ...) and return the path."""
    return write_new(Path(folder), name, lambda file: _image(picture).save(file, "PNG"), ".png")


def _image(picture: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((picture.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy())
