"""Text on the host's nodes."""

from __future__ import annotations

from typing import Any

from server import PromptServer

#: Between the lines of a text: Nodes 2.0 shows a line's end as a space.
LINE_BREAK = ";\n"


def show_text(node: Any, text: str) -> None:
    """Write a line on a V3 node that is running, for the client that queued it."""
    server = PromptServer.instance
    server.send_progress_text(text, node.hidden.unique_id, server.client_id)
