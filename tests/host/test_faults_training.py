"""Trainings that do not reach their end, on a real server: cancelled, killed, out of memory, a loss that explodes."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from host.client import Result
from host.hosts import Host
from host.job import Job
from host.server import Server

from p3s.subject.file import load_subject

pytestmark = pytest.mark.slow

STEPS = 12


@pytest.fixture(scope="module")
def faulty(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server on which trainings can be made to fail, see ``fault_pack``."""
    server = Server(host, tmp_path_factory.mktemp("faulty"))
    shutil.copy(Path(__file__).with_name("fault_pack.py"), server.base / "custom_nodes")
    yield server
    server.stop()


@pytest.fixture
def folder(faulty: Server) -> Path:
    """The folder of the subjects, empty, on a server that has forgotten what it has run."""
    folder = faulty.base / "models" / "p3s"
    if folder.exists():
        for file in folder.iterdir():
            file.unlink()
    faulty.client.free()
    return folder


def job(server: Server, checkpoint: str = "sd15-micro", **settings: Any) -> tuple[Job, str]:
    """A training of 12 steps, and the id of its node."""
    job = Job(server, checkpoint)
    return job, job.train(job.reference(), **{"steps": STEPS, "learning_rate": 1e-4, **settings}).id


def train(server: Server, **settings: Any) -> str:
    """Train to the end; the text on the node."""
    graph, node = job(server, **settings)
    return server.client.run_ok(graph.g.graph).outputs[node]["text"][0]


def until_step(server: Server, step: int, **settings: Any) -> str:
    """Start a training and wait for a step; the id of the prompt."""
    graph, node = job(server, **settings)
    start = server.client.mark()
    prompt_id = server.client.queue(graph.g.graph)
    assert isinstance(prompt_id, str)
    server.client.wait_event(
        lambda event: (
            event.type == "progress" and event.data.get("node") == node and step <= event.data["value"] < STEPS
        ),
        timeout=240,
        since=start,
    )
    return prompt_id


def cancel_at(server: Server, step: int, **settings: Any) -> Result:
    prompt_id = until_step(server, step, **settings)
    server.client.interrupt()
    result = server.client.wait(prompt_id)
    assert result.status == "interrupted"
    return result


def weights(path: Path) -> dict[str, torch.Tensor]:
    return load_subject(path).weights


def same(first: Path, second: Path) -> bool:
    a, b = weights(first), weights(second)
    return a.keys() == b.keys() and all(torch.equal(tensor, b[key]) for key, tensor in a.items())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_cancelled_and_resumed_is_uninterrupted(faulty: Server, folder: Path, kind: str) -> None:
    settings = {"kind": kind, "rank": 4}
    result = cancel_at(faulty, 3, **settings)
    *_, saving, told = [event.data["text"].replace("\n", " ") for event in result.events if event.type == "text"]
    cancelled = folder / "dog_cancelled.safetensors"
    (state,) = folder.glob("dog_*.training")
    done = load_subject(cancelled).info.steps
    assert 3 <= done < STEPS
    assert saving == f"Cancelled after step {done} of {STEPS}, saving the subject"
    # The box on the node may show two lines only: what to do comes first.
    assert told.startswith(
        f"Cancelled: queue again to resume; {done} steps trained, saved to models/p3s/{cancelled.name}; "
        f"it resumes from models/p3s/{state.name} ("
    )

    faulty.restart()
    told = train(faulty, **settings)
    assert told == f"{STEPS} steps trained, saved to {folder / 'dog.safetensors'}; resumed after step {done}"
    assert not state.exists()
    info = load_subject(folder / "dog.safetensors").info
    assert (info.completed, info.steps, info.loss_map["step"]) == (True, STEPS, list(range(1, STEPS + 1)))
    told = train(faulty, retrain=True, **settings)
    assert "resumed" not in told
    assert same(folder / "dog.safetensors", folder / "dog_00002.safetensors")
    assert not same(folder / "dog.safetensors", cancelled)


def test_on_sdxl_it_is_resumed_as_uninterrupted_and_not_repeated(faulty: Server, folder: Path) -> None:
    """Prompts are dropped together with their pooled text."""
    settings = {"kind": "lora", "rank": 4, "depth_stride": 2, "prompt_dropout": 0.3}
    settings |= {"checkpoint": "sdxl-slim-text", "steps": 6}
    cancel_at(faulty, 2, **settings)
    done = load_subject(folder / "dog_cancelled.safetensors").info.steps
    assert 2 <= done < 6
    path = folder / "dog.safetensors"
    assert f"6 steps trained, saved to {path}; resumed after step {done}" in train(faulty, **settings)

    faulty.client.free()
    graph, node = job(faulty, **settings)
    result = faulty.client.run_ok(graph.g.graph)
    assert result.progress(node) == []
    assert result.outputs[node]["text"][0].startswith(f"Not trained again: loaded from {path} (6 steps).")

    assert "resumed" not in train(faulty, retrain=True, **settings)
    assert same(path, folder / "dog_00002.safetensors")


