"""What is known about a subject apart from its tensors, and its JSON form in a subject file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from typing import Any

from .. import __version__
from ..errors import SubjectFileError, shown
from ..settings import Setting

#: What people write into a file.
NOTES = ("identifier", "prompt", "licence")
IDENTIFIER = Setting("", "Stored in the file: the rare word that stands for the subject in prompts.")
LICENCE = Setting("", "Stored in the file: what others may do with this subject.")
LONGEST_NOTE = 2**16  # characters; a header holds some of them twice, and each may take 12 bytes there
#: Fields that older files of this format version lack; for those they are empty.
LATER: dict[str, type] = {"training_key": str, "sketches": dict, "loss_map": dict, "given_masks": list}
#: Of these, what a file without it also lacks today, so that its bytes stay what they were.
LEFT_OUT_IF_EMPTY = ("given_masks",)


@dataclass(frozen=True)
class SubjectInfo:
    """What is known about a subject apart from its tensors. Dictionaries hold JSON values only.

    family: of the base, such as "SD1.x". base_fingerprint: ``fingerprint`` of the base's U-Net. copy_settings,
    train_settings: as their dataclasses give them. points: one PointSet JSON text a reference. image_hashes: one a
    reference, of the original photo. steps: trained so far. completed: whether training reached its end. identifier:
    the rare token of the prompt. prompt: the training prompt. licence: a note by the author. prediction: "eps" or "v".
    training_key, sketches: of the training (``TrainingInputs``), empty if they are not known. loss_map: the losses over
    time, see ``loss_map``. given_masks: of each reference, which of its masks were given and not made from points
    (``Reference.given_masks``); empty where none was. extra: metadata of the same format version that this P3S does not
    know.
    """

    family: str
    base_fingerprint: str
    copy_settings: dict[str, Any]
    train_settings: dict[str, Any]
    points: tuple[str, ...]
    image_hashes: tuple[str, ...]
    steps: int
    completed: bool
    identifier: str
    prompt: str
    licence: str = ""
    prediction: str = "eps"
    created_by: str = f"p3s {__version__}"
    training_key: str = ""
    sketches: dict[str, list[list[float]]] = field(default_factory=dict)
    loss_map: dict[str, list[float]] = field(default_factory=dict)
    given_masks: tuple[tuple[str, ...], ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


def info_to_json(info: SubjectInfo) -> str:
    """JSON text. Raises SubjectFileError, naming what is wrong, for an info that a file cannot hold."""
    for name in NOTES:
        _check_note(name, getattr(info, name))
    values = {f.name: getattr(info, f.name) for f in fields(info) if f.name != "extra"}
    values = {name: value for name, value in values.items() if value or name not in LEFT_OUT_IF_EMPTY}
    try:
        text = json.dumps({**info.extra, **values}, ensure_ascii=False, allow_nan=False, sort_keys=True)
        text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise SubjectFileError(f"the subject's settings cannot be written as JSON ({error})") from error
    info_from_json(text)  # refuse to write what would not load
    return text


def check_info(info: SubjectInfo) -> None:
    """Raise SubjectFileError for an info that a file cannot hold: to be asked before a training, not after it."""
    info_to_json(info)


def _check_note(name: str, note: Any) -> None:
    if not isinstance(note, str):
        raise SubjectFileError(f"{name} must be text; got {shown(note)}")
    if len(note) > LONGEST_NOTE:
        raise SubjectFileError(
            f"{name} has {len(note)} characters; a subject file holds at most {LONGEST_NOTE}: shorten it"
        )
    try:
        note.encode()
    except UnicodeEncodeError:
        raise SubjectFileError(f"{name} must be text that a file can hold: type it again; got {shown(note)}") from None


def info_from_json(text: str) -> SubjectInfo:
    """The info of a JSON text. Raises SubjectFileError, naming the field that is wrong."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise SubjectFileError("the metadata of the subject is not valid JSON") from None
    if not isinstance(data, dict):
        raise SubjectFileError("the metadata of the subject is not a JSON object")
    kinds: dict[str, type] = {
        "family": str,
        "base_fingerprint": str,
        "copy_settings": dict,
        "train_settings": dict,
        "points": list,
        "image_hashes": list,
        "steps": int,
        "completed": bool,
        "identifier": str,
        "prompt": str,
        "licence": str,
        "prediction": str,
        "created_by": str,
    }
    missing = [name for name in kinds if name not in data]
    if missing:
        raise SubjectFileError(f"the metadata of the subject lacks {', '.join(missing)}")
    values: dict[str, Any] = {}
    for name, kind in (kinds | LATER).items():
        values[name] = data.pop(name) if name in data else kind()
        if type(values[name]) is not kind:
            raise SubjectFileError(f"the metadata field {name!r} is not of type {kind.__name__}")
    for name in ("points", "image_hashes"):
        if not all(isinstance(item, str) for item in values[name]):
            raise SubjectFileError(f"the metadata field {name!r} is not a list of texts")
        values[name] = tuple(values[name])
    values["given_masks"] = _given_masks(values["given_masks"], len(values["points"]))
    if values["steps"] < 0 or values["prediction"] not in ("eps", "v"):
        raise SubjectFileError("the metadata field 'steps' is negative, or 'prediction' is neither eps nor v")
    _check_loss_map(values["loss_map"])
    _check_sketches(values["sketches"])
    return SubjectInfo(**values, extra=data)


def _given_masks(given: list[Any], references: int) -> tuple[tuple[str, ...], ...]:
    names = all(isinstance(each, list) and all(isinstance(name, str) for name in each) for each in given)
    if not names or (given and len(given) != references):
        raise SubjectFileError("the metadata field 'given_masks' does not hold lists of names, one for each reference")
    return tuple(map(tuple, given))


def _check_loss_map(losses: dict[str, Any]) -> None:
    numbers = all(
        isinstance(values, list) and all(type(value) in (int, float) for value in values) for values in losses.values()
    )
    if not numbers or len({len(values) for values in losses.values()}) > 1:
        raise SubjectFileError("the metadata field 'loss_map' does not hold lists of numbers, one for each step")


def _check_sketches(sketches: dict[str, Any]) -> None:
    rows = [row for rows in sketches.values() for row in (rows if isinstance(rows, list) else [None])]
    if not all(isinstance(row, list) and all(type(value) in (int, float) for value in row) for row in rows):
        raise SubjectFileError("the metadata field 'sketches' does not hold lists of lists of numbers")
