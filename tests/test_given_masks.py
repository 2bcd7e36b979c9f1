"""Masks from elsewhere instead of Eq. 2's: what is made of them, and what is said of those that cannot be right."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rngr_pictures import BLUE, GREEN, LEFT_AND_RIGHT, RED, SHARP, mean_colours, noise_tokens, photo, stripes
from test_rngr import numpy_cosines, numpy_mask

from p3s.errors import MaskError, P3SError, PointError
from p3s.reference.framing import Frame
from p3s.reference.masks import MaskSettings
from p3s.reference.overlay import overlay
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference, make_reference
from p3s.reference.vision import PatchVision

TENSORS = ("image", "tokens", "subject_mask", "negative_mask", "similarity")


def box(left: int, right: int, side: int = 320, top: int = 0, bottom: int | None = None) -> torch.Tensor:
    """A mask of the columns and rows from .. up to .. of a square."""
    mask = torch.zeros(side, side)
    mask[top:bottom, left:right] = 1
    return mask


def equal(one: Reference, other: Reference, *names: str) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in names)


# --- What is made of them ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(320, 320), (320, 200), (700, 500)])
@pytest.mark.parametrize("given", [("subject_mask",), ("negative_mask",), ("subject_mask", "negative_mask")])
def test_the_masks_of_equation_2_given_back_give_the_same_reference(size: tuple[int, int], given: tuple) -> None:
    for seed in range(4):
        image = torch.rand((size[1], size[0], 3), generator=torch.Generator().manual_seed(seed))
        points = PointSet([(0.23, 0.31)], [(0.77, 0.68)])
        made = make_reference(image, points, lambda picture, s=seed: noise_tokens(s) * picture.mean())
        again = make_reference(
            image,
            points,
            lambda picture, s=seed: noise_tokens(s) * picture.mean(),
            **{name: getattr(made, name) for name in given},
        )
        assert made.negative_mask.any() and made.given_masks == ()
        assert equal(again, made, *(name for name in TENSORS if name != "similarity"))
        assert again.given_masks == given and again.image_hash == made.image_hash
        shown = made.subject_mask if "subject_mask" in given else made.similarity
        assert torch.equal(again.similarity, shown)


def test_equation_3_with_given_masks_and_no_points() -> None:
    image = stripes(320, 320, (RED, GREEN, GREEN, BLUE))
    seen: list[torch.Tensor] = []

    def encode(picture: torch.Tensor) -> torch.Tensor:
        seen.append(picture)
        return mean_colours(picture)

    reference = make_reference(image, None, encode, subject_mask=box(0, 80), negative_mask=box(240, 320))
    changed = (reference.image != image).any(dim=-1)
    torch.testing.assert_close(changed.float(), box(240, 320))
    filled = reference.image[:, 240:]
    torch.testing.assert_close(filled, torch.tensor(GREEN).expand_as(filled), atol=0.02, rtol=0)
    torch.testing.assert_close(seen[-1], Frame(320, 320).clip_input(reference.image, 224))
    assert torch.equal(reference.tokens, mean_colours(seen[-1])[0])
    assert torch.equal(reference.subject_mask, box(0, 80)) and torch.equal(reference.negative_mask, box(240, 320))
    assert reference.points == PointSet() and reference.warnings == ()
    shown = overlay(reference, image)
    outline = torch.tensor((40, 130, 255)) / 255  # of the subject, with no point drawn on it
    torch.testing.assert_close(shown[0, 0], outline)


def test_a_soft_mask_of_another_size_is_resized_and_cut_at_a_half() -> None:
    """Pillow's bilinear filter, which widens with the scale, is an independent one."""
    for size in ((80, 120), (640, 960), (203, 304)):
        soft = torch.rand(size, generator=torch.Generator().manual_seed(3))
        soft = torch.nn.functional.avg_pool2d(soft[None, None], 5, 1, 2)[0, 0]
        soft = (soft - soft.min()) / (soft.max() - soft.min())
        resized = np.asarray(Image.fromarray(soft.numpy(), "F").resize((300, 200), Image.Resampling.BILINEAR))
        reference = make_reference(stripes(300, 200), None, mean_colours, subject_mask=soft)
        np.testing.assert_allclose(reference.similarity.numpy(), resized, atol=1e-4)
        sure = abs(resized - 0.5) > 1e-3
        np.testing.assert_array_equal(reference.subject_mask.numpy()[sure], (resized >= 0.5)[sure])
        assert sure.mean() > 0.95 and 0.1 < reference.subject_mask.mean() < 0.9


