"""The user's clicks: positive points on the wanted subject, negative points on what should be left out."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any

from ..errors import PointError, shown
from .framing import middle_of, pixel_at

VERSION = 1
SUBJECTS_VERSION = 2  # of the text, where one subject's points are not all
MAX_SUBJECTS = 4
MAX_POINTS = 64  # of each sign
MAX_TEXT = 100_000  # characters; 2 x 64 points need less than a tenth of this

Point = tuple[float, float]
Size = tuple[int, int]

UNKNOWN: Size = (2**24, 2**24)  # stands for a size that is not known, where points are normalised

log = logging.getLogger("p3s")


@dataclass(frozen=True)
class PointSet:
    """Points (x, y), each normalised to 0..1 of the image's width and height, origin at the top left.

    An empty set is a valid value (an editor in which nobody has clicked yet). ``subject`` is its number among several
    of a Point Picker, for messages; 0 where there is one.

    Raises:
        PointError: a coordinate is not a finite number in 0..1, or a sign has more than MAX_POINTS points.
    """

    positive: tuple[Point, ...] = ()
    negative: tuple[Point, ...] = ()
    subject: int = field(default=0, compare=False, repr=False)

    def __post_init__(self) -> None:
        for sign in ("positive", "negative"):
            object.__setattr__(self, sign, _read_points(getattr(self, sign), sign, size=None))

    @classmethod
    def parse(cls, value: Any, size: Size | None = None, negative: Any = None) -> PointSet:
        """Read any of the accepted forms, strictly.

        Args:
            value: JSON text (or what it decodes to, or a PointSet), one of
                ``{"v": 1, "positive": [[x, y], ...], "negative": [...]}``: this package's form, normalised 0..1;
                ``{"v": 2, ...}``: that of several subjects (:class:`~p3s.reference.selection.Selection`), of which
                the first is meant;
                ``[{"x": .., "y": ..}, ...]``: positive points in pixels, as KJNodes' Points Editor gives them;
                ``{"positive": [{"x": .., "y": ..}], "negative": [...]}``: both signs in pixels.
                A list that is left out, and empty text, stand for no points. The forms in pixels are read as
                normalised where no coordinate is above 1 and one is a fraction, as KJNodes writes them with
                ``normalize`` on. Their negative points at exactly 0, 0 are left out, with a line in the log: KJNodes'
                older editor puts one there, which nobody clicked and nobody can delete.
            size: the image's (width, height) in pixels; needed for the forms in pixels.
            negative: the negative points as a pixel list of their own; only together with a positive pixel list.

        Raises:
            PointError: anything that is not such a value; the message names the offending point.
        """
        if isinstance(value, PointSet) and negative is None:
            return value
        decoded = decode(value, "points")
        if isinstance(decoded, dict):
            if negative is not None and decode(negative, "negative points"):
                raise PointError(
                    "Negative points can be a second text only where the first is a plain list of positive points, "
                    "but the first text already holds both signs. Give one or the other."
                )
            return cls._from_dict(decoded, size)
        if not isinstance(decoded, list):
            raise PointError(f"Points: expected a JSON object or list, got {shown(decoded)}.")
        decoded_negative = decode(negative, "negative points")
        if not isinstance(decoded_negative, list):
            raise PointError(f"Negative points: expected a JSON list, got {shown(decoded_negative)}.")
        return cls._from_pixels({"positive": decoded, "negative": decoded_negative}, size)

    @classmethod
    def _from_dict(cls, decoded: dict[str, Any], size: Size | None) -> PointSet:
        unknown = sorted(str(key) for key in decoded if key not in ("v", "positive", "negative"))
        if "v" in decoded:
            version = decoded["v"]
            if isinstance(version, bool) or not isinstance(version, int) or version < 1:
                raise PointError(
                    f'Points: "v" must be the whole number {VERSION} or {SUBJECTS_VERSION}, got {shown(version)}.'
                )
            if version > SUBJECTS_VERSION:
                raise PointError(
                    f"Points: version {shown(version)} is newer than version {SUBJECTS_VERSION}, the newest that this "
                    "version of P3S reads. Update P3S, or place the points again."
                )
            if version == SUBJECTS_VERSION:
                return apart([points for points, _ in subjects_in(decoded)], 0)
        if unknown:
            raise PointError(f'Points: unknown key {shown(unknown[0])}; known are "v", "positive" and "negative".')
        lists = {sign: decoded.get(sign, []) for sign in ("positive", "negative")}
        return cls(**lists) if "v" in decoded else cls._from_pixels(lists, size)

    @classmethod
    def _from_pixels(cls, lists: dict[str, Any], size: Size | None) -> PointSet:
        lists = {sign: _as_list(points, sign) for sign, points in lists.items()}
        size = None if size is None else check_size(size)
        unit = _are_normalised(lists)
        if not unit and size is None and any(lists.values()):
            raise PointError(
                'Points in pixels need the size of the image. (Normalised points carry a version: {"v": 1, ...}.)'
            )
        clicked = [point for point in lists["negative"] if not _is_placeholder(point)]
        if len(clicked) < len(lists["negative"]):
            log.warning(
                "Points: the negative point at 0, 0 is left out; KJNodes' older editor puts one there by itself."
            )
        pixels = size or UNKNOWN
        return cls(
            _read_points(lists["positive"], "positive", pixels, unit), _read_points(clicked, "negative", pixels, unit)
        )

    def to_json(self) -> str:
        """This package's versioned JSON form; ``parse`` gives back an equal set, to the last bit."""
        return json.dumps({"v": VERSION, "positive": self.positive, "negative": self.negative}, separators=(",", ":"))

    def to_pixels(self, width: int, height: int) -> tuple[str, str]:
        """The positive and the negative points as KJNodes-style texts of the pixels that hold them, 0..width-1 and
        0..height-1; ``parse`` reads these as the pixels' middles.

        Raises:
            PointError: the size is not two whole numbers of at least 1.
        """
        width, height = check_size((width, height))

        def text(points: tuple[Point, ...]) -> str:
            return json.dumps([{"x": pixel_at(x, width), "y": pixel_at(y, height)} for x, y in points])

        return text(self.positive), text(self.negative)

    def require_positive(self) -> PointSet:
        """Return the set itself if it has a positive point.

        Raises:
            PointError: there is none; the message says what to do.
        """
        if not self.positive and self.subject:
            raise PointError(
                f"Subject {self.subject} has no positive point. Click it (+) in tab {self.subject} of Point Picker; + "
                "below the picture adds a tab."
            )
        if not self.positive:
            raise PointError("There is no positive point. Click the subject you want to keep.")
        return self


