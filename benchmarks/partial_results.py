"""What a benchmark's process has found so far, for whoever started it: it may not come to its end."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def keep(arguments: Mapping[str, Any], found: Any) -> None:
    """Write ``found`` to the file that the ``arguments`` name under "partial", if they do."""
    if arguments.get("partial"):
        part = Path(arguments["partial"])
        part.with_suffix(".new").write_text(json.dumps(found))
        part.with_suffix(".new").replace(part)
