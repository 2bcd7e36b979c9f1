"""The state of an SSR-Encoder's training: the only place that knows its file's format, and where both files lie.

A state is a safetensors file, which cannot run code: the tensors ``weights.NAME``, ``mean.NAME`` and ``square.NAME``
(AdamW's moments), all float32, and the metadata ``format`` = "ssr-training", ``format_version``, ``state`` (the facts
and the number of steps, as JSON) and ``crc32`` of that and of all tensors.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile, gettempdir

from torch import Tensor

from ..errors import DamagedStateError, P3SError, TrainingError
from ..file_writing import SUFFIX, write_atomic
from ..safetensors_format import as_bytes, check_entries, read_header, write_safetensors
from .file import SSRModel, save_ssr

FORMAT, FORMAT_VERSION = "ssr-training", 1
STATE_SUFFIX = ".state"


@dataclass(frozen=True, eq=False)
class State:
    """A training after ``step`` steps: what its result depends on, by names that users know; weights and AdamW's
    moments by the names of the parameters, no moments before the first step."""

    facts: Mapping[str, str]
    step: int
    weights: Mapping[str, Tensor]
    moments: Mapping[str, tuple[Tensor, Tensor]]

    def check(self, facts: Mapping[str, str]) -> None:
        """Raise TrainingError, naming what differs, unless these are the facts of the training to continue."""
        differing = [
            f"{name} was {self.facts.get(name, 'absent')}, and is {facts.get(name, 'absent')} now"
            for name in {**facts, **self.facts}
            if self.facts.get(name) != facts.get(name)
        ]
        if differing:
            raise TrainingError(
                f"the training that was begun there is another: {'; '.join(differing)}. Give the same again, or "
                "choose another name for the new model"
            )


def save_state(state: State, path: Path) -> Path:
    """Write a state, all or nothing. Raises SubjectFileError when the disk does not take it; one that was there before
    is then unchanged."""
    tensors = {f"weights.{name}": tensor for name, tensor in state.weights.items()}
    for name, (mean, square) in state.moments.items():
        tensors |= {f"mean.{name}": mean, f"square.{name}": square}
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"facts": dict(state.facts), "step": state.step}, sort_keys=True)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "state": text,
        "crc32": str(_crc(text, tensors)),
    }
    return write_atomic(path, lambda file: write_safetensors(file, tensors, metadata), overwrite=True)


def load_state(path: Path) -> State:
    """Read a state; tensors are on the CPU. Raises DamagedStateError, naming the file, for anything else."""
    from safetensors import SafetensorError, safe_open

    try:
        metadata, entries, size = read_header(path)
        if (metadata.get("format"), metadata.get("format_version")) != (FORMAT, str(FORMAT_VERSION)):
            raise ValueError("another kind of file, or another version's")
        check_entries(entries, size)
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in entries}
        if metadata["crc32"] != str(_crc(metadata["state"], tensors)):
            raise ValueError("does not match its checksum")
        content = json.loads(metadata["state"])
        weights = {name[8:]: tensor for name, tensor in tensors.items() if name.startswith("weights.")}
        moments = {name: (tensors[f"mean.{name}"], tensors[f"square.{name}"]) for name in weights if content["step"]}
        return State(content["facts"], content["step"], weights, moments)
    except (ValueError, KeyError, TypeError, SafetensorError) as error:
        raise DamagedStateError(
            f"{path} is damaged, or not the state of an SSR-Encoder's training ({error}). Remove it to start over, or "
            "choose another name for the new model"
        ) from None


def _crc(text: str, tensors: Mapping[str, Tensor]) -> int:
    crc = zlib.crc32(text.encode())
    for name, tensor in sorted(tensors.items()):
        crc = zlib.crc32(as_bytes(tensor), zlib.crc32(name.encode(), crc))
    return crc


class Keeper:
    """Where a training is kept: the model in ``model``, and beside it the state, from which it is continued. What
    cannot be written on the way never ends the training; ``warn`` is told.

    Raises TrainingError for a name that is no model's.
    """

    def __init__(self, model: Path, warn: Callable[[str], object]) -> None:
        if model.suffix.lower() != SUFFIX:
            raise TrainingError(f"{model}: the model is a safetensors file; end its name in {SUFFIX}")
        self.model, self.path, self.warn = model, model.with_suffix(STATE_SUFFIX), warn
        self.saved = -1  # the step of the files

    def check(self) -> None:
        """Raise TrainingError where a file cannot be written, and where another model is in the way."""
        if os.path.lexists(self.model) and not os.path.lexists(self.path):
            raise TrainingError(
                f"{self.model} already exists, without {self.path.name}, from which its training could be continued. "
                "Choose another name"
            )
        for path in (self.model, self.path):
            if path.is_dir():
                raise TrainingError(f"{path} is a folder. Choose another name")
        try:
            self.model.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=self.model.parent):
                pass
        except OSError as error:
            raise TrainingError(
                f"{self.model.parent}: nothing can be written there ({error.strerror or error})"
            ) from None

    def check_room(self, parameters: int) -> None:
        """Raise TrainingError where the disk has no room for the files of a training of so many parameters."""
        # The model, the state with both moments, and another state while one is replaced.
        copies = 3 if self.path.exists() and self.model.exists() else 1 + 3 + 3
        needed, free = 4 * parameters * copies, shutil.disk_usage(self.model.parent).free
        if free < needed:
            raise TrainingError(
                f"{self.model.parent}: model and state take {needed / 2**20:,.0f} MiB more, and the disk has "
                f"{free / 2**20:,.0f} MiB free"
            )

    def load(self) -> State | None:
        """The state to continue from, None where there is none. Raises as :func:`load_state`."""
        try:
            return load_state(self.path) if os.path.lexists(self.path) else None
        except OSError as error:
            raise TrainingError(f"{self.path} cannot be read ({error.strerror or error})") from None

    def save(self, state: State, model: SSRModel, notes: Mapping[str, str]) -> None:
        """Write both files, or warn."""
        try:
            self._write(self.model, state, model, notes)
        except P3SError as error:
            self.warn(f"what is trained after step {state.step} could not be saved: {error}")

    def save_last(self, state: State, model: SSRModel, notes: Mapping[str, str]) -> Path:
        """Write both files, in the folder for temporary files if their own does not take them, and return the model's
        path. Raises P3SError where neither does."""
        try:
            return self._write(self.model, state, model, notes)
        except P3SError as error:
            spare = Path(gettempdir()) / self.model.name
            self.warn(f"{error} Model and state are kept in {spare.parent}: move both back to continue.")
            return self._write(spare, state, model, notes)

    def _write(self, path: Path, state: State, model: SSRModel, notes: Mapping[str, str]) -> Path:
        if self.saved != state.step or not path.exists():
            save_state(state, path.with_suffix(STATE_SUFFIX))
            save_ssr(model, path, overwrite=True, notes=notes)
            if path == self.model:
                self.saved = state.step
        return path
