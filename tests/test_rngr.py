from __future__ import annotations

import hashlib
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rngr_pictures import (
    BLUE,
    GREEN,
    LEFT_AND_RIGHT,
    RED,
    SHARP,
    colour_histograms,
    mean_colours,
    noise_tokens,
    photo,
    stripes,
)
from scipy import ndimage

from p3s.errors import MaskError, PointError
from p3s.reference.framing import Frame
from p3s.reference.masks import MaskSettings, Patches, similarity_maps
from p3s.reference.masks import grow as widened
from p3s.reference.points import PointSet
from p3s.reference.rngr import image_hash, make_reference
from p3s.reference.rough_masks import rough_masks

# --- Eq. 1 and 2 against NumPy -----------------------------------------------------------------------------------


def numpy_cosines(tokens: np.ndarray, row: int, column: int) -> np.ndarray:
    grid = int(np.sqrt(len(tokens) - 1))
    patches = tokens[1:].reshape(grid, grid, -1)
    chosen = patches[row, column]
    return np.array(
        [[p @ chosen / (np.linalg.norm(p) * np.linalg.norm(chosen)) for p in line] for line in patches], dtype=float
    )


def numpy_blur(values: np.ndarray, sigma: float) -> np.ndarray:
    offsets = np.arange(-int(4 * sigma + 0.5), int(4 * sigma + 0.5) + 1)
    kernel = np.exp(-(offsets**2) / (2 * sigma**2))
    kernel /= kernel.sum()
    padded = np.pad(values, len(offsets) // 2, mode="edge")
    rows = np.apply_along_axis(np.convolve, 0, padded, kernel, mode="valid")
    return np.apply_along_axis(np.convolve, 1, rows, kernel, mode="valid")


def numpy_otsu(values: np.ndarray) -> float:
    """Otsu's method over 256 bins, by trying every split; the middle of the gap that the best split lies in."""
    _, edges = np.histogram(values, 256)
    centres = (edges[1:] + edges[:-1]) / 2
    bins = np.clip(np.digitize(values.ravel(), edges) - 1, 0, 255)
    best, threshold = -1.0, 0.0
    for split in range(1, 256):
        low, high = bins < split, bins >= split
        if low.any() and high.any():
            gap = centres[bins[low]].mean() - centres[bins[high]].mean()
            between = float(low.sum()) * float(high.sum()) * gap**2
            if between > best * (1 + 1e-9):
                best, threshold = between, (values.ravel()[low].max() + values.ravel()[high].min()) / 2
    return threshold


def numpy_mask(wanted: np.ndarray, other: np.ndarray, pixel: tuple[int, int], sigma: float) -> np.ndarray:
    """Eq. 2 on a square photo of 320 x 320 pixels and a 16 x 16 grid."""
    blurred = numpy_blur(wanted * (1 - other), sigma)
    centres = (np.arange(320) + 0.5) / 20 - 0.5
    spread = ndimage.map_coordinates(
        blurred, np.stack(np.meshgrid(centres, centres, indexing="ij")), order=1, mode="nearest"
    )
    regions, _ = ndimage.label(spread > numpy_otsu(blurred))
    return (regions == regions[pixel]) & (regions[pixel] > 0)


def test_cosine_map_is_equation_1() -> None:
    tokens = noise_tokens(3)
    patches = Patches(tokens, Frame(320, 320))
    for x, y, row, column in [(0.1, 0.9, 14, 1), (0.5, 0.5, 8, 8), (1.0, 0.0, 0, 15)]:
        expected = numpy_cosines(tokens[0].double().numpy(), row, column)
        np.testing.assert_allclose(patches.cosine_map((x, y)), expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(8))
def test_masks_are_equation_2(seed: int) -> None:
    tokens = noise_tokens(seed)
    positive, negative = (0.23, 0.31), (0.77, 0.68)  # patches (4, 3) and (10, 12), pixels (99, 73) and (217, 246)
    points, image = PointSet([positive], [negative]), torch.rand(320, 320, 3)
    m_p = numpy_cosines(tokens[0].double().numpy(), 4, 3).clip(0, 1)
    m_n = numpy_cosines(tokens[0].double().numpy(), 10, 12).clip(0, 1)
    subject = numpy_mask(m_p, m_n, (99, 73), sigma=1)
    removed = numpy_mask(m_n, m_p, (217, 246), sigma=1) & ~subject
    reference = make_reference(image, points, lambda _: tokens)
    np.testing.assert_array_equal(reference.subject_mask.numpy(), subject)
    np.testing.assert_array_equal(reference.negative_mask.numpy(), removed)
    assert subject.any() and removed.any()


def test_several_points_mean_of_positive_and_maximum_of_negative_maps() -> None:
    tokens = noise_tokens(1)
    points = PointSet([(0.1, 0.1), (0.3, 0.1)], [(0.9, 0.9), (0.7, 0.9)])
    m_p, m_n = similarity_maps(Patches(tokens, Frame(320, 320)), points, "clip")
    maps = {at: numpy_cosines(tokens[0].double().numpy(), *at) for at in [(1, 1), (1, 4), (14, 14), (14, 11)]}
    np.testing.assert_allclose(m_p, ((maps[1, 1] + maps[1, 4]) / 2).clip(0, 1), atol=1e-12)
    np.testing.assert_allclose(m_n, np.maximum(maps[14, 14], maps[14, 11]).clip(0, 1), atol=1e-12)


@pytest.mark.parametrize(("grow", "size"), [(0, (320, 320)), (3, (320, 200)), (1.3, (1500, 1001))])
def test_the_removed_region_never_reaches_into_the_subject(grow: float, size: tuple[int, int]) -> None:
    points = PointSet([(0.23, 0.31)], [(0.77, 0.68)])
    exchanged = PointSet(points.negative, points.positive)
    overlapped = 0
    for seed in range(8):
        patches = Patches(noise_tokens(seed), Frame(*size))
        masks = rough_masks(patches, points, MaskSettings(grow=grow))
        assert masks.removed.any() and not (masks.removed & masks.subject).any()
        alone = rough_masks(patches, exchanged, MaskSettings()).subject
        overlapped += (widened(alone, grow * max(alone.shape) / patches.grid) & masks.subject).any()
    assert overlapped  # or this test would show nothing


def test_minmax_stretches_the_valid_patches_only() -> None:
    tokens = noise_tokens(2)
    patches = Patches(tokens, Frame(320, 160))
    m_p, m_n = similarity_maps(patches, PointSet([(0.5, 0.5)]), "minmax")
    expected = numpy_cosines(tokens[0].double().numpy(), 8, 8)[4:12]
    expected = (expected - expected.min()) / (expected.max() - expected.min())
    np.testing.assert_allclose(m_p[4:12], expected, atol=1e-12)
    assert (m_n == 0).all()


def test_a_region_that_no_point_touches_is_dropped() -> None:
    image = stripes(448, 448, (RED, BLUE, RED, GREEN))
    reference = make_reference(image, PointSet([(0.1, 0.5)]), mean_colours, SHARP)
    expected = torch.zeros(448, 448)
    expected[:, :112] = 1  # the other red stripe is not connected to the clicked one
    torch.testing.assert_close(reference.subject_mask, expected)
    both = make_reference(image, PointSet([(0.1, 0.5), (0.6, 0.5)]), mean_colours, SHARP)
    expected[:, 224:336] = 1
    torch.testing.assert_close(both.subject_mask, expected)


# --- Two subjects, all shapes ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("width", "height", "vertical"),
    [
        (672, 672, True),
        (672, 336, True),
        (336, 672, True),
        (672, 68, True),
        (96, 48, True),
        (336, 336, False),
        (336, 672, False),
        (600, 400, False),
        (96, 96, False),
    ],
)
@pytest.mark.parametrize("value_range", ["clip", "minmax"])
def test_two_colours_are_separated(width: int, height: int, vertical: bool, value_range: str) -> None:
    image = stripes(width, height, vertical=vertical)
    points = LEFT_AND_RIGHT if vertical else PointSet([(0.5, 1 / 6)], [(0.5, 5 / 6)])
    subject = (image[..., 0] == 1).float()
    negative = (image[..., 2] == 1).float()
    for blur in (0, 1):
        reference = make_reference(image, points, mean_colours, MaskSettings(blur=blur, value_range=value_range))
        patch = max(width, height) / 16
        edge = torch.from_numpy(ndimage.distance_transform_edt(subject) + ndimage.distance_transform_edt(1 - subject))
        sure = edge > patch  # a stripe's border may cut through a patch; further away everything must be right
        torch.testing.assert_close(reference.subject_mask[sure], subject[sure])
        edge = torch.from_numpy(ndimage.distance_transform_edt(negative) + ndimage.distance_transform_edt(1 - negative))
        sure = edge > patch
        torch.testing.assert_close(reference.negative_mask[sure], negative[sure])
        assert not (reference.subject_mask * reference.negative_mask).any()
        assert reference.warnings == ()


