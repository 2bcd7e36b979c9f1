"""Options that several commands share: settings as their dataclasses hold them, photos with points, the models."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from ..errors import MaskError, P3SError, PointError
from ..image_files import read_mask, read_picture
from ..reference.framing import Frame
from ..reference.given_masks import fit_mask
from ..reference.masks import MaskSettings
from ..reference.points import PointSet
from ..reference.selection import Selection
from ..settings import Setting, settings_of
from .paths import PICTURE, check_file, is_file

Settings = TypeVar("Settings")
#: A photo [H, W, 3], its points, and the masks given for it, by the names that ``make_reference`` has for them.
Read = tuple[Tensor, PointSet, dict[str, Tensor | None]]


def add_settings(
    parser: argparse.ArgumentParser,
    title: str,
    standard: Any,
    renamed: Mapping[str, str] | None = None,
    types: Mapping[str, Callable[[str], Any]] | None = None,
    toy: Any = None,
    description: str | None = None,
) -> None:
    """An option for every setting of a dataclass, under ``title`` and a ``description``.

    ``standard`` holds the defaults, ``toy`` those of the toy world where they differ. ``renamed`` gives options other
    names, ``types`` reads values that are neither text, number nor switch. Values are checked by the dataclass
    (:func:`chosen`), so that its own words explain a wrong one.
    """
    group = parser.add_argument_group(title, description)
    for field_name, setting in settings_of(type(standard)).items():
        default = getattr(standard, field_name)
        told = f"default: {_shown(default)}"
        if toy is not None and getattr(toy, field_name) != default:
            told += f"; toy world: {_shown(getattr(toy, field_name))}"
        help = f"{setting.help} ({told})".replace("%", "%%")
        name = "--" + (renamed or {}).get(field_name, field_name).replace("_", "-")
        shared: dict[str, Any] = {"default": argparse.SUPPRESS, "help": help}
        if isinstance(default, bool):
            group.add_argument(name, action=argparse.BooleanOptionalAction, **shared)
        else:
            read = _told_by_argparse((types or {}).get(field_name, type(default)))
            group.add_argument(name, type=read, metavar=_metavar(field_name, setting), **shared)


def chosen(options: argparse.Namespace, standard: Settings, renamed: Mapping[str, str] | None = None) -> Settings:
    """``standard`` with the values that the user gave. Raises P3SError for a wrong one."""
    names = {f.name: (renamed or {}).get(f.name, f.name) for f in fields(standard)}  # type: ignore[arg-type]
    given = {field_name: vars(options)[name] for field_name, name in names.items() if name in options}
    return replace(standard, **given)  # type: ignore[type-var]


def _told_by_argparse(read: Callable[[str], Any]) -> Callable[[str], Any]:
    """``read`` with its own message for a wrong text, which argparse would hide."""

    def reader(text: str) -> Any:
        try:
            return read(text)
        except P3SError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    reader.__name__ = read.__name__  # argparse names a wrong number by it
    return reader


def _metavar(name: str, setting: Setting) -> str:
    if setting.choices:
        return "{" + ",".join(setting.choices) + "}"
    return "X" if isinstance(setting.default, float) else "N" if isinstance(setting.default, int) else name.upper()


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    if isinstance(value, float):
        return f"{value:g}"
    return "none" if value == () else str(value)


def add_mask_settings(parser: argparse.ArgumentParser, toy: MaskSettings | None = None) -> None:
    """MaskSettings as options."""
    add_settings(parser, "masks and fill", MaskSettings(), toy=toy)


@dataclass
class Photo:
    """A photo named on the command line, and the points given for it."""

    path: Path = Path()
    option: str = "photo"  # that named it
    positive: list[tuple[float, float]] = field(default_factory=list)
    negative: list[tuple[float, float]] = field(default_factory=list)
    text: str | None = None
    subject: int | None = None
    subject_mask: Path | None = None
    negative_mask: Path | None = None
    named: bool = False

    def read(self, pixels: bool) -> Read:
        """What was given; the masks at the photo's size. ``pixels``: the points' coordinates are in pixels.

        Raises PointError and MaskError, naming the file, and P3SError for one that is not there.
        """
        check_file(self.option, self.path, PICTURE)
        for name, mask in (("--subject-mask", self.subject_mask), ("--negative-mask", self.negative_mask)):
            if mask is not None:
                check_file(name, mask, PICTURE)
        picture = read_picture(self.path)
        frame = Frame(picture.shape[1], picture.shape[0])
        files = {"subject_mask": self.subject_mask, "negative_mask": self.negative_mask}
        try:
            points = self._points((frame.width, frame.height), pixels)
            masks = {n: None if file is None else fit_mask(read_mask(file), frame, n) for n, file in files.items()}
            if not points.positive and self.subject_mask is None:
                raise PointError("There is no positive point. Give --positive X,Y, or --points, or --subject-mask.")
            return picture, points, masks
        except (PointError, MaskError) as error:
            raise type(error)(f"{self.path}: {error}") from None

    def _points(self, size: tuple[int, int], pixels: bool) -> PointSet:
        if self.text is not None:
            if self.positive or self.negative:
                raise PointError("Give either --points, or --positive and --negative.")
            return _of_subject(Selection.parse(_read_text(self.text), size), self.subject)
        if self.subject is not None:
            raise PointError("--subject says which subject of --points is meant: give --points, or leave it out.")
        lists = {"positive": self.positive, "negative": self.negative}
        if pixels:
            return PointSet.parse({sign: [{"x": x, "y": y} for x, y in given] for sign, given in lists.items()}, size)
        return PointSet(tuple(self.positive), tuple(self.negative))


def add_points(parser: argparse.ArgumentParser) -> None:
    """--positive, --negative, --points, --subject, --subject-mask and --negative-mask, which belong to the last photo
    named before them, and --pixels."""
    group = parser.add_argument_group(
        "points", "X,Y in 0..1 of the photo's width and height, from the top left; with --pixels in pixels."
    )
    for sign, where in (("positive", "on the subject"), ("negative", "on what to leave out")):
        group.add_argument(f"--{sign}", type=_point, action=_OfPhoto, metavar="X,Y", help=f"{where}; may be repeated")
    group.add_argument(
        "--points",
        action=_OfPhoto,
        metavar="JSON",
        help="all points of a photo at once, as Point Picker stores them, or a file with them",
    )
    group.add_argument(
        "--subject",
        type=int,
        action=_OfPhoto,
        metavar="N",
        help="which subject of --points, from 1, where they are of several; as in Point Picker, it has the others' "
        "positive points as negative ones unless it has negative ones of its own",
    )
    group.add_argument("--pixels", action="store_true", help="the points are in pixels")
    masks = parser.add_argument_group(
        "masks from elsewhere",
        "Used instead of CLIP's: pictures of the photo's proportions, white where the mask is.",
    )
    for name, where in (("subject", "the subject; points are then optional"), ("negative", "what to leave out")):
        masks.add_argument(f"--{name}-mask", action=_OfPhoto, type=Path, metavar="PICTURE", help=f"marks {where}")


class NamesPhoto(argparse.Action):
    """Appends a :class:`Photo` to ``options.photos``. Points that came before the first photo are its own."""

    def __call__(self, parser: Any, options: Any, values: Any, name: str | None = None) -> None:
        photos = _photos(options)
        if photos[-1].named:
            photos.append(Photo())
        photos[-1].path, photos[-1].named = Path(values), True
        photos[-1].option = self.option_strings[0] if self.option_strings else self.dest


class _OfPhoto(argparse.Action):
    def __call__(self, parser: Any, options: Any, values: Any, name: str | None = None) -> None:
        photo = _photos(options)[-1]
        if self.dest == "points":
            photo.text = values
        elif self.dest == "subject" or self.dest.endswith("_mask"):
            setattr(photo, self.dest, values)
        else:
            getattr(photo, self.dest).append(values)


def _photos(options: argparse.Namespace) -> list[Photo]:
    if getattr(options, "photos", None) is None:
        options.photos = [Photo()]
    return options.photos


def _read_text(given: str) -> str:
    """The JSON text that --points gives, or that of the file which it names."""
    if not is_file(given):
        if given.strip() and given.strip()[0] not in "[{":
            check_file("--points", given, "JSON text as Point Picker stores it, or a file with it")
        return given
    try:
        return Path(given).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise PointError(f"--points {given} is not a text file; expected JSON as Point Picker stores it.") from None


def _of_subject(selection: Selection, number: int | None) -> PointSet:
    """The points of one subject, counted from 1. Raises PointError where it is not clear which, or there is none."""
    count = len(selection.subjects)
    if number is None:
        marked = [n for n, marks in enumerate(selection.subjects, start=1) if marks.points.positive]
        if len(marked) > 1:
            choices = " or ".join(f"--subject {n}" for n in marked)
            raise PointError(f"--points holds {len(marked)} subjects. Say which one is meant: {choices}.")
        number = marked[0] if marked else 1
    if not 1 <= number <= count:
        raise PointError(f"--subject must lie in 1..{count}, the subjects of --points; got {number}.")
    return selection.points_of(number - 1)


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y, as in 0.25,0.6") from None
    return x, y