def subjects_in(decoded: dict[str, Any]) -> list[tuple[PointSet, Any]]:
    """The subjects of a decoded text of version 2: the points of each, and its boxes, unread. Raises PointError."""
    refuse_unknown(decoded, "Points: ", "v", "subjects", "seed")
    given = decoded.get("subjects")
    if not isinstance(given, list):
        raise PointError(f'Points: "subjects" must be a list, got {shown(given)}.')
    if not 1 <= len(given) <= MAX_SUBJECTS:
        raise PointError(f"Points: there are {len(given)} subjects; expected 1 to {MAX_SUBJECTS}.")
    found = []
    for number, each in enumerate(given, start=1):
        try:
            if not isinstance(each, dict):
                raise PointError(f"expected an object, got {shown(each)}.")
            refuse_unknown(each, "", "positive", "negative", "boxes")
            found.append((PointSet(each.get("positive", ()), each.get("negative", ())), each.get("boxes", ())))
        except PointError as error:
            raise PointError(f"Subject {number}: {error}") from None
    return found


def apart(subjects: Sequence[PointSet], index: int) -> PointSet:
    """The points by which subject ``index`` of a photo, counted from 0, is told from the others.

    A subject without negative points of its own has the other subjects' positive ones as such, in their order and
    MAX_POINTS at most: where two look alike, the other one is what must be removed. A subject that was not clicked has
    no points at all; the set knows its number, for :meth:`PointSet.require_positive`.
    """
    own = subjects[index] if index < len(subjects) else PointSet()
    others = [point for i, points in enumerate(subjects) if i != index for point in points.positive][:MAX_POINTS]
    negative = own.negative or (tuple(others) if own.positive else ())
    return PointSet(own.positive, negative, subject=index + 1 if index or len(subjects) > 1 else 0)


