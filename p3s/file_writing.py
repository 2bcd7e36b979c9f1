"""Writing files: names that are free and safe, and writing that leaves all or nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

from .errors import SubjectFileError

SUFFIX = ".safetensors"
MAX_NAME = 120  # bytes of UTF-8, well below every file system's limit
RESERVED = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(1, 10))}


def safe_name(name: str) -> str:
    """A file name without suffix, made from what a user typed: legal on every system, never a path, never empty.

    Separators, control and reserved characters become "_"; leading and trailing dots and spaces go.
    """
    name = unicodedata.normalize("NFC", name.strip())
    if name.lower().endswith(SUFFIX):
        name = name[: -len(SUFFIX)]
    name = "".join("_" if c in '<>:"/\\|?*' or unicodedata.category(c)[0] == "C" else c for c in name).strip(". ")
    name = name.encode()[:MAX_NAME].decode(errors="ignore").rstrip(". ") or "subject"
    return f"_{name}" if name.split(".")[0].rstrip().upper() in RESERVED else name


def free_path(folder: str | os.PathLike[str], name: str, suffix: str = SUFFIX) -> Path:
    """The first path not yet taken of <name>.safetensors, <name>_00002.safetensors, ... in ``folder``."""
    stem = safe_name(name)
    path, number = Path(folder) / f"{stem}{suffix}", 1
    while os.path.lexists(path):
        number += 1
        path = path.with_name(f"{stem}_{number:05}{suffix}")
    return path


def write_atomic(path: Path, write: Callable[[BinaryIO], object], overwrite: bool = False) -> Path:
    """Make ``path`` hold everything that ``write`` writes, or leave it all as it was.

    A temporary file in the same folder is written, flushed to the disk and renamed. Folders are made as needed. Raises
    SubjectFileError when ``path`` exists and ``overwrite`` is not set, and when the disk does not take it.
    """

    def place(temporary: Path) -> Path:
        if overwrite:
            os.replace(temporary, path)
            return path
        try:
            _rename_to_new(temporary, path)
        except FileExistsError:
            raise taken from None
        return path

    taken = SubjectFileError(f"{path} already exists and was not overwritten. Choose another name.")
    if not overwrite and os.path.lexists(path):
        raise taken
    return _write(path.parent, write, place)


def write_new(folder: Path, name: str, write: Callable[[BinaryIO], object], suffix: str = SUFFIX) -> Path:
    """Like ``write_atomic``, to the first free name: never overwrites, also when several processes save at once."""

    def place(temporary: Path) -> Path:
        while True:
            path = free_path(folder, name, suffix)
            with contextlib.suppress(FileExistsError):
                _rename_to_new(temporary, path)
                return path

    return _write(folder, write, place)


def _write(folder: Path, write: Callable[[BinaryIO], object], place: Callable[[Path], Path]) -> Path:
    temporary = folder / f".p3s-{secrets.token_hex(8)}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(folder)
        with open(temporary, "xb") as file:
            _Disk(file).take(write)
            file.flush()
            os.fsync(file.fileno())
        path = place(temporary)
    except OSError as error:
        raise SubjectFileError(
            f"Could not save in {folder}: {_reason(error)}. Files that were there are unchanged, "
            "and no half-written file is left."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_folder(folder)
    return path


class _Disk:
    """A file that remembers what its disk refused: torch.save reports a full one by an exception of its own."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._refused: OSError | None = None

    def take(self, write: Callable[[Any], object]) -> None:
        """Let ``write`` write; raise the disk's own OSError, whatever it was turned into on the way."""
        try:
            write(self)
        except Exception:
            if self._refused is not None:
                raise self._refused from None
            raise

    def write(self, data: Any) -> int:
        try:
            return self._file.write(data)
        except OSError as error:
            self._refused = self._refused or error
            raise

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _rename_to_new(temporary: Path, path: Path) -> None:
    """Rename, but raise FileExistsError rather than replace. (``os.rename`` may replace, a hard link never does.)"""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # a file system without hard links
        if os.path.lexists(path):
            raise FileExistsError(errno.EEXIST, "exists", str(path)) from None
        os.replace(temporary, path)


def _remove_leftovers(folder: Path) -> None:
    """Remove temporary files of a process that was killed more than a day ago."""
    for old in folder.glob(".p3s-*.tmp"):
        with contextlib.suppress(OSError):
            if time.time() - old.stat().st_mtime > 24 * 3600:
                old.unlink()


def _sync_folder(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows opens no folders
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _reason(error: OSError) -> str:
    if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)):
        return "the disk is full"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "it is read-only, or writing there is not permitted"
    return error.strerror or str(error)
