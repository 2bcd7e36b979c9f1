"""The state of an SSR-Encoder's training: the only place that knows its file's format, and where both files lie.

A state is a safetensors file, which cannot run code: the tensors ``weights.NAME``, ``mean.NAME`` and ``square.NAME``
(AdamW's moments), all float32, and the metadata ``format`` = "ssr-training", ``format_version``, ``state`` (all other
fields of :class:`State`, as JSON) and ``crc32`` of that and of all tensors.
"""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile, mkdtemp

from torch import Tensor

from ..errors import DamagedStateError, P3SError, TrainingError
from ..file_writing import SUFFIX, write_atomic
from ..safetensors_format import as_bytes, check_entries, read_header, write_safetensors
from .file import SSRModel, save_ssr

FORMAT, FORMAT_VERSION = "ssr-training", 1
STATE_SUFFIX = ".state"
MADE, TRAINED = "made", "trained_steps"  # in a model's metadata, as JSON: how it was made, and of which step it is


@dataclass(frozen=True, eq=False)
class State:
    """A training after ``step`` steps, of ``samples`` samples in all processes. By names that users know: the ``facts``
    that its result depends on, and the ``settings`` that may change when it is continued, as they were last. Weights
    and AdamW's moments by the names of the parameters; no moments before the first step.

    Samples are numbered; the next step begins with number ``samples``, so none is repeated or left out, whatever
    numbers of samples the steps had.
    """

    facts: Mapping[str, str]
    settings: Mapping[str, str]
    step: int
    samples: int
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
                f"the training to continue was started with other settings: {'; '.join(differing)}. Use the same "
                "ones, or choose another name for the new model"
            )

    def changed(self, settings: Mapping[str, str]) -> list[str]:
        """In words, which settings differ from those of the state."""
        was = self.settings
        return [f"{name} {now} (was {was.get(name)})" for name, now in settings.items() if was.get(name) != now]


def save_state(state: State, path: Path) -> Path:
    """Write a state, all or nothing. Raises SubjectFileError when the disk does not take it; one that was there before
    is then unchanged."""
    tensors = {f"weights.{name}": tensor for name, tensor in state.weights.items()}
    for name, (mean, square) in state.moments.items():
        tensors |= {f"mean.{name}": mean, f"square.{name}": square}
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in tensors.items()}
    counts = {"step": state.step, "samples": state.samples}
    text = json.dumps({"facts": dict(state.facts), "settings": dict(state.settings), **counts}, sort_keys=True)
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
        return State(content["facts"], content["settings"], content["step"], content["samples"], weights, moments)
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


@dataclass
class _Files:
    """A model and its state, and the steps after which they were written; 0 where that is not known."""

    model: Path
    state_step: int = 0
    model_step: int = 0

    @property
    def state(self) -> Path:
        return self.model.with_suffix(STATE_SUFFIX)

    @property
    def steps(self) -> str:
        """In words: a state may be newer than its model, if the second could not be written."""
        each = ((self.state, self.state_step), (self.model, self.model_step))
        return ", ".join(f"{path.name} has {f'step {step}' if step else 'no step'}" for path, step in each)

    def write(self, state: State, model: SSRModel, made: Mapping[str, object]) -> None:
        """Write what is not yet of the state's step. Before the first step there is nothing to write."""
        if not state.step:
            return
        if self.state_step != state.step or not self.state.exists():
            save_state(state, self.state)
            self.state_step = state.step
        if self.model_step != state.step or not self.model.exists():
            content = {**made, TRAINED: state.step, "trained_samples": state.samples}
            save_ssr(model, self.model, overwrite=True, notes={MADE: json.dumps(content, sort_keys=True)})
            self.model_step = state.step


def _trained_steps(model: Path) -> int:
    """The step that a model's metadata name; 0 where there is no whole model, or no such entry."""
    try:
        metadata, entries, size = read_header(model)
        check_entries(entries, size)
        return int(json.loads(metadata[MADE])[TRAINED])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


