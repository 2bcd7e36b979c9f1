"""What is marked in a Point Picker: points and boxes of up to four subjects of one photo."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from numbers import Real
from typing import Any

from ..errors import PointError, shown
from .points import MAX_POINTS, MAX_SUBJECTS, SUBJECTS_VERSION, PointSet, Size, apart, check_size, decode, subjects_in

MAX_BOXES = MAX_POINTS  # of each subject
MAX_SEED = 64  # characters

Box = tuple[float, float, float, float]  # left, top, right, bottom; 0..1 of the photo's width and height


@dataclass(frozen=True)
class Marks:
    """One subject's own points and boxes.

    Raises:
        PointError: a box has no area or reaches out of 0..1, or there are more than MAX_BOXES.
    """

    points: PointSet = field(default_factory=PointSet)
    boxes: tuple[Box, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "boxes", _read_boxes(self.boxes))

    @property
    def is_empty(self) -> bool:
        return not (self.points.positive or self.points.negative or self.boxes)


@dataclass(frozen=True)
class Selection:
    """The subjects in the order of their tabs, 1..MAX_SUBJECTS.

    ``seed`` names the points from outside (``points_in``) which the user has changed since; with it, even an empty
    selection is the user's own.

    Raises:
        PointError: there is no subject, or there are too many.
    """

    subjects: tuple[Marks, ...] = field(default_factory=lambda: (Marks(),))
    seed: str = ""

    def __post_init__(self) -> None:
        if not 1 <= len(self.subjects) <= MAX_SUBJECTS:
            raise PointError(f"Points: there are {len(self.subjects)} subjects; expected 1 to {MAX_SUBJECTS}.")
        if not isinstance(self.seed, str) or len(self.seed) > MAX_SEED:
            raise PointError(f'Points: "seed" must be text of at most {MAX_SEED} characters, got {shown(self.seed)}.')

    @classmethod
    def parse(cls, value: Any, size: Size | None = None, frame: int = 0) -> Selection:
        """Read any of the accepted forms, strictly.

        Args:
            value: JSON text, or what it decodes to, or a PointSet:
                ``{"v": 2, "subjects": [{"positive": .., "negative": .., "boxes": [[x1, y1, x2, y2], ...]}, ...]}``,
                normalised 0..1, each list optional, and ``seed`` besides;
                every form of :meth:`PointSet.parse`, as the first subject's points;
                ``{"x": .., "y": .., "width": .., "height": ..}`` in pixels, ComfyUI's BOUNDING_BOX, or a list of
                these, or a list of such lists for the pictures of a batch, as the first subject's boxes;
                ``[[x1, y1, x2, y2], ...]`` in pixels, likewise. Boxes in pixels may reach over the picture's edges,
                as detectors give them, and are cut there.
            size: the photo's (width, height); needed for the forms in pixels.
            frame: which list is read where there is one for each picture of a batch; the last, if there are fewer.

        Raises:
            PointError: anything that is not such a value; the message names the offending part.
        """
        decoded = decode(value, "points")
        if isinstance(decoded, dict) and decoded.get("v") == SUBJECTS_VERSION and type(decoded["v"]) is int:
            return cls._from_subjects(decoded)
        boxes = _boxes_in(decoded, frame)
        if boxes is None:
            return cls((Marks(PointSet.parse(decoded, size)),))
        if size is None:
            raise PointError("Boxes in pixels need the size of the image.")
        width, height = check_size(size)
        return cls((Marks(boxes=tuple(_from_pixels(box, i, width, height) for i, box in enumerate(boxes, start=1))),))

    @classmethod
    def _from_subjects(cls, decoded: dict[str, Any]) -> Selection:
        subjects = []
        for number, (points, boxes) in enumerate(subjects_in(decoded), start=1):
            try:
                subjects.append(Marks(points, boxes))
            except PointError as error:
                raise PointError(f"Subject {number}: {error}") from None
        return cls(tuple(subjects), decoded.get("seed", ""))

    @property
    def is_untouched(self) -> bool:
        """Whether nothing is marked, and nothing from outside was taken away: then points from outside count."""
        return not self.seed and self.is_empty

    @property
    def is_empty(self) -> bool:
        return all(marks.is_empty for marks in self.subjects)

    def points_of(self, index: int) -> PointSet:
        """The points by which subject ``index``, counted from 0, is found, see :func:`~p3s.reference.points.apart`."""
        return apart([marks.points for marks in self.subjects], index)

    def boxes_in_pixels(self, width: int, height: int) -> list[list[int]]:
        """The boxes of all subjects as [x1, y1, x2, y2], edges between pixels: x2 - x1 pixels are inside."""
        width, height = check_size((width, height))

        def span(low: float, high: float, count: int) -> tuple[int, int]:
            first = min(round(low * count), count - 1)
            return first, max(round(high * count), first + 1)

        found = []
        for x1, y1, x2, y2 in chain.from_iterable(marks.boxes for marks in self.subjects):
            (left, right), (top, bottom) = span(x1, x2, width), span(y1, y2, height)
            found.append([left, top, right, bottom])
        return found

    def to_json(self) -> str:
        """The text that the editor saves: version 1, which older versions read, where it can hold everything."""
        first = self.subjects[0]
        if len(self.subjects) == 1 and not first.boxes and not self.seed:
            return first.points.to_json()
        subjects = [
            {"positive": marks.points.positive, "negative": marks.points.negative}
            | ({"boxes": marks.boxes} if marks.boxes else {})
            for marks in self.subjects
        ]
        content = {"v": SUBJECTS_VERSION, "subjects": subjects} | ({"seed": self.seed} if self.seed else {})
        return json.dumps(content, separators=(",", ":"))


def _read_boxes(boxes: Any) -> tuple[Box, ...]:
    if not isinstance(boxes, (list, tuple)):
        raise PointError(f"The boxes must be a list, got {shown(boxes)}.")
    if len(boxes) > MAX_BOXES:
        raise PointError(f"There are {len(boxes)} boxes; at most {MAX_BOXES} are allowed. Remove some.")
    return tuple(_read_box(box, number) for number, box in enumerate(boxes, start=1))


def _read_box(box: Any, number: int) -> Box:
    numbers = _numbers(box) if isinstance(box, (list, tuple)) and len(box) == 4 else None
    if numbers is None or not (0 <= numbers[0] < numbers[2] <= 1 and 0 <= numbers[1] < numbers[3] <= 1):
        raise PointError(
            f"box {number}: expected [left, top, right, bottom] in 0..1, left of right and top above bottom, "
            f"got {shown(box)}."
        )
    left, top, right, bottom = (value + 0.0 for value in numbers)  # turns -0.0 into 0.0
    return left, top, right, bottom


def _numbers(values: Sequence[Any]) -> list[float] | None:
    if not all(isinstance(value, Real) and not isinstance(value, bool) for value in values):
        return None
    try:
        return [float(value) for value in values]
    except OverflowError:
        return None


def _boxes_in(decoded: Any, frame: int) -> list[Any] | None:
    """The boxes in pixels that a value holds; None for a value that means points."""
    if isinstance(decoded, dict):
        return [decoded] if "width" in decoded and "height" in decoded else None
    if not isinstance(decoded, list) or not decoded:
        return None
    first = decoded[0]
    if isinstance(first, dict):
        return decoded if "width" in first and "height" in first else None
    if isinstance(first, (list, tuple)) and all(isinstance(each, (dict, list, tuple)) for each in first):
        chosen = decoded[min(frame, len(decoded) - 1)]  # one list for each picture of a batch
        return list(chosen) if isinstance(chosen, (list, tuple)) else [chosen]
    return decoded if isinstance(first, (list, tuple)) else None


def _from_pixels(box: Any, number: int, width: int, height: int) -> Box:
    expected = 'expected [x1, y1, x2, y2] or {"x": .., "y": .., "width": .., "height": ..} in pixels'
    is_object = isinstance(box, dict)
    values = [box.get(name) for name in ("x", "y", "width", "height")] if is_object else box
    numbers = _numbers(values) if isinstance(values, (list, tuple)) and len(values) == 4 else None
    if numbers is None:
        raise PointError(f"box {number}: {expected}, got {shown(box)}.")
    left, top, right, bottom = numbers
    if is_object:
        right, bottom = left + right, top + bottom
    inside = (max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height))
    if not (inside[0] < inside[2] and inside[1] < inside[3]):  # false for NaN, too
        raise PointError(f"box {number}: {shown(box)} covers nothing of the image of {width} x {height} pixels.")
    return inside[0] / width, inside[1] / height, inside[2] / width, inside[3] / height
