"""The file of a training's state: the only place that knows the format.

It is a safetensors file, which cannot run code:

- tensors ``head...`` (examples, empty prompt, losses) and ``rest...`` (weights, optimizer, random generator);
- metadata ``format`` = "p3s-training", ``format_version``, ``head`` and ``rest`` (what is no tensor, as JSON), and
  ``head_crc32``, of ``head`` and its tensors;
- last the tensors ``~crc32``, of all bytes before it, and ``~note``, how the training diverged later, if it did. The
  note is written in place, because the file has gigabytes, and therefore has a checksum of its own.

The checksums detect damage; they do not protect against forgery. (CRC-32 takes a third of the time of SHA-256.)
Version 2 was written by ``torch.save`` and is still read.
"""

from __future__ import annotations

import errno
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import torch
from torch import Tensor

from ..errors import DamagedStateError, SubjectFileError, TrainingError
from ..file_writing import write_atomic
from ..safetensors_format import TensorEntry, as_bytes, check_entries, read_header, safetensors_header
from .examples import Example
from .memory import is_out_of_memory
from .settings import TrainSettings
from .state import Divergence, StateHead, TrainState
from .step import StepReport

FORMAT = "p3s-training"
FORMAT_VERSION = 3
PARTS = {
    "head": ("inputs", "examples", "empty_prompt", "reports", "changes"),
    "rest": ("weights", "optimizer", "scaler", "generator", "queue"),
}
CRC_SIZE, NOTE_SIZE = 4, 512
TAIL = {"~crc32": CRC_SIZE, "~note": NOTE_SIZE}  # bytes; their names and type put them at the end of the file

Head = TypeVar("Head", bound=StateHead)


def save_state(state: TrainState, path: Path) -> Path:
    """Write the state to ``path``, all or nothing. Raises SubjectFileError when the disk does not take it; a state that
    was there before is then unchanged."""
    content = {name: getattr(state, name) for names in PARTS.values() for name in names}
    content["examples"] = [example.stored() for example in state.examples]
    losses = [(report.loss, report.denoising, report.consistency) for report in state.reports]
    content["reports"] = {
        "losses": torch.tensor(losses, dtype=torch.float64),
        "total": state.reports[-1].total if losses else 0,
    }
    tensors: dict[str, Tensor] = {name: torch.zeros(size, dtype=torch.uint8) for name, size in TAIL.items()}
    metadata = {"format": FORMAT, "format_version": str(FORMAT_VERSION)}
    for part, names in PARTS.items():
        apart = _take_apart({name: content[name] for name in names}, part, tensors, {})
        metadata[part] = json.dumps(apart, allow_nan=False)
    metadata["head_crc32"] = str(_head_crc(metadata["head"], tensors))
    header, order = safetensors_header(tensors, metadata)

    def write(file: BinaryIO) -> None:
        file.write(header)
        crc = zlib.crc32(header)
        for name in order[: -len(TAIL)]:
            data = _bytes(tensors[name])  # one after the other off the GPU
            file.write(data)
            crc = zlib.crc32(data, crc)
        file.write(crc.to_bytes(CRC_SIZE, "little"))
        file.write(_note(state.diverged))

    return write_atomic(path, write, overwrite=True)


def load_state(path: Path) -> TrainState:
    """Read a state that :func:`save_state` wrote; tensors are on the CPU.

    Raises, naming the file, :class:`DamagedStateError` for anything else (a changed byte is noticed), and
    :class:`TrainingError` where the disk or the memory does not give it.
    """
    return _named(path, _load)


def load_head(path: Path) -> StateHead:
    """Read a state without its large parts. Raises as :func:`load_state`, but not for damage in the rest."""
    return _named(path, _load_head)