class Keeper:
    """Where a training is kept: the model in ``model``, and beside it the state, from which it is continued. What
    cannot be written on the way never ends the training; ``warn`` gets the message.

    ``made``, of :meth:`save` and :meth:`save_last`, says how the model was made; its metadata also get the numbers of
    steps and samples. Nothing is written before the first step. Raises TrainingError for a name that is no model's.
    """

    def __init__(self, model: Path, warn: Callable[[str], object]) -> None:
        if model.suffix.lower() != SUFFIX:
            raise TrainingError(f"{model}: the model is a safetensors file; end its name in {SUFFIX}")
        self.files, self.warn = _Files(model), warn

    @property
    def steps(self) -> str:
        """Which step each file has, in words."""
        return self.files.steps

    def check(self) -> None:
        """Raise TrainingError where a file cannot be written, and where another model is in the way."""
        model, state = self.files.model, self.files.state
        if os.path.lexists(model) and not os.path.lexists(state):
            raise TrainingError(
                f"{model} already exists, without {state.name}, from which its training could be continued. Choose "
                "another name; --from can start from this model"
            )
        for path in (model, state):
            if path.is_dir():
                raise TrainingError(f"{path} is a folder. Choose another name")
        try:
            model.parent.mkdir(parents=True, exist_ok=True)
            with TemporaryFile(dir=model.parent):
                pass
        except OSError as error:
            raise TrainingError(f"{model.parent}: nothing can be written there ({error.strerror or error})") from None

    def check_room(self, parameters: int) -> None:
        """Raise TrainingError where the disk has no room for the files of a training of so many parameters."""
        # The model, the state with both moments, and another state while one is replaced.
        copies = 3 if self.files.state.exists() and self.files.model.exists() else 1 + 3 + 3
        folder = self.files.model.parent
        needed, free = 4 * parameters * copies, shutil.disk_usage(folder).free
        if free < needed:
            raise TrainingError(
                f"{folder}: model and state take {needed / 2**20:,.0f} MiB more, and the disk has "
                f"{free / 2**20:,.0f} MiB free"
            )

    def load(self) -> State | None:
        """The state to continue from, None where there is none or it is of no step. Raises as :func:`load_state`.

        The model is written again unless it says that it is of the same step: a process can be killed between the two.
        """
        path = self.files.state
        try:
            state = load_state(path) if os.path.lexists(path) else None
        except OSError as error:
            raise TrainingError(f"{path} cannot be read ({error.strerror or error})") from None
        if state is None or not state.step:
            return None
        self.files = _Files(self.files.model, state.step, _trained_steps(self.files.model))
        return state

    def save(self, state: State, model: SSRModel, made: Mapping[str, object]) -> None:
        """Write both files, or warn."""
        try:
            self.files.write(state, model, made)
        except P3SError as error:
            self.warn(f"step {state.step} could not be saved: {error} {self.steps}.")

    def save_last(self, state: State, model: SSRModel, made: Mapping[str, object]) -> Path | None:
        """Write both files, in a new temporary folder if their own does not take them, and return the model's path;
        None before the first step. Raises TrainingError where neither takes them."""
        try:
            self.files.write(state, model, made)
            return self.files.model if state.step else None
        except P3SError as error:
            problem = f"{error} {self.steps}."
        try:
            spare = _Files(Path(mkdtemp(prefix="p3s-")) / self.files.model.name)
        except OSError as error:
            raise TrainingError(f"{problem} No temporary folder can be made ({error.strerror or error})") from None
        try:
            spare.write(state, model, made)
        except P3SError as error:
            kept = f" {spare.model.parent}: {spare.steps}." if spare.state_step else ""
            with suppress(OSError):
                spare.model.parent.rmdir()  # unless it holds the state
            raise TrainingError(f"{problem} {error}{kept}") from None
        folder = spare.model.parent
        self.warn(f"{problem} Model and state of step {state.step} are in {folder}: move both back to continue.")
        return spare.model
