"""Stands in for packages that a kit leaves out: large ones, of which the host imports names and a benchmark calls none.

Python runs this at its start where the folder is on PYTHONPATH. P3S_STAND_INS names the packages, with commas between.
One that is installed is used as ever. What is called of another raises, so that nothing is measured that is not there.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import os
import sys
from types import ModuleType
from typing import Any


class _Name(type):
    """The kind of all names in such a package: classes, so that they may be bases and annotations."""

    def __getattr__(cls, name: str) -> Any:
        return _named(f"{cls.__module__}.{cls.__name__}", name)

    def __call__(cls, *_: Any, **__: Any) -> Any:
        raise ImportError(f"{cls.__module__}.{cls.__name__} is called, and the kit has left its package out")


def _named(owner: str, name: str) -> Any:
    if name.startswith("__"):
        raise AttributeError(f"{owner} has no {name}")
    return _Name(name, (), {"__module__": owner})


class _StandIn(ModuleType):
    def __getattr__(self, name: str) -> Any:
        return _named(self.__name__, name)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Last in line: it is asked for what nothing else has found."""

    def __init__(self, packages: set[str]) -> None:
        self.packages = packages

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if name.partition(".")[0] not in self.packages:
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: Any) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        module.__path__ = []


if os.environ.get("P3S_STAND_INS"):
    sys.meta_path.append(_Finder(set(os.environ["P3S_STAND_INS"].split(","))))
