"""Filing trained subjects: writing them where there is room, and finding the one of a training that was done before."""

from __future__ import annotations

import logging
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import folder_paths

from ..p3s.errors import SubjectFileError
from ..p3s.files import SUFFIX, safe_name
from ..p3s.subject import Subject, SubjectInfo, load_info, load_subject, save_new_subject
from ..p3s.training_settings import TrainSettings
from ..p3s.training_state import may_go_on
from . import folders

STATE = ".training"  # suffix of the state of an unfinished training

log = logging.getLogger("p3s")

#: What may differ between a subject wanted and one that was trained before: notes, and points or photos that come to
#: the same clean reference.
NOTES = ("points", "image_hashes", "identifier", "prompt", "licence")


class Filed(NamedTuple):
    """A subject, the path of its file (empty if no disk took it), and what to tell the user."""

    subject: Subject
    path: str
    told: str


def save(subject: Subject, name: str) -> Filed:
    """Write ``subject`` to a new file called ``name`` in models/p3s, or with a number if that name is taken.

    A disk that does not take it must not cost the training: the output folder is tried next, and without any file the
    subject still leaves the node.
    """
    steps = f"{subject.info.steps} steps trained"
    problems = []
    for folder in _places():
        try:
            path = str(save_new_subject(subject, folder, name))
        except SubjectFileError as error:
            problems.append(f"{folder}: {error}")
        else:
            return Filed(subject, path, "; ".join([f"{steps}, saved to {path}", *problems]))
    advice = "Free some space, then queue a Save P3S Subject node."
    return Filed(subject, "", f"{steps}, but NOT SAVED: {'; '.join(problems)}. {advice}")


def trained_before(wanted: SubjectInfo, name: str) -> Filed | None:
    """The subject of a finished training with the key of ``wanted``, from a file, if there is one.

    A file called ``name`` is preferred. One with another name or other notes is written anew as asked for, which spares
    the training all the same.
    """
    for path in _files_of_training(wanted.training_key, name):
        try:
            subject = load_subject(path)
        except SubjectFileError as error:
            log.warning("Train P3S: a subject that was trained before cannot be used: %s", error)
            continue
        info = replace(subject.info, **{note: getattr(wanted, note) for note in NOTES})
        if info == subject.info and _is_called(path, name):
            told = f"Not trained again: taken from {path} ({info.steps} steps). Turn on retrain to train it anew."
            return Filed(subject, str(path), told)
        filed = save(replace(subject, info=info), name)
        return filed._replace(told=f"Not trained again: the same training as {path}; {filed.told}")
    return None


def state_file(key: str, name: str, settings: TrainSettings | None) -> Path:
    """Where the state of an unfinished training is kept: the file of the training with this key (``state_key``), by
    whatever name, or a new one called ``name``, beside the subjects or else in the output folder.

    If there is none, that of a training whose loss was no longer finite becomes it, where ``settings`` are a remedy
    (None: it is left alone).
    """
    found = _states(f"*_{key}")
    if found:
        return found[0]
    writable = [folder for folder in _places() if os.access(folder, os.W_OK)]
    path = Path((writable or _places())[0]) / f"{safe_name(name)}_{key}{STATE}"
    for stopped in _states(f"*_{key[:8]}????????"):
        if settings is not None and may_go_on(stopped, settings):
            try:
                path = stopped.replace(stopped.with_name(path.name))
            except OSError:  # a folder that is read only
                path = stopped
            break
    return path


def _states(pattern: str) -> list[Path]:
    return [path for folder in _places() for path in sorted(Path(folder).glob(pattern + STATE))]


def _places() -> tuple[str, str]:
    """The folders that subjects are written to, the first that takes it."""
    return folders.save_folder(), folder_paths.get_output_directory()


def _files_of_training(key: str, name: str) -> list[Path]:
    """Files of finished trainings with this key: those called ``name`` first, the newest first."""
    listed = [folders.find_subject(file) for file in folders.list_subjects()]
    spare = Path(_places()[1]).glob(f"*{SUFFIX}")
    found = []
    for path in {*(Path(path) for path in listed if path), *spare}:
        try:
            info = load_info(path)
            if info.completed and info.training_key == key:
                found.append((_is_called(path, name), os.stat(path).st_mtime_ns, path))
        except (SubjectFileError, OSError):  # another kind of file, or a damaged one
            continue
    return [path for *_, path in sorted(found, reverse=True)]


def _is_called(path: Path, name: str) -> bool:
    return re.fullmatch(re.escape(safe_name(name)) + r"(_\d{5,})?", path.stem) is not None
