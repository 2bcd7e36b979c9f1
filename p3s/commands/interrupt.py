"""Stopping a long command without losing what it has done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def interruptible(*signals: signal.Signals, again: bool = True) -> Iterator[Callable[[], bool]]:
    """Within, the first of these signals only makes the given function return True; the second works as ever, or with
    ``again`` False like the first, for launchers that pass a signal on which the terminal has sent already."""
    asked = False

    def ask(*_: object) -> None:
        nonlocal asked
        asked = True
        if again:
            restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    before = {number: signal.signal(number, ask) for number in signals}
    try:
        yield lambda: asked
    finally:
        restore()
