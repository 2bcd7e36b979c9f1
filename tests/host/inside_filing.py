"""Run by test_filing.py inside a host: which file a training's state is kept in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from comfyui_p3s.nodes import filing, folders
from comfyui_p3s.p3s.training_settings import TrainSettings


def main(arguments: dict[str, Any]) -> dict[str, list[str]]:
    folder = Path(folders.save_folder())
    folder.mkdir(parents=True, exist_ok=True)
    inputs = {"learning_rate": "0.5", "precision": "'bf16'"}

    def found(key: str, settings: TrainSettings | None, diverged: bool = True) -> list[str]:
        """The name chosen for a training called "cat", and all states that there are afterwards."""
        for old in folder.glob("*.training"):
            old.unlink()
        torch.save({"diverged": diverged, "inputs": inputs}, folder / "dog_aaaaaaaabbbbbbbb.training")
        name = filing.state_file(key, "cat", settings).name
        return [name, *sorted(path.name for path in folder.glob("*.training"))]

    same = TrainSettings(learning_rate=0.5, precision="bf16")
    lower = TrainSettings(learning_rate=0.1, precision="bf16")
    return {
        "the same": found("aaaaaaaabbbbbbbb", same),
        "lower rate": found("aaaaaaaacccccccc", lower),
        "higher rate": found("aaaaaaaacccccccc", TrainSettings(learning_rate=0.9)),
        "more exact": found("aaaaaaaacccccccc", TrainSettings(learning_rate=0.5, precision="fp32")),
        "lower rate, resume off": found("aaaaaaaacccccccc", None),
        "lower rate, only cancelled": found("aaaaaaaacccccccc", lower, diverged=False),
        "another training": found("ddddddddcccccccc", lower),
    }
