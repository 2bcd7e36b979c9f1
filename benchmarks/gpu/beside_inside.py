"""Run by ``python -m benchmarks.gpu`` inside a host: steps of P3S, Train LoRA and DreamBooth, in each precision."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[1]))

import training_inside
from partial_results import keep


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for precision in arguments["precisions"]:
        for name in arguments["inside"]:
            row = f"{name} {precision}"
            try:
                found[row] = training_inside.main({**arguments, "inside": [name], "precision": precision})[name]
            except Exception as error:
                found[row] = {"error": f"{type(error).__name__}: {error}"}
            keep(arguments, found)
    return found
