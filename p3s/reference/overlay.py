"""Pictures of a reference for previews: the masks and points on the photo, and the similarity as a heat map."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import MaskError
from .framing import Frame
from .rngr import Reference

PREVIEW_SIDE = 2048  # pixels of pictures that are only looked at; CLIP's patches are a sixteenth of the longer side
SUBJECT = (40, 130, 255)  # blue and orange stay apart for colour-blind eyes; hatching and glyphs carry the rest
REMOVED = (255, 120, 0)
WHITE = (255, 255, 255)
TINT = 0.35
HEAT = 0.6
LUMA = (0.299, 0.587, 0.114)  # of Rec. 601
#: Evenly spaced colours of matplotlib's viridis, as in web/picker/colormap.js.
VIRIDIS = (
    (68, 1, 84),
    (72, 40, 120),
    (62, 74, 137),
    (49, 104, 142),
    (38, 130, 142),
    (31, 158, 137),
    (53, 183, 121),
    (110, 206, 88),
    (181, 222, 43),
    (253, 231, 37),
)

Colour = tuple[int, int, int]


def overlay(reference: Reference, photo: Tensor, side: int | None = None, radius: int = 3) -> Tensor:
    """Draw the masks and the points on the photo.

    The subject is tinted blue with a solid outline, the removed region orange and hatched; positive points carry a
    plus, negative ones a minus.

    Args:
        reference: made from this photo.
        photo: [H, W, 3], values 0..1.
        side: pixels that the longer side of the drawing may have; all of the photo's by default.
        radius: of a point, in widths of a line.

    Returns:
        [h, w, 3], float32 on the CPU, values 0..1.

    Raises:
        MaskError: the photo is not of the reference's size.
    """
    height, width = reference.subject_mask.shape
    if tuple(photo.shape) != (height, width, 3):
        raise MaskError(f"The reference was made from a photo [{height}, {width}, 3], got {list(photo.shape)}.")
    picture = (reduced(photo, side).clamp(0, 1) * 255).round().to(torch.uint8).contiguous().numpy()
    subject = reduced(reference.subject_mask, side).numpy() > 0.5
    removed = reduced(reference.negative_mask, side).numpy() > 0.5
    height, width = subject.shape
    unit = max(1, round(max(height, width) / 400))  # line width, so that a preview looks the same at any size

    diagonal = (np.arange(height)[:, None] + np.arange(width)[None]) % (10 * unit)
    _tint(picture, subject, SUBJECT, TINT)
    _tint(picture, removed, REMOVED, TINT)
    _tint(picture, removed & (diagonal < 2 * unit), REMOVED, 0.9)
    for mask, colour in ((subject, SUBJECT), (removed, REMOVED)):
        _outline(picture, mask, colour, unit)
    for points, colour in ((reference.points.positive, SUBJECT), (reference.points.negative, REMOVED)):
        for x, y in points:
            row, column = Frame(width, height).pixel_at(x, y)
            _draw_point(picture, (column, row), colour, radius * unit, upright=colour == SUBJECT)
    return torch.from_numpy(picture).float() / 255


def reduced(picture: Tensor, side: int | None) -> Tensor:
    """[H, W, 3] or [H, W] with a longer side of ``side`` pixels at most, float32 on the CPU; None keeps its size."""
    picture = picture.detach().float().cpu()
    height, width = picture.shape[:2]
    scale = 1 if side is None else side / max(height, width)
    if scale >= 1:
        return picture
    size = max(1, round(height * scale)), max(1, round(width * scale))
    planes = F.interpolate(picture.reshape(1, height, width, -1).movedim(3, 1), size, mode="area")
    return planes[0].movedim(0, 2).reshape(*size, *picture.shape[2:])


def heat_map(reference: Reference) -> Tensor:
    """The similarity map in :func:`viridis`."""
    return viridis(reference.similarity)


def heat_over(photo: Tensor, levels: Tensor) -> Tensor:
    """A map [H, W] of values from 0 on as :func:`viridis` over its photo [H, W, 3], which shows in grey. Returns
    [H, W, 3], float32 on the CPU, values 0..1."""
    grey = photo.detach().float().cpu().clamp(0, 1) @ torch.tensor(LUMA)
    return HEAT * viridis(levels.cpu()) + (1 - HEAT) * grey[..., None]


def viridis(levels: Tensor) -> Tensor:
    """A map [H, W] in colours of evenly perceived steps, dark violet for its lowest value and yellow for its highest.
    Returns [H, W, 3], float32, values 0..1."""
    low, high = levels.aminmax()
    numbers = ((levels - low) / (high - low).clamp(min=1e-6) * 255).round().to(torch.uint8)
    steps = np.linspace(0, len(VIRIDIS) - 1, 256)
    table = np.stack([np.interp(steps, range(len(VIRIDIS)), part) for part in zip(*VIRIDIS, strict=True)], 1)
    return torch.from_numpy(table.round().astype(np.float32))[numbers.long()] / 255


def _tint(picture: np.ndarray, where: np.ndarray, colour: Colour, strength: float) -> None:
    mixed = picture[where] * (1 - strength) + np.array(colour) * strength
    picture[where] = mixed.round().astype(np.uint8)


def _outline(picture: np.ndarray, mask: np.ndarray, colour: Colour, width: int) -> None:
    """A line along the outermost pixels of the mask; beyond the picture's border there is none."""
    padded = np.pad(mask, 1)
    inner = padded[2:, 1:-1] & padded[:-2, 1:-1] & padded[1:-1, 2:] & padded[1:-1, :-2]
    edge = torch.from_numpy(mask & ~inner).float()[None]
    brush = width | 1  # pixels, an odd number
    picture[F.max_pool2d(edge, brush, 1, brush // 2)[0].numpy() > 0] = colour


def _draw_point(picture: np.ndarray, centre: tuple[int, int], colour: Colour, radius: int, upright: bool) -> None:
    """A white-rimmed disc with a white plus (upright) or minus."""
    arm, line = max(1, radius // 2), max(1, radius // 4)
    reach = radius + line + 2
    box = tuple(slice(max(0, at - reach), at + reach + 1) for at in centre[::-1])
    part = picture[box]
    y, x = (np.arange(s.start, s.start + n) - at for s, n, at in zip(box, part.shape, centre[::-1], strict=False))
    distance = np.hypot(x, y[:, None])
    for size, shade in ((radius + line, WHITE), (radius, colour)):
        _blend(part, shade, (size + 0.5 - distance).clip(0, 1))
    across = (abs(y)[:, None] <= line / 2) & (abs(x) <= arm)
    along = (abs(x) <= line / 2) & (abs(y)[:, None] <= arm)
    part[across | along if upright else across] = WHITE


def _blend(picture: np.ndarray, colour: Colour, share: np.ndarray) -> None:
    """Mix ``colour`` into a picture [h, w, 3], in place: a ``share`` [h, w], 0..1, of it at each pixel."""
    picture[:] = (picture * (1 - share[..., None]) + np.array(colour) * share[..., None]).round()
