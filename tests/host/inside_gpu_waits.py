"""Run by test_gpu_benchmark.py inside a host: what counts the waits for a GPU, on the CPU, where torch never warns."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

sys.path.append(str(Path(__file__).parents[2] / "benchmarks" / "gpu"))

import waits_inside


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    with mock.patch.object(torch.cuda, "set_sync_debug_mode"):
        return waits_inside.main({"device": "cpu"})
