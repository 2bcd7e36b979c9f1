"""The equations of the rough masks: cosines between CLIP's patches (Eq. 1), their blur and threshold (Eq. 2).

``rough_masks`` puts them together, with words for users where they give no sensible mask.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import MaskError
from ..optional_packages import import_package
from ..settings import check, setting
from .framing import Frame
from .points import Point, PointSet
from .tiling import Tiling

WORKING_SIDE = 768  # masks and fill are made at this resolution at most; they come from 16 x 16 patches anyway
FLAT = 0.02  # a similarity map with less contrast than this cannot separate anything
ALMOST_ALL = 0.95  # of the photo's area
BINS = 256  # of the histogram for Otsu's method

#: What Eq. 1 compares, see :func:`p3s.reference.layer_states.layer_states`.
FEATURES = ("last", "penultimate", "value-value")

Region = tuple[slice, slice]  # rows and columns


@dataclass(frozen=True)
class MaskSettings:
    """How masks and fill are made (docs/method.md, rows f, g, j and v).

    Raises MaskError for a value that is not allowed.
    """

    #: Of the cosines of Eq. 1.
    value_range: str = setting(
        "clip",
        "How similarities are mapped to 0..1: clip cuts negative ones off, minmax stretches the whole range.",
        ("clip", "minmax"),
    )
    #: Standard deviation of Eq. 2's Gaussian; 0 leaves the map as it is.
    blur: float = setting(
        1.0,
        "Blur of the similarity map, in patches: a sixteenth of the longer side, unless tiles or mask_vision change "
        "that.",
        low=0.0,
        high=8.0,
        step=0.1,
    )
    fill_region: str = setting(
        "negative",
        "negative: remove the negative subject. background: remove everything but the subject.",
        ("negative", "background"),
    )
    grow: float = setting(
        0.0,
        "Grow the removed region by this many patches; it never enters the subject.",
        low=0.0,
        high=16.0,
        step=0.1,
    )
    #: OpenCV's inpainting, or ``smooth``, which replaces both where OpenCV is not installed.
    fill: str = setting(
        "telea",
        "How the removed region is filled when no inpainted photo is given. smooth needs no OpenCV.",
        ("telea", "navier-stokes", "smooth"),
    )
    features: str = setting(
        "last",
        "What is compared: last (the paper's): the last hidden state; penultimate: that of the layer before; "
        "value-value: value-to-value attention in the last layers (CLIP Surgery).",
        FEATURES,
    )
    #: Row j.
    tiles: int = setting(
        1,
        "2 or 3: look at the photo in 2 x 2 or 3 x 3 overlapping crops, for a finer grid of patches. 1: off.",
        low=1,
        high=3,
        step=1,
    )
    #: Needs OpenCV.
    refine: str = setting(
        "off",
        "grabcut: move the masks' outlines, by up to a patch, to edges of the photo.",
        ("off", "grabcut"),
    )

    def __post_init__(self) -> None:
        check(self, MaskError)


class Patches:
    """The patches of one photo on a G x G grid, ``grid`` along a side.

    Args:
        tokens: [tiles, prefix + g*g, D]: what a vision model gives for each tile of ``Tiling.places``.
        frame: the photo's.
        prefix: tokens before the patches.
        tiles: n, for n x n tiles; 1 is the whole photo, with G = g.

    ``vectors`` [G, G, D]: unit vectors; with tiles their weighted means (``Tiling.merged``).
    """

    def __init__(self, tokens: Tensor, frame: Frame, prefix: int = 1, tiles: int = 1) -> None:
        side = math.isqrt(tokens.shape[1] - prefix)
        self.frame = frame
        self._tiling = Tiling(frame, side, tiles)
        self.grid = self._tiling.grid
        self.valid = frame.valid_patches(self.grid)
        own = functional.normalize(tokens[:, prefix:].double(), dim=-1).view(len(tokens), side, side, -1)
        self._own = own
        self.vectors = own[0] if tiles == 1 else self._tiling.merged(own)

    # Eq. 1:  M_ij = F_ij . F_p / (|F_ij| |F_p|)
    def cosine_map(self, point: Point) -> np.ndarray:
        """The cosine of every patch to the patch p at a point, [G, G], -1..1. With tiles p is of the tile in which the
        point is most central, and the map the tiles' weighted mean."""
        return (self.vectors @ self._own[self._tiling.most_central(*self.frame.patch_at(*point, self.grid))]).numpy()


