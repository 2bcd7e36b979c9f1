"""What RNGR refuses, and what it warns of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from rngr_pictures import (
    BLUE,
    GREEN,
    LEFT_AND_RIGHT,
    RED,
    SHARP,
    mean_colours,
    stripes,
)

from p3s.errors import MaskError, PointError
from p3s.reference.masks import MaskSettings
from p3s.reference.points import PointSet
from p3s.reference.rngr import make_reference


def test_opposite_points_in_one_patch_are_refused() -> None:
    points = PointSet([(0.1, 0.1), (0.51, 0.51)], [(0.9, 0.9), (0.54, 0.54)])
    message = (
        r"positive point 2 \(at pixel 163, 163\) and negative point 2 \(at pixel 172, 172\) lie in the same .* "
        r"at least one patch \(20 pixels\)"
    )
    with pytest.raises(PointError, match=message):
        make_reference(stripes(320, 320), points, mean_colours)
    neighbours = PointSet([(0.45, 0.5)], [(0.55, 0.5)])
    make_reference(stripes(320, 320, (RED, BLUE)), neighbours, mean_colours)


def test_a_positive_point_is_required() -> None:
    with pytest.raises(PointError, match="no positive point"):
        make_reference(stripes(320, 320), PointSet([], [(0.5, 0.5)]), mean_colours)


@pytest.mark.parametrize("points", [PointSet([(0.1, 0.5)]), LEFT_AND_RIGHT, PointSet([(0.1, 0.5), (0.2, 0.5)])])
@pytest.mark.parametrize("value_range", ["clip", "minmax"])
def test_a_flat_map_is_refused(points: PointSet, value_range: str) -> None:
    image = torch.full((320, 320, 3), 0.5)
    image += 1e-3 * torch.rand(image.shape)  # nearly constant
    with pytest.raises(MaskError, match=r"looks the same to CLIP .* Move"):
        make_reference(image, points, mean_colours, MaskSettings(value_range=value_range))


def test_a_mask_without_its_point_is_refused() -> None:
    """The positive and the negative point lie on the same subject: nothing is left at the positive point."""
    image = stripes(640, 640, (RED, RED, (0.8, 0.6, 0.0), BLUE))
    with pytest.raises(
        MaskError, match=r"No clicked point lies in the mask of the subject: .*positive point 1 .* Move"
    ):
        make_reference(image, PointSet([(0.1, 0.5)], [(0.4, 0.5)]), mean_colours)


def test_a_positive_point_outside_the_mask_is_named() -> None:
    image = stripes(640, 640, (RED, RED, GREEN, BLUE))
    points = PointSet([(0.1, 0.5), (0.3, 0.5), (0.2, 0.2), (0.9, 0.5)])
    reference = make_reference(image, points, mean_colours)
    assert len(reference.warnings) == 1
    assert reference.warnings[0].startswith("positive point 4 (at pixel 576, 320) lies outside the mask of the subject")
    assert not reference.subject_mask[320, 576]


def test_a_negative_point_outside_its_mask_is_named() -> None:
    """The second negative point looks nearly like the positive one, so nothing can be removed there."""
    image = stripes(640, 640, (RED, (0.9, 0.43, 0.0), GREEN, BLUE))
    reference = make_reference(image, PointSet([(0.1, 0.5)], [(0.9, 0.5), (0.4, 0.5)]), mean_colours)
    (warning,) = reference.warnings
    assert warning.startswith("negative point 2 (at pixel 256, 320) lies outside the mask of the region to remove")
    assert reference.negative_mask[320, 576] and not reference.negative_mask[320, 256]


def test_a_mask_of_almost_everything_is_a_warning() -> None:
    image = torch.tensor(RED).expand(640, 640, 3).clone()
    image[:80, :80] = torch.tensor(BLUE)
    reference = make_reference(image, PointSet([(0.9, 0.9)]), mean_colours, SHARP)
    assert reference.subject_mask.mean() > 0.95
    assert any("covers 98% of the picture" in warning and "negative point" in warning for warning in reference.warnings)


def test_a_tiny_subject_is_a_warning() -> None:
    image = torch.tensor(RED).expand(640, 640, 3).clone()
    image[320:360, 320:360] = torch.tensor(BLUE)
    reference = make_reference(image, PointSet([(0.53, 0.53)]), mean_colours, SHARP)
    assert any("smaller than one CLIP patch (40 pixels)" in warning for warning in reference.warnings)


@pytest.mark.parametrize(
    "tokens",
    [
        torch.zeros(1, 256, 4),
        torch.zeros(1, 50 + 1, 4),
        torch.zeros(257, 4),
        torch.zeros(2, 257, 4),
        torch.zeros(1, 1, 4),
    ],
)
def test_tokens_of_another_kind_are_refused(tokens: torch.Tensor) -> None:
    with pytest.raises(MaskError, match=r"ViT-L/14.*but this one gave \[" + ", ".join(map(str, tokens.shape))):
        make_reference(stripes(64, 64), LEFT_AND_RIGHT, lambda _: tokens)


def test_no_tensor_from_the_encoder_is_refused() -> None:
    with pytest.raises(MaskError, match=r"ViT-L/14.*gave NoneType"):
        make_reference(stripes(64, 64), LEFT_AND_RIGHT, lambda _: None)


def test_other_grids_work() -> None:
    for grid in (7, 14, 28):
        reference = make_reference(stripes(320, 320), LEFT_AND_RIGHT, lambda picture, g=grid: mean_colours(picture, g))
        assert reference.tokens.shape == (1 + grid * grid, 3)
        assert reference.subject_mask[:, :80].all() and not reference.subject_mask[:, 160:].any()


def test_values_that_are_not_finite_are_refused() -> None:
    image = stripes(64, 64)
    bad = image.clone()
    bad[3, 4, 1] = float("nan")
    for inpainted, picture, name in [(None, bad, "picture"), (bad, image, "inpainted picture")]:
        with pytest.raises(MaskError, match=f"The {name} holds values that are not finite"):
            make_reference(picture, LEFT_AND_RIGHT, mean_colours, inpainted=inpainted)
    with pytest.raises(MaskError, match="CLIP vision model gave values that are not finite"):
        make_reference(image, LEFT_AND_RIGHT, lambda picture: mean_colours(picture) / 0)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (torch.zeros(1, 64, 64, 3), r"got \[1, 64, 64, 3\]"),
        (torch.zeros(64, 64, 4), r"got \[64, 64, 4\]"),
        (torch.zeros(64, 64, 3, dtype=torch.uint8), "uint8"),
        (torch.zeros(0, 64, 3), r"must hold pixels in floating point, got \[0, 64, 3\]"),
        (torch.full((64, 64, 3), 255.0), "in 0..1, but they span 255 to 255"),
        (np.zeros((64, 64, 3)), "got ndarray"),
    ],
)
def test_pictures_of_another_kind_are_refused(image: torch.Tensor, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        make_reference(image, LEFT_AND_RIGHT, mean_colours)


def test_overshoot_of_resampling_is_clamped() -> None:
    image = stripes(64, 64) * 1.1 - 0.05
    reference = make_reference(image, LEFT_AND_RIGHT, mean_colours)
    assert reference.image.min() >= 0 and reference.image.max() <= 1


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"blur": -1}, "blur must be a number in 0..8; got -1"),
        ({"blur": float("nan")}, "blur must be"),
        ({"grow": True}, "grow must be"),
        ({"grow": "1"}, "grow must be"),
        ({"fill": "magic"}, "fill must be one of telea, navier-stokes, smooth; got 'magic'"),
        ({"fill_region": "x"}, "fill_region must be one of negative, background"),
        ({"value_range": "x"}, "value_range must be one of clip, minmax"),
    ],
)
def test_settings_are_checked(setting: dict, message: str) -> None:
    with pytest.raises(MaskError, match=message):
        MaskSettings(**setting)
