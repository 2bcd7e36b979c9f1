"""DreamBench's photos, classes and prompts, and the points on the photos."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from p3s.errors import P3SError, PointError
from p3s.reference.points import PointSet

LIST = "prompts_and_classes.txt"
#: The data set has two lists of prompts and does not say which classes are alive.
LIVE_CLASSES = frozenset({"cat", "dog"})
PHOTO_SUFFIXES = frozenset({".jpg", ".jpeg", ".png"})
#: Without a points file: the middle of the photo, and nothing to leave out.
CENTRE = PointSet(((0.5, 0.5),))


@dataclass(frozen=True)
class Case:
    """One subject of the data set. ``prompts`` have places for identifier and class: "a {0} {1} in the snow"."""

    name: str
    kind: str
    photos: tuple[Path, ...]
    prompts: tuple[str, ...]

    def prompt(self, number: int, identifier: str) -> str:
        """A prompt; without the identifier when that is empty."""
        return " ".join(self.prompts[number].format(identifier, self.kind).split())


def read_cases(folder: Path, names: Sequence[str] = (), prompts: int | None = None) -> tuple[list[Case], list[str]]:
    """The subjects of a DreamBench folder, in the order of its list, and the names of listed ones without photos.

    ``names``: only these; ``prompts``: only the first so many of each subject. Raises P3SError for a folder that is
    not DreamBench, OSError for a list that cannot be read.
    """
    text = (folder / LIST).read_text(encoding="utf-8")
    classes = dict(re.findall(r"^(\w+),([\w ]+?)\s*$", text, re.MULTILINE))
    classes.pop("subject_name", None)
    lists = {
        alive: re.findall(r"'([^'\n]*\{0\} \{1\}[^'\n]*)'", _section(text, heading))
        for alive, heading in ((False, "Object Prompts"), (True, "Live Subject Prompts"))
    }
    if not classes or not all(lists.values()):
        raise P3SError(f"{folder / LIST}: expected DreamBench's list of classes and of object and live subject prompts")
    if unknown := [name for name in names if name not in classes]:
        raise P3SError(f"{folder / LIST} has no subject {', '.join(unknown)}; it has {', '.join(classes)}")
    cases, missing = [], []
    for name in names or classes:
        photos = sorted(path for path in (folder / name).glob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
        if photos:
            chosen = lists[classes[name] in LIVE_CLASSES][:prompts]
            cases.append(Case(name, classes[name], tuple(photos), tuple(chosen)))
        else:
            missing.append(name)
    if not cases:
        raise P3SError(f"{folder} holds no photos of the subjects that {LIST} names")
    return cases, missing


def _section(text: str, heading: str) -> str:
    """What follows a heading line, up to the end of its list."""
    found = re.search(rf"^{heading}\s*$(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return found[1] if found else ""


def read_points(file: Path | None, cases: Sequence[Case]) -> dict[Path, PointSet]:
    """The points on every photo.

    The file is JSON: {"dog": {"00.jpg": {"positive": [[0.4, 0.5]], "negative": []}, ...}, ...}, x and y in 0..1 of
    width and height. Photos that it leaves out get ``CENTRE``; subjects that are not in this run are passed over.
    Raises P3SError for a photo that its subject does not have, PointError for points that cannot be read or a photo
    without a positive one.
    """
    points = {photo: CENTRE for case in cases for photo in case.photos}
    if file is None:
        return points
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        entries = {(name, photo): value for name, photos in given.items() for photo, value in photos.items()}
        if not all(isinstance(value, dict) for value in entries.values()):
            raise ValueError
    except (ValueError, AttributeError):
        raise P3SError(f'{file}: expected JSON such as {{"dog": {{"00.jpg": {{"positive": [[0.4, 0.5]]}}}}}}') from None
    paths = {(case.name, photo.name): photo for case in cases for photo in case.photos}
    known = {case.name for case in cases}
    for (name, photo), value in entries.items():
        if name not in known:
            continue  # of a subject that is not in this run
        if (name, photo) not in paths:
            raise P3SError(f"{file}: {name} has no photo {photo}")
        try:
            points[paths[name, photo]] = PointSet.parse({"v": 1, **value}).require_positive()
        except PointError as error:
            raise PointError(f"{file}: {name}/{photo}: {error}") from None
    return points