@pytest.mark.parametrize(("width", "height"), [(640, 640), (640, 320), (320, 640)])
def test_subjects_on_whole_patches_are_separated_to_the_pixel(width: int, height: int) -> None:
    image = stripes(width, height, (RED, GREEN, GREEN, BLUE))
    reference = make_reference(image, PointSet([(0.1, 0.5)], [(0.9, 0.5)]), mean_colours, SHARP)
    torch.testing.assert_close(reference.subject_mask, (image[..., 0] == 1).float())
    torch.testing.assert_close(reference.negative_mask, (image[..., 2] == 1).float())
    changed = (reference.image != image).any(dim=-1)
    torch.testing.assert_close(changed, reference.negative_mask.bool())
    filled = reference.image[reference.negative_mask.bool()]
    torch.testing.assert_close(filled, torch.tensor(GREEN).expand_as(filled), atol=0.02, rtol=0)


@settings(max_examples=25, deadline=None)
@given(st.integers(24, 400), st.integers(24, 400), st.integers(0, 5))
def test_invariants_hold_for_any_shape(width: int, height: int, seed: int) -> None:
    """Whatever comes out (unless refused): points in their masks or named, masks disjoint, the rest untouched."""
    image = torch.rand((height, width, 3), generator=torch.Generator().manual_seed(seed))
    points = PointSet([(0.2, 0.4), (0.3, 0.8)], [(0.8, 0.6), (1.0, 0.0)])
    try:
        reference = make_reference(image, points, lambda _: noise_tokens(seed))
    except (MaskError, PointError):
        return
    frame, said = Frame(width, height), " ".join(reference.warnings)
    for sign, mask in (("positive", reference.subject_mask), ("negative", reference.negative_mask)):
        assert set(mask.unique().tolist()) <= {0.0, 1.0} and mask.any()
        for number, point in enumerate(getattr(points, sign), start=1):
            assert mask[frame.pixel_at(*point)] or f"{sign} point {number} " in said
    assert not (reference.subject_mask * reference.negative_mask).any()
    outside = reference.negative_mask == 0
    assert torch.equal(reference.image[outside], image[outside])
    assert reference.similarity.min() >= 0 and reference.similarity.max() <= 1


