"""The memory of ``python -m p3s ssr train``: its estimate, and what is said of it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import torch
from alive import Alive
from small import random_unet
from ssr_runs import POOL, command, frozen_models, trainer_on, write_files, write_pictures

from p3s.__main__ import main
from p3s.commands import ssr_train
from p3s.errors import TrainingError
from p3s.models import ssr as glue
from p3s.models.ssr import check_memory, described, estimate_memory, ways_to_save
from p3s.network.unet_config import UNetConfig
from p3s.ssr.trainer import RunSettings
from p3s.training.memory_estimate import MemoryEstimate
from p3s.training.precision import DTYPES

GIB = 2**30

TINY = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=24)


@pytest.mark.parametrize(("precision", "checkpointing"), [("fp32", False), ("fp32", True), ("bf16", True)])
def test_the_estimate_is_what_a_real_training_takes(tmp_path: Path, precision: str, checkpointing: bool) -> None:
    run = {"precision": precision, "checkpointing": checkpointing, "batch_size": 4, "steps": 2, "workers": 1}
    base = random_unet(TINY).to(DTYPES[precision])
    training = trainer_on(write_pictures(tmp_path), models=frozen_models(base=base), **run)
    training.arithmetic = glue.arithmetic(precision, torch.device("cpu"))
    samples, numbers = training.reader.read(0), training.reader.numbers(0)
    batch = training.batch(samples, numbers)
    training.batch = lambda *_: batch  # type: ignore[method-assign]
    alive = Alive([*base.parameters(), *training.trainee.parameters()])
    networks = alive.now
    with training.reader, alive:
        list(training.steps())
    shapes = {name: tuple(getattr(batch, name).shape) for name in ("x", "context", "states", "query")}
    found = estimate_memory(TINY, shapes, training.trainee.aligner, RunSettings(**run), others=1000)  # type: ignore[arg-type]
    assert found.weights == networks + 1000
    assert found.peak - 1000 == pytest.approx(alive.peak, rel=0.05)
    on_gpu = estimate_memory(TINY, shapes, training.trainee.aligner, RunSettings(**run), 1000, torch.device("cuda"))  # type: ignore[arg-type]
    # Its autocast normalises in 32 bits.
    assert on_gpu.weights == found.weights and (on_gpu.peak > found.peak) == (precision == "bf16")


def test_the_shapes_are_those_of_a_batch(tmp_path: Path) -> None:
    training = trainer_on(write_pictures(tmp_path))
    batch = training.batch(training.reader.read(0), training.reader.numbers(0))
    expected = {name: tuple(getattr(batch, name).shape) for name in ("x", "context", "states", "query")}
    assert glue.shapes_of(training.models, training.run, POOL) == expected


NEEDED = MemoryEstimate(3 * GIB, GIB, 2 * GIB, 4 * GIB)


def test_the_estimate_is_printed_and_tight_memory_is_a_warning() -> None:
    run = RunSettings()
    line = described(NEEDED)
    assert "an estimate: 10.0 GiB" in line and "activations 4.00" in line and "AdamW's moments 2.00" in line
    assert check_memory(NEEDED, 3 * GIB, GIB, 8 * GIB, run) is None
    assert check_memory(NEEDED, 3 * GIB, GIB, None, run) is None
    assert check_memory(NEEDED, 3 * GIB, GIB, 7 * GIB, run) == (
        "memory is tight: a step needs about 7.0 GiB more, and 7.0 GiB is free. If it fails, try a smaller "
        "--batch-size (now 24), --checkpointing, --precision bf16, a smaller --resolution"
    )


def test_ways_to_save_are_those_left_and_allowed() -> None:
    """What is used already does not help, and a begun training keeps its resolution."""
    assert ways_to_save(RunSettings(batch_size=2), begun=True) == (
        "try a smaller --batch-size (now 2), --checkpointing, --precision bf16"
    )
    least = RunSettings(batch_size=1, checkpointing=True, precision="bf16")
    assert ways_to_save(least, begun=False) == "try a smaller --resolution"
    assert ways_to_save(least, begun=True) == "it needs a device with more memory"
    warning = check_memory(NEEDED, 3 * GIB, GIB, 7 * GIB, RunSettings(), begun=True)
    assert warning is not None and warning.endswith("--precision bf16")


@pytest.mark.parametrize(
    ("precision", "unet", "advice"),
    [
        ("fp32", 2, r"use --precision bf16, which halves the U-Net's 2\.0 GiB"),  # a GiB more: all that is missing
        ("fp32", 1.9, "it needs a device with more memory"),
        ("bf16", 2, "it needs a device with more memory"),
    ],
)
def test_too_little_memory_is_refused_and_bf16_named_where_it_helps(precision: str, unet: float, advice: str) -> None:
    given = r"take 6\.0 GiB, of which 3\.0 are still needed, but the device has 2\.0 GiB free: "
    with pytest.raises(TrainingError, match=given + advice):
        check_memory(NEEDED, 3 * GIB, int(unet * GIB), 2 * GIB, RunSettings(precision=precision))


def test_the_free_memory_is_known_where_a_system_tells() -> None:
    assert glue.free_memory(torch.device("meta")) is None
    if sys.platform == "linux":
        free = glue.free_memory(torch.device("cpu"))
        assert free is not None and 2**20 < free < os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_too_little_memory_ends_it_before_the_first_step(tmp_path: Path, monkeypatch, capsys) -> None:
    files = write_files(tmp_path / "models")
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(ssr_train, "free_memory", lambda device: 2**20)
    assert main(command(files, out / "ssr.safetensors")) == 1
    said = capsys.readouterr()
    assert "5 pictures, 2 in each of 3 steps" in said.out and "memory of a process, an estimate: " in said.out
    assert "the device has 0.0 GiB free: it needs a device with more memory" in said.err
    assert not list(out.iterdir())
