"""The host's device, and text on its nodes."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import torch
from server import PromptServer


def device() -> torch.device:
    """Where the host computes."""
    return comfy.model_management.get_torch_device()


def show_text(node: Any, text: str) -> None:
    """Write a line on a V3 node that is running, for the client that queued it."""
    server = PromptServer.instance
    server.send_progress_text(text, node.hidden.unique_id, server.client_id)
