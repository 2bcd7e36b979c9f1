"""Rough masks of the wanted and the unwanted subject (Eq. 1-2), and what users should know about them."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import MaskError, PointError
from .framing import Frame
from .given_masks import HALF, INVERTED, LOAD_IMAGE, NONE_GIVEN, GivenMasks, covered_by, looks_inverted
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

    ``removed`` is the region to fill, which never reaches into the ``subject``; ``similarity`` [g, g], 0..1, the map
    that the subject was cut from, of a given mask its own levels; ``warnings`` what the user should know, each a
    sentence or two.
    """

    subject: np.ndarray
    removed: np.ndarray
    similarity: np.ndarray
    warnings: tuple[str, ...]


def compares_patches(points: PointSet, settings: MaskSettings, given: Collection[str]) -> bool:
    """Whether Eq. 2 makes a mask, so that patches are compared; ``given``: which of "subject_mask" and "negative_mask"
    are given instead."""
    if "subject_mask" not in given:
        return True
    return settings.fill_region != "background" and "negative_mask" not in given and bool(points.negative)


def rough_masks(
    patches: Patches,
    points: PointSet,
    settings: MaskSettings,
    must_fill: bool = True,
    given: GivenMasks = NONE_GIVEN,
    picture: np.ndarray | None = None,
) -> RoughMasks:
    """Make the masks of a photo.

    ``must_fill``: whether the removed region will be filled; where it will not, one that makes no sense only gives a
    warning. ``given``: masks to be used instead of Eq. 2 (docs/method.md, row u). ``picture``:
    :func:`.refine.refining_picture` of the photo, which ``settings.refine`` needs; given masks are not refined.

    Raises PointError: no positive point and no subject mask, or points of opposite sign in one patch; MaskError: points
    or masks from which no sensible mask follows.
    """
    if given.subject is None:
        points.require_positive()
    m_p = m_n = np.zeros((patches.grid, patches.grid))
    if compares_patches(points, settings, given.names):
        _check_apart(points, patches)
        m_p, m_n = similarity_maps(patches, points, settings.value_range)

    refine = picture if settings.refine != "off" else None
    if given.subject is not None:
        subject = _given_subject(given.subject, patches, points)
    else:
        # Eq. 2:  Mask = Otsu(Gaussian(M_P (1 - M_N))), the components that hold positive points
        subject = _cut(m_p * (1 - m_n), patches, points, "positive", settings.blur, refine)
    warnings = [*subject.warnings, *_subject_warnings(subject.mask, patches, given.subject is not None)]

    removed = np.zeros_like(subject.mask)
    if settings.fill_region == "background":
        return RoughMasks(subject.mask, ~subject.mask, subject.similarity, tuple(warnings))
    if given.negative is not None or points.negative:
        try:
            if given.negative is not None:
                region = _given_negative(given.negative, subject.mask, patches, points)
            else:
                # Row f: Eq. 2 with the signs exchanged, minus the subject mask
                region = _cut(m_n * (1 - m_p), patches, points, "negative", settings.blur, refine)
            warnings += [each for each in region.warnings if each not in warnings]
            if given.negative is None:
                swallowed = _swallowed(subject.mask, patches.frame, points)
                warnings += [] if given.subject is not None else swallowed  # said of the given mask already
            removed = _without(region.mask, subject.mask, given.negative is not None)
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
    """What is cut from one map: the mask [h, w], the map [g, g], blurred, and warnings about points outside."""

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


def _given_subject(mask: Tensor, patches: Patches, points: PointSet) -> _Cut:
    """A subject mask from elsewhere. Raises MaskError where it is the opposite of what the points say."""
    found = covered_by(mask, working_size(patches.frame)) >= HALF
    warnings = _on_the_wrong_side(found, "subject_mask", patches.frame, points, "positive")
    if not (points.positive or points.negative):  # which else tell
        warnings += looks_inverted(found, "subject_mask")
    return _Cut(found, patches.frame.to_grid(mask, patches.grid).numpy(), tuple(warnings))