# --- Real photos -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "right", "positive", "negative"),
    [
        ("puppy", "cat", (0.13, 0.62), (0.83, 0.55)),
        ("backpack", "puppy", (0.3, 0.55), (0.63, 0.62)),
        ("dog", "puppy", (0.2, 0.4), (0.64, 0.62)),
    ],
)
@pytest.mark.parametrize("fill", ["telea", "navier-stokes"])
def test_two_photos_side_by_side(left: str, right: str, positive: tuple, negative: tuple, fill: str) -> None:
    image = torch.cat([photo(left), photo(right)], dim=1)
    points = PointSet([positive], [negative])
    seen: list[torch.Tensor] = []

    def encode(picture: torch.Tensor) -> torch.Tensor:
        seen.append(picture)
        return colour_histograms(picture)

    reference = make_reference(image, points, encode, MaskSettings(fill=fill))
    frame = Frame(768, 384)
    assert reference.subject_mask[frame.pixel_at(*positive)] and reference.negative_mask[frame.pixel_at(*negative)]
    # Colours alone cannot tell a subject from a background of its colour, but they can tell the two photos apart.
    assert reference.subject_mask.mean() > 0.1 and reference.negative_mask.mean() > 0.1
    assert reference.subject_mask[:, :384].sum() > 0.8 * reference.subject_mask.sum()
    assert reference.negative_mask[:, 384:].sum() > 0.8 * reference.negative_mask.sum()
    changed = (reference.image != image).any(dim=-1)
    assert not changed[reference.negative_mask == 0].any()
    assert changed[reference.negative_mask == 1].float().mean() > 0.9
    assert len(seen) == 2
    torch.testing.assert_close(seen[1], frame.clip_input(reference.image, 224))
    torch.testing.assert_close(reference.tokens, colour_histograms(seen[1])[0])