def test_of_a_large_photo_every_pixel_of_the_mask_counts() -> None:
    """Eq. 2's masks have 768 pixels at most; a line of one pixel is narrower than one of theirs."""
    image = stripes(1600, 1600, (RED, GREEN, GREEN, BLUE))
    line = torch.zeros(1600, 1600)
    line[801, 500:1100] = 1
    image[801, 500:1100] = torch.tensor(BLUE)
    subject = box(3, 401, 1600)
    reference = make_reference(image, None, mean_colours, subject_mask=subject, negative_mask=line)
    assert torch.equal(reference.negative_mask, line) and torch.equal(reference.subject_mask, subject)
    changed = (reference.image != image).any(dim=-1)
    assert torch.equal(changed.float(), line)
    assert reference.image[801, 500:1100, 1].min() > 0.9, "green, as above and below"
    background = make_reference(image, None, mean_colours, MaskSettings(fill_region="background"), subject_mask=subject)
    assert torch.equal(background.negative_mask, 1 - subject)


@pytest.mark.parametrize(("grow", "expected"), [(0, (240, 320)), (0.5, (230, 320)), (2, (200, 320)), (16, (80, 320))])
def test_grow_widens_a_given_mask_but_not_into_the_subject(grow: float, expected: tuple[int, int]) -> None:
    image = stripes(320, 320, (RED, GREEN, GREEN, BLUE))
    masks = {"subject_mask": box(0, 80), "negative_mask": box(240, 320)}
    reference = make_reference(image, None, mean_colours, MaskSettings(grow=grow), **masks)
    assert torch.equal(reference.negative_mask, box(*expected))
    assert torch.equal(reference.subject_mask, box(0, 80))


def test_the_subject_keeps_what_both_masks_claim() -> None:
    image, subject = stripes(320, 320), box(0, 100)
    little = make_reference(image, None, mean_colours, subject_mask=subject, negative_mask=box(80, 200))
    assert torch.equal(little.negative_mask, box(100, 200)) and little.warnings == ()
    most = make_reference(image, None, mean_colours, subject_mask=subject, negative_mask=box(20, 120))
    assert torch.equal(most.negative_mask, box(100, 120))
    assert most.warnings[0].startswith("The subject mask covers 80% of negative_mask, and keeps it.")
    assert torch.equal(most.image[:, :100], image[:, :100])


def test_several_masks_are_one_for_the_parts_of_a_subject() -> None:
    parts = torch.stack([box(0, 60), box(40, 90), 0.4 * box(200, 300)])
    reference = make_reference(stripes(320, 320), None, mean_colours, subject_mask=parts)
    assert torch.equal(reference.subject_mask, box(0, 90))


def test_without_points_and_negative_mask_nothing_is_removed() -> None:
    image, calls = stripes(320, 320), []

    def encode(picture: torch.Tensor) -> torch.Tensor:
        calls.append(picture)
        return mean_colours(picture)

    reference = make_reference(image, None, encode, MaskSettings(grow=3), subject_mask=box(0, 80))
    assert torch.equal(reference.image, image) and not reference.negative_mask.any()
    assert len(calls) == 1 and reference.given_masks == ("subject_mask",)


def test_a_clicked_negative_beside_a_given_subject_is_equation_2_with_m_p_of_the_positive_points() -> None:
    """M_P is 0 where there is no positive point, as M_N is without a negative one."""
    tokens, image = noise_tokens(2), torch.rand(320, 320, 3)
    m_p, m_n = (numpy_cosines(tokens[0].double().numpy(), *at).clip(0, 1) for at in ((4, 3), (10, 12)))
    subject = box(40, 130, top=30, bottom=140)
    for positive, other in (([], 0 * m_p), ([(0.23, 0.31)], m_p)):
        points = PointSet(positive, [(0.77, 0.68)])
        reference = make_reference(image, points, lambda _: tokens, subject_mask=subject)
        expected = numpy_mask(m_n, other, (217, 246), sigma=1) & (subject.numpy() == 0)
        np.testing.assert_array_equal(reference.negative_mask.numpy(), expected)
        assert torch.equal(reference.subject_mask, subject)


def test_a_given_negative_beside_a_clicked_subject_leaves_that_to_equation_2() -> None:
    image = stripes(320, 320, (RED, GREEN, GREEN, BLUE))
    clicked = make_reference(image, PointSet([(0.1, 0.5)]), mean_colours, SHARP)
    reference = make_reference(image, PointSet([(0.1, 0.5)]), mean_colours, SHARP, negative_mask=box(60, 200))
    assert torch.equal(reference.subject_mask, clicked.subject_mask)
    assert torch.equal(reference.similarity, clicked.similarity)
    assert torch.equal(reference.negative_mask, box(80, 200)) and reference.given_masks == ("negative_mask",)


def test_removing_the_background_asks_for_no_negative_mask() -> None:
    settings, image = MaskSettings(fill_region="background"), stripes(320, 320)
    masks = {"subject_mask": box(0, 100), "negative_mask": box(200, 220)}
    reference = make_reference(image, None, mean_colours, settings, **masks)
    assert torch.equal(reference.negative_mask, box(100, 320)) and reference.given_masks == ("subject_mask",)


