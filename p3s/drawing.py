"""Pictures of a reference for previews: the masks and points on the photo, and the similarity as a heat map."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .errors import MaskError
from .framing import Frame
from .rngr import Reference

SUBJECT = (40, 130, 255)  # blue and orange stay apart for colour-blind eyes; hatching and glyphs carry the rest
REMOVED = (255, 120, 0)
TINT = 0.35


def overlay(reference: Reference, photo: Tensor, side: int | None = None) -> Tensor:
    """Draw the masks and the points on the photo.

    The subject is tinted blue with a solid outline, the removed region orange and hatched; positive points carry a
    plus, negative ones a minus.

    Args:
        reference: made from this photo.
        photo: [H, W, 3], values 0..1.
        side: pixels that the longer side of the drawing may have; all of the photo's by default.

    Returns:
        [h, w, 3], float32 on the CPU, values 0..1.

    Raises:
        MaskError: the photo is not of the reference's size.
    """
    import cv2

    height, width = reference.subject_mask.shape
    if tuple(photo.shape) != (height, width, 3):
        raise MaskError(f"The reference was made from a photo [{height}, {width}, 3], got {list(photo.shape)}.")
    picture = (reduced(photo, side).clamp(0, 1) * 255).round().to(torch.uint8).contiguous().numpy()
    subject = reduced(reference.subject_mask, side).numpy() > 0.5
    removed = reduced(reference.negative_mask, side).numpy() > 0.5
    height, width = subject.shape
    unit = max(1, round(max(height, width) / 400))  # line width, so that a preview looks alike at any size

    diagonal = (np.arange(height)[:, None] + np.arange(width)[None]) % (10 * unit)
    _tint(picture, subject, SUBJECT, TINT)
    _tint(picture, removed, REMOVED, TINT)
    _tint(picture, removed & (diagonal < 2 * unit), REMOVED, 0.9)
    for mask, colour in ((subject, SUBJECT), (removed, REMOVED)):
        outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
        cv2.drawContours(picture, outlines, -1, colour, unit, cv2.LINE_AA)
    for points, colour in ((reference.points.positive, SUBJECT), (reference.points.negative, REMOVED)):
        for x, y in points:
            row, column = Frame(width, height).pixel_at(x, y)
            _draw_point(picture, (column, row), colour, 3 * unit, upright=colour == SUBJECT)
    return torch.from_numpy(picture).float() / 255


def reduced(picture: Tensor, side: int | None) -> Tensor:
    """[H, W, 3] or [H, W] with a longer side of ``side`` pixels at most, float32 on the CPU; None keeps its size."""
    import cv2

    picture = picture.detach().float().cpu()
    height, width = picture.shape[:2]
    scale = 1 if side is None else side / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return torch.from_numpy(cv2.resize(picture.contiguous().numpy(), size, interpolation=cv2.INTER_AREA))


def heat_map(reference: Reference) -> Tensor:
    """The similarity map in colours of evenly perceived steps (viridis), dark violet for its lowest value and yellow
    for its highest. Returns [H, W, 3], float32, values 0..1."""
    import cv2

    similarity = reference.similarity
    low, high = similarity.aminmax()
    levels = (similarity - low) / (high - low).clamp(min=1e-6) * 255
    colours = cv2.applyColorMap(levels.round().to(torch.uint8).numpy(), cv2.COLORMAP_VIRIDIS)
    return torch.from_numpy(cv2.cvtColor(colours, cv2.COLOR_BGR2RGB)).float() / 255


def _tint(picture: np.ndarray, where: np.ndarray, colour: tuple[int, int, int], strength: float) -> None:
    mixed = picture[where] * (1 - strength) + np.array(colour) * strength
    picture[where] = mixed.round().astype(np.uint8)


def _draw_point(
    picture: np.ndarray, centre: tuple[int, int], colour: tuple[int, int, int], radius: int, upright: bool
) -> None:
    """A white-rimmed disc with a white plus (upright) or minus."""
    import cv2

    column, row = centre
    arm, line, white = max(1, radius // 2), max(1, radius // 4), (255, 255, 255)
    cv2.circle(picture, centre, radius + line, white, -1, cv2.LINE_AA)
    cv2.circle(picture, centre, radius, colour, -1, cv2.LINE_AA)
    cv2.line(picture, (column - arm, row), (column + arm, row), white, line)
    if upright:
        cv2.line(picture, (column, row - arm), (column, row + arm), white, line)
