"""Folders of ComfyUI's model folder that hold kinds of files which ComfyUI itself does not know."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass

import folder_paths

from .extra_paths import has_default_folder


@dataclass(frozen=True)
class ModelFolder:
    """``models/NAME``, for files with these ``extensions``.

    It comes first. Folders that extra_model_paths.yaml lists under its name are searched after it, or come before it
    where a section says ``is_default``, as with ComfyUI's own kinds of models.
    """

    name: str
    extensions: frozenset[str]

    def register(self) -> None:
        """Make the folder known to ComfyUI; may be called any number of times."""
        default = os.path.join(folder_paths.models_dir, self.name)
        folders, known = folder_paths.folder_names_and_paths.get(self.name, ([], set()))
        if default not in folders:
            folders.insert(len(folders) if has_default_folder(self.name) else 0, default)
        # A folder that only the yaml names comes without extensions, which would list every kind of file.
        folder_paths.folder_names_and_paths[self.name] = (folders, {*known, *self.extensions})
        with contextlib.suppress(OSError):  # read-only installations: saving says so later
            os.makedirs(default, exist_ok=True)

    def first(self) -> str:
        """The folder into which files are saved."""
        self.register()
        return folder_paths.get_folder_paths(self.name)[0]

    def files(self) -> list[str]:
        """Names of the files, as paths relative to their folder."""
        self.register()
        return [name for name in folder_paths.get_filename_list(self.name) if self._fits(name)]

    def find(self, name: object) -> str | None:
        """The full path of a file, or None if it is not in one of the folders."""
        self.register()
        if not isinstance(name, str) or not name or "\0" in name:
            return None
        return folder_paths.get_full_path(self.name, name)

    def state(self, name: object) -> str:
        """What changes when the file does; empty if there is none."""
        path = self.find(name)
        if path is None:
            return ""
        found = os.stat(path)
        return f"{found.st_mtime_ns} {found.st_size}"

    def _fits(self, name: str) -> bool:
        # Another pack may keep files of other kinds in a folder of this name.
        return os.path.splitext(name)[1].lower() in self.extensions


#: What Load SSR-Encoder reads. Its name is that of ComfyUI-SSREncoder's folder, so that files are there already.
SSR = ModelFolder("ssr", frozenset((".safetensors", ".bin")))
