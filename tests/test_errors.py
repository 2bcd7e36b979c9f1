"""The errors that a user reads: their short names, and that they can be handed from one process to another."""

from __future__ import annotations

import pickle

import pytest

from p3s import errors

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.P3SError)]


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_has_a_short_name_wherever_the_package_lies(kind: type[errors.P3SError]) -> None:
    assert len(KINDS) == 9
    assert f"{kind.__module__}.{kind.__qualname__}" == f"p3s.{kind.__name__}"


@pytest.mark.parametrize("kind", KINDS)
def test_an_error_can_be_pickled(kind: type[errors.P3SError]) -> None:
    error = kind("no positive point", 3)
    error.__dict__["node"] = "7"
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert (again.args, again.__dict__["node"]) == (("no positive point", 3), "7")
