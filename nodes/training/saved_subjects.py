"""Filing trained subjects: writing them where there is room, and finding the one of a training that was done before."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import folder_paths

from ...p3s.errors import SubjectFileError, TrainingError
from ...p3s.file_writing import SUFFIX, free_path, safe_name
from ...p3s.subject.file import Subject, load_info, load_subject, save_new_subject
from ...p3s.subject.info import SubjectInfo
from ...p3s.training.key import TrainingInputs, same
from ...p3s.training.state import StateHead
from ...p3s.training.state_file import load_head
from ..host import subject_folders

STATE = ".training"  # suffix of the state of an unfinished training

log = logging.getLogger("p3s")

#: What may differ between a subject wanted and one that was trained before: notes, and points or masks that give the
#: same clean reference.
NOTES = ("points", "given_masks", "identifier", "prompt", "licence")


class SavedSubject(NamedTuple):
    """A subject, the path of its file (empty if it could not be saved), and messages for the user, a line each."""

    subject: Subject
    path: str
    told: tuple[str, ...]

    def with_messages(self, *more: str) -> SavedSubject:
        return self._replace(told=(*self.told, *more))


def save(subject: Subject, name: str) -> SavedSubject:
    """Write ``subject`` to a new file called ``name`` in models/p3s, or with a number if that name is taken.

    A file that cannot be written must not cost the training: the output folder is tried next, and without any file the
    subject still leaves the node.
    """
    steps = f"{subject.info.steps} steps trained"
    problems = []
    for folder in _places():
        try:
            path = str(save_new_subject(subject, folder, name))
        except Exception as error:
            problems.append(f"{folder}: {error}")
        else:
            return SavedSubject(subject, path, (f"{steps}, saved to {path}", *problems))
    advice = "Fix that, then queue a Save P3S Subject node"
    return SavedSubject(subject, "", (f"{steps}, but NOT SAVED: {'; '.join(problems)}. {advice}",))


def trained_before(wanted: SubjectInfo, name: str) -> SavedSubject | None:
    """The subject of a finished training with the key and sketches of ``wanted``, from a file, if there is one.

    A file called ``name`` is preferred. A subject under another name or with other notes is saved again as asked for,
    without training.
    """
    for path in _files_of_training(wanted, name):
        try:
            subject = load_subject(path)
        except SubjectFileError as error:
            log.warning("Train P3S: the file of an earlier training cannot be used: %s", error)
            continue
        info = replace(subject.info, **{note: getattr(wanted, note) for note in NOTES})
        if info == subject.info and _is_called(path, name):
            told = f"Not trained again: loaded from {path} ({info.steps} steps). Turn on retrain to train it again"
            return SavedSubject(subject, str(path), (told,))
        filed = save(replace(subject, info=info), name)
        if filed.path:
            filed = filed._replace(told=(f"copied to {filed.path}", *filed.told[1:]))  # instead of "trained, saved to"
        return filed._replace(told=(f"Not trained again: the same training as {path}", *filed.told))
    return None


def state_file(inputs: TrainingInputs, name: str, resumes: bool) -> tuple[Path, tuple[str, ...]]:
    """Where the state of an unfinished training is kept, and messages for the user about states that are not used.

    It is the file of a training with this key on the same references, by whatever name, or a new one called ``name``,
    beside the subjects or else in the output folder. If there is none and the training ``resumes``, it takes over the
    state of a training whose loss was no longer finite, provided that the settings may keep it finite this time.
    """
    key = inputs.state_key()
    found = _states(f"*_{key}")
    for path in found:
        if _holds(path, lambda state: state.same_references(inputs.examples, inputs.empty_prompt)):
            return path, ()
    damaged = [path for path in found if not _holds(path, lambda state: True)]
    if damaged:
        return damaged[0], ()
    writable = [folder for folder in _places() if os.access(folder, os.W_OK)]
    path = free_path((writable or _places())[0], name, f"_{key}{STATE}")
    if not resumes:
        return path, ()
    for stopped in _states(f"*_{key[:8]}????????"):
        if _holds(stopped, lambda state: _takes_over(inputs, state)):
            try:
                return stopped.replace(stopped.with_name(path.name)), ()
            except OSError:  # a folder that is read only
                return stopped, ()
    return path, tuple(
        f"not resumed from {each}: it has other references or prompts (delete it if you do not need it)"
        for each in found
    )


def _takes_over(inputs: TrainingInputs, state: StateHead) -> bool:
    return state.may_go_on(inputs.settings) and state.same_references(inputs.examples, inputs.empty_prompt)


def _holds(path: Path, of: Callable[[StateHead], bool]) -> bool:
    """Whether a file holds a state for which ``of`` is true."""
    try:
        return of(load_head(path))
    except TrainingError:
        return False


def _states(pattern: str) -> list[Path]:
    return [path for folder in _places() for path in sorted(Path(folder).glob(pattern + STATE))]


def _places() -> tuple[str, str]:
    """The folders to write to, in the order in which they are tried."""
    return subject_folders.save_folder(), folder_paths.get_output_directory()


def _files_of_training(wanted: SubjectInfo, name: str) -> list[Path]:
    """Files of finished trainings equal to that of ``wanted``: those called ``name`` first, the newest first."""
    listed = [subject_folders.find_subject(file) for file in subject_folders.list_subjects()]
    spare = Path(_places()[1]).glob(f"*{SUFFIX}")
    found = []
    for path in {*(Path(path) for path in listed if path), *spare}:
        try:
            info = load_info(path)
            known = info.completed and info.training_key == wanted.training_key
            if known and same(info.sketches, wanted.sketches):
                found.append((_is_called(path, name), os.stat(path).st_mtime_ns, path))
        except (SubjectFileError, OSError):  # another kind of file, or a damaged one
            continue
    return [path for *_, path in sorted(found, reverse=True)]


def _is_called(path: Path, name: str) -> bool:
    return re.fullmatch(re.escape(safe_name(name)) + r"(_\d{5,})?", path.stem) is not None
