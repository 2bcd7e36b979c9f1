"""Run by ``python -m benchmarks.gpu`` inside a host: the rows of training_step.py, one after the other."""

from __future__ import annotations

import gc
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2]))

from partial_results import keep

from benchmarks.training import describe
from benchmarks.training_step import measured
from p3s.training.memory import CLOSE

GIB = 2**30
NEEDS_8_BIT = "bitsandbytes is not installed"


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    with torch.inference_mode(False):
        for row in arguments["rows"]:
            name = describe(row)
            if row.get("optimizer") == "adamw8bit" and row["device"] == "cpu":
                found[name] = {"left_out": "AdamW in 8 bits needs a GPU"}
            elif row.get("optimizer") == "adamw8bit" and find_spec("bitsandbytes") is None:
                found[name] = {"left_out": NEEDS_8_BIT}
            else:
                found[name] = attempted(row)
            print(name, found[name], flush=True)
            keep(arguments, found)
            gc.collect()
            if row["device"] == "cuda":
                torch.cuda.empty_cache()
    return found


def attempted(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of a row, why it is left out, or the error that it ended with: the others go on."""
    try:
        counted = measured({**row, "dry": True})
        needed = counted.get("estimated", 0)
        if row["device"] == "cuda" and needed > CLOSE * (free := torch.cuda.mem_get_info()[0]):
            return {"left_out": f"a step needs about {needed / GIB:.1f} GiB, and {free / GIB:.1f} GiB is free"}
        found = measured({**row, "counted": counted})
        if row["device"] == "cpu":  # what a process holds is of no use where others were before
            found.pop("peak", None)
        return found
    except (Exception, SystemExit) as error:
        return {"error": f"{type(error).__name__}: {error}"}
