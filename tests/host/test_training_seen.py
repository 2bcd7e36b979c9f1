"""What a user sees while a subject is trained on a real server: progress, text, previews, and the losses at the end."""

from __future__ import annotations

import re

import pytest
from host.client import Client
from host.job import Job
from host.server import Server

from p3s.subject.file import load_subject


def test_step_losses_memory_and_time_left_are_told(server: Server, client: Client) -> None:
    job = Job(server)
    trained = job.train(job.reference(), steps=6, preview_every=2, name="a/b", retrain=True)
    start = server.log_size()
    result = client.run_ok(job.g.graph)
    lines = [event.data["text"] for event in result.events if event.type == "text"]
    told = [
        re.match(r"Step (\d) of 6(, \d\d:\d\d left)?, \d+\.\d GiB in use(, making a preview|, saving)?;\nloss \d", line)
        for line in lines
    ]
    looks = [match[1] for match in told if match and match[3] == ", making a preview"]
    assert looks == ["2", "4", "6"]
    assert [match[1] for match in told if match][-1] == "6"
    assert any(match[2] for match in told if match)
    last = next(line for line in reversed(lines) if line.startswith("Step 6"))
    now, losses = last.split(";\n")
    assert re.fullmatch(r"Step 6 of 6, \d+\.\d GiB in use, saving", now)
    assert re.fullmatch(r"loss \d+\.\d{4} \(denoising \d+\.\d{4}, consistency \d+\.\d{4}\)", losses)
    # Before the first step, and after the last.
    assert lines[:5] == [
        "Encoding reference 1 of 1",
        "Checking whether this training was already done",
        "Freeing memory: unloading other models",
        "Copying the model's weights",
        "Step 1 of 6",
    ]
    told_at_last = lines[-1].split(";\n")
    assert re.fullmatch(r"6 steps trained, saved to models/p3s/a_b(_\d+)?\.safetensors", told_at_last[0])
    assert told_at_last[1:] == ["'a/b' is not a valid file name; saved as 'a_b'"]
    assert re.search(r"Train P3S: 100%.*6/6 .*loss=?\s?\d", server.log_text(start)), server.log_tail()
    assert result.progress(trained.id)[-1] == (6, 6)


@pytest.mark.slow
def test_previews_of_the_subject_are_shown(server: Server, client: Client) -> None:
    job = Job(server)
    trained = job.train(job.reference(), steps=5, preview_every=2)
    shown = client.run_ok(job.g.graph).previews(trained.id)
    assert len(shown) == 2
    pictures = [event.picture() for event in shown]
    height, width = pictures[0].shape[:2]
    assert height * 2 == width, "a latent of 8 x 16 of a training on 12 x 22"
    assert min(picture.std() for picture in pictures) > 1
    assert (pictures[0] != pictures[1]).any()

    job = Job(server)
    trained = job.train(job.reference(), steps=5, preview_every=0, seed=1)
    assert client.run_ok(job.g.graph).previews(trained.id) == []


@pytest.mark.slow
def test_a_low_rank_copy_is_trained_and_applied(server: Server, client: Client) -> None:
    job = Job(server)
    trained = job.train(job.reference(), name="small", steps=3, kind="lora", rank=4, weight="learned", preview_every=2)
    images = [job.image(model) for model in (job.model, job.apply(trained))]
    result = client.run_ok(job.g.graph)
    assert len(result.previews(trained.id)) == 1
    plain, shown = (result.images(node)[0].astype(int) for node in images)
    assert abs(plain - shown).mean() > 0.5
    subject = load_subject(server.base / "models" / "p3s" / "small.safetensors")
    kept = {name: subject.info.copy_settings[name] for name in ("kind", "rank", "weight")}
    assert kept == {"kind": "lora", "rank": 4, "weight": "learned"}
    assert set(subject.info.loss_map) == {"loss", "denoising", "consistency", "step"}
    assert subject.info.loss_map["step"] == [1, 2, 3]
