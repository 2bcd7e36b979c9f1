"""Picture files of ComfyUI's input, output and temp folders."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import folder_paths
import node_helpers
from PIL import Image, ImageOps
from torch import Tensor

from ...p3s.image_files import readable, to_tensor


def find_picture(name: Any) -> str | None:
    """The path of an existing file of ComfyUI's input, output or temp folder; None for anything else, such as ../.

    ``name`` is written as the host does, "folder/name.png [output]"; without brackets it is of the input folder. Links
    in these folders are followed, as the host's own /view does.
    """
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    name, folder = folder_paths.annotated_filepath(name)
    folder = os.path.abspath(folder or folder_paths.get_input_directory())
    path = os.path.abspath(os.path.join(folder, name))
    return path if Path(path).is_relative_to(folder) and os.path.isfile(path) else None


def load_picture(path: str) -> Tensor:
    """A picture file's first frame, upright and without transparency, as [1, H, W, 3] in 0..1.

    Raises MaskError for what cannot be read, by the file's own name.
    """

    def read(path: str) -> Tensor:
        with Image.open(path) as file:
            return to_tensor(ImageOps.exif_transpose(file))

    with readable(os.path.basename(path)):
        return node_helpers.pillow(read, path)[None]


def check_kind(path: str) -> None:
    """Raises MaskError for a file that Pillow does not know how to read. Its pixels are not looked at."""
    with readable(os.path.basename(path)), node_helpers.pillow(Image.open, path):
        pass


def readable_names(names: Iterable[str]) -> list[str]:
    """The names of files that Pillow can read, by their endings."""
    known = {suffix for suffix, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    return [name for name in names if os.path.splitext(name)[1].lower() in known]
