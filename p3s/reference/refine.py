"""Rough masks refined to the edges of the photo, with GrabCut (Rother et al. 2004) of OpenCV."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor
from torch.nn import functional

from ..optional_packages import import_package, opencv
from .framing import pixel_at
from .masks import resized_mask
from .points import Point

SIDE = 384  # pixels of the longer side, at most, that GrabCut works on
ROUNDS = 4
INSIDE, OUTSIDE = 0.5, 1.0  # patches from the rough outline within which the refined one may lie
LEAST_OVERLAP = 0.5  # of a refined mask and the rough one (intersection over union)
WITHOUT_OPENCV = (
    "The masks were not refined, because that needs OpenCV, which is missing or incomplete in the Python that runs "
    "this. To get it: python -m pip install opencv-python-headless"
)


def refining_picture(image: Tensor) -> np.ndarray:
    """A photo [H, W, 3], 0..1, as GrabCut reads it: uint8 [h, w, 3] of SIDE pixels at most."""
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = functional.interpolate(image.detach().float().cpu().permute(2, 0, 1)[None], size, mode="area")[0]
    return small.permute(1, 2, 0).clamp(0, 1).mul(255).round().byte().contiguous().numpy()


def refined(
    mask: np.ndarray, picture: np.ndarray, points: Sequence[Point], patch: float, what: str
) -> tuple[np.ndarray, str | None]:
    """A rough mask whose outline follows edges of the photo, and a warning where it had to stay as it was.

    What lies further than INSIDE patches within the rough mask is sure, as is what lies further than OUTSIDE patches
    from it; between the two GrabCut decides by colours and edges. No point changes sides. Equal arguments give equal
    masks.

    Args:
        mask: [h, w] bool.
        picture: what ``refining_picture`` gives for the photo.
        points: all that were clicked, of both signs.
        patch: side of a patch, in pixels of the mask.
        what: the mask's name in the warning.
    """
    cv2 = opencv("grabCut")
    if cv2 is None:
        return mask, WITHOUT_OPENCV
    ndimage = import_package("scipy.ndimage", "scipy", "Masks need")

    size = picture.shape[:2]
    scale = max(size) / max(mask.shape)
    rough = resized_mask(mask, size)
    if rough.all() or not rough.any():
        return mask, None
    depth = ndimage.distance_transform_edt(rough) - ndimage.distance_transform_edt(~rough)
    labels = np.where(rough, cv2.GC_PR_FGD, cv2.GC_PR_BGD).astype(np.uint8)
    labels[depth > INSIDE * patch * scale] = cv2.GC_FGD
    labels[depth < -OUTSIDE * patch * scale] = cv2.GC_BGD
    places = [(pixel_at(y, size[0]), pixel_at(x, size[1])) for x, y in points]
    for at in places:
        labels[at] = cv2.GC_FGD if rough[at] else cv2.GC_BGD

    cv2.setRNGSeed(0)  # of this thread, which k-means draws from
    try:
        cv2.grabCut(picture, labels, None, np.zeros((1, 65)), np.zeros((1, 65)), ROUNDS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # nothing left of one of the two sides
        return mask, _kept(what)
    found = (labels == cv2.GC_FGD) | (labels == cv2.GC_PR_FGD)
    if (found & rough).sum() < LEAST_OVERLAP * (found | rough).sum():
        return mask, _kept(what)
    fine = resized_mask(found, mask.shape)
    for x, y in points:
        at = pixel_at(y, mask.shape[0]), pixel_at(x, mask.shape[1])
        fine[at] = mask[at]
    return fine, None


def _kept(what: str) -> str:
    return f"The mask of the {what} was not refined: the edges of the photo there do not follow its rough outline."