def test_an_inpainted_picture_is_used_with_given_masks_too() -> None:
    image = stripes(320, 320)
    masks = {"subject_mask": box(0, 100), "negative_mask": box(20, 80)}  # nothing to remove: a warning, as it is done
    reference = make_reference(image, None, mean_colours, inpainted=torch.full_like(image, 0.5), **masks)
    assert torch.equal(reference.image, torch.full_like(image, 0.5)) and not reference.negative_mask.any()
    assert reference.warnings[0].startswith("The subject mask covers all of negative_mask")


def test_masks_made_under_inference_mode_may_be_trained_on() -> None:
    with torch.inference_mode():
        mask = box(0, 80) + 0.0
        reference = make_reference(stripes(320, 320), None, mean_colours, subject_mask=mask, negative_mask=mask.flip(1))
    assert not any(getattr(reference, name).is_inference() for name in TENSORS)


# --- Masks that cannot be right ------------------------------------------------------------------------------------


def said(points: PointSet | None = None, settings: MaskSettings | None = None, **masks: torch.Tensor) -> str:
    with pytest.raises(P3SError) as raised:
        make_reference(stripes(320, 320), points, mean_colours, settings, **masks)
    return f"{type(raised.value).__name__}: {raised.value}"


EMPTY = torch.zeros(1, 64, 64)  # as Load Image gives it for any picture without transparency


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.zeros((4, 4)), "must be a mask [height, width], or several [masks, height, width]; got ndarray."),
        (torch.zeros(1, 1, 4, 4), "got [1, 1, 4, 4] of torch.float32."),
        (torch.zeros(4, 4, dtype=torch.bool), "must hold pixels in floating point, got [4, 4] of torch.bool."),
        (torch.zeros(0, 4, 4), "must hold pixels in floating point, got [0, 4, 4]"),
        (torch.full((4, 4), float("nan")), "holds values that are not finite"),
        (torch.full((4, 4), 255.0), "must hold values in 0..1, but they span 255 to 255"),
        (box(0, 80)[:, :160], "is 160 x 320 pixels, the photo 320 x 320: their shapes differ. Give the mask of this"),
    ],
)
@pytest.mark.parametrize("name", ["subject_mask", "negative_mask"])
def test_what_is_no_mask_of_the_photo_is_named(name: str, mask: torch.Tensor, message: str) -> None:
    assert said(PointSet([(0.1, 0.5)]), **{name: mask}).startswith(f"MaskError: {name} ")
    assert message in said(PointSet([(0.1, 0.5)]), **{name: mask})


def test_a_subject_mask_that_marks_nothing_is_refused_whatever_its_size() -> None:
    wide = stripes(640, 320)
    with pytest.raises(MaskError, match="subject_mask marks nothing: Load Image gives an empty mask for a picture"):
        make_reference(wide, None, mean_colours, subject_mask=EMPTY)
    with pytest.raises(MaskError, match=r"subject_mask marks nothing: no pixel reaches 0.5, the highest is 0.3\. "):
        make_reference(stripes(320, 320), None, mean_colours, subject_mask=0.3 * box(0, 80))
    with pytest.raises(MaskError, match=r"covers the whole picture.*which Invert Mask turns into this"):
        make_reference(wide, None, mean_colours, subject_mask=1 - EMPTY)


def test_an_empty_negative_mask_removes_nothing_and_says_so() -> None:
    image = stripes(640, 320)
    for points, masks in ((LEFT_AND_RIGHT, {}), (None, {"subject_mask": (image[..., 0] == 1).float()})):
        reference = make_reference(image, points, mean_colours, MaskSettings(grow=2), negative_mask=EMPTY, **masks)
        assert torch.equal(reference.image, image) and not reference.negative_mask.any()
        (warning,) = reference.warnings
        assert warning.startswith("negative_mask is empty, so nothing is removed. Load Image gives an empty mask")


def test_no_points_and_no_subject_mask_is_refused() -> None:
    assert said().startswith("PointError: There is no positive point")
    assert said(negative_mask=box(0, 80)).startswith("PointError: There is no positive point")


def test_a_mask_that_leaves_the_points_on_the_wrong_side_may_be_inverted() -> None:
    left, right = box(0, 107), box(213, 320)
    for name, mask in (("subject_mask", left), ("negative_mask", right)):
        message = said(LEFT_AND_RIGHT, **{name: 1 - mask})
        assert message.startswith("MaskError: ") and "Is the mask inverted? Connect Invert Mask" in message
        first, second = ("positive", "negative") if name == "subject_mask" else ("negative", "positive")
        assert f"{first} point 1 (at pixel" in message and f"lies outside {name} and {second} point 1 (at" in message
    only = said(PointSet([(1 / 6, 0.5)]), subject_mask=1 - left)
    assert only.startswith("MaskError: positive point 1 (at pixel 53, 160) lies outside subject_mask: mask and points")