# --- The fill ----------------------------------------------------------------------------------------------------


def test_the_fill_takes_nothing_from_the_subject() -> None:
    """The negative subject touches the subject and the background; only the background may flow in."""
    image = stripes(640, 640, (RED, BLUE, GREEN, GREEN))
    reference = make_reference(image, PointSet([(0.1, 0.5)], [(0.35, 0.5)]), mean_colours, SHARP)
    filled = reference.image[reference.negative_mask.bool()]
    assert reference.negative_mask.mean() == pytest.approx(0.25)
    assert filled[:, 0].max() < 0.1 and filled[:, 1].min() > 0.9


def test_background_is_everything_but_the_subject() -> None:
    image = stripes(640, 320)
    for points in (LEFT_AND_RIGHT, PointSet([(0.1, 0.5)])):
        reference = make_reference(image, points, mean_colours, MaskSettings(fill_region="background", grow=2))
        torch.testing.assert_close(reference.negative_mask, 1 - reference.subject_mask)
        kept = reference.subject_mask == 1
        assert torch.equal(reference.image[kept], image[kept])
        assert reference.image[:, 560:, 2].max() < 0.9  # the far blue is gone


def test_grow_widens_the_removed_region_but_not_into_the_subject() -> None:
    image = stripes(320, 320, (RED, GREEN, GREEN, BLUE))
    points = PointSet([(0.1, 0.5)], [(0.9, 0.5)])
    for grow, expected in [(0, 80), (0.5, 90), (2, 120), (16, 240)]:
        reference = make_reference(image, points, mean_colours, MaskSettings(blur=0, grow=grow))
        assert (reference.negative_mask.sum(dim=1) == expected).all()
        assert (reference.subject_mask.sum(dim=1) == 80).all()
        assert not (reference.subject_mask * reference.negative_mask).any()


def test_without_a_negative_point_nothing_is_removed() -> None:
    image, calls = stripes(640, 320), []

    def encode(picture: torch.Tensor) -> torch.Tensor:
        calls.append(picture)
        return mean_colours(picture)

    reference = make_reference(image, PointSet([(1 / 6, 0.5)]), encode, MaskSettings(grow=3))
    assert torch.equal(reference.image, image) and reference.image.data_ptr() != image.data_ptr()
    assert not reference.negative_mask.any()
    assert len(calls) == 1  # I' = I, so its tokens are known
    expected = make_reference(image, LEFT_AND_RIGHT, mean_colours)
    torch.testing.assert_close(reference.subject_mask, expected.subject_mask)


def test_an_inpainted_picture_is_used_as_it_is() -> None:
    image = stripes(640, 320)
    inpainted = torch.full_like(image, 0.5)
    reference = make_reference(image, LEFT_AND_RIGHT, mean_colours, inpainted=inpainted)
    assert torch.equal(reference.image, inpainted)
    torch.testing.assert_close(reference.tokens, mean_colours(Frame(640, 320).clip_input(inpainted, 224))[0])
    assert reference.negative_mask.any()
    assert reference.image_hash == image_hash(image)


def test_an_inpainted_picture_of_the_same_shape_is_resized() -> None:
    image = stripes(640, 320)
    for width, height in [(320, 160), (1280, 640), (648, 320)]:
        inpainted = stripes(width, height, (RED, GREEN, GREEN))
        reference = make_reference(image, LEFT_AND_RIGHT, mean_colours, inpainted=inpainted)
        assert reference.image.shape == image.shape
        assert (reference.image[:, 10:200] - torch.tensor(RED)).abs().max() < 1e-5
        assert (reference.image[:, 450:] - torch.tensor(GREEN)).abs().max() < 1e-5


def test_an_inpainted_picture_of_another_shape_is_refused() -> None:
    with pytest.raises(MaskError, match="inpainted picture is 320 x 640 pixels, the photo 640 x 320"):
        make_reference(stripes(640, 320), LEFT_AND_RIGHT, mean_colours, inpainted=torch.zeros(640, 320, 3))


