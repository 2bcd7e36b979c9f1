"""GrabCut moves the masks' outlines to the photo's edges, within a patch of the rough ones, and never a point."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
import torch
from rngr_pictures import colour_histograms, photo
from scipy import ndimage

from p3s.reference import refine
from p3s.reference.framing import Frame
from p3s.reference.mask_preview import mask_preview
from p3s.reference.masks import MaskSettings, Patches
from p3s.reference.points import PointSet
from p3s.reference.refine import refined, refining_picture
from p3s.reference.rngr import clip_tokens, make_reference
from p3s.reference.rough_masks import rough_masks

REFINED = MaskSettings(refine="grabcut")


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    return float((one & other).sum() / (one | other).sum())


def drawn(seed: int, side: int = 320) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """A red and a blue ellipse of random shape on a bright, noisy ground, and where they are."""
    rng = np.random.default_rng(seed)
    y, x = (np.mgrid[:side, :side] + 0.5) / side
    picture = np.full((side, side, 3), (0.75, 0.8, 0.6)) + 0.08 * np.sin(9 * x + seed)[..., None]
    masks = []
    for centre, colour in ((0.28, (0.8, 0.2, 0.15)), (0.72, (0.15, 0.25, 0.8))):
        a, b, turn = rng.uniform(0.1, 0.17), rng.uniform(0.15, 0.26), rng.uniform(0, np.pi)
        u, v = x - centre, y - rng.uniform(0.42, 0.58)
        inside = ((u * np.cos(turn) + v * np.sin(turn)) / a) ** 2 + ((v * np.cos(turn) - u * np.sin(turn)) / b) ** 2 < 1
        picture[inside] = colour
        masks.append(inside & (np.abs(x - centre) < 0.2))
        picture[inside & ~masks[-1]] = (0.75, 0.8, 0.6)
    noisy = picture + rng.normal(0, 0.03, picture.shape)
    return torch.from_numpy(noisy).float().clamp(0, 1), *masks


POINTS = PointSet([(0.28, 0.5)], [(0.72, 0.5)])


@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 6])  # in 5 the rough mask is of another thing
def test_masks_come_nearer_to_the_true_outlines(seed: int) -> None:
    picture, red, blue = drawn(seed)
    rough, fine = (make_reference(picture, POINTS, colour_histograms, s) for s in (MaskSettings(), REFINED))
    for name, truth in (("subject_mask", red), ("negative_mask", blue)):
        before, after = (overlap(getattr(r, name).numpy() > 0, truth) for r in (rough, fine))
        assert after > before + 0.02 and after > 0.9, (name, before, after)
    assert fine.warnings == rough.warnings == ()
    assert torch.equal(fine.similarity, rough.similarity)
    assert not (fine.subject_mask * fine.negative_mask).any()


def test_off_is_what_it_was_and_equal_calls_give_equal_masks() -> None:
    picture, *_ = drawn(0)
    patches = Patches(clip_tokens(picture, colour_histograms), Frame(320, 320))
    small = refining_picture(picture)
    rough = rough_masks(patches, POINTS, MaskSettings())
    off = rough_masks(patches, POINTS, MaskSettings(), picture=small)
    assert np.array_equal(off.subject, rough.subject) and np.array_equal(off.removed, rough.removed)
    fine = [rough_masks(patches, POINTS, REFINED, picture=small) for _ in range(3)]
    assert all(np.array_equal(each.subject, fine[0].subject) for each in fine)
    assert not np.array_equal(fine[0].subject, rough.subject)


@pytest.mark.parametrize("seed", range(6))
def test_no_point_changes_sides_and_the_outline_moves_a_patch_at_most(seed: int) -> None:
    rng = np.random.default_rng(seed)
    picture = refining_picture(torch.from_numpy(rng.random((200, 300, 3))).float())  # edges everywhere
    mask = ndimage.gaussian_filter(rng.random((200, 300)), 12) > 0.5
    points = [(float(x), float(y)) for x, y in rng.random((12, 2))]
    fine, _ = refined(mask, picture, points, 20, "subject")
    frame = Frame(300, 200)
    assert all(fine[frame.pixel_at(*p)] == mask[frame.pixel_at(*p)] for p in points)
    depth = ndimage.distance_transform_edt(mask) - ndimage.distance_transform_edt(~mask)
    assert fine[depth > 12].all() and not fine[depth < -22].any()


def test_a_run_and_the_editor_agree() -> None:
    picture, *_ = drawn(3, side=640)
    patches = Patches(clip_tokens(picture, colour_histograms), Frame(640, 640))
    shown = mask_preview(patches, POINTS, REFINED, refining_picture(picture))
    made = make_reference(picture, POINTS, colour_histograms, REFINED).subject_mask.numpy() > 0
    values = np.arange(len(shown["subject"])) % 2 == 1
    drawn_mask = np.repeat(values, shown["subject"]).reshape(shown["size"][::-1])
    step = 640 // shown["size"][0]
    assert (drawn_mask != made[step // 2 :: step, step // 2 :: step]).mean() < 0.001


def test_a_photo_without_edges_there_keeps_the_rough_mask_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refine, "INSIDE", 9.0)  # nothing sure but the points
    monkeypatch.setattr(refine, "OUTSIDE", 9.0)
    picture = np.full((100, 100, 3), 128, np.uint8)
    picture[48:53, 48:53] = 255  # the subject, to GrabCut
    mask = np.zeros((100, 100), bool)
    mask[20:80, 20:80] = True
    kept, warning = refined(mask, picture, [(0.5, 0.5), (0.05, 0.05)], 10, "subject")
    assert kept is mask
    assert warning is not None and warning.startswith("The mask of the subject was not refined: the edges of the photo")


@pytest.mark.parametrize("content", [None, ModuleType("cv2")])
def test_without_opencv_the_rough_masks_stay_and_the_warning_comes_once(
    monkeypatch: pytest.MonkeyPatch, content: ModuleType | None
) -> None:
    picture, *_ = drawn(0)
    rough = make_reference(picture, POINTS, colour_histograms, MaskSettings(fill="smooth"))
    monkeypatch.setitem(sys.modules, "cv2", content)
    made = make_reference(picture, POINTS, colour_histograms, MaskSettings(fill="smooth", refine="grabcut"))
    assert torch.equal(made.subject_mask, rough.subject_mask) and torch.equal(made.negative_mask, rough.negative_mask)
    assert made.warnings == (refine.WITHOUT_OPENCV,)


def test_a_photo_of_two_animals() -> None:
    image = torch.cat([photo("puppy"), photo("cat")], dim=1)
    points = PointSet([(0.13, 0.62)], [(0.83, 0.55)])
    rough, fine = (make_reference(image, points, colour_histograms, s) for s in (MaskSettings(), REFINED))
    for name in ("subject_mask", "negative_mask"):
        one, other = (getattr(r, name).numpy() > 0 for r in (rough, fine))
        assert 0.6 < overlap(one, other) < 0.995
