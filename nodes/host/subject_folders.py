"""Where subject files live: ComfyUI's model folder "p3s"."""

from __future__ import annotations

import contextlib
import os
import unicodedata

import folder_paths

from ...p3s.file_writing import SUFFIX, safe_name
from .extra_paths import has_default_folder

NAME = "p3s"
EXTENSIONS = {".safetensors"}


def register() -> None:
    """Make the folder known to ComfyUI; may be called any number of times.

    ``models/p3s`` comes first and is where subjects are saved. Folders that extra_model_paths.yaml lists under "p3s"
    are searched after it, or come before it where a section says ``is_default``, as with ComfyUI's own kinds of models.
    """
    default = os.path.join(folder_paths.models_dir, NAME)
    folders = folder_paths.folder_names_and_paths.get(NAME, ([], set()))[0]
    if default not in folders:
        folders.insert(len(folders) if has_default_folder(NAME) else 0, default)
    # A folder that only the yaml names comes without extensions, which would list every kind of file.
    folder_paths.folder_names_and_paths[NAME] = (folders, EXTENSIONS)
    with contextlib.suppress(OSError):  # read-only installations: saving says so later
        os.makedirs(default, exist_ok=True)


def save_folder() -> str:
    """The folder into which subjects are saved."""
    register()
    return folder_paths.get_folder_paths(NAME)[0]


def list_subjects() -> list[str]:
    """Names of the subject files, as paths relative to their folder."""
    register()
    return folder_paths.get_filename_list(NAME)


def find_subject(name: object) -> str | None:
    """The full path of a subject file, or None if it is not in one of the folders."""
    register()
    if not isinstance(name, str) or not name or "\0" in name:
        return None
    return folder_paths.get_full_path(NAME, name)


def renamed(name: str) -> list[str]:
    """A message about a name that a file cannot have, such as one with a slash; none for other names."""
    asked = unicodedata.normalize("NFC", name.strip()).removesuffix(SUFFIX)
    return [] if safe_name(name) == asked else [f"{asked!r} is not a valid file name; saved as {safe_name(name)!r}"]


def short(text: str) -> str:
    """A text with the paths in ComfyUI's model and output folders relative to them."""
    for folder in (folder_paths.models_dir, folder_paths.get_output_directory()):
        text = text.replace(folder + os.sep, os.path.basename(folder) + os.sep)
    return text
