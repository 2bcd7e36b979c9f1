"""What to do about a host or a browser that is not there."""

from __future__ import annotations

from typing import NoReturn

import pytest


def missing(config: pytest.Config, what: str) -> NoReturn:
    """Skip the test that needs it, or fail it with the option ``--complete``."""
    if config.getoption("complete"):
        pytest.fail(what, pytrace=False)
    pytest.skip(what)
