"""Where subject files live: ComfyUI's model folder "p3s"."""

from __future__ import annotations

import os
import unicodedata

import folder_paths

from ...p3s.file_writing import SUFFIX, safe_name
from .model_folder import ModelFolder

SUBJECTS = ModelFolder("p3s", frozenset((".safetensors",)))


def save_folder() -> str:
    """The folder into which subjects are saved."""
    return SUBJECTS.first()


def list_subjects() -> list[str]:
    """Names of the subject files, as paths relative to their folder."""
    return SUBJECTS.files()


def find_subject(name: object) -> str | None:
    """The full path of a subject file, or None if it is not in one of the folders."""
    return SUBJECTS.find(name)


def renamed(name: str) -> list[str]:
    """A message about a name that a file cannot have, such as one with a slash; none for other names."""
    asked = unicodedata.normalize("NFC", name.strip()).removesuffix(SUFFIX)
    return [] if safe_name(name) == asked else [f"{asked!r} is not a valid file name; saved as {safe_name(name)!r}"]


def short(text: str) -> str:
    """A text with the paths in ComfyUI's model and output folders relative to them."""
    for folder in (folder_paths.models_dir, folder_paths.get_output_directory()):
        text = text.replace(folder + os.sep, os.path.basename(folder) + os.sep)
    return text
