"""The sections of a run: each is a script in a process of its own inside the host, so that none takes another along."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
BENCHMARKS = HERE.parent
RESULTS = BENCHMARKS / "results"
#: Where the work of samplings and of training steps is stored, by family and by scale.
COUNTED = {"sd15": "sampling.json", "sdxl": "sampling_sdxl.json"}
STEPS_COUNTED = {"full": "training.jsonl", "sdxl": "training_sdxl.jsonl"}
#: What is sampled in turn; SDXL's subjects are low-rank.
VARIANTS = (
    "plain model",
    "ControlNet",
    "IPAdapter-plus",
    "reference-only",
    "P3S, exact",
    "P3S, standard",
    "P3S, fast",
    "P3S, cached, exact",
    "P3S, cached, standard",
    "P3S, off",
)
STEP = {"kind": "full", "precision": "fp32", "checkpointing": False}


@dataclass(frozen=True)
class Size:
    """What a run is done on: ``tiny`` models or those of SD 1.5's and SDXL's true shapes."""

    tiny: bool
    device: str
    sampling: dict[str, dict[str, Any]]
    pixels: int
    epochs: int
    photos: int
    steps: int


FULL = Size(
    tiny=False,
    device="cuda",
    sampling={
        "sd15": {"size": 512, "steps": 20, "rounds": 5},
        "sdxl": {"size": 1024, "steps": 10, "rounds": 3},
    },
    pixels=512,
    epochs=60,
    photos=5,
    steps=6,
)
TINY = Size(
    tiny=True,
    device="cpu",
    sampling={
        "sd15": {"size": 64, "steps": 2, "rounds": 2},
        "sdxl": {"size": 64, "steps": 1, "rounds": 1},
    },
    pixels=128,
    epochs=2,
    photos=2,
    steps=2,
)
SIZES = {"full": FULL, "tiny": TINY}


@dataclass(frozen=True)
class Section:
    """``script`` has a ``main(arguments)``, which gives rows by their names. ``arguments``: of a size.
    ``gpu_alone``: why it is left out where there is no GPU."""

    title: str
    script: Path
    arguments: Callable[[Size], dict[str, Any]]
    gpu_alone: str = ""


def sampling(family: str) -> Callable[[Size], dict[str, Any]]:
    def arguments(size: Size) -> dict[str, Any]:
        own = size.sampling[family]
        files = {"checkpoint": "", "controlnet": ""}  # random models of the process's own
        more = {"family": family, "work_size": own["size"], "threads": 0, "only": ";".join(VARIANTS)}
        return {**files, **more, **own, "counted": {} if size.tiny else counted_samplings(family, own["size"])}

    return arguments


def counted_samplings(family: str, size: int) -> dict[str, dict[str, float]]:
    """The work of variants in full size, which is the same on every machine and takes a minute of these eight to count:
    that of the committed results."""
    stored = json.loads((RESULTS / COUNTED[family]).read_text())
    if stored["work_size"] != size:
        return {}
    kept = ("tflop", "first")
    return {name: {key: row[key] for key in kept if key in row} for name, row in stored["variants"].items()}


def counted_training(row: dict[str, Any]) -> dict[str, float]:
    """That of a training step; empty where none is stored."""
    for line in (RESULTS / STEPS_COUNTED[row["scale"]]).read_text().splitlines():
        entry = json.loads(line)
        if {**entry["row"], "device": ""} == {**row, "device": ""}:
            return {key: entry["found"][key] for key in ("tflop", "needed")}
    return {}


def rows(size: Size) -> dict[str, Any]:
    """The trainings of ``training_step.py``, on SD 1.5."""
    kinds: list[dict[str, Any]] = [
        {**STEP, "kind": kind, "precision": precision, "checkpointing": checkpointing}
        for kind in ("full", "lora")
        for precision, checkpointing in (("fp32", False), ("bf16", False), ("bf16", True))
    ]
    kinds.append({**STEP, "precision": "bf16", "checkpointing": True, "optimizer": "adamw8bit"})
    kinds += [{**STEP, "precision": "bf16", "copy_input": "cached", "kind": kind} for kind in ("full", "lora")]
    kinds.append({**STEP, "kind": "dreambooth"})
    return on_all(kinds, size, "small" if size.tiny else "full", size.pixels)


def rows_sdxl(size: Size) -> dict[str, Any]:
    """Those of SDXL that smaller cards are for."""
    kinds = [{**STEP, "kind": "lora", "precision": "bf16", "checkpointing": again} for again in (False, True)]
    return on_all(kinds, size, "small sdxl" if size.tiny else "sdxl", size.sampling["sdxl"]["size"])


def on_all(kinds: list[dict[str, Any]], size: Size, scale: str, pixels: int) -> dict[str, Any]:
    """Trainings on a network of ``training_step.CONFIGS``."""
    found = [{**kind, "scale": scale, "size": pixels, "device": size.device} for kind in kinds]
    work = [{} if size.tiny else counted_training(row) for row in found]
    return {"rows": [{**row, "work": own, "steps": size.steps} for row, own in zip(found, work, strict=True)]}


def beside(size: Size) -> dict[str, Any]:
    return {
        "inside": ["P3S full", "P3S lora", "Train LoRA", "DreamBooth"],
        "precisions": ["fp32"] if size.tiny else ["fp32", "bf16"],
        "checkpointing": False,
        "size": size.pixels,
        "steps": size.steps,
        "model": "",
    }


def paper(size: Size) -> dict[str, Any]:
    precisions = ["fp32"] if size.tiny else ["bf16", "fp32"]
    return {"pixels": size.pixels, "epochs": size.epochs, "photos": size.photos, "precisions": precisions}


def small(size: Size) -> dict[str, Any]:
    """Of sections whose figures do not depend on the size of the models."""
    return {"device": size.device}


SECTIONS = {
    "sampling": Section("Sampling, SD 1.5", BENCHMARKS / "sampling_inside.py", sampling("sd15")),
    "training": Section("Training steps, SD 1.5", HERE / "rows_inside.py", rows),
    "paper": Section("The paper's setting, from photos to a subject file", HERE / "paper_inside.py", paper),
    "waits": Section(
        "Waits for the GPU", HERE / "waits_inside.py", small, gpu_alone="a CPU has nothing that it waits for"
    ),
    "offloading": Section("Trained and applied with weights offloaded", HERE / "offloading_inside.py", small),
    "resumed": Section("Resumed trainings", HERE / "resumed_inside.py", small),
    "training sdxl": Section("Training steps, SDXL", HERE / "rows_inside.py", rows_sdxl),
    "sampling sdxl": Section("Sampling, SDXL", BENCHMARKS / "sampling_inside.py", sampling("sdxl")),
    "training beside": Section("Training beside other methods", HERE / "beside_inside.py", beside),
}
