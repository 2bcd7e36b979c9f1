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
