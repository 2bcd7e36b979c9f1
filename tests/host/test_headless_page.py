"""The programs of docs/headless.md run as they are printed there; only the server's address is another one."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from host.hosts import REPO
from host.job import POINTS, two_subjects
from host.server import Server
from PIL import Image

from p3s.image_files import read_picture, write_png
from p3s.reference.points import PointSet
from p3s.subject.file import Subject, load_subject
from p3s.toyworld.models import QUESTIONS
from p3s.toyworld.world import MASKS, load_world

PAGE = (REPO / "docs" / "headless.md").read_text(encoding="utf-8")
EXAMPLE, STABLE_DIFFUSION, PIXELS, GIVEN_MASKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
QUEUED = "answer = "


def run(server: Server, folder: Path, code: str) -> str:
    """What a program prints that is run in ``folder``."""
    assert code.count("http://127.0.0.1:8188") == 1
    code = code.replace("http://127.0.0.1:8188", server.client.url)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout


def subject_in(said: str, server: Server) -> Subject:
    path = Path(said.removeprefix("subject: ").rstrip("\n"))
    assert path.parent == server.base / "models" / "p3s"
    return load_subject(path)


def before_it_is_queued(block: str) -> str:
    assert EXAMPLE.count(QUEUED) == 1
    return EXAMPLE.replace(QUEUED, block + QUEUED)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("headless")
    shutil.copy(REPO / "docs" / "images" / "drawn_dogs.png", folder)
    return folder


@pytest.fixture(scope="module")
def trained(server: Server, folder: Path) -> Subject:
    return subject_in(run(server, folder, EXAMPLE), server)


def same_weights(one: Subject, other: Subject) -> bool:
    return all(torch.equal(weight, other.weights[key]) for key, weight in one.weights.items())


def test_the_example_trains_and_draws_the_subject(trained: Subject, folder: Path) -> None:
    assert (trained.info.steps, trained.info.completed) == (100, True)
    assert trained.info.points == ('{"v":1,"positive":[[0.677,0.594]],"negative":[[0.219,0.635]]}',)
    picture = read_picture(folder / "my dog.png")
    assert picture.shape == (384, 384, 3)
    answers = load_world().judge(picture[4::8, 4::8][None])
    for question, answer in (("animal", "dog"), ("background", "forest")):
        assert QUESTIONS[question][answers[question][0].argmax()] == answer


def test_points_in_pixels_select_the_same_without_another_training(
    server: Server, folder: Path, trained: Subject
) -> None:
    subject = subject_in(run(server, folder, before_it_is_queued(PIXELS)), server)
    assert same_weights(subject, trained) and subject.info.training_key == trained.info.training_key
    assert subject.info.points == (
        f'{{"v":1,"positive":[[{260.5 / 384},{228.5 / 384}]],"negative":[[{84.5 / 384},{244.5 / 384}]]}}',
    )


def test_masks_as_pictures_select_the_same_without_another_training(
    server: Server, folder: Path, trained: Subject
) -> None:
    photo = read_picture(folder / "drawn_dogs.png")
    clicked = load_world().reference(photo, PointSet.parse(trained.info.points[0]), replace(MASKS, grow=0))
    for name in ("subject", "negative"):
        write_png(getattr(clicked, f"{name}_mask"), folder / f"{name}.png")
        server.client.upload_image(folder / f"{name}.png", f"{name}.png")
    subject = subject_in(run(server, folder, before_it_is_queued(GIVEN_MASKS)), server)
    assert same_weights(subject, trained)
    assert subject.info.given_masks == (("subject_mask", "negative_mask"),)
    assert subject.info.points == ('{"v":1,"positive":[],"negative":[]}',)


def test_the_lines_for_stable_diffusion_fit_its_models(server: Server, tmp_path: Path) -> None:
    """Small ones, and two steps; their file names and numbers are the only other words."""
    Image.fromarray(two_subjects()).save(tmp_path / "drawn_dogs.png")
    start, end = EXAMPLE.index("MODELS = "), EXAMPLE.index("\n\ndef call")
    code = EXAMPLE[:start] + STABLE_DIFFUSION + EXAMPLE[end:]
    for before, after in (
        ("v1-5-pruned-emaonly-fp16.safetensors", server.model("sd15-slim")),
        ("clip-vit-large-patch14.safetensors", server.model("clip-vision")),
        ('"steps": 300', '"steps": 2'),
        ('"resolution": 512', '"resolution": 128'),
        ('"steps": 30,', '"steps": 2,'),
        ('"width": 512, "height": 512', '"width": 128, "height": 128'),
    ):
        assert code.count(before) == 1, before
        code = code.replace(before, after)
    points = re.search(r"^POINTS = .*$", code, re.MULTILINE)
    assert points
    code = code.replace(points[0], f"POINTS = {POINTS}")
    subject = subject_in(run(server, tmp_path, code), server)
    assert (subject.info.family, subject.info.steps) == ("SD1.x", 2)
    assert np.asarray(Image.open(tmp_path / "my dog.png")).shape == (128, 128, 3)


def test_a_refused_graph_says_which_input_is_wrong(server: Server, folder: Path) -> None:
    code = EXAMPLE.replace('"resolution": 384', '"resolution": 1').replace("http://127.0.0.1:8188", server.client.url)
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 1 and "Value 1 smaller than min of 128" in done.stderr and "Traceback" not in done.stderr
