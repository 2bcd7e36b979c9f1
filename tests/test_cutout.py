"""Pictures of the subject for other models: places, masks and colours by independent computations."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from p3s.errors import MaskError
from p3s.reference.cutout import Box, PictureSettings, bounding_box, reference_picture, soft_mask
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference

AS_IS = PictureSettings(margin=0, multiple=1, feather=0)


def reference(width: int, height: int, *boxes: tuple[int, int, int, int], seed: int = 0) -> Reference:
    """Noise, with the subject in boxes (left, top, width, height)."""
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(seed))
    mask = torch.zeros(height, width)
    for left, top, across, down in boxes:
        mask[top : top + down, left : left + across] = 1
    nothing = torch.zeros(height, width)
    return Reference(image, torch.zeros(5, 4), mask, nothing, mask, PointSet(((0.5, 0.5),)), "0" * 64)


def cut(given: Reference, **settings: Any) -> Any:
    return reference_picture(given, replace(AS_IS, **settings))


def place(given: Reference, image: Tensor) -> tuple[int, int, int, int]:
    """Where in the photo of noise a picture was cut out: left, top, width, height."""
    height, width = image.shape[:2]
    rows, columns = (range(all_ - part + 1) for all_, part in zip(given.image.shape[:2], (height, width), strict=True))
    found = [
        (left, top)
        for top, left in itertools.product(rows, columns)
        if torch.equal(given.image[top, left], image[0, 0])
        and torch.equal(given.image[top : top + height, left : left + width], image)
    ]
    assert len(found) == 1
    return *found[0], width, height


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(3, 5, 7, 2)], Box(3, 5, 7, 2)),
        ([(0, 0, 1, 1)], Box(0, 0, 1, 1)),
        ([(31, 15, 1, 1)], Box(31, 15, 1, 1)),
        ([(2, 9, 3, 3), (20, 1, 4, 2)], Box(2, 1, 22, 11)),
        ([(0, 0, 32, 16)], Box(0, 0, 32, 16)),
    ],
)
def test_the_box_of_a_mask(boxes: list[tuple[int, int, int, int]], expected: Box) -> None:
    assert bounding_box(reference(32, 16, *boxes).subject_mask) == expected


def test_the_box_is_of_what_is_at_least_half_the_subject() -> None:
    mask = torch.tensor([[0.0, 0.49, 0.5, 1.0, 0.2]])
    assert bounding_box(mask) == Box(2, 0, 2, 1)


@pytest.mark.parametrize(
    ("size", "box", "margin", "expected"),
    [
        ((40, 30), (10, 8, 6, 4), 0.0, (10, 8, 6, 4)),
        ((40, 30), (10, 8, 6, 4), 0.5, (7, 5, 12, 10)),  # 3 pixels: half of the longer side, on every side
        ((30, 40), (8, 10, 4, 6), 0.5, (5, 7, 10, 12)),
        ((40, 30), (10, 8, 10, 4), 0.25, (7, 5, 16, 10)),  # 2.5 pixels become 3
        ((40, 30), (1, 8, 6, 4), 0.5, (0, 5, 10, 10)),  # the photo ends on the left
        ((40, 30), (36, 27, 4, 3), 1.0, (32, 23, 8, 7)),  # at the corner
        ((40, 30), (10, 8, 6, 4), 4.0, (0, 0, 40, 30)),
        ((40, 30), (20, 15, 1, 1), 0.1, (20, 15, 1, 1)),
        ((40, 30), (20, 15, 1, 1), 2.0, (18, 13, 5, 5)),
    ],
)
def test_the_cut_has_the_margin_that_the_photo_has_room_for(
    size: tuple[int, int], box: tuple[int, int, int, int], margin: float, expected: tuple[int, int, int, int]
) -> None:
    given = reference(*size, box)
    made = cut(given, margin=margin)
    assert place(given, made.image) == expected
    left, top, width, height = expected
    assert torch.equal(made.mask, given.subject_mask[top : top + height, left : left + width])
    assert made.box == Box(box[0] - left, box[1] - top, box[2], box[3])


@pytest.mark.parametrize(
    ("size", "box", "multiple", "expected"),
    [
        ((64, 48), (20, 20, 10, 8), 8, (17, 20, 16, 8)),  # 6 pixels more, 3 of them on each side
        ((64, 48), (20, 20, 11, 8), 8, (18, 20, 16, 8)),  # 5 more: the odd one on the far side
        ((64, 48), (0, 20, 10, 8), 8, (0, 20, 16, 8)),  # no room on the left, so all on the right
        ((64, 48), (54, 41, 10, 7), 16, (48, 32, 16, 16)),
        ((64, 48), (5, 5, 1, 1), 32, (0, 0, 32, 32)),
        ((48, 64), (5, 5, 1, 1), 32, (0, 0, 32, 32)),
        ((50, 40), (2, 2, 46, 10), 16, (1, 0, 48, 16)),  # 48 fits into 50
        ((60, 40), (1, 2, 50, 10), 16, None),  # 64 is more than 60, and 48 too few for the subject
    ],
)
def test_the_cut_grows_to_the_multiple_within_the_photo(
    size: tuple[int, int], box: tuple[int, int, int, int], multiple: int, expected: tuple[int, int, int, int] | None
) -> None:
    given = reference(*size, box)
    made = cut(given, multiple=multiple)
    if expected is not None:
        assert place(given, made.image) == expected
    else:
        assert made.image.shape == (16, 64, 3)  # the width of the photo, 60, resized


@pytest.mark.parametrize(
    ("size", "box", "expected"),
    [
        ((64, 48), (20, 20, 10, 8), (0, 0, 64, 48)),
        ((70, 50), (20, 20, 10, 8), (3, 1, 64, 48)),
        ((70, 50), (0, 20, 10, 8), (0, 1, 64, 48)),  # the subject stays whole
        ((70, 50), (60, 0, 10, 49), (6, 0, 64, None)),
    ],
)
def test_a_whole_view_loses_a_rim_and_not_the_subject(
    size: tuple[int, int], box: tuple[int, int, int, int], expected: tuple[int, int, int, int | None]
) -> None:
    given = reference(*size, box)
    made = cut(given, view="whole", multiple=16)
    if expected[3] is not None:
        assert place(given, made.image) == expected
    else:
        assert made.image.shape == (48, 64, 3)  # 50 rows, for a subject of 49, resized
        assert made.box == Box(54, 0, 10, 48)


@pytest.mark.parametrize("seed", range(200))
def test_any_cut_holds_the_subject_and_has_the_multiple(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height = (int(n) for n in rng.integers(1, 60, 2))
    across, down = int(rng.integers(1, width + 1)), int(rng.integers(1, height + 1))
    left, top = int(rng.integers(0, width - across + 1)), int(rng.integers(0, height - down + 1))
    given = reference(width, height, (left, top, across, down))
    multiple = int(rng.choice([1, 2, 8, 16, 64]))
    view = str(rng.choice(["whole", "subject"]))
    made = cut(given, view=view, margin=float(rng.choice([0, 0.1, 1])), multiple=multiple, background="plain")
    rows, columns = made.mask.shape
    assert rows % multiple == columns % multiple == 0
    assert made.image.shape == (rows, columns, 3)
    seen = made.box
    assert 0 <= seen.left < seen.left + seen.width <= columns and 0 <= seen.top < seen.top + seen.height <= rows
    fits = height // multiple * multiple >= down and width // multiple * multiple >= across
    if fits:  # a multiple that holds the subject, so nothing is resized
        inside = made.image[seen.top : seen.top + seen.height, seen.left : seen.left + seen.width]
        assert torch.equal(inside, given.image[top : top + down, left : left + across])
        assert made.mask.sum() == across * down


def test_what_is_resized_keeps_its_place() -> None:
    """A photo of 30 x 20 whose subject needs 29 columns, at a multiple of 16: a square of 32 x 16."""
    given = reference(30, 20, (1, 4, 29, 8))
    image = torch.linspace(0, 1, 30).expand(20, 30)[..., None].repeat(1, 1, 3)
    made = cut(replace(given, image=image), multiple=16)
    assert made.image.shape == (16, 32, 3)
    centres = (torch.arange(32) + 0.5) * 30 / 32 - 0.5
    torch.testing.assert_close(made.image[8, 2:-2, 0], centres[2:-2] / 29, atol=2e-3, rtol=0)
    assert made.box == Box(1, 4, 31, 8)


@pytest.mark.parametrize(("grow", "feather"), [(0, 0), (0, 3), (2, 0), (2, 3)])
def test_the_mask_fades_by_the_distance_to_the_subject(grow: int, feather: int) -> None:
    mask = reference(24, 20, (6, 5, 4, 3), (15, 12, 1, 1)).subject_mask
    subject = mask.nonzero().float()
    places = torch.cartesian_prod(torch.arange(20.0), torch.arange(24.0))
    distance = torch.cdist(places, subject, compute_mode="donot_use_mm_for_euclid_dist").amin(1).view(20, 24)
    expected = torch.zeros(20, 24)
    expected[distance <= grow] = 1
    for row, column in itertools.product(range(20), range(24)):
        beyond = float(distance[row, column]) - grow
        if 0 < beyond < feather + 1:
            expected[row, column] = 1 - beyond / (feather + 1)
    torch.testing.assert_close(soft_mask(mask, grow, feather), expected, atol=1e-6, rtol=0)


def test_the_mask_of_a_cut_is_that_of_the_photo() -> None:
    given = reference(40, 30, (3, 8, 6, 4), (20, 25, 2, 5))
    made = cut(given, margin=0.1, mask_grow=2, feather=6)
    left, top, width, height = place(given, made.image)
    assert torch.equal(made.mask, soft_mask(given.subject_mask, 2, 6)[top : top + height, left : left + width])


def test_a_soft_mask_keeps_its_levels() -> None:
    mask = torch.tensor([[0.0, 0.2, 0.7, 1.0, 0.4, 0.0]])
    torch.testing.assert_close(soft_mask(mask, 0, 0), torch.tensor([[0.0, 0.2, 1.0, 1.0, 0.4, 0.0]]))


@pytest.mark.parametrize(
    ("colour", "expected"),
    [("#ffffff", (255, 255, 255)), ("#1e90ff", (30, 144, 255)), ("#0f0", (0, 255, 0)), ("grey", (128, 128, 128))],
)
def test_a_plain_background_has_the_colour_to_the_bit(colour: str, expected: tuple[int, int, int]) -> None:
    given = reference(40, 30, (10, 8, 6, 4))
    made = cut(given, background="plain", colour=colour, margin=1, feather=2)
    outside = made.mask == 0
    assert outside.any() and torch.equal(
        made.image[outside], (torch.tensor(expected) / 255).expand(int(outside.sum()), 3)
    )
    inside = made.mask == 1
    assert torch.equal(made.image[inside], given.image[given.subject_mask == 1])
    # Between them the two are mixed by the mask.
    row, column = 8, 6 - 1  # of the picture: one pixel left of the subject, whose box begins at 6, 6
    share = float(made.mask[row, column])
    assert share == pytest.approx(2 / 3)
    photo = given.image[row + 8 - 6, column + 10 - 6]
    torch.testing.assert_close(made.image[row, column], photo * share + torch.tensor(expected) / 255 * (1 - share))


def test_resizing_leaves_the_colour_to_the_bit() -> None:
    made = cut(reference(60, 40, (1, 2, 50, 10)), background="plain", colour="#123456", multiple=16)
    outside = made.mask == 0
    assert outside.any()
    assert torch.equal(made.image[outside].unique(dim=0), torch.tensor([[18, 52, 86]]) / 255)


def test_a_transparent_picture_has_the_mask_as_its_opacity_and_the_colour_below() -> None:
    given = reference(40, 30, (10, 8, 6, 4))
    made = cut(given, background="transparent", colour="#ff0000", margin=1, feather=3)
    assert made.image.shape == (16, 18, 4)
    assert torch.equal(made.image[..., 3], made.mask)
    seen = made.mask > 0  # its own colours also where it fades: opacity mixes them
    part = given.image[2:18, 4:22]
    assert torch.equal(made.image[seen][:, :3], part[seen])
    assert torch.equal(made.image[~seen][:, :3].unique(dim=0), torch.tensor([[1.0, 0, 0]]))


def test_a_painted_background_has_the_surroundings_colours_and_none_of_the_subjects() -> None:
    """A red subject on noise around green (left) and blue (right)."""
    given = reference(96, 64, (30, 20, 36, 24))
    base = torch.zeros(64, 96, 3)
    base[:, :48, 1], base[:, 48:, 2] = 0.5, 0.5
    image = base + 0.4 * (given.image - 0.5) * (base > 0)
    image[given.subject_mask == 1] = torch.tensor([1.0, 0, 0])
    made = reference_picture(replace(given, image=image), replace(AS_IS, view="whole", background="painted"))
    outside = made.mask == 0
    assert torch.equal(made.image[~outside], image[~outside])
    assert made.image[outside][:, 0].max() == 0
    for columns, channel in ((slice(0, 24), 1), (slice(72, 96), 2)):
        noise, painted = image[:, columns, channel], made.image[:, columns, channel]
        assert float(painted.mean()) == pytest.approx(float(noise.mean()), abs=0.01)
        steps = [part.diff(dim=0).abs().mean() for part in (noise, painted)]
        assert steps[1] < steps[0] / 10


def test_a_kept_background_is_the_reference_bit_for_bit() -> None:
    given = reference(40, 30, (10, 8, 6, 4))
    made = cut(given, view="whole", feather=5, mask_grow=3)
    assert torch.equal(made.image, given.image)
    assert made.box == Box(10, 8, 6, 4)


def test_the_reference_is_left_alone() -> None:
    given = reference(40, 30, (10, 8, 6, 4))
    before = given.image.clone(), given.subject_mask.clone()
    for background in ("kept", "painted", "plain", "transparent"):
        made = cut(given, view="whole", background=background)
        made.image.fill_(0.5)
        made.mask.fill_(0.5)
    assert torch.equal(given.image, before[0]) and torch.equal(given.subject_mask, before[1])


def test_an_empty_mask_is_named() -> None:
    with pytest.raises(MaskError, match="subject mask is empty: there is nothing to cut around"):
        cut(reference(8, 8))


@pytest.mark.parametrize("colour", ["", "ffffff", "#ff", "no colour", "#ffffff80", None, 7])
def test_a_colour_that_is_none_is_named(colour: Any) -> None:
    with pytest.raises(MaskError, match=r"colour must be an opaque colour, such as #ffffff or white; got "):
        PictureSettings(colour=colour)


@pytest.mark.parametrize(
    ("name", "value"), [("view", "half"), ("margin", -0.1), ("background", None), ("multiple", 0), ("feather", 300)]
)
def test_a_wrong_setting_is_named(name: str, value: Any) -> None:
    with pytest.raises(MaskError, match=f"^{name} must be "):
        PictureSettings(**{name: value})
