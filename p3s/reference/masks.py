"""Rough masks of the wanted and the unwanted subject, from cosines between CLIP's patches (Eq. 1 and 2)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import MaskError, PointError
from ..packages import require
from ..settings import check, setting
from .framing import Frame
from .points import Point, PointSet

WORKING_SIDE = 768  # masks and fill are made at this resolution at most; they come from 16 x 16 patches anyway
FLAT = 0.02  # a similarity map with less contrast than this cannot separate anything
ALMOST_ALL = 0.95  # of the photo's area
BINS = 256  # of the histogram for Otsu's method


@dataclass(frozen=True)
class MaskSettings:
    """How masks and fill are made (docs/method.md, rows f and g). Raises MaskError for a value that is not allowed."""

    #: Of the cosines of Eq. 1.
    value_range: str = setting(
        "clip",
        "How similarities are mapped to 0..1: clip cuts negative ones off, minmax stretches the whole range.",
        ("clip", "minmax"),
    )
    #: Standard deviation of Eq. 2's Gaussian; 0 leaves the map as it is.
    blur: float = setting(
        1.0,
        "Blur of the similarity map, in CLIP patches (a sixteenth of the longer side).",
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

    def __post_init__(self) -> None:
        check(self, MaskError)


class Patches:
    """The patches of one photo: unit vectors on a g x g grid."""

    def __init__(self, tokens: Tensor, frame: Frame) -> None:
        self.frame = frame
        self.grid = math.isqrt(tokens.shape[1] - 1)
        self.valid = frame.valid_patches(self.grid)
        self.vectors = functional.normalize(tokens[0, 1:].double(), dim=-1).view(self.grid, self.grid, -1)

    def cosine_map(self, point: Point) -> np.ndarray:
        """Eq. 1 for one point: the cosine of every patch to the patch at the point, [g, g], -1..1."""
        return (self.vectors @ self.vectors[self.frame.patch_at(*point, self.grid)]).numpy()


class RoughMasks:
    """Eq. 2 for both signs. Masks are [h, w] bool at the working resolution; ``warnings`` fills up on the way."""

    def __init__(self, patches: Patches, points: PointSet, settings: MaskSettings) -> None:
        self.patches, self.points, self.settings = patches, points, settings
        self.frame = patches.frame
        self.size = working_size(self.frame)
        self.patch_side = max(self.size) / patches.grid
        self.warnings: list[str] = []

        # Row h: the mean of the positive maps, the maximum of the negative ones.
        self.m_p = self._into_range(np.mean([patches.cosine_map(point) for point in points.positive], axis=0))
        self.m_n = np.zeros_like(self.m_p)  # row i: without negative points M_N = 0
        if points.negative:
            self.m_n = self._into_range(np.max([patches.cosine_map(point) for point in points.negative], axis=0))

    def subject(self) -> tuple[np.ndarray, np.ndarray]:
        """The subject mask and the blurred map [g, g] that it was cut from."""
        mask, blurred = self._mask(self.m_p * (1 - self.m_n), self.points.positive, "positive")
        covered = mask.mean()
        if covered == 1:
            raise MaskError(
                "The subject mask covers the whole picture. Put a positive point on a part that only the subject has, "
                "or a negative point on what does not belong to it."
            )
        if covered > ALMOST_ALL:
            self.warnings.append(
                f"The subject mask covers {covered:.0%} of the picture. If that is too much, put a negative point on "
                "what does not belong to the subject."
            )
        if mask.sum() < self.patch_side**2:
            self.warnings.append(
                f"The subject mask is smaller than one CLIP patch ({_patch_pixels(self.patches)}), so little of the "
                "subject will be learned. Crop the picture closer to the subject, or move the positive point to a "
                "more typical part of it."
            )
        return mask, blurred

    def removed(self, subject: np.ndarray, required: bool) -> np.ndarray:
        """The region to fill. Where no fill is required, a bad negative mask only gives a warning."""
        if self.settings.fill_region == "background":
            return ~subject
        removed = np.zeros_like(subject)
        if self.points.negative:
            try:
                removed = self._negative(subject)
            except MaskError as error:
                if required:
                    raise
                self.warnings.append(str(error))
        if self.settings.grow and removed.any():
            removed = grow(removed, self.settings.grow * self.patch_side) & ~subject
        return removed

    def _negative(self, subject: np.ndarray) -> np.ndarray:
        """Row f: Eq. 2 with the roles exchanged, minus the subject mask."""
        mask, _ = self._mask(self.m_n * (1 - self.m_p), self.points.negative, "negative")
        swallowed = self._names("negative", lambda point: self._at(subject, point))
        if len(swallowed) == len(self.points.negative):
            raise MaskError(
                f"The subject mask already covers {_join(swallowed)}, so there is nothing left to remove there. "
                "Move the positive and negative points further apart, onto parts that look different."
            )
        self.warnings += [
            f"The subject mask already covers {name}. Move that point further away from the subject."
            for name in swallowed
        ]
        mask &= ~subject
        if mask.mean() > ALMOST_ALL:
            raise MaskError(
                f"The region to remove covers {mask.mean():.0%} of the picture, so almost nothing would be left. "
                "Move the negative point to a part that looks less like the rest of the picture."
            )
        return mask

    def _mask(self, similarity: np.ndarray, points: tuple[Point, ...], sign: str) -> tuple[np.ndarray, np.ndarray]:
        """Eq. 2: the part of Otsu(Gaussian(similarity)) that holds clicked points, and the blurred map [g, g]."""
        filters, measure = (require(f"skimage.{part}", "scikit-image", "Masks need") for part in ("filters", "measure"))

        compared = f"the {sign} point{'s' * (len(points) > 1)}"
        valid = similarity[self.patches.valid]
        values = filters.gaussian(valid, sigma=self.settings.blur, mode="nearest")
        if np.ptp(valid) < FLAT or np.ptp(values) < FLAT / 10:
            raise MaskError(
                f"Compared with {compared}, the whole picture looks the same to CLIP (similarity {valid.min():.3f} to "
                f"{valid.max():.3f} everywhere), so no mask can be made. Move the positive and negative points to "
                "parts that look different from each other and from the rest."
            )
        blurred = np.zeros_like(similarity)  # padding stays 0 and is never read
        blurred[self.patches.valid] = values
        # scikit-image returns the middle of the highest histogram bin that belongs to the lower class; with as few
        # values as there are patches, many can lie in that bin's upper half, so the class ends at the bin's end.
        lower = values <= filters.threshold_otsu(values, BINS) + np.ptp(values) / (2 * BINS)
        # Any threshold in the gap between the two classes separates the patches alike. Its middle keeps the outline,
        # which is interpolated between patches, from leaning to one side.
        threshold = (values[lower].max() + values[~lower].min()) / 2

        spread = self.frame.to_image(torch.from_numpy(blurred), self.size).numpy()
        regions = measure.label(spread > threshold, connectivity=1)
        clicked = {int(self._at(regions, point)) for point in points} - {0}
        outside = self._names(sign, lambda point: not self._at(regions, point))
        what = "subject" if sign == "positive" else "region to remove"
        if not clicked:
            raise MaskError(
                f"No clicked point lies in the mask of the {what}: at {_join(outside)} the picture looks too much like "
                f"the other points or like its surroundings. Move the {sign} point to the middle of the {what}, and "
                "points of the other sign further away."
            )
        self.warnings += [
            f"{name} lies outside the mask of the {what}. Move it further inside, or remove it." for name in outside
        ]
        return np.isin(regions, list(clicked)), blurred

    def _into_range(self, cosine: np.ndarray) -> np.ndarray:
        """Row g: -1..1 to 0..1."""
        if self.settings.value_range == "clip":
            return cosine.clip(0, 1)
        valid = cosine[self.patches.valid]
        span = np.ptp(valid)
        return ((cosine - valid.min()) / span).clip(0, 1) if span >= FLAT else np.ones_like(cosine)

    def _at(self, array: np.ndarray, point: Point) -> Any:
        return array[self.frame.pixel_at(*point, self.size)]

    def _names(self, sign: str, chosen: Callable[[Point], Any]) -> list[str]:
        points = getattr(self.points, sign)
        return [_name(self.frame, sign, number, point) for number, point in enumerate(points, 1) if chosen(point)]


def rough_masks(patches: Patches, points: PointSet, settings: MaskSettings) -> RoughMasks:
    """Eq. 2's masks of a photo. Raises PointError: no positive point, or points of opposite sign in one patch."""
    _check_apart(points.require_positive(), patches)
    return RoughMasks(patches, points, settings)


