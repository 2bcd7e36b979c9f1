"""Photos of two similar subjects: a folder with a ``pairs.json``, and such a folder made of DreamBench's photos."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from p3s.errors import P3SError, PointError, shown
from p3s.image_files import read_picture, write_png
from p3s.reference.points import Point, PointSet
from p3s.reference.rngr import image_hash

from ..data import PHOTO_SUFFIXES, Case
from ..protocol import write_text

LIST = "pairs.json"
EXAMPLE = '{"photos": {"park.jpg": {"class": "dog", "a": {"points": [[0.3, 0.6]]}, "b": {"points": [[0.7, 0.6]]}}}}'
#: The subjects of a pair, in results and file names.
SIDES = ("a", "b")
#: Of a class for which a folder has no prompts; they are in both lists of DreamBench.
PROMPTS = (
    "a {0} {1} in the jungle",
    "a {0} {1} in the snow",
    "a {0} {1} on the beach",
    "a {0} {1} on a cobblestone street",
    "a {0} {1} on top of pink fabric",
)

#: Photos of DreamBench whose middle is not on the subject, or at its edge, as far as they have been looked at: twelve
#: subjects of thirty.
MISSED = {"cat": {"00", "02"}, "cat2": {"03"}, "dog3": {"00", "01", "04"}, "dog6": {"00"}}


class Twin(NamedTuple):
    """One subject of a pair: where it is clicked in the photo, and photos of it alone, which may be none."""

    name: str
    points: tuple[Point, ...]
    truth: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Pair:
    """A photo of two similar subjects of one class. ``case`` has its file name, the class and all prompts."""

    case: Case
    twins: tuple[Twin, Twin]

    @property
    def name(self) -> str:
        return self.case.name

    @property
    def photo(self) -> Path:
        return self.case.photos[0]

    def clicks(self, wanted: int) -> PointSet:
        """What selects a subject, 0 or 1: positive points on it, negative ones on the other."""
        return PointSet(self.twins[wanted].points, self.twins[1 - wanted].points)

    def facts(self) -> dict[str, Any]:
        """What its results depend on."""
        facts: dict[str, Any] = {"photo": image_hash(read_picture(self.photo)), "class": self.case.kind}
        facts["prompts"] = self.case.prompts
        for side, twin in zip(SIDES, self.twins, strict=True):
            facts[f"points on {side}"] = twin.points
            facts[f"truth of {side}"] = [image_hash(read_picture(photo)) for photo in twin.truth]
        return facts


def read_pairs(folder: Path) -> list[Pair]:
    """The pairs of a folder, in the order of its list (benchmarks/README.md has the format).

    Raises P3SError, naming file and photo, for a list that is not as described or names a picture that is not there,
    PointError for points that cannot be read, OSError for a list that cannot be opened.
    """
    file = folder / LIST
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
        photos, prompts = given.pop("photos"), given.pop("prompts", {})
        if given or not (isinstance(photos, dict) and photos and isinstance(prompts, dict)):
            raise ValueError
    except (ValueError, AttributeError, KeyError, TypeError):
        raise P3SError(f"{file}: expected JSON such as {EXAMPLE}, and perhaps prompts for each class") from None
    lists = {kind: _prompts(file, kind, texts) for kind, texts in prompts.items()}
    return [_pair(file, name, entry, lists) for name, entry in photos.items()]


def _prompts(file: Path, kind: str, texts: Any) -> tuple[str, ...]:
    try:
        if not texts or not isinstance(texts, list) or any("{1}" not in text for text in texts):
            raise ValueError
        for text in texts:
            text.format("", "")
    except (ValueError, TypeError, LookupError):
        raise P3SError(
            f'{file}: prompts of {kind}: expected a list of texts such as "a {{0}} {{1}} in the snow", with {{0}} for '
            f"the identifier and {{1}} for the class; got {shown(texts)}"
        ) from None
    return tuple(texts)


def _pair(file: Path, name: str, entry: Any, prompts: Mapping[str, tuple[str, ...]]) -> Pair:
    where = f"{file}: {name}"
    if Path(name).name != name or Path(name).suffix.lower() not in PHOTO_SUFFIXES:
        raise P3SError(f"{where}: expected the name of a {', '.join(sorted(PHOTO_SUFFIXES))} file in this folder")
    if not (file.parent / name).is_file():
        raise P3SError(f"{where}: there is no such photo in {file.parent}")
    if not isinstance(entry, dict) or entry.keys() != {"class", *SIDES}:
        raise P3SError(f"{where}: expected class, a and b, as in {EXAMPLE}; got {shown(entry)}")
    kind = entry["class"]
    if not isinstance(kind, str) or not kind.strip():
        raise P3SError(f"{where}: class must be a word for both subjects, such as dog; got {shown(kind)}")
    first, second = (_twin(f"{where}, {side}", file.parent, side, entry[side]) for side in SIDES)
    if bool(first.truth) != bool(second.truth):
        raise P3SError(
            f"{where}: only one subject has photos of its own (truth). Give some for both, or for neither: then crops "
            "of this photo are the truth"
        )
    case = Case(name, kind.strip(), (file.parent / name,), prompts.get(kind, PROMPTS))
    return Pair(case, (first, second))


def _twin(where: str, folder: Path, side: str, entry: Any) -> Twin:
    if not isinstance(entry, dict) or not {"points"} <= entry.keys() <= {"points", "truth", "name"}:
        raise P3SError(f"{where}: expected points, and perhaps truth and name; got {shown(entry)}")
    try:
        points = PointSet(entry["points"]).require_positive().positive
    except PointError as error:
        raise PointError(f"{where}: {error}") from None
    name, truth = entry.get("name", side), entry.get("truth", [])
    if not isinstance(name, str) or not isinstance(truth, list) or not all(isinstance(file, str) for file in truth):
        raise P3SError(f"{where}: name must be a text and truth a list of files; got {shown(entry)}")
    files = tuple(folder / file for file in truth)
    if absent := [str(path) for path in files if not path.is_file()]:
        raise P3SError(f"{where}: truth: there is no file {absent[0]}")
    return Twin(name, points, files)


class Twosome(NamedTuple):
    """Two DreamBench subjects of one class, and the photo of each that goes into the picture, by its number."""

    left: Case
    right: Case
    photos: tuple[int, int]

    @property
    def name(self) -> str:
        return f"{self.left.name}-{self.right.name}.png"


def twosomes(cases: Sequence[Case]) -> list[Twosome]:
    """Every two subjects of one class, in the order of the data set. Which stands on the left, and which of their
    photos are taken (none of ``MISSED``), follow from a checksum of their names: they do not depend on what else is
    there.

    Raises P3SError where there are none.
    """
    found = []
    for one, other in combinations(cases, 2):
        if one.kind != other.kind:
            continue
        number = zlib.crc32(f"{one.name} {other.name}".encode())
        left, right = (one, other) if number % 2 else (other, one)
        found.append(Twosome(left, right, (_chosen(left, number // 2), _chosen(right, number // 2))))
    if not found:
        raise P3SError(f"no two of the subjects {', '.join(case.name for case in cases)} are of one class")
    return found


def _chosen(case: Case, number: int) -> int:
    """The number of a photo that has its subject in the middle."""
    missed = MISSED.get(case.name, set())
    fit = [n for n, photo in enumerate(case.photos) if photo.stem not in missed] or range(len(case.photos))
    return fit[number % len(fit)]


def write_twosomes(chosen: Sequence[Twosome], folder: Path) -> None:
    """Write DreamBench's twosomes as a folder of pairs: their photos side by side, a point in the middle of each, and
    all other photos of a subject as the truth."""
    photos, prompts = {}, {}
    for two in chosen:
        pictures = [read_picture(c.photos[n]) for c, n in zip((two.left, two.right), two.photos, strict=True)]
        picture, points = side_by_side(*pictures)
        write_png(picture, folder / two.name)
        prompts[two.left.kind] = list(two.left.prompts)
        entry: dict[str, Any] = {"class": two.left.kind}
        for side, case, number, point in zip(SIDES, (two.left, two.right), two.photos, points, strict=True):
            truth = [str(photo.resolve()) for n, photo in enumerate(case.photos) if n != number]
            entry[side] = {"name": case.name, "points": [point], "truth": truth}
        photos[two.name] = entry
    write_text(folder / LIST, json.dumps({"prompts": prompts, "photos": photos}, indent=1))


def side_by_side(left: Tensor, right: Tensor) -> tuple[Tensor, tuple[Point, Point]]:
    """Two pictures [H, W, 3] next to each other, uncropped, the taller one scaled down to the other's height; and the
    middle of each, x and y in 0..1 of the whole."""
    height = min(len(left), len(right))
    parts = [_scaled(picture, height) for picture in (left, right)]
    widths = [part.shape[1] for part in parts]
    whole = torch.cat(parts, 1)
    return whole, ((widths[0] / 2 / sum(widths), 0.5), ((widths[0] + widths[1] / 2) / sum(widths), 0.5))


def _scaled(picture: Tensor, height: int) -> Tensor:
    if len(picture) == height:
        return picture
    size = (height, max(1, round(picture.shape[1] * height / len(picture))))
    scaled = functional.interpolate(picture.movedim(-1, 0)[None], size, mode="bicubic", antialias=True)
    return scaled[0].movedim(0, -1).clamp(0, 1)
