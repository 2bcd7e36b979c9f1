"""Errors that a user can cause. Each says which input, what was expected, what came, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


class P3SError(ValueError):
    """Base of all errors of this package that are meant to be read by a user.

    ComfyUI shows an error with its module, which is the path of a folder where this package is part of a node pack;
    so all of them are called ``p3s.NAME`` instead.
    """

    __module__ = "p3s"

    def __init_subclass__(cls) -> None:
        cls.__module__ = "p3s"

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickle looks for a class in its module.
        return _error_by_name, (type(self).__name__, self.args), self.__dict__ or None


def _error_by_name(name: str, arguments: tuple[Any, ...]) -> P3SError:
    return next((kind for kind in _kinds(P3SError) if kind.__name__ == name), P3SError)(*arguments)


def _kinds(kind: type[P3SError]) -> Iterator[type[P3SError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)


class PointError(P3SError):
    """Points that cannot be parsed, lie outside the image, or contradict each other."""


class MaskError(P3SError):
    """Points or a picture from which no sensible mask can be made."""


class FamilyError(P3SError):
    """A model of another family than the one asked for (SD 1.x expected, SDXL came...)."""


class SubjectFileError(P3SError):
    """A subject file that is damaged, hostile, too new, or does not fit."""


class SSRFileError(P3SError):
    """A file of an SSR-Encoder that is damaged, hostile, something else, or the wrong one of its two."""


class MissingPackageError(P3SError):
    """A package that a feature needs is not installed, or does not load."""


class TrainingError(P3SError):
    """Training inputs that do not fit together, or a training that went wrong."""


def shown(value: Any) -> str:
    """A short form of a value for messages; never raises, whatever the value."""
    try:
        text = repr(value)
    except Exception:  # e.g. integers with too many digits, nesting that is too deep, a broken __repr__
        text = f"a value of type {type(value).__name__}"
    return text if len(text) <= 60 else text[:57] + "..."


class DamagedStateError(TrainingError):
    """A file that should hold the state of a training and does not, or not that of this version."""
