from __future__ import annotations

import math
import time
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import map_coordinates

from p3s.errors import MaskError
from p3s.reference.framing import CLIP_MEAN, Frame, enlarged

#: Widths, heights and grids that are always tried: one pixel, a line that ends on a patch's border, thinner than a
#: patch, odd rests, fewer pixels than patches, and CLIP's own grid.
FRAMES = [
    (1, 1, 1),
    (1, 1, 24),
    (333, 1, 16),
    (300, 1, 16),
    (300, 30, 16),
    (30, 300, 7),
    (61, 40, 16),
    (40, 61, 2),
    (64, 48, 24),
    (7, 16, 24),
    (160, 90, 16),
]
SIDES, GRIDS, FRACTIONS = st.integers(1, 300), st.integers(1, 24), st.floats(0, 1)


def any_frame(test: Callable[..., None]) -> Callable[..., None]:
    """Photos of any shape, each with any grid."""
    for width, height, grid in FRAMES:
        test = example(width, height, grid)(test)
    return given(SIDES, SIDES, GRIDS)(test)


def photo(width: int, height: int, seed: int = 0) -> torch.Tensor:
    """A smooth random picture (noise alone would hide errors of half a pixel)."""
    small = torch.rand((1, 3, 5, 5), generator=torch.Generator().manual_seed(seed))
    picture = torch.nn.functional.interpolate(small, (height, width), mode="bilinear", align_corners=True)
    return picture[0].permute(1, 2, 0).contiguous()


def padding_before(frame: Frame) -> tuple[int, int]:
    """Rows above and columns left, counted by centring pixel for pixel."""
    rows, columns = frame.side - frame.height, frame.side - frame.width
    return math.floor(Fraction(rows, 2)), math.floor(Fraction(columns, 2))


def overlaps(start: int, length: int, side: int, grid: int) -> dict[int, dict[int, Fraction]]:
    """Along one axis: patch -> pixel of the photo -> length of their overlap, by comparing all intervals exactly."""
    found: dict[int, dict[int, Fraction]] = {}
    for patch in range(grid):
        low, high = Fraction(patch * side, grid), Fraction((patch + 1) * side, grid)
        pixels = {i: min(high, start + i + 1) - max(low, start + i) for i in range(length)}
        found[patch] = {pixel: overlap for pixel, overlap in pixels.items() if overlap > 0}
    return found


def valid_by_hand(start: int, length: int, side: int, grid: int) -> list[int]:
    """The patches that lie in the photo by half or more; all that touch it, if there are none of these."""
    found = overlaps(start, length, side, grid)
    middles = {patch: Fraction((2 * patch + 1) * side, 2 * grid) for patch in found}
    chosen = [patch for patch in found if start <= middles[patch] <= start + length]
    if length * grid >= side:  # a photo thicker than a patch: then the middle decides exactly over the half
        assert chosen == [patch for patch in found if sum(found[patch].values()) >= Fraction(side, 2 * grid)]
    return chosen or [patch for patch in found if found[patch]]


@any_frame
def test_valid_patches_against_brute_force(width: int, height: int, grid: int) -> None:
    frame = Frame(width, height)
    top, left = padding_before(frame)
    rows, columns = frame.valid_patches(grid)
    assert list(range(rows.start, rows.stop)) == valid_by_hand(top, height, frame.side, grid)
    assert list(range(columns.start, columns.stop)) == valid_by_hand(left, width, frame.side, grid)


