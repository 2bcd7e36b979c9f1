"""Eq. 3: a region of a photo is painted over with what lies around it."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..optional_packages import opencv
from .framing import enlarged
from .masks import ALMOST_ALL

RADIUS = 5  # pixels of the working resolution that OpenCV looks around
WITHOUT_OPENCV = (
    "The removed region was filled smoothly, because the fill {method} needs OpenCV, which is missing or incomplete "
    "in the Python that runs this. To get it: python -m pip install opencv-python-headless"
)


# Eq. 3:  I' = I outside the mask of the negative subject, the fill inside
def fill(
    image: Tensor, region: np.ndarray, removed: np.ndarray, subject: np.ndarray, method: str
) -> tuple[Tensor, str | None]:
    """A photo [H, W, 3], 0..1, with a ``region`` [H, W] bool, which is not empty, painted over, and a warning where
    ``method`` is not available.

    ``removed`` and ``subject`` are [h, w] bool, and the fill is made at their resolution. ``method``: "telea" or
    "navier-stokes" of OpenCV, or "smooth", which replaces both without OpenCV.
    """
    # The fill must not look like the target (Eq. 3), so no colour is taken from the subject, if anything else is left.
    holes = removed | subject
    if holes.mean() > ALMOST_ALL:
        holes = removed
    picture = image.permute(2, 0, 1)[None]
    small = F.interpolate(picture, removed.shape, mode="area")[0]
    cv2 = None if method == "smooth" else opencv("inpaint")
    if cv2 is None:
        filled = smooth(small, torch.from_numpy(holes))
    else:
        flag = cv2.INPAINT_TELEA if method == "telea" else cv2.INPAINT_NS
        pixels = small.permute(1, 2, 0).mul(255).round().byte().contiguous().numpy()
        filled = torch.from_numpy(cv2.inpaint(pixels, holes.astype(np.uint8), RADIUS, flag)).permute(2, 0, 1) / 255
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    large = enlarged(filled.permute(1, 2, 0).to(image.dtype), region.shape, box)
    clean = image.clone()
    clean[box] = torch.where(torch.from_numpy(region[box])[..., None], large, image[box])
    warning = WITHOUT_OPENCV.format(method=method) if cv2 is None and method != "smooth" else None
    return clean, warning


def smooth(picture: Tensor, holes: Tensor) -> Tensor:
    """``picture`` [channels, h, w] with ``holes`` [h, w] filled by what is around them, ever coarser towards their
    middle ("pull-push", Gortler et al. 1996), within the range of the colours that are there. All holes: unchanged."""
    known = (~holes).to(picture.dtype)[None]
    return picture if holes.all() else _filled(picture * known, known)


def _filled(colours: Tensor, known: Tensor) -> Tensor:
    """The picture whose ``colours`` were multiplied by how much of each pixel is ``known`` [1, h, w], 0..1; the rest of
    a pixel is that of the picture at half the size, filled likewise."""
    own = colours / known.clamp(min=1e-6)
    if known.numel() == 1 or bool((known == 1).all()):
        return own
    height, width = known.shape[1:]
    half = (height + 1) // 2, (width + 1) // 2
    coarse = _filled(*(F.adaptive_avg_pool2d(part, half) for part in (colours, known)))
    around = F.interpolate(coarse[None], (height, width), mode="bilinear", align_corners=False)[0]
    return torch.lerp(around, own, known)
