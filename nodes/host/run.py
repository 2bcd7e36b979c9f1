"""The host's devices, memory, progress bar and cancel button, as training needs them."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import torch
from server import PromptServer


def device() -> torch.device:
    """Where the host computes."""
    return comfy.model_management.get_torch_device()


def free_memory() -> None:
    """Move every model out of the way before training needs the room."""
    comfy.model_management.unload_all_models()
    comfy.model_management.soft_empty_cache()


def show_text(node: Any, text: str) -> None:
    """Write a line on a V3 node that is running, for the client that queued it."""
    server = PromptServer.instance
    server.send_progress_text(text, node.hidden.unique_id, server.client_id)


class Progress:
    """Progress on the node, and the cancel button: :meth:`update` returns False once the user has cancelled.

    The cancellation is kept and raised by :meth:`reraise`, so that what is trained can be saved in between.
    """

    def __init__(self) -> None:
        self.bar: Any = None
        self.cancelled: Exception | None = None

    def update(self, step: int, total: int) -> bool:
        """Show ``step`` of ``total``."""
        if self.bar is None:
            self.bar = comfy.utils.ProgressBar(total)
        try:
            self.bar.update_absolute(step, total)
            comfy.model_management.throw_exception_if_processing_interrupted()
        except comfy.model_management.InterruptProcessingException as cancelled:
            self.cancelled = cancelled
        return self.cancelled is None

    def reraise(self) -> None:
        """Let the host know that the run was cancelled, if it was."""
        if self.cancelled is not None:
            raise self.cancelled