@any_frame
def test_points_fall_into_the_patch_that_holds_their_pixel(width: int, height: int, grid: int) -> None:
    frame = Frame(width, height)
    top, left = padding_before(frame)
    rows, valid_rows = overlaps(top, height, frame.side, grid), valid_by_hand(top, height, frame.side, grid)
    columns, valid_columns = overlaps(left, width, frame.side, grid), valid_by_hand(left, width, frame.side, grid)

    def holds(patch: int, pixel: int, patches: dict[int, dict[int, Fraction]], valid: list[int]) -> bool:
        holders = [number for number, pixels in patches.items() if pixel in pixels]
        nearest = {min(valid, key=lambda number: abs(number - holder)) for holder in holders}
        return patch in nearest

    for pixel_y in {0, height // 3, height // 2, height - 1}:
        for pixel_x in {0, width // 3, width // 2, width - 1}:
            x, y = (pixel_x + 0.5) / width, (pixel_y + 0.5) / height
            assert frame.pixel_at(x, y) == (pixel_y, pixel_x)
            row, column = frame.patch_at(x, y, grid)
            assert holds(row, pixel_y, rows, valid_rows) and holds(column, pixel_x, columns, valid_columns)


@given(st.integers(1, 10000), st.integers(1, 10000), GRIDS, FRACTIONS, FRACTIONS)
@example(6000, 4000, 16, 0.5, 0.5)
@example(4000, 400, 16, 0.5, 0.5)
@example(10000, 7, 24, 0.5, 0.5)
@example(1, 10000, 7, 0.5, 0.5)
@example(1, 1, 24, 0.5, 0.5)
def test_every_point_has_a_valid_patch_and_a_pixel_also_on_the_borders(
    width: int, height: int, grid: int, any_x: float, any_y: float
) -> None:
    frame = Frame(width, height)
    rows, columns = frame.valid_patches(grid)
    assert frame.patch_at(0, 0, grid) == (rows.start, columns.start)
    assert frame.patch_at(1, 1, grid) == (rows.stop - 1, columns.stop - 1)
    assert frame.pixel_at(1, 1) == (height - 1, width - 1)
    for x in (*np.linspace(0, 1, 23), any_x):
        for y in (*np.linspace(0, 1, 23), any_y):
            row, column = frame.patch_at(float(x), float(y), grid)
            assert rows.start <= row < rows.stop and columns.start <= column < columns.stop


def test_known_geometry() -> None:
    assert Frame(200, 100).valid_patches(16) == (slice(4, 12), slice(0, 16))
    assert Frame(100, 200).valid_patches(16) == (slice(0, 16), slice(4, 12))
    assert Frame(300, 200).valid_patches(16) == (slice(3, 13), slice(0, 16))  # rows 2 and 13 are padding by two thirds
    assert Frame(160, 90).valid_patches(16) == (slice(3, 13), slice(0, 16))  # rows 3 and 12 lie in it by exactly half
    assert Frame(1000, 10).valid_patches(16) == (slice(7, 9), slice(0, 16))  # thinner than a patch
    assert Frame(1000, 100).valid_patches(16) == (slice(7, 9), slice(0, 16))
    assert Frame(200, 100).patch_at(0.5, 0, 16) == (4, 8)
    assert Frame(200, 100).patch_at(1, 1, 16) == (11, 15)
    assert Frame(6000, 4000).patch_size(16) == 375


@pytest.mark.parametrize(("width", "height"), [(448, 448), (500, 300), (300, 500), (900, 90), (61, 40), (32, 32)])
def test_clip_input_is_the_padded_square_resized(width: int, height: int) -> None:
    frame, image = Frame(width, height), photo(width, height)
    result = frame.clip_input(image, 224)
    assert result.shape == (1, 224, 224, 3)

    square = np.tile(np.array(CLIP_MEAN, dtype=np.float32), (frame.side, frame.side, 1))
    top, left = padding_before(frame)
    square[top : top + height, left : left + width] = image.numpy()
    channels = [Image.fromarray(square[..., c]).resize((224, 224), Image.Resampling.BICUBIC) for c in range(3)]
    expected = np.clip(np.stack([np.asarray(channel) for channel in channels], axis=-1), 0, 1)
    inner = slice(2, -2)  # torch and Pillow treat the outermost pixels differently when enlarging
    np.testing.assert_allclose(result[0, inner, inner].numpy(), expected[inner, inner], atol=2e-3)


def test_padding_has_clips_mean_colour_and_values_stay_in_range() -> None:
    image = (photo(400, 200) > 0.5).float()  # hard edges make bicubic resampling overshoot
    result = Frame(400, 200).clip_input(image, 224)
    torch.testing.assert_close(result[0, :50], torch.tensor(CLIP_MEAN).expand(50, 224, 3))
    torch.testing.assert_close(result[0, -50:], torch.tensor(CLIP_MEAN).expand(50, 224, 3))
    assert result.min() >= 0 and result.max() <= 1


def test_a_picture_of_clips_size_is_not_resampled() -> None:
    image = torch.rand((224, 224, 3), generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(Frame(224, 224).clip_input(image, 224)[0], image)


@given(SIDES, SIDES, st.none() | st.tuples(st.integers(1, 99), st.integers(1, 99)))
@example(64, 64, None)
@example(96, 54, (37, 53))
@example(54, 96, (37, 53))
@example(200, 20, (37, 53))
@example(61, 40, None)
@example(300, 1, (1, 1))
def test_to_image_against_scipy(width: int, height: int, size: tuple[int, int] | None) -> None:
    frame, grid = Frame(width, height), 16
    values = np.random.default_rng(0).random((grid, grid))
    rows, columns = frame.valid_patches(grid)
    top, left = padding_before(frame)
    out_height, out_width = size or (height, width)
    y = (top + (np.arange(out_height) + 0.5) * height / out_height) / frame.side * grid - 0.5 - rows.start
    x = (left + (np.arange(out_width) + 0.5) * width / out_width) / frame.side * grid - 0.5 - columns.start
    # Only the valid rectangle is handed over, so values of padding patches cannot leak in unnoticed.
    expected = map_coordinates(
        values[rows, columns], np.stack(np.meshgrid(y, x, indexing="ij")), order=1, mode="nearest"
    )
    result = frame.to_image(torch.from_numpy(values), size)
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("width", "height"), [(640, 640), (640, 320), (320, 640), (700, 100), (61, 40)])
def test_a_mark_in_the_photo_comes_back_at_its_place(width: int, height: int) -> None:
    """Round trip: a bright disc in the photo -> CLIP's input -> mean per patch -> map over the photo -> its peak."""
    frame, grid = Frame(width, height), 16
    for x, y in [(0.2, 0.3), (0.8, 0.6), (0.5, 0.5)]:
        row, column = frame.patch_at(x, y, grid)
        rows, columns = np.mgrid[:height, :width] + 0.5
        disc = (rows - y * height) ** 2 + (columns - x * width) ** 2 < (0.6 * frame.patch_size(grid)) ** 2
        mean = torch.tensor(CLIP_MEAN)
        image = torch.where(torch.from_numpy(disc).unsqueeze(-1), mean + 0.4, mean)  # on the padding's own colour
        square = frame.clip_input(image, 224)[0, ..., 0] - CLIP_MEAN[0]
        means = square.reshape(grid, 14, grid, 14).mean(dim=(1, 3))
        spread = frame.to_image(means)
        assert means[row, column] > 0.3 * means.max()
        weight = spread.clamp(min=0)
        centre_y = float((weight.sum(1) * (torch.arange(height) + 0.5)).sum() / weight.sum())
        centre_x = float((weight.sum(0) * (torch.arange(width) + 0.5)).sum() / weight.sum())
        assert math.hypot(centre_y - y * height, centre_x - x * width) < 0.5 * frame.patch_size(grid)


def test_a_large_photo_and_a_long_panorama_are_quick() -> None:
    for width, height in [(6000, 4000), (20000, 200)]:
        image = torch.full((height, width, 3), 0.25)
        start = time.perf_counter()
        result = Frame(width, height).clip_input(image, 224)
        assert time.perf_counter() - start < 10
        # The panorama is about two rows high there, so that bicubic resampling sees a little of the padding.
        torch.testing.assert_close(result[0, 112, 112], torch.full((3,), 0.25), atol=1e-2, rtol=0)


@pytest.mark.parametrize("size", [(0, 5), (5, -1), (2.0, 5), (True, 5)])
def test_a_size_without_area_is_refused(size: tuple[int, int]) -> None:
    with pytest.raises(MaskError, match="cannot be used"):
        Frame(*size)


def test_a_picture_of_another_size_is_refused() -> None:
    with pytest.raises(MaskError, match=r"Expected a picture \[20, 30, 3\], got \[30, 20, 3\]"):
        Frame(30, 20).clip_input(torch.zeros(30, 20, 3), 224)


@pytest.mark.parametrize(("width", "height"), sorted({frame[:2] for frame in FRAMES}))
@pytest.mark.parametrize("grid", [1, 7, 16])
@pytest.mark.parametrize("scale", [1, 3])
def test_a_mask_on_the_grid_against_brute_force(width: int, height: int, grid: int, scale: int) -> None:
    """Every pixel goes to the patches that hold it, those of padding to the valid patch beside them."""
    frame = Frame(width, height)
    top, left = padding_before(frame)

    def shares(start: int, length: int, count: int) -> np.ndarray:
        valid = valid_by_hand(start, length, frame.side, grid)
        found = np.zeros((grid, count))
        # The same overlaps in pixels of the mask: all lengths times count / length.
        step = Fraction(length, count)
        for patch in range(grid):
            low, high = Fraction(patch * frame.side, grid), Fraction((patch + 1) * frame.side, grid)
            target = min(max(patch, valid[0]), valid[-1])
            for pixel in range(count):
                begin = start + pixel * step
                found[target, pixel] += float(max(0, min(high, begin + step) - max(low, begin)))
        return found / np.maximum(found.sum(1, keepdims=True), 1e-30)

    mask = torch.rand((height * scale, width * scale), generator=torch.Generator().manual_seed(1))
    expected = shares(top, height, height * scale) @ mask.double().numpy() @ shares(left, width, width * scale).T
    np.testing.assert_allclose(frame.to_grid(mask, grid).numpy(), expected, atol=1e-6)
    outside = torch.ones(grid, grid, dtype=torch.bool)
    outside[frame.valid_patches(grid)] = False
    assert (frame.to_grid(mask, grid)[outside] == 0).all()


@pytest.mark.parametrize(("width", "height"), [(96, 64), (64, 96), (61, 40)])
def test_the_patch_of_a_masked_pixel_is_that_of_a_point_there(width: int, height: int) -> None:
    frame = Frame(width, height)
    for row, column in [(0, 0), (height // 3, width // 2), (height - 1, width - 1), (5, width - 2)]:
        mask = torch.zeros(height, width)
        mask[row, column] = 1
        shares = frame.to_grid(mask, 16)
        patch = frame.patch_at((column + 0.5) / width, (row + 0.5) / height, 16)
        assert shares[patch] == pytest.approx(shares.max().item())  # a pixel on the border of two has two highest


@pytest.mark.parametrize(("own", "size"), [((5, 7), (40, 33)), ((1, 3), (9, 3)), ((6, 6), (6, 11))])
def test_an_enlarged_part_is_that_of_torchs_bilinear_picture(own: tuple[int, int], size: tuple[int, int]) -> None:
    picture = torch.rand((*own, 3), generator=torch.Generator().manual_seed(0))
    whole = torch.nn.functional.interpolate(picture.permute(2, 0, 1)[None], size, mode="bilinear")[0].permute(1, 2, 0)
    for part in ((slice(0, size[0]), slice(0, size[1])), (slice(2, 5), slice(1, 2))):
        torch.testing.assert_close(enlarged(picture, size, part), whole[part], atol=1e-5, rtol=0)
