"""Eq. 3: what a removed region is filled with, with OpenCV and without."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from p3s.reference import fill as module
from p3s.reference.fill import fill, smooth

ROOT = Path(__file__).resolve().parents[1]


def random_picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand((3, height, width), generator=torch.Generator().manual_seed(seed))


def box(height: int, width: int, top: int, left: int, bottom: int, right: int) -> torch.Tensor:
    holes = torch.zeros(height, width, dtype=torch.bool)
    holes[top:bottom, left:right] = True
    return holes


@pytest.mark.parametrize(("height", "width"), [(40, 60), (33, 17), (1, 50), (7, 1)])
def test_one_colour_around_a_hole_fills_it(height: int, width: int) -> None:
    picture, holes = random_picture(height, width), box(height, width, 0, 0, height, max(1, width // 2))
    if holes.all():
        holes[0] = False
    picture[:, ~holes] = torch.tensor([0.2, 0.5, 0.9])[:, None]
    torch.testing.assert_close(smooth(picture, holes), torch.tensor([0.2, 0.5, 0.9])[:, None, None].expand_as(picture))


def test_what_is_known_stays_and_what_is_not_has_no_say() -> None:
    holes = box(48, 64, 10, 20, 40, 50)
    one, other = random_picture(48, 64), random_picture(48, 64, seed=1)
    other[:, ~holes] = one[:, ~holes]
    filled = smooth(one, holes)
    assert torch.equal(filled[:, ~holes], one[:, ~holes])
    assert torch.equal(filled, smooth(other, holes))
    for channel, known in zip(filled, one, strict=True):
        assert known[~holes].min() <= channel.min() and channel.max() <= known[~holes].max()


def test_the_middle_of_a_hole_is_between_its_sides() -> None:
    """By symmetry: black on the left of it and white on the right of it meet in the middle, rising all the way."""
    picture, holes = torch.zeros(3, 64, 64), box(64, 64, 0, 16, 64, 48)
    picture[:, :, 48:] = 1
    row = smooth(picture, holes)[0, 32]
    torch.testing.assert_close(row + row.flip(0), torch.ones(64), atol=1e-5, rtol=0)
    assert (row[1:] >= row[:-1] - 1e-6).all()
    assert row[17] < 0.3 and row[46] > 0.7


def test_a_picture_that_is_all_hole_stays() -> None:
    picture = random_picture(5, 6)
    assert torch.equal(smooth(picture, torch.ones(5, 6, dtype=torch.bool)), picture)


@pytest.mark.parametrize("method", ["telea", "navier-stokes", "smooth"])
def test_a_large_photo_is_filled_from_its_surroundings(method: str) -> None:
    """Painted at the masks' resolution; the subject, whose colour nothing may have, is a hole as well."""
    photo = torch.zeros(600, 900, 3)
    photo[..., 1] = 0.5
    removed, subject = (box(100, 150, 20, left, 80, left + 40).numpy() for left in (20, 70))
    photo[120:480, 420:660] = torch.tensor([1.0, 0.0, 0.0])
    photo[120:480, 120:360] = torch.tensor([0.0, 0.0, 1.0])
    region = box(600, 900, 130, 130, 470, 350).numpy()
    filled, warning = fill(photo, region, removed, subject, method)
    assert filled.shape == photo.shape and warning is None
    assert torch.equal(filled[~region], photo[~region])
    torch.testing.assert_close(
        filled[180:420, 180:300], torch.tensor([0, 0.5, 0]).expand(240, 120, 3), atol=0.01, rtol=0
    )


@pytest.mark.parametrize("left", [None, ModuleType("cv2")])  # what makes an import fail; a folder that was left over
def test_without_opencv_it_is_filled_smoothly_and_the_warning_says_so(
    monkeypatch: pytest.MonkeyPatch, left: ModuleType | None
) -> None:
    photo = random_picture(64, 64).permute(1, 2, 0).contiguous()
    removed, subject = box(64, 64, 10, 10, 40, 40).numpy(), np.zeros((64, 64), bool)
    with_opencv, _ = fill(photo, removed, removed, subject, "telea")
    expected, warning = fill(photo, removed, removed, subject, "smooth")
    assert warning is None
    monkeypatch.setitem(sys.modules, "cv2", left)
    for method in ("telea", "navier-stokes"):
        filled, warning = fill(photo, removed, removed, subject, method)
        assert torch.equal(filled, expected) and not torch.equal(filled, with_opencv)
        assert warning == module.WITHOUT_OPENCV.format(method=method)
        assert f"fill {method} needs OpenCV" in warning and "pip install opencv-python-headless" in warning


def test_nothing_else_needs_opencv() -> None:
    """The toy world's photo, masks, the clean reference and what is drawn of them, where no package brings cv2."""
    code = (
        "import sys; sys.modules['cv2'] = None\n"
        "from p3s.reference.overlay import heat_map, overlay\n"
        "from p3s.toyworld.scenes import scene\n"
        "from p3s.toyworld.world import click, load_world, picture_of\n"
        "drawn = scene('heldout', 4, 'different', 'dog')\n"
        "photo = picture_of(drawn)\n"
        "reference = load_world().reference(photo, click(drawn, 1))\n"
        "assert reference.negative_mask.any() and 'needs OpenCV' in reference.warnings[-1], reference.warnings\n"
        "assert overlay(reference, photo).shape == heat_map(reference).shape == photo.shape\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