def island() -> torch.Tensor:
    """Red with one blue patch in its middle, then green; 640 x 640 pixels."""
    image = stripes(640, 640, (RED, GREEN))
    image[320:360, 160:200] = torch.tensor(BLUE)
    return image


def test_a_negative_point_within_the_subject_mask() -> None:
    image, alone = island(), PointSet([(0.1, 0.2)], [(0.28, 0.53)])
    with pytest.raises(MaskError, match=r"subject mask already covers negative point 1 \(at pixel 179, 339\).* Move"):
        make_reference(image, alone, mean_colours)
    # With an inpainted picture nothing has to be filled, so it is only worth a warning.
    reference = make_reference(image, alone, mean_colours, inpainted=image)
    assert len(reference.warnings) == 1 and "already covers negative point 1" in reference.warnings[0]
    assert not reference.negative_mask.any()
    # Another negative point that does its work keeps the whole from failing.
    image[:, 480:] = torch.tensor(BLUE)
    reference = make_reference(image, PointSet([(0.1, 0.2)], [(0.9, 0.5), (0.28, 0.53)]), mean_colours)
    assert any("already covers negative point 2" in warning for warning in reference.warnings)
    assert reference.negative_mask[320, 600]


# --- What the host does ------------------------------------------------------------------------------------------


def test_results_are_normal_tensors_also_under_inference_mode() -> None:
    image = stripes(96, 48).half()
    with torch.inference_mode():
        made_inside = [
            make_reference(image.clone(), points, lambda picture: mean_colours(picture).half(), inpainted=inpainted)
            for points in (LEFT_AND_RIGHT, PointSet([(0.1, 0.5)]))
            for inpainted in (None, image.clone())
        ]
    for reference in made_inside:
        for name in ("image", "tokens", "subject_mask", "negative_mask", "similarity"):
            tensor = getattr(reference, name)
            assert not tensor.is_inference() and not tensor.requires_grad, name
            assert tensor.dtype == torch.float32 and tensor.device.type == "cpu" and tensor.is_contiguous(), name
            weight = torch.ones(1, requires_grad=True)
            (tensor * weight).sum().backward()  # this is what an inference tensor refuses
        assert reference.image.shape == (48, 96, 3) and reference.tokens.shape == (257, 3)
        assert reference.subject_mask.shape == reference.negative_mask.shape == reference.similarity.shape == (48, 96)


def test_the_photo_is_not_changed_and_shared_with_nothing() -> None:
    image = stripes(96, 48)
    before = image.clone()
    reference = make_reference(image, LEFT_AND_RIGHT, mean_colours)
    reference.image.zero_()
    assert torch.equal(image, before)


def test_the_same_inputs_give_the_same_reference() -> None:
    image = torch.cat([photo("puppy"), photo("cat")], dim=1)
    points = PointSet([(0.13, 0.62)], [(0.83, 0.55)])
    first, second = (make_reference(image, points, colour_histograms) for _ in range(2))
    assert torch.equal(first.image, second.image) and torch.equal(first.tokens, second.tokens)
    assert first.image_hash == second.image_hash


def test_image_hash_is_sha256_of_size_and_8_bit_pixels() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (600, 4, 3), np.uint8)  # rows enough for several strips
    expected = hashlib.sha256(b"4x600:" + pixels.tobytes()).hexdigest()
    image = torch.from_numpy(pixels.astype(np.float32) / 255)
    assert image_hash(image) == expected == image_hash(image + 1e-4) == image_hash(torch.from_numpy(pixels))
    assert image_hash(image.view(4, 600, 3)) != expected


def test_a_photo_of_24_megapixels_is_quick_and_exact_outside_the_mask() -> None:
    width, height = 6000, 4000
    image = stripes(width, height, (RED, GREEN, GREEN, BLUE))
    start = time.perf_counter()
    reference = make_reference(image, PointSet([(0.1, 0.5)], [(0.9, 0.5)]), mean_colours, SHARP)
    assert time.perf_counter() - start < 60  # about 3 s on an idle core
    outside = reference.negative_mask == 0
    assert torch.equal(reference.image[outside], image[outside])
    assert reference.negative_mask[:, 4700:].all() and not reference.negative_mask[:, :4300].any()
    assert reference.image[:, 4700:, 2].max() < 0.1 and reference.image[:, 4700:, 1].min() > 0.9
