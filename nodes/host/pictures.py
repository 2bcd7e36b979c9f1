"""Picture files of ComfyUI's input, output and temp folders."""

from __future__ import annotations

import os
from typing import Any

import folder_paths
import node_helpers
from PIL import Image, ImageOps
from torch import Tensor

from ...p3s.errors import MaskError
from ...p3s.pictures import to_tensor


def find_picture(name: Any, follow_links: bool = True) -> str | None:
    """The path of an existing file of ComfyUI's input, output or temp folder; None for anything else, such as ../.

    ``name`` is written as the host does, "folder/name.png [output]"; without brackets it is of the input folder.
    Without ``follow_links`` a link that leads out of the folder counts as outside.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    name, folder = folder_paths.annotated_filepath(name)
    real = os.path.abspath if follow_links else os.path.realpath
    folder = real(folder or folder_paths.get_input_directory())
    path = real(os.path.join(folder, name))
    return path if path.startswith(folder + os.sep) and os.path.isfile(path) else None


def load_picture(path: str, max_pixels: int | None = None) -> Tensor:
    """A picture file's first frame, upright, as [1, H, W, 3] in 0..1.

    Raises MaskError, before anything is decoded, for more than ``max_pixels``; OSError for what is no picture.
    """
    with node_helpers.pillow(Image.open, path) as file:
        if max_pixels is not None and file.width * file.height > max_pixels:
            raise MaskError(
                f"The picture has {file.width} x {file.height} pixels; at most {max_pixels:,} are read here."
            )
        frame = node_helpers.pillow(ImageOps.exif_transpose, file)
        return to_tensor(frame)[None]