def _given_negative(mask: Tensor, subject: np.ndarray, patches: Patches, points: PointSet) -> _Cut:
    """The region that a mask from elsewhere asks to remove. Raises MaskError as :func:`_given_subject`, and where the
    subject has all of it."""
    frame = patches.frame
    found = covered_by(mask, working_size(frame)) > 0  # all of it is filled, also what is narrower than a pixel here
    grid = frame.to_grid(mask, patches.grid).numpy()
    if not found.any():
        return _Cut(found, grid, (f"negative_mask is empty, so nothing is removed. {LOAD_IMAGE}.",))
    warnings = _on_the_wrong_side(found, "negative_mask", frame, points, "negative")
    if not (points.positive or points.negative):
        warnings += looks_inverted(found, "negative_mask")
    kept = (found & subject).sum() / found.sum()
    if kept == 1:
        raise MaskError(
            "The subject mask covers all of negative_mask, so there is nothing left to remove. Give masks that leave "
            "each other out, or disconnect negative_mask."
        )
    if kept > 0.5:
        warnings.append(
            f"The subject mask covers {kept:.0%} of negative_mask, and keeps it. If that is too much, give masks that "
            "leave each other out."
        )
    return _Cut(found, grid, tuple(warnings))


def _on_the_wrong_side(mask: np.ndarray, name: str, frame: Frame, points: PointSet, own: str) -> list[str]:
    """A warning about points of the sign ``own`` outside a given mask and of the other one in it. Raises MaskError
    where all points are."""
    other = "negative" if own == "positive" else "positive"
    outside = _names(frame, points, own, lambda point: not _at(mask, frame, point))
    inside = _names(frame, points, other, lambda point: _at(mask, frame, point))
    wrong = [f"{point} lies outside {name}" for point in outside] + [f"{point} lies in {name}" for point in inside]
    if not wrong:
        return []
    if len(wrong) == len(points.positive) + len(points.negative):
        raise MaskError(f"{_join(wrong)}: mask and points contradict each other. {INVERTED}, or remove the points.")
    return [f"{_join(wrong)}. The mask is used; remove such points, or correct the mask."]


def _check_contrast(similarity: np.ndarray, blurred: np.ndarray, sign: str, count: int) -> None:
    if np.ptp(similarity) < FLAT or np.ptp(blurred) < FLAT / 10:
        raise MaskError(
            f"Compared with the {sign} point{'s' * (count > 1)}, the whole picture looks the same to CLIP (similarity "
            f"{similarity.min():.3f} to {similarity.max():.3f} everywhere), so no mask can be made. Move the positive "
            "and negative points to parts that look different from each other and from the rest."
        )


def _subject_warnings(subject: np.ndarray, patches: Patches, given: bool) -> list[str]:
    """Raises MaskError for a subject mask that leaves nothing out. ``given``: it comes from elsewhere."""
    covered = subject.mean()
    if covered == 1:
        raise MaskError(
            "The subject mask covers the whole picture. "
            + (
                f"Give one that marks the subject alone. ({LOAD_IMAGE}, which Invert Mask turns into this.)"
                if given
                else "Put a positive point on a part that only the subject has, or a negative point on what does not "
                "belong to it."
            )
        )
    warnings = []
    if covered > ALMOST_ALL and not given:
        warnings.append(
            f"The subject mask covers {covered:.0%} of the picture. If that is too much, put a negative point on "
            "what does not belong to the subject."
        )
    if subject.sum() < (max(subject.shape) / patches.grid) ** 2:
        warnings.append(
            f"The subject mask is smaller than one CLIP patch ({_patch_pixels(patches)}), so little of the "
            "subject will be learned. Crop the picture closer to the subject"
            + ("." if given else ", or move the positive point to a more typical part of it.")
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


def _without(region: np.ndarray, subject: np.ndarray, given: bool) -> np.ndarray:
    """A region to remove, which must leave the subject alone. Raises MaskError for almost the whole picture.
    ``given``: it comes from elsewhere."""
    removed = region & ~subject
    if removed.mean() > ALMOST_ALL:
        raise MaskError(
            f"The region to remove covers {removed.mean():.0%} of the picture, so almost nothing would be left. "
            + (
                f"{INVERTED}."
                if given
                else "Move the negative point to a part that looks less like the rest of the picture."
            )
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