def mark_diverged(path: Path, diverged: Divergence) -> None:
    """Record in a state file how the training diverged later. Raises P3SError when it cannot be read or
    written."""
    load_head(path)
    if _is_version_2(path):
        save_state(replace(load_state(path), diverged=diverged), path)
        return
    note = _note(diverged)
    try:
        with open(path, "r+b") as file:
            file.seek(-len(note), os.SEEK_END)
            file.write(note)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise SubjectFileError(f"{path} cannot be written: {error.strerror or error}") from error


def _named(path: Path, load: Callable[[Path], Head]) -> Head:
    try:
        head = load(path)
        _check_kinds(head)
        return head
    except TrainingError:
        raise
    except Exception as error:  # damage can make the readers of version 2 raise anything
        if is_out_of_memory(error) or (isinstance(error, OSError) and error.errno != errno.EINVAL):  # a seek to nowhere
            reason = getattr(error, "strerror", None) or error
            raise TrainingError(f"{path.name} cannot be read: {reason}. To do without it, turn resume off") from error
        raise DamagedStateError(
            f"{path.name} is damaged, or not the state of a training: start the training over"
        ) from error


def _load(path: Path) -> TrainState:
    if _is_version_2(path):
        return _load_version_2(path)
    metadata, entries, start = _header(path)
    tensors: dict[str, Tensor] = {}
    with open(path, "rb") as file:
        crc = zlib.crc32(file.read(start))
        for name, entry in sorted(entries.items(), key=lambda item: item[1].begin):
            if name not in TAIL:
                tensors[name] = _read(file, start, entry)
                crc = zlib.crc32(as_bytes(tensors[name]), crc)
        diverged = _diverged(file, crc)
    return TrainState(**_content(metadata, PARTS, tensors), diverged=diverged)


def _load_head(path: Path) -> StateHead:
    if _is_version_2(path):
        return _load_version_2(path)
    metadata, entries, start = _header(path)
    with open(path, "rb") as file:
        tensors = {name: _read(file, start, entry) for name, entry in entries.items() if _is_of("head", name)}
        diverged = _diverged(file)
    if metadata["head_crc32"] != str(_head_crc(metadata["head"], tensors)):
        raise ValueError("the head does not match its checksum")
    return StateHead(**_content(metadata, ("head",), tensors), diverged=diverged)


def _load_version_2(path: Path) -> TrainState:
    """Read what ``torch.save`` wrote: an archive whose files have checksums, which torch does not check."""
    with zipfile.ZipFile(path) as archive:
        if archive.testzip() is not None:
            raise ValueError("a part does not match its checksum")
    content = torch.load(path, map_location="cpu", weights_only=True)
    _check_version(path, content.pop("format_version"), 2)
    examples = tuple(Example.from_stored(tensors) for tensors in content.pop("examples"))
    reports = tuple(StepReport(**values) for values in content.pop("reports"))
    changes = tuple(tuple(change) for change in content.pop("changes", ()))
    diverged = content.pop("diverged")
    diverged = None if diverged is None else Divergence(**diverged)
    return TrainState(examples=examples, reports=reports, changes=changes, diverged=diverged, **content)


