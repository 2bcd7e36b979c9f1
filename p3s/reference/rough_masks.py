"""Rough masks of the wanted and the unwanted subject (Eq. 1-2), and what users should know about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..errors import MaskError, PointError
from .framing import Frame
from .masks import (
    ALMOST_ALL,
    FLAT,
    MaskSettings,
    Patches,
    components,
    gaussian,
    grow,
    otsu_threshold,
    similarity_maps,
    working_size,
)
from .points import Point, PointSet
from .refine import refined


@dataclass(frozen=True, eq=False)
class RoughMasks:
    """Eq. 2's masks of a photo, [h, w] bool at the working resolution (:func:`p3s.reference.masks.working_size`).

    ``removed`` is the region to fill, which never reaches into the ``subject``; ``similarity`` [g, g], 0..1, the
    blurred map that the subject was cut from; ``warnings`` what the user should know, each a sentence or two.
    """

    subject: np.ndarray
    removed: np.ndarray
    similarity: np.ndarray
    warnings: tuple[str, ...]


def rough_masks(
    patches: Patches,
    points: PointSet,
    settings: MaskSettings,
    must_fill: bool = True,
    picture: np.ndarray | None = None,
) -> RoughMasks:
    """Make the masks of a photo.

    ``must_fill``: whether the removed region will be filled; where it will not, one that makes no sense only gives a
    warning. ``picture``: :func:`.refine.refining_picture` of the photo, which ``settings.refine`` needs.

    Raises PointError: no positive point, or points of opposite sign in one patch; MaskError: points from which no
    sensible mask follows.
    """
    _check_apart(points.require_positive(), patches)
    m_p, m_n = similarity_maps(patches, points, settings.value_range)

    # Eq. 2:  Mask = Otsu(Gaussian(M_P (1 - M_N))), the components that hold positive points
    refine = picture if settings.refine != "off" else None
    subject = _cut(m_p * (1 - m_n), patches, points, "positive", settings.blur, refine)
    warnings = [*subject.warnings, *_subject_warnings(subject.mask, patches)]

    removed = np.zeros_like(subject.mask)
    if settings.fill_region == "background":
        return RoughMasks(subject.mask, ~subject.mask, subject.similarity, tuple(warnings))
    if points.negative:
        try:
            # Row f: Eq. 2 with the signs exchanged, minus the subject mask
            region = _cut(m_n * (1 - m_p), patches, points, "negative", settings.blur, refine)
            warnings += [each for each in region.warnings if each not in warnings]
            warnings += _swallowed(subject.mask, patches.frame, points)
            removed = _without(region.mask, subject.mask)
        except MaskError as error:
            if must_fill:
                raise
            warnings.append(str(error))
    if settings.grow and removed.any():
        radius = settings.grow * max(removed.shape) / patches.grid
        removed = grow(removed, radius) & ~subject.mask
    return RoughMasks(subject.mask, removed, subject.similarity, tuple(warnings))


@dataclass(frozen=True, eq=False)
class _Cut:
    """What is cut from one map: the mask [h, w], the blurred map [g, g], and warnings about points outside."""

    mask: np.ndarray
    similarity: np.ndarray
    warnings: tuple[str, ...]


def _cut(
    similarity: np.ndarray, patches: Patches, points: PointSet, sign: str, blur: float, picture: np.ndarray | None
) -> _Cut:
    """The components of Otsu(Gaussian(similarity)) with points of this sign in them, refined to the edges of
    ``picture`` if it is given. Raises MaskError for none."""
    frame, clicked_points = patches.frame, getattr(points, sign)
    blurred = gaussian(similarity, patches.valid, blur)
    _check_contrast(similarity[patches.valid], blurred[patches.valid], sign, len(clicked_points))
    spread = frame.to_image(torch.from_numpy(blurred), working_size(frame)).numpy()
    regions = components(spread > otsu_threshold(blurred[patches.valid]))

    clicked = {int(_at(regions, frame, point)) for point in clicked_points} - {0}
    outside = _names(frame, points, sign, lambda point: not _at(regions, frame, point))
    what = "subject" if sign == "positive" else "region to remove"
    if not clicked:
        raise MaskError(
            f"No clicked point lies in the mask of the {what}: at {_join(outside)} the picture looks too much like "
            f"the other points or like its surroundings. Move the {sign} point to the middle of the {what}, and "
            "points of the other sign further away."
        )
    warnings = [
        f"{name} lies outside the mask of the {what}. Move it further inside, or remove it." for name in outside
    ]
    mask = np.isin(regions, list(clicked))
    if picture is not None:
        patch = max(mask.shape) / patches.grid
        mask, warning = refined(mask, picture, (*points.positive, *points.negative), patch, what)
        warnings += [warning] if warning else []
    return _Cut(mask, blurred, tuple(warnings))


def _check_contrast(similarity: np.ndarray, blurred: np.ndarray, sign: str, count: int) -> None:
    if np.ptp(similarity) < FLAT or np.ptp(blurred) < FLAT / 10:
        raise MaskError(
            f"Compared with the {sign} point{'s' * (count > 1)}, the whole picture looks the same to CLIP (similarity "
            f"{similarity.min():.3f} to {similarity.max():.3f} everywhere), so no mask can be made. Move the positive "
            "and negative points to parts that look different from each other and from the rest."
        )


def _subject_warnings(subject: np.ndarray, patches: Patches) -> list[str]:
    """Raises MaskError for a subject mask that leaves nothing out."""
    covered = subject.mean()
    if covered == 1:
        raise MaskError(
            "The subject mask covers the whole picture. Put a positive point on a part that only the subject has, "
            "or a negative point on what does not belong to it."
        )
    warnings = []
    if covered > ALMOST_ALL:
        warnings.append(
            f"The subject mask covers {covered:.0%} of the picture. If that is too much, put a negative point on "
            "what does not belong to the subject."
        )
    if subject.sum() < (max(subject.shape) / patches.grid) ** 2:
        warnings.append(
            f"The subject mask is smaller than one CLIP patch ({_patch_pixels(patches)}), so little of the "
            "subject will be learned. Crop the picture closer to the subject, or move the positive point to a "
            "more typical part of it."
        )
    return warnings


def _swallowed(subject: np.ndarray, frame: Frame, points: PointSet) -> list[str]:
    """Warnings about negative points in the subject mask. Raises MaskError where all of them are."""
    swallowed = _names(frame, points, "negative", lambda point: _at(subject, frame, point))
    if len(swallowed) == len(points.negative):
        raise MaskError(
            f"The subject mask already covers {_join(swallowed)}, so there is nothing left to remove there. "
            "Move the positive and negative points further apart, onto parts that look different."
        )
    return [
        f"The subject mask already covers {name}. Move that point further away from the subject." for name in swallowed
    ]


def _without(region: np.ndarray, subject: np.ndarray) -> np.ndarray:
    """A region to remove, which must leave the subject alone. Raises MaskError for almost the whole picture."""
    removed = region & ~subject
    if removed.mean() > ALMOST_ALL:
        raise MaskError(
            f"The region to remove covers {removed.mean():.0%} of the picture, so almost nothing would be left. "
            "Move the negative point to a part that looks less like the rest of the picture."
        )
    return removed


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


def _at(array: np.ndarray, frame: Frame, point: Point) -> Any:
    return array[frame.pixel_at(*point, working_size(frame))]


def _names(frame: Frame, points: PointSet, sign: str, chosen: Callable[[Point], Any]) -> list[str]:
    return [_name(frame, sign, number, point) for number, point in enumerate(getattr(points, sign), 1) if chosen(point)]


def _name(frame: Frame, sign: str, number: int, point: Point) -> str:
    row, column = frame.pixel_at(*point)
    return f"{sign} point {number} (at pixel {column}, {row})"


def _patch_pixels(patches: Patches) -> str:
    return f"{patches.frame.patch_size(patches.grid):.0f} pixels"


def _join(names: list[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]
