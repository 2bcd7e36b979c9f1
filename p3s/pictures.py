"""Picture files: reading them upright, writing them whole."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import MaskError
from .files import write_atomic, write_new


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


def write_png(picture: Tensor, path: str | os.PathLike[str]) -> None:
    """Write [H, W, 3] or a mask [H, W], values in 0..1, over whatever is at ``path``, all or nothing."""
    write_atomic(Path(path), lambda file: _image(picture).save(file, "PNG"), overwrite=True)


def write_new_png(picture: Tensor, folder: str | os.PathLike[str], name: str) -> Path:
    """Write a picture to the first free name in ``folder`` (<name>.png, <name>_00002.png, ...) and return the path."""
    return write_new(Path(folder), name, lambda file: _image(picture).save(file, "PNG"), ".png")


def _image(picture: Tensor) -> Any:
    from PIL import Image

    return Image.fromarray((picture.detach().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy())
