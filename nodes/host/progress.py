"""What is shown of a training on the node and in the terminal, and the cancel button."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.utils
from tqdm import tqdm

from ...p3s.training.step import StepReport
from . import memory
from .node_text import LINE_BREAK, show_text

log = logging.getLogger("p3s")

TEXT_EVERY = 0.5  # seconds between two lines on the node

#: A picture for the host's progress bar: (format, PIL image, greatest side in pixels).
Preview = tuple[str, Any, int]


def check_cancelled() -> None:
    """Raise the host's own exception once the user has cancelled. The host forgets the cancellation by that."""
    comfy.model_management.throw_exception_if_processing_interrupted()


def tell(node: Any, text: str) -> None:
    """Show on a running V3 node what is done next, before the first step. Raises as ``check_cancelled``."""
    check_cancelled()
    show_text(node, text)


class Progress:
    """Progress bar, a line of text and previews on a running V3 node, and a progress bar in the terminal.

    :meth:`update` returns False once the user has cancelled; the host's exception is kept in ``cancelled``, to be
    raised once the subject is saved. ``preview``, called every ``every`` steps (0: never), makes the picture; if it
    fails, the training continues without previews.
    """

    def __init__(self, node: Any, preview: Callable[[], Preview], every: int) -> None:
        self.cancelled: Exception | None = None
        self._node = node
        self._preview = preview
        self._every = every
        self._notes: list[str] = []
        self._bar: Any = None
        self._terminal: Any = None
        self._told = 0.0

    def update(self, report: StepReport) -> bool:
        """Show a finished step."""
        try:
            self._show(report)
            check_cancelled()
        except comfy.model_management.InterruptProcessingException as cancelled:
            self.cancelled = cancelled
            show_text(self._node, f"Cancelled after step {report.step} of {report.total}, saving the subject")
        return self.cancelled is None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal is not None:
            self._terminal.close()

    def _show(self, report: StepReport) -> None:
        if self._bar is None:
            self._bar = comfy.utils.ProgressBar(report.total)
            self._terminal = tqdm(desc="Train P3S", total=report.total, initial=report.step, unit="step")
        self._terminal.set_postfix_str(f"loss {report.loss:.4f}", refresh=False)
        self._terminal.update(report.step - self._terminal.n)
        last, looks = report.step == report.total, bool(self._every) and report.step % self._every == 0
        if looks or time.monotonic() - self._told >= TEXT_EVERY:
            self._told = time.monotonic()
            show_text(self._node, self._line(report, "making a preview" if looks else ""))
        self._bar.update_absolute(report.step, report.total, self._picture() if looks else None)
        if last:
            show_text(self._node, self._line(report, "saving"))

    def _line(self, report: StepReport, doing: str) -> str:
        parts = [f"Step {report.step} of {report.total}"]
        rate = self._terminal.format_dict["rate"]  # None until two steps are done
        if rate and report.step < report.total:
            parts[0] += f", {tqdm.format_interval((report.total - report.step) / rate)} left"
        parts[0] += f", {memory.in_use() / 2**30:.1f} GiB in use"
        parts[0] += f", {doing}" if doing else ""
        parts.append(f"loss {report.loss:.4f} (denoising {report.denoising:.4f}, consistency {report.consistency:.4f})")
        return LINE_BREAK.join([*parts, *self._notes])

    def _picture(self) -> Preview | None:
        try:
            return self._preview()
        except comfy.model_management.InterruptProcessingException:
            raise
        except Exception as error:
            log.exception("Train P3S: the preview failed; training continues without previews")
            self._every, self._notes = 0, [f"previews are off ({error})"]
            return None
