"""The main job on a real server: two clicks to a trained subject to a generated image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from host.client import Client
from host.job import POINTS, Job, two_subjects
from host.server import Server

from p3s.subject.file import load_subject


@pytest.fixture
def folder(server: Server) -> Path:
    folder = server.base / "models" / "p3s"
    for file in folder.glob("*.safetensors"):
        file.unlink()
    server.client.free()
    return folder


def test_two_clicks_to_a_subject_to_an_image(server: Server, client: Client, folder: Path) -> None:
    """Also: strength 0 and a window without steps give the plain model's image, bit for bit."""
    job = Job(server, "sd15-topo")
    reference = job.reference()
    masks = {slot: job.g.add("MaskToImage", mask=reference[slot]) for slot in (2, 3)}
    shown = {slot: job.g.add("SaveImage", images=node, filename_prefix="mask").id for slot, node in masks.items()}
    clean = job.g.add("SaveImage", images=reference[1], filename_prefix="clean").id
    trained = job.train(reference)
    job.g.add("LossGraphNode", loss=trained[1], filename_prefix="loss")
    images = {
        "plain": job.image(job.model),
        "subject": job.image(job.apply(trained)),
        "conditional": job.image(job.apply(trained, guidance="conditional")),
        "off": job.image(job.apply(trained, strength=0.0)),
        "never": job.image(job.apply(trained, start_percent=0.4, end_percent=0.4)),
        "late": job.image(job.apply(trained, start_percent=0.3)),
    }
    result = client.run_ok(job.g.graph)

    photo = two_subjects()
    subject_mask, negative_mask = (result.images(shown[slot])[0][..., 0] > 127 for slot in (2, 3))
    assert subject_mask.shape == negative_mask.shape == photo.shape[:2]
    assert subject_mask[128, 200], "the clicked point is in its mask"
    assert negative_mask[140, 384]
    assert not (subject_mask & negative_mask).any()
    (inpainted,) = result.images(clean)
    np.testing.assert_array_equal(inpainted[~negative_mask], photo[~negative_mask])
    assert np.abs(inpainted[negative_mask].astype(int) - photo[negative_mask]).mean() > 5
    masks, learned = result.images(reference.id)
    assert masks.shape == photo.shape, "the preview on the node"
    np.testing.assert_array_equal(learned, inpainted)

    assert result.progress(trained.id)[-1] == (3, 3)
    (path,) = folder.glob("*.safetensors")
    assert path.name == "dog.safetensors"
    subject = load_subject(path)
    assert (subject.info.steps, subject.info.completed, subject.info.family) == (3, True, "SD1.x")
    assert subject.info.points == (POINTS.replace(" ", ""),)
    assert subject.references[0].latent.shape == (4, 12, 22), "a photo of 2:1 at about 128 x 128 pixels in area"

    picture = {name: result.images(node)[0] for name, node in images.items()}
    np.testing.assert_array_equal(picture["off"], picture["plain"])
    np.testing.assert_array_equal(picture["never"], picture["plain"])
    for one, other in (("subject", "plain"), ("conditional", "subject"), ("late", "subject")):
        assert np.abs(picture[one].astype(int) - picture[other]).mean() > 0.5, f"{one} equals {other}"
    assert not np.array_equal(picture["late"], picture["plain"])


def test_a_loaded_subject_gives_the_same_images_after_a_restart_and_queued_again(server: Server, folder: Path) -> None:
    job = Job(server)
    images = {"subject": job.image(job.apply(job.train(job.reference()))), "plain": job.image(job.model)}
    result = server.client.run_ok(job.g.graph)
    before = {name: result.images(node)[0] for name, node in images.items()}

    client = server.restart()
    job = Job(server)
    subject = job.g.add("P3S_LoadSubject", subject_file="dog.safetensors")
    applied = {"subject": job.apply(subject), "plain": job.model, "fast": job.apply(subject, mode="fast")}
    images = {name: job.image(model) for name, model in applied.items()}
    runs = []
    for _ in range(2):
        result = client.run_ok(job.g.graph)
        assert set(images.values()) <= set(result.executed)
        runs.append({name: result.images(node)[0] for name, node in images.items()})
        client.free()
    for name in images:
        np.testing.assert_array_equal(runs[1][name], runs[0][name], f"{name}, queued again")
    for name in before:
        np.testing.assert_array_equal(runs[0][name], before[name], f"{name}, after a restart")