def test_a_killed_training_goes_on_from_its_last_checkpoint(faulty: Server, folder: Path) -> None:
    until_step(faulty, 7, checkpoint_every=3, kind="lora")
    faulty.kill()
    assert [path.suffix for path in folder.iterdir()] == [".training"]
    told = train(faulty, checkpoint_every=3, kind="lora")
    resumed = int(told.split("resumed after step ")[1])
    assert resumed >= 6
    assert resumed % 3 == 0
    train(faulty, kind="lora", retrain=True)
    assert same(folder / "dog.safetensors", folder / "dog_00002.safetensors")


def test_more_steps_go_on_from_a_cancelled_training(faulty: Server, folder: Path) -> None:
    cancel_at(faulty, 2, kind="lora")
    told = train(faulty, kind="lora", steps=STEPS + 2, name="rex")
    assert "resumed after step" in told
    assert load_subject(folder / "rex.safetensors").info.steps == STEPS + 2


def test_without_resume_it_begins_anew(faulty: Server, folder: Path) -> None:
    cancel_at(faulty, 2, kind="lora")
    told = train(faulty, kind="lora", resume=False)
    assert "resumed" not in told
    assert list(folder.glob("*.training")) == []


def test_a_damaged_state_is_told_and_not_used(faulty: Server, folder: Path) -> None:
    cancel_at(faulty, 2, kind="lora")
    (state,) = folder.glob("*.training")
    state.write_bytes(state.read_bytes()[:1000])
    told = train(faulty, kind="lora")
    assert f"not resumed: {state.name} is damaged" in told
    assert load_subject(folder / "dog.safetensors").info.completed


def out_of_memory(server: Server, start: int, times: int) -> None:
    order = {"out_of_memory_from": start, "times": times}
    (server.base / "fault.json").write_text(json.dumps(order))


@pytest.fixture
def no_fault(faulty: Server) -> Iterator[None]:
    yield
    (faulty.base / "fault.json").unlink(missing_ok=True)


def test_a_step_that_runs_out_of_memory_is_tried_with_checkpointing(
    faulty: Server, folder: Path, no_fault: None
) -> None:
    out_of_memory(faulty, start=3, times=1)
    told = train(faulty, kind="lora")
    assert "step 3 ran out of memory: gradient checkpointing was turned on" in told
    (faulty.base / "fault.json").unlink()
    train(faulty, kind="lora", retrain=True)
    assert same(folder / "dog.safetensors", folder / "dog_00002.safetensors")


def test_out_of_memory_keeps_what_is_trained_and_says_what_to_change(
    faulty: Server, folder: Path, no_fault: None
) -> None:
    out_of_memory(faulty, start=5, times=1000)
    graph, _ = job(faulty)
    result = faulty.client.run(graph.g.graph)
    assert result.error is not None
    message = result.error.message
    for part in (
        "out of memory at step 5 of 12",
        'kind = "lora"',
        "precision",
        "resolution",
        "(queue again to resume; ",
    ):
        assert part in message
    assert "; 4 steps trained, saved to" in message
    stopped = folder / "dog_stopped.safetensors"
    assert str(stopped) in message
    assert load_subject(stopped).info.steps == 4

    # The server is fine, and with less memory in need the training goes on.
    (faulty.base / "fault.json").unlink()
    told = train(faulty, checkpointing=True)
    assert "resumed after step 4" in told
    train(faulty, retrain=True)
    assert same(folder / "dog.safetensors", folder / "dog_00002.safetensors")


def test_cancelled_before_the_first_step(faulty: Server, folder: Path, no_fault: None) -> None:
    """Between two photos, whose encoding may take as long as some steps."""
    (faulty.base / "fault.json").write_text(json.dumps({"encoding_takes": 2}))
    graph = Job(faulty, "sd15-micro")
    node = graph.train(graph.reference(references=graph.reference()), steps=STEPS).id
    start = faulty.client.mark()
    prompt_id = faulty.client.queue(graph.g.graph)
    assert isinstance(prompt_id, str)
    faulty.client.wait_event(
        lambda event: event.type == "text" and event.data["text"] == "Encoding reference 1 of 2", since=start
    )
    faulty.client.interrupt()
    result = faulty.client.wait(prompt_id)
    assert result.status == "interrupted"
    assert [event.data["text"] for event in result.events if event.type == "text"] == ["Encoding reference 1 of 2"]
    assert result.progress(node) == []
    assert list(folder.glob("*")) == []


