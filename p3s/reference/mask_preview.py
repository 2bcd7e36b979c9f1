"""What the points select, as plain data that an editor can draw: masks as runs, the similarity as numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

from .masks import MaskSettings, Patches
from .points import PointSet
from .rough_masks import rough_masks

SIDE = 192  # pixels at most, 12 a patch of CLIP ViT-L/14; an editor redraws the masks many times a second


def mask_preview(
    patches: Patches, points: PointSet, settings: MaskSettings, picture: np.ndarray | None = None
) -> dict[str, Any]:
    """The masks and the map of Eq. 2 that ``make_reference`` would make, ready for JSON. ``picture``: as for
    ``rough_masks``.

    Returns:
        size: [width, height] of the masks, SIDE at most.
        subject, removed: their runs, see ``to_runs``.
        grid: G, of the G x G patches.
        similarity: numbers in 0..1, a row for each row of patches that show the photo (``Frame.valid_patches``).
        warnings: things that the user should know.

    Raises:
        PointError: no positive point, or points of opposite sign in the same patch.
        MaskError: points from which no sensible subject mask follows.
    """
    masks = rough_masks(patches, points, settings, must_fill=False, picture=picture)
    step = -(-max(masks.subject.shape) // SIDE)
    subject, removed = (mask[step // 2 :: step, step // 2 :: step] for mask in (masks.subject, masks.removed))
    height, width = subject.shape
    return {
        "size": [width, height],
        "subject": to_runs(subject),
        "removed": to_runs(removed),
        "grid": patches.grid,
        "similarity": masks.similarity[patches.valid].clip(0, 1).round(4).tolist(),
        "warnings": list(masks.warnings),
    }


def to_runs(mask: np.ndarray) -> list[int]:
    """A bool mask, row by row, as the lengths of its runs; the first is one of False and may be 0."""
    flat = np.concatenate(([False], mask.ravel(), [not mask.flat[-1]]))
    ends = np.flatnonzero(flat[1:] != flat[:-1])
    return np.diff(ends, prepend=0).tolist()