def refuse_unknown(given: dict[str, Any], where: str, *known: str) -> None:
    """Raise PointError, beginning with ``where``, for another key than the known ones."""
    unknown = sorted(str(key) for key in given if key not in known)
    if unknown:
        raise PointError(f"{where}unknown key {shown(unknown[0])}; known are {', '.join(known)}.")


def decode(value: Any, what: str) -> Any:
    """JSON text, or its decoded form, to lists and dicts; None and empty text to an empty list."""
    if value is None:
        return []
    if not isinstance(value, str):
        return value
    if not value.strip():
        return []
    if len(value) > MAX_TEXT:
        raise PointError(f"The text of the {what} has {len(value)} characters; at most {MAX_TEXT} are read.")
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:  # ValueError also covers numbers with thousands of digits
        raise PointError(f"The text of the {what} is not valid JSON: {error}.") from error


def _read_points(points: Any, sign: str, size: Size | None, unit: bool = False) -> tuple[Point, ...]:
    """Check every point and normalise it. Points are pairs 0..1, or, with a size, {"x", "y"} objects in pixels, or
    pixels that were divided by the size (``unit``)."""
    points = _as_list(points, sign)
    return tuple(
        _read_point(point, f"{sign} point {number}", size, unit) for number, point in enumerate(points, start=1)
    )


def _as_list(points: Any, sign: str) -> list[Any]:
    if not isinstance(points, (list, tuple)):
        raise PointError(f"The {sign} points must be a list, got {shown(points)}.")
    if len(points) > MAX_POINTS:
        raise PointError(f"There are {len(points)} {sign} points; at most {MAX_POINTS} are allowed. Remove some.")
    return list(points)


def _are_normalised(lists: dict[str, list[Any]]) -> bool:
    """Whether {"x", "y"} objects mean 0..1 and not pixels: as pixels, all of them would lie in the very corner."""
    objects = [point for points in lists.values() for point in points if isinstance(point, dict)]
    numbers = [point.get(axis) for point in objects for axis in ("x", "y")]
    small = [float(n) for n in numbers if isinstance(n, (int, float)) and 0 <= n <= 1]
    return len(small) == len(numbers) and any(0 < n < 1 for n in small)


def _is_placeholder(point: Any) -> bool:
    """A negative point in the very corner is none, in a form of KJNodes."""
    return isinstance(point, dict) and point.get("x") == 0 and point.get("y") == 0


def _read_point(point: Any, name: str, size: Size | None, unit: bool) -> Point:
    if size is None:
        if not isinstance(point, (list, tuple)) or len(point) != 2:
            raise PointError(f"{name}: expected a pair [x, y] of numbers in 0..1, got {shown(point)}.")
        return _read_number(point[0], f"{name}: x", 1), _read_number(point[1], f"{name}: y", 1)
    if not isinstance(point, dict) or "x" not in point or "y" not in point:
        raise PointError(f'{name}: expected an object {{"x": .., "y": ..}} in pixels, got {shown(point)}.')

    def position(axis: str, count: int) -> float:
        if unit:
            return middle_of(_read_number(point[axis], f"{name}: {axis}", 1) * count, count)
        return middle_of(_read_number(point[axis], f"{name}: {axis}", count, " pixels"), count)

    return position("x", size[0]), position("y", size[1])


def _read_number(value: Any, name: str, limit: int, unit: str = "") -> float:
    """A number in 0..limit."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise PointError(f"{name} = {shown(value)} is not a number.")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise PointError(f"{name} = {shown(value)} is not a finite number.")
    if not 0 <= number <= limit:
        raise PointError(f"{name} = {shown(value)} lies outside the image, which spans 0..{limit}{unit}.")
    return number + 0.0  # turns -0.0 into 0.0


def check_size(size: Any) -> Size:
    try:
        width, height = size
    except (TypeError, ValueError) as error:
        raise PointError(f"The image's size must be (width, height), got {shown(size)}.") from error
    for value in (width, height):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 2**24:
            raise PointError(f"The image's width and height must be whole numbers of pixels, got {shown(size)}.")
    return width, height
