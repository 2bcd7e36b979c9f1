"""Files and folders named on the command line: of one that is not there, its option and what was expected are said."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import P3SError

PICTURE = "a picture, such as a JPEG, PNG or WebP file"
SUBJECT = "a subject file, as python -m p3s train writes it"


def check_file(option: str, path: str | os.PathLike[str], of: str) -> None:
    """Raise P3SError unless ``path`` is a file. ``of``: what kind of file is expected."""
    if not is_file(path):
        problem = "this is a folder" if Path(path).is_dir() else "there is no such file"
        raise P3SError(f"{option} {path}: {problem}; expected {of}. Check the path")


def check_folder(option: str, folder: str, of: str) -> None:
    """Raise P3SError for a folder that is not there: transformers would take its name for one to download."""
    if not os.path.isdir(folder):
        raise P3SError(f"{option} {folder}: there is no such folder; expected one with the files of {of}")


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is such a file; never raises, whatever the text."""
    try:
        return os.path.isfile(path)
    except ValueError:  # such as a null character
        return False
