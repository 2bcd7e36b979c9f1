"""Run by ``python -m benchmarks.gpu`` inside a host: a training that was interrupted and resumed, beside the same one
uninterrupted, which is run twice."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[2]))

from partial_results import keep

from benchmarks.training_step import CONFIGS, copy_settings, example, network
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.driver import new_copy
from p3s.training.key import TrainingInputs
from p3s.training.loop import train
from p3s.training.precision import DTYPES
from p3s.training.settings import TrainSettings
from p3s.training.state import Checkpoints
from p3s.training.state_file import load_state

STEPS, HALF = 6, 3
ROWS: dict[str, dict[str, Any]] = {
    "full fp32": {"kind": "full", "precision": "fp32"},
    "lora fp32": {"kind": "lora", "precision": "fp32"},
    "full bf16": {"kind": "full", "precision": "bf16"},
    "full fp32, cached": {"kind": "full", "precision": "fp32", "copy_input": "cached"},
}


def trained(row: dict[str, Any], device: torch.device, folder: Path, halfway: bool) -> dict[str, Any]:
    """The weights and losses after all steps; ``halfway``: interrupted, and resumed with networks made afresh."""
    config = CONFIGS["small"]
    examples = [example(config, 16, row.get("copy_input") == "cached")]
    settings = TrainSettings(steps=STEPS, learning_rate=1e-4, precision=row["precision"])
    noise, text = NoiseSchedule.stable_diffusion(), torch.zeros(77, config.context_dim)
    inputs = TrainingInputs("", ("",), examples, text, noise, copy_settings(row), settings)
    kept = Checkpoints(folder / "state")
    for first in (True, False) if halfway else (False,):
        base = network(config, DTYPES[settings.precision], device)
        copy = new_copy(base.state_dict(), inputs).to(device)
        start = {k: v.cpu().clone() for k, v in copy.state_dict().items()}
        state = load_state(kept.path) if halfway and not first else None
        result = train(base, copy, inputs, (lambda report: report.step < HALF) if first else None, kept, state)
        if result.completed is first:
            raise RuntimeError(str(result.error))
    losses = [report.loss for report in result.reports]
    return {"start": start, "weights": {k: v.cpu() for k, v in copy.state_dict().items()}, "losses": losses}


def apart(a: dict[str, Any], b: dict[str, Any]) -> dict[str, float]:
    """The largest differences of weights and of losses."""
    losses = max(abs(x - y) for x, y in zip(a["losses"], b["losses"], strict=True))
    return {"weights": farthest(a["weights"], b["weights"]), "losses": losses}


def farthest(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max((weight - b[key]).abs().max().item() for key, weight in a.items())


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    device = torch.device(arguments["device"])
    found: dict[str, dict[str, Any]] = {}
    for name, row in ROWS.items():
        with torch.inference_mode(False), tempfile.TemporaryDirectory() as folder:
            whole, again, resumed = (trained(row, device, Path(folder), halfway) for halfway in (False, False, True))
        found[name] = {"run again": apart(again, whole), "resumed": apart(resumed, whole)}
        found[name]["trained by"] = farthest(whole["weights"], whole["start"])
        print(name, found[name], flush=True)
        keep(arguments, found)
    return found