def test_a_single_point_on_the_wrong_side_is_a_warning() -> None:
    two = PointSet([(1 / 6, 0.5), (0.5, 0.5)])
    reference = make_reference(stripes(320, 320), two, mean_colours, subject_mask=box(0, 107))
    (warning,) = reference.warnings
    assert warning.startswith("positive point 2 (at pixel 160, 160) lies outside subject_mask. The mask is used;")


def test_without_points_a_mask_of_nearly_all_the_border_may_be_inverted() -> None:
    """A cut-out's transparency, as Load Image gives it, marks what lies around the subject."""
    around = 1 - box(80, 200, top=60, bottom=260)
    reference = make_reference(stripes(320, 320), None, mean_colours, subject_mask=around)
    (warning,) = reference.warnings
    assert warning.startswith("subject_mask covers 77% of the picture and 100% of its border. Is the mask inverted?")
    right = make_reference(stripes(320, 320), None, mean_colours, subject_mask=1 - around, negative_mask=around)
    assert right.warnings[0].startswith("negative_mask covers 77% of the picture and 100% of its border.")
    for fine in (1 - around, box(0, 300), box(10, 310, top=20)):  # a portrait touches three sides
        assert make_reference(stripes(320, 320), None, mean_colours, subject_mask=fine).warnings == ()


def test_a_negative_mask_of_nearly_everything_or_of_the_subject_is_refused() -> None:
    nearly = said(subject_mask=box(0, 8), negative_mask=box(8, 320))
    assert nearly.startswith("MaskError: The region to remove covers 98% of the picture") and "inverted?" in nearly
    inside = said(subject_mask=box(0, 100), negative_mask=box(20, 80))
    assert inside.startswith("MaskError: The subject mask covers all of negative_mask, so there is nothing left")


def test_a_tiny_given_mask_is_a_warning() -> None:
    reference = make_reference(stripes(320, 320), None, mean_colours, subject_mask=box(100, 110, top=100, bottom=110))
    (warning,) = reference.warnings
    assert warning.endswith("so little of the subject will be learned. Crop the picture closer to the subject.")


def test_points_in_one_patch_are_refused_also_beside_a_mask() -> None:
    both = PointSet([(0.1, 0.5)], [(0.11, 0.5)])
    with pytest.raises(PointError, match="lie in the same CLIP patch"):
        make_reference(stripes(320, 320), both, mean_colours, subject_mask=box(0, 33))


def test_where_eq_2_makes_no_mask_patches_are_not_compared() -> None:
    """Subjects that touch are why masks come from elsewhere; and no other model or state is asked for nothing."""
    points, masks = (
        PointSet([(0.49, 0.5)], [(0.51, 0.5)]),
        {"subject_mask": box(100, 160), "negative_mask": box(160, 200)},
    )
    vision = PatchVision.of(lambda picture: mean_colours(picture))  # has the last state alone
    image = stripes(320, 320, (RED, GREEN, GREEN, BLUE))
    made = make_reference(image, points, vision, MaskSettings(features="value-value", tiles=2), **masks)
    assert torch.equal(made.subject_mask, masks["subject_mask"]) and torch.equal(
        made.negative_mask, masks["negative_mask"]
    )
    background = MaskSettings(features="value-value", fill_region="background")
    made = make_reference(image, points, vision, background, subject_mask=masks["subject_mask"])
    assert torch.equal(made.negative_mask, 1 - masks["subject_mask"])
    with pytest.raises(MaskError, match="value-value"):
        make_reference(image, points, vision, background)


def test_on_a_photo_a_tight_mask_removes_the_animal_and_nothing_else() -> None:
    image = torch.cat([photo("puppy"), photo("cat")], dim=1)
    height, width = image.shape[:2]
    rows, columns = torch.arange(height)[:, None], torch.arange(width)[None]
    ellipse = (((columns / width - 0.8) / 0.15) ** 2 + ((rows / height - 0.55) / 0.4) ** 2 < 1).float()
    subject = (columns < width // 2).float().expand(height, width)
    tight = make_reference(image, None, mean_colours, subject_mask=subject, negative_mask=ellipse)
    grown = make_reference(
        image, None, mean_colours, replace(MaskSettings(), grow=0.5), subject_mask=subject, negative_mask=ellipse
    )
    assert torch.equal(tight.negative_mask, ellipse)
    assert torch.equal(tight.image[ellipse == 0], image[ellipse == 0])
    assert (tight.image != image).any(-1)[ellipse == 1].float().mean() > 0.95
    assert grown.negative_mask[ellipse == 1].all() and grown.negative_mask.sum() > ellipse.sum()
