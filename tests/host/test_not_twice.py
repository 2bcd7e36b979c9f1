"""A training that was done before is taken from its file, also after a restart; everything else is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host.client import Result
from host.graphs import Node
from host.job import Job, two_subjects
from host.server import Server

from p3s.subject.file import load_subject

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(server: Server) -> Path:
    folder = server.base / "models" / "p3s"
    for file in folder.glob("*.safetensors"):
        file.unlink()
    return folder


def train(
    server: Server, lora: float | None = None, photo: np.ndarray | None = None, fresh: bool = True, **settings: Any
) -> Result:
    """The outcome of a training of two steps; ``told`` and ``steps_run`` read it. ``fresh``: ComfyUI's own cache of
    outputs, which would not even ask the node again, is emptied before."""
    if fresh:
        server.client.free()
    job = Job(server, "sd15-slim" if lora is not None else "sd15-micro")
    model: Node | None = None
    if lora is not None:
        name = server.model("lora-slim")
        model = job.g.add("LoraLoaderModelOnly", model=job.model, lora_name=name, strength_model=lora)
    trained = job.train(job.reference(photo), model=model, **{"steps": 2, **settings})
    result = server.client.run_ok(job.g.graph)
    result.node = trained.id  # type: ignore[attr-defined]
    return result


def told(result: Result) -> str:
    return result.outputs[result.node]["text"][0]  # type: ignore[attr-defined]


def steps_run(result: Result) -> int:
    return len(result.progress(result.node))  # type: ignore[attr-defined]


def test_an_unchanged_training_is_not_repeated_after_a_restart(server: Server, folder: Path) -> None:
    assert steps_run(train(server)) > 0
    (path,) = folder.glob("*.safetensors")
    before = path.read_bytes()
    server.restart()
    result = train(server)
    assert steps_run(result) == 0
    assert told(result).startswith(f"Not trained again: loaded from {path} (2 steps).")
    assert list(folder.glob("*.safetensors")) == [path]
    assert path.read_bytes() == before


def test_retrain_trains_at_every_queue(server: Server, folder: Path) -> None:
    train(server)
    for count in (2, 3):
        assert steps_run(train(server, fresh=False, retrain=True)) > 0
        assert len(list(folder.glob("*.safetensors"))) == count
    first, second = (load_subject(folder / name).weights for name in ("dog.safetensors", "dog_00002.safetensors"))
    assert all(torch.equal(weight, second[key]) for key, weight in first.items()), "the same seed, the same subject"
    result = train(server)
    assert steps_run(result) == 0
    assert f"loaded from {folder / 'dog_00003.safetensors'}" in told(result), "the newest"


def test_another_name_or_note_is_written_without_training(server: Server, folder: Path) -> None:
    train(server)
    result = train(server, name="rex", identifier="sks", licence="CC0")
    assert steps_run(result) == 0
    assert f"the same training as {folder / 'dog.safetensors'}" in told(result)
    dog, rex = (load_subject(folder / f"{name}.safetensors") for name in ("dog", "rex"))
    assert all(torch.equal(weight, rex.weights[key]) for key, weight in dog.weights.items())
    assert (rex.info.identifier, rex.info.licence, dog.info.licence) == ("sks", "CC0", "")
    again = train(server, name="rex", identifier="sks", licence="CC0", preview_every=7)
    assert f"loaded from {folder / 'rex.safetensors'}" in told(again)
    assert len(list(folder.glob("*.safetensors"))) == 2


def test_other_settings_and_photos_are_trained(server: Server, folder: Path) -> None:
    train(server)
    changes: list[dict[str, Any]] = [{"steps": 3}, {"learning_rate": 2e-3}, {"seed": 1}, {"resolution": 192}]
    for change in [*changes, {"feature": "attn1"}]:
        assert steps_run(train(server, fresh=False, **change)) > 0, change
    photo = two_subjects().copy()
    photo[:40, :40] = 255 - photo[:40, :40]
    assert steps_run(train(server, fresh=False, photo=photo)) > 0


def test_a_lora_of_another_strength_is_trained(server: Server, folder: Path) -> None:
    train(server, lora=1.0)
    assert steps_run(train(server, lora=1.0)) == 0
    assert steps_run(train(server, fresh=False, lora=0.99)) > 0


def test_a_damaged_file_is_trained_again(server: Server, folder: Path) -> None:
    train(server)
    (path,) = folder.glob("*.safetensors")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert steps_run(train(server)) > 0
    assert load_subject(folder / "dog_00002.safetensors").info.completed
