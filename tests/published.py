"""The pages with figures, and the committed results that they come from."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGE = (ROOT / "benchmarks" / "README.md").read_text(encoding="utf-8")
EARLIER_PAGE = (ROOT / "benchmarks" / "toyworld-2026-11-21.md").read_text(encoding="utf-8")


def cells(page: str, start: str) -> list[str]:
    """The cells of the one row of a table whose first cell begins so."""
    (line,) = (line for line in page.splitlines() if line.startswith(f"| {start}"))
    return [cell.strip() for cell in line.strip("|").split("|")]


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def variants(name: str) -> dict[str, Any]:
    return json.loads((RESULTS / name).read_text())["variants"]