def _check_apart(points: PointSet, patches: Patches) -> None:
    """A patch cannot be both like the subject and unlike it."""
    frame, grid = patches.frame, patches.grid
    taken = {frame.patch_at(*point, grid): (number, point) for number, point in enumerate(points.positive, 1)}
    for number, point in enumerate(points.negative, 1):
        if (positive := taken.get(frame.patch_at(*point, grid))) is not None:
            raise PointError(
                f"{_name(frame, 'positive', *positive)} and {_name(frame, 'negative', number, point)} lie in the same "
                f"CLIP patch. Move one of them at least one patch ({_patch_pixels(patches)}) away."
            )


def _name(frame: Frame, sign: str, number: int, point: Point) -> str:
    row, column = frame.pixel_at(*point)
    return f"{sign} point {number} (at pixel {column}, {row})"


def _patch_pixels(patches: Patches) -> str:
    return f"{patches.frame.patch_size(patches.grid):.0f} pixels"


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def working_size(frame: Frame) -> tuple[int, int]:
    """(height, width) at which the masks of a photo are made."""
    scale = min(1.0, WORKING_SIDE / frame.side)
    return max(1, round(frame.height * scale)), max(1, round(frame.width * scale))


def grow(mask: np.ndarray, radius: float) -> np.ndarray:
    """A bool mask widened by ``radius`` pixels."""
    ndimage = require("scipy.ndimage", "scipy", "Masks need")

    return ndimage.distance_transform_edt(~mask) <= radius if mask.any() else mask