def resized_mask(mask: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """A bool mask [h, w] at another (height, width): bilinear, from one half on."""
    levels = torch.from_numpy(mask).float()[None, None]
    return (functional.interpolate(levels, size, mode="bilinear", align_corners=False)[0, 0] >= 0.5).numpy()


# M_P = mean of the positive points' maps, M_N = maximum of the negative ones' (row h), each 0 without any (row i)
def similarity_maps(patches: Patches, points: PointSet, value_range: str) -> tuple[np.ndarray, np.ndarray]:
    """M_P and M_N of Eq. 2, [g, g], 0..1."""

    def combined(combine: Callable[..., np.ndarray], of: Sequence[Point]) -> np.ndarray:
        cosines = combine([patches.cosine_map(point) for point in of], axis=0)
        return _into_range(cosines, patches.valid, value_range)

    nothing = np.zeros((patches.grid, patches.grid))
    m_p = combined(np.mean, points.positive) if points.positive else nothing
    return m_p, combined(np.max, points.negative) if points.negative else nothing


def _into_range(cosines: np.ndarray, valid: Region, value_range: str) -> np.ndarray:
    """Row g: -1..1 to 0..1."""
    if value_range == "clip":
        return cosines.clip(0, 1)
    span = np.ptp(cosines[valid])
    return ((cosines - cosines[valid].min()) / span).clip(0, 1) if span >= FLAT else np.ones_like(cosines)


# Eq. 2:  Mask = Otsu(Gaussian(M_P (1 - M_N)))
def gaussian(similarity: np.ndarray, valid: Region, sigma: float) -> np.ndarray:
    """Eq. 2's blur of a map [g, g], over the valid patches alone, ``sigma`` patches wide. Padding is 0."""
    blurred = np.zeros_like(similarity)
    blurred[valid] = _skimage("filters").gaussian(similarity[valid], sigma=sigma, mode="nearest")
    return blurred


def otsu_threshold(values: np.ndarray) -> float:
    """Otsu's threshold of the values, in the middle of the gap between the two classes (row t)."""
    # scikit-image returns the middle of the highest histogram bin that belongs to the lower class; with as few
    # values as there are patches, many can lie in that bin's upper half, so the class ends at the bin's end.
    lower = values <= _skimage("filters").threshold_otsu(values, BINS) + np.ptp(values) / (2 * BINS)
    # Any threshold in the gap between the two classes separates the patches alike. Its middle keeps the outline,
    # which is interpolated between patches, from leaning to one side.
    return float((values[lower].max() + values[~lower].min()) / 2)


def components(mask: np.ndarray) -> np.ndarray:
    """The connected parts of a bool mask [h, w], numbered from 1; 0 where it is False."""
    return _skimage("measure").label(mask, connectivity=1)


def grow(mask: np.ndarray, radius: float) -> np.ndarray:
    """A bool mask widened by ``radius`` pixels."""
    ndimage = import_package("scipy.ndimage", "scipy", "Masks need")

    return ndimage.distance_transform_edt(~mask) <= radius if mask.any() else mask


def working_size(frame: Frame) -> tuple[int, int]:
    """(height, width) at which the masks of a photo are made."""
    scale = min(1.0, WORKING_SIDE / frame.side)
    return max(1, round(frame.height * scale)), max(1, round(frame.width * scale))


def _skimage(part: str) -> Any:
    return import_package(f"skimage.{part}", "scikit-image", "Masks need")