def explode_at(server: Server, step: int) -> None:
    """Let the gradients of a step not be finite. (A rate that is far too high does that as well, but on its own time:
    at a rate of 1 thirty steps of the small model stay finite.)"""
    (server.base / "fault.json").write_text(json.dumps({"not_finite_from": step, "times": 1}))


def stopped(server: Server, folder: Path, **settings: Any) -> tuple[str, int]:
    """A training whose loss is no longer finite: its error, and the step of the subject that is kept."""
    result = server.client.run(job(server, **settings)[0].g.graph)
    assert result.error is not None
    (path,) = folder.glob("dog_stopped.safetensors")
    info = load_subject(path).info
    assert len(info.loss_map["loss"]) == info.steps
    told = f"{info.steps} steps trained, saved to {path}; these are the weights of step {info.steps}, the last with a "
    assert told in result.error.message
    return result.error.message, info.steps


def test_a_loss_that_explodes_before_a_checkpoint_begins_anew_with_a_lower_rate(
    faulty: Server, folder: Path, no_fault: None
) -> None:
    explode_at(faulty, 5)
    message, steps = stopped(faulty, folder)
    assert steps == 4
    assert "no longer finite at step 5 of 12: lower learning_rate (now 0.0001) (4 steps trained" in message
    assert message.endswith("; no earlier step was saved: queue again with a lower learning rate to start over)")

    # The same again would come to the same.
    faulty.client.free()
    result = faulty.client.run(job(faulty)[0].g.graph)
    assert result.error is not None
    assert "no longer finite at step 5" in result.error.message
    assert "To start over, lower learning_rate (now 0.0001); to try it once more" in result.error.message
    told = train(faulty, learning_rate=1e-5)
    assert told == f"12 steps trained, saved to {folder / 'dog.safetensors'}"
    assert list(folder.glob("*.training")) == []


def test_a_loss_that_explodes_goes_on_from_the_last_checkpoint(faulty: Server, folder: Path, no_fault: None) -> None:
    """The weights of the step before are often spoiled, those of the checkpoint seldom."""
    explode_at(faulty, 8)
    message, steps = stopped(faulty, folder, checkpoint_every=3)
    assert steps == 7
    (state,) = folder.glob("*.training")
    assert "no longer finite at step 8 of 12: lower learning_rate (now 0.0001) (7 steps trained" in message
    assert f"queue again with a lower learning rate to resume after step 6, the last one saved, from {state}" in message
    assert message.endswith("; if that does not help, turn resume off to start over)")

    faulty.restart()
    result = faulty.client.run(job(faulty, checkpoint_every=3)[0].g.graph)
    assert result.error is not None
    assert "To resume from step 6, lower learning_rate (now 0.0001); to try it once more" in result.error.message
    told = train(faulty, learning_rate=1e-5)
    assert "resumed after step 6; learning_rate 0.0001 up to there, 1e-05 from there on" in told
    assert load_subject(folder / "dog.safetensors").info.completed
    assert list(folder.glob("*.training")) == []


def test_scarce_memory_is_told_and_tried(faulty: Server, folder: Path, no_fault: None) -> None:
    (faulty.base / "fault.json").write_text(json.dumps({"free": 2**20}))
    told = train(faulty, steps=2)
    assert told.startswith("2 steps trained, saved to")
    assert re.search(r"memory is tight: a step needs about 0\.\d GiB, and 0\.0 GiB is free", told)
    assert 'kind = "lora"' in told
    assert re.search(r'; with kind "lora", precision "bf16" and checkpointing a step needs about 0\.\d GiB', told)


def test_far_too_little_memory_is_refused_before_anything_is_trained(
    faulty: Server, folder: Path, no_fault: None
) -> None:
    (faulty.base / "fault.json").write_text(json.dumps({"total": -(2**50)}))  # the machine's swap is added to it
    result = faulty.client.run(job(faulty)[0].g.graph)
    assert result.error is not None
    assert "weights, gradients and optimizer of this training take" in result.error.message
    assert 'train low-rank changes only (kind = "lora")' in result.error.message
    assert list(folder.glob("*")) == []
