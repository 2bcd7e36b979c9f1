"""Packages that only some features need: imported when they are used, and missing with one clear line."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .errors import MissingPackageError


def import_package(module: str, package: str, use: str) -> Any:
    """The module; ``package`` is its name for pip, ``use`` what needs it ("Masks need"). Raises MissingPackageError."""
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{use} the package {package}, which cannot be imported ({error}). Install it with the Python that runs "
            f"this: python -m pip install {package}"
        ) from error


def opencv(function: str) -> Any:
    """OpenCV, from whichever package it came, or None; also where what is left of one package after another was
    removed is a cv2 without content, such as this function."""
    try:
        cv2 = import_module("cv2")
    except ImportError:
        return None
    return cv2 if hasattr(cv2, function) else None