def _is_version_2(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(2) == b"PK"


def _header(path: Path) -> tuple[dict[str, str], dict[str, TensorEntry], int]:
    """Metadata, tensors by name, and where the bytes of the tensors begin."""
    metadata, entries, data_size = read_header(path)
    if metadata.get("format") != FORMAT:
        raise ValueError("another kind of file")
    _check_version(path, int(metadata["format_version"]), FORMAT_VERSION)
    return metadata, check_entries(entries, data_size, weights=False), path.stat().st_size - data_size


def _check_version(path: Path, found: int, known: int) -> None:
    if found != known:
        raise DamagedStateError(f"{path.name} was written by another version of P3S: start the training over")


def _read(file: BinaryIO, start: int, entry: TensorEntry) -> Tensor:
    tensor = torch.empty(entry.shape, dtype=entry.dtype)
    file.seek(start + entry.begin)
    file.readinto(as_bytes(tensor))  # type: ignore[attr-defined]
    return tensor


def _content(metadata: Mapping[str, str], parts: Iterable[str], tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The fields of a state in these parts of a file, but for ``diverged``."""
    content: dict[str, Any] = {}
    for part in parts:
        content |= _put_together(json.loads(metadata[part]), tensors)
    losses, total = content["reports"]["losses"].tolist(), content["reports"]["total"]
    content["reports"] = tuple(StepReport(step, total, *values) for step, values in enumerate(losses, 1))
    content["examples"] = tuple(Example.from_stored(tensors) for tensors in content["examples"])
    content["changes"] = tuple(tuple(change) for change in content["changes"])
    return content


def _take_apart(value: Any, name: str, tensors: dict[str, Tensor], seen: dict[int, str]) -> Any:
    """``value`` for JSON; its tensors go to ``tensors``, by names made of ``name`` and the keys that lead to them. A
    tensor that is met twice (``seen``) stays one tensor, by which views of one reference are recognised."""
    if isinstance(value, Tensor):
        if id(value) not in seen:
            seen[id(value)], tensors[name] = name, value
        return {"tensor": seen[id(value)]}
    if isinstance(value, Mapping):  # keys may be numbers
        return {"items": [[key, _take_apart(item, f"{name}.{key}", tensors, seen)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return [_take_apart(item, f"{name}.{i}", tensors, seen) for i, item in enumerate(value)]
    return value


def _put_together(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_put_together(item, tensors) for item in value]
    if isinstance(value, dict):
        if "tensor" in value:
            return tensors[value["tensor"]]
        return {key: _put_together(item, tensors) for key, item in value["items"]}
    return value


def _bytes(tensor: Tensor) -> memoryview:
    return as_bytes(tensor.detach().cpu().contiguous())


def _is_of(part: str, name: str) -> bool:
    return name.startswith(f"{part}.")


def _head_crc(text: str, tensors: Mapping[str, Tensor]) -> int:
    """The checksum of the head: its JSON, which names the tensors in it, and what these hold."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        if _is_of("head", name):
            crc = zlib.crc32(_bytes(tensors[name]), crc)
    return crc


def _note(diverged: Divergence | None) -> bytes:
    text = json.dumps(None if diverged is None else asdict(diverged)).encode().ljust(NOTE_SIZE - CRC_SIZE)
    if len(text) > NOTE_SIZE - CRC_SIZE:
        raise SubjectFileError("the note of how a training diverged is too long")
    return text + zlib.crc32(text).to_bytes(CRC_SIZE, "little")


def _diverged(file: BinaryIO, crc: int | None = None) -> Divergence | None:
    """What the tail of a file says. Raises ValueError unless its checksum is right, and that of all before is ``crc``,
    if that is known."""
    file.seek(-CRC_SIZE - NOTE_SIZE, os.SEEK_END)
    written, text, own = file.read(CRC_SIZE), file.read(NOTE_SIZE - CRC_SIZE), file.read(CRC_SIZE)
    if crc is not None and written != crc.to_bytes(CRC_SIZE, "little"):
        raise ValueError("the content does not match its checksum")
    if own != zlib.crc32(text).to_bytes(CRC_SIZE, "little"):
        raise ValueError("the note does not match its checksum")
    found = json.loads(text)
    return None if found is None else Divergence(**found)


def _check_kinds(head: StateHead) -> None:
    """Raise unless the parts of ``head`` have the types that comparisons need."""
    parts = [head.empty_prompt, *(part for example in head.examples for part in example.stored().values())]
    texts = [text for pair in head.inputs.items() for text in pair]
    if not all(isinstance(part, Tensor) for part in parts) or not all(isinstance(t, str) for t in texts):
        raise TypeError("a part of another kind")
    if head.diverged is not None:
        step, inputs = head.diverged.step, head.diverged.inputs
        if not isinstance(step, int) or not all(isinstance(inputs[name], str) for name in TrainSettings.REMEDIES):
            raise TypeError("a note of another kind")
