"""Imported before the nodes where no server runs: its module, which brings a database and more, is not loaded, and what
is shown on a node is seen by nobody."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace


class PromptServer:
    instance = SimpleNamespace(client_id=None, send_progress_text=lambda *_: None)


sys.modules["server"] = ModuleType("server")
sys.modules["server"].PromptServer = PromptServer  # type: ignore[attr-defined]
