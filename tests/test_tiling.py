"""Tiles: crops cut by hand, read one by one and averaged patch by patch, give the same map; the grid is finer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from p3s.errors import MaskError
from p3s.reference.framing import CLIP_MEAN, Frame
from p3s.reference.masks import MaskSettings, Patches
from p3s.reference.points import PointSet
from p3s.reference.rngr import clip_tokens, make_reference
from p3s.reference.tiling import Tiling
from p3s.reference.vision import PatchVision

GRID, PATCH = 8, 6
SIDE = GRID * PATCH


def local(pictures: Tensor) -> Tensor:
    """A model whose patches know where in the picture they lie, and their surroundings: crops are not the whole."""
    flat = pictures.permute(0, 3, 1, 2)
    own = functional.avg_pool2d(flat, PATCH)
    around = functional.avg_pool2d(own, 3, stride=1, padding=1)
    place = torch.linspace(0, 0.3, GRID)
    rows, columns = (grid.expand(len(flat), 1, GRID, GRID) for grid in torch.meshgrid(place, place, indexing="ij"))
    patches = torch.cat([own, around, rows, columns], 1).flatten(2).transpose(1, 2)
    return torch.cat([patches.mean(1, keepdim=True), patches], 1)


def vision(patch: int | None = PATCH) -> PatchVision:
    return PatchVision(lambda pictures, _: {"last": local(pictures)}, SIDE, patch, features=("last",))


def smooth_photo(width: int, height: int) -> Tensor:
    noise = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0)


def map_by_hand(image: Tensor, tiles: int, point: tuple[float, float]) -> np.ndarray:
    """The tiles of a photo, one after the other, without Tiling: every cell's cosine in each tile, weighted."""
    stride = round(0.75 * GRID)
    cells = GRID + (tiles - 1) * stride
    frame = Frame(image.shape[1], image.shape[0])
    square = frame.clip_input(image, cells * PATCH)
    found = {}
    for top in range(0, tiles * stride, stride):
        for left in range(0, tiles * stride, stride):
            crop = square[:, top * PATCH :, left * PATCH :][:, :SIDE, :SIDE]
            found[top, left] = local(crop)[0, 1:].double().numpy().reshape(GRID, GRID, -1)
    weight = lambda i: min(i, GRID - 1 - i) + 1 if 0 <= i < GRID else 0  # noqa: E731
    row, column = frame.patch_at(*point, cells)
    places = list(found)
    top, left = max(places, key=lambda at: weight(row - at[0]) * weight(column - at[1]))
    chosen = found[top, left][row - top, column - left]
    result = np.zeros((cells, cells))
    for i in range(cells):
        for j in range(cells):
            total = 0.0
            for top, left in places:
                if share := weight(i - top) * weight(j - left):
                    own = found[top, left][i - top, j - left]
                    cosine = own @ chosen / np.linalg.norm(own) / np.linalg.norm(chosen)
                    result[i, j] += share * cosine
                    total += share
            result[i, j] /= total
    return result


@pytest.mark.parametrize("tiles", [2, 3])
@pytest.mark.parametrize("size", [(130, 130), (150, 90), (64, 200)])
@pytest.mark.parametrize("point", [(0.1, 0.9), (0.5, 0.5), (0.62, 0.2)])
def test_the_map_is_the_weighted_mean_of_the_crops_maps(
    tiles: int, size: tuple[int, int], point: tuple[float, float]
) -> None:
    image = smooth_photo(*size)
    patches = vision().patches(image, tiles=tiles)
    rows, columns = patches.valid
    expected = map_by_hand(image, tiles, point)
    np.testing.assert_allclose(patches.cosine_map(point)[rows, columns], expected[rows, columns], atol=1e-6)
    assert patches.grid == {2: 14, 3: 20}[tiles]
    assert np.ptp(expected[rows, columns]) > 0.05


def test_one_tile_is_the_whole_photo_bit_for_bit() -> None:
    image, points = smooth_photo(100, 70), PointSet([(0.2, 0.3)], [(0.8, 0.7)])
    tokens = clip_tokens(image, local, SIDE)
    alone = Patches(tokens, Frame(100, 70))
    assert torch.equal(vision().patches(image).vectors, alone.vectors)
    for point in (*points.positive, *points.negative):
        row, column = alone.frame.patch_at(*point, GRID)
        vectors = functional.normalize(tokens[0, 1:].double(), dim=-1).view(GRID, GRID, -1)
        assert np.array_equal(alone.cosine_map(point), (vectors @ vectors[row, column]).numpy())


def test_tiles_of_padding_alone_are_not_read() -> None:
    seen = []

    def encode(pictures: Tensor, _: tuple[str, ...]) -> dict[str, Tensor]:
        seen.append(pictures)
        return {"last": local(pictures)}

    wide = PatchVision(encode, SIDE, PATCH, features=("last",))
    patches = wide.patches(smooth_photo(300, 40), tiles=3)
    assert len(seen) == 3 and patches.grid == 20
    assert Tiling(Frame(300, 40), GRID, 3).places == ((6, 0), (6, 6), (6, 12))
    colour = torch.tensor(CLIP_MEAN)
    assert all((picture - colour).abs().max() > 0.1 for picture in seen)


def test_a_model_whose_patch_is_not_known_is_asked_for_its_grid() -> None:
    image = smooth_photo(90, 90)
    assert torch.equal(vision(None).patches(image, tiles=2).vectors, vision().patches(image, tiles=2).vectors)


@pytest.mark.parametrize(("patches", "cells"), [(16, (28, 40)), (12, (21, 30)), (24, (42, 60)), (37, (65, 93))])
def test_the_grids_of_known_models(patches: int, cells: tuple[int, int]) -> None:
    frame = Frame(10, 10)
    assert tuple(Tiling(frame, patches, n).grid for n in (1, 2, 3)) == (patches, *cells)
    for count in (1, 2, 3):
        assert (Tiling(frame, patches, count).weights.sum(0) > 0).all(), "every cell lies in a tile"


def blocks(pictures: Tensor) -> Tensor:
    """A model of 4 x 4 coarse patches that knows colours alone."""
    patches = functional.avg_pool2d(pictures.permute(0, 3, 1, 2) + 0.01, 12).flatten(2).transpose(1, 2)
    return torch.cat([patches.mean(1, keepdim=True), patches], 1)


def test_masks_of_small_subjects_come_nearer_to_their_outlines() -> None:
    """On the mean over places: a subject may happen to fill whole patches of the coarse grid."""
    overlap = np.zeros((3, 3, 3))
    for i, top in enumerate((60, 73, 91)):
        for j, left in enumerate((60, 73, 91)):
            image = torch.zeros(240, 240, 3)
            image[..., 2] = 1
            image[top : top + 90, left : left + 90] = torch.tensor([1.0, 0.0, 0.0])
            truth, points = image[..., 0] > 0, PointSet([((left + 45) / 240, (top + 45) / 240)])
            for n in range(3):
                made = make_reference(image, points, blocks, MaskSettings(blur=0, tiles=n + 1), image_size=48)
                mask = made.subject_mask > 0
                overlap[n, i, j] = (mask & truth).sum() / (mask | truth).sum()
    one, two, three = overlap.mean((1, 2))
    assert one + 0.05 < two < three, overlap.mean((1, 2))


def test_other_numbers_of_tiles_are_refused() -> None:
    for tiles in (0, 4, 2.0, True):
        with pytest.raises(MaskError, match=r"tiles must be a whole number in 1\.\.3"):
            MaskSettings(tiles=tiles)  # type: ignore[arg-type]
