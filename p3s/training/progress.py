"""Progress in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .step import StepReport


@contextmanager
def progress_bar() -> Iterator[Callable[[StepReport], bool | None]]:
    """A callback for ``train`` that shows progress: with tqdm where it is installed, else ten plain lines."""
    try:
        from tqdm import tqdm
    except ImportError:

        def line(report: StepReport) -> None:
            if report.step % max(1, report.total // 10) == 0:
                print(f"    step {report.step} of {report.total}, loss {report.loss:.3f}", flush=True)

        yield line
        return
    with tqdm(unit="step", leave=False) as bar:

        def update(report: StepReport) -> None:
            bar.total = report.total
            bar.set_postfix(loss=f"{report.loss:.3f}", refresh=False)
            bar.update()

        yield update
