"""The pictures that training makes of a clean reference: the whole photo, crops that show the subject in other places
and sizes, another backdrop behind it, and mirrored versions."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from ..network.resize import resize
from ..reference.framing import Frame
from ..reference.rngr import Reference
from .settings import TrainSettings

MARGIN = 0.15  # of the subject's larger side, on every side of the crop
WORTH = 0.7  # a crop with more than this share of the picture's area shows nothing new
#: How many times a crop may be enlarged, in height and width, to the size that is trained. Beyond that, blur would be
#: learned as if it were the subject's own.
ENLARGED = 2
CELLS = 4  # along a patch, of the grid on which the subject's area is found
#: Cells by which a mask may miss the subject: half a patch. In the toy world a mask alone holds 81 % of its subject,
#: with this margin 95 %; with twice the margin 98 %, and half as much background again.
ROUGH = 2
COLOURS = 4  # along each side of a backdrop of random colours

Box = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class View:
    """A picture to learn, and which of its pixels are what. All tensors are [h, w], or [h, w, 3] for ``image``.

    ``image``: 0..1. ``removed_mask``: 0 or 1, where something was removed. ``subject_area``: 0..1, see
    :func:`subject_area_of`. ``backdrop``: whether something made up lies behind that area. ``cut``: how
    many pixels of the photo lie above it, to its left and to its right.
    """

    image: Tensor
    removed_mask: Tensor
    subject_area: Tensor
    backdrop: bool = False
    cut: tuple[int, int, int] = (0, 0, 0)

    def crop(self, box: Box) -> View:
        """The part of it in these rows and columns."""
        above, left, right = self.cut
        return replace(
            self,
            image=self.image[box],
            removed_mask=self.removed_mask[box],
            subject_area=self.subject_area[box],
            cut=(above + box[0].start, left + box[1].start, right + self.image.shape[1] - box[1].stop),
        )

    def flip(self) -> View:
        """It as a mirror shows it."""
        above, left, right = self.cut
        return replace(
            self,
            image=self.image.flip(1),
            removed_mask=self.removed_mask.flip(1),
            subject_area=self.subject_area.flip(1),
            cut=(above, right, left),
        )

    def on(self, backdrop: Tensor) -> View:
        """It with ``backdrop`` [h, w, 3] (or of a size that broadcasts) outside the subject's area."""
        image = torch.lerp(backdrop.expand_as(self.image), self.image, self.subject_area[..., None])
        return replace(self, image=image, backdrop=True)

    def loss_mask(self, size: tuple[int, int], settings: TrainSettings) -> Tensor | None:
        """The share of each latent pixel in the denoising loss, [h, w], 0..1; None where all count alike. ``size``:
        (h, w) of the latent.

        Nothing counts that shows anything of a backdrop, because the prompt does not describe it, nor, with ``removed``
        "ignored", anything of a removed region.
        """
        shares = []
        if settings.removed == "ignored":
            shares.append(without(self.removed_mask, size))
        if self.backdrop:
            shares.append(without(1 - self.subject_area, size))
        if settings.background_weight < 1:
            weight = settings.background_weight
            shares.append(weight + (1 - weight) * resize(self.subject_area, size))
        return torch.stack(shares).prod(0) if shares else None


def views_of(reference: Reference, resolution: int, settings: TrainSettings, generator: torch.Generator) -> list[View]:
    """The views of a reference, the whole picture first.

    ``views`` "whole" is I' as it is (the paper); "whole+subject" adds a square crop around the subject, which shows it
    in another place and size, so that training cannot memorise its position. ``crops`` adds as many at random places
    and of random sizes, all of which hold the whole subject. ``backdrop`` is what lies behind the subject in crops;
    ``flip`` adds each view mirrored. No crop is made where the subject leaves no room for one that shows something new
    and is enlarged no more than ENLARGED times when it is scaled to ``resolution`` squared in area.
    """
    whole = View(reference.image, reference.negative_mask, subject_area_of(reference))
    around = subject_box(reference.subject_mask, resolution) if settings.views == "whole+subject" else None
    boxes = [] if around is None else [around]
    boxes += random_boxes(whole.subject_area, resolution, settings.crops, generator)
    crops = [whole.crop(box) for box in boxes]
    if settings.backdrop != "photo":
        crops = [crop.on(backdrop(settings.backdrop, crop.removed_mask.shape, generator)) for crop in crops]
    views = [whole, *crops]
    return views + [view.flip() for view in views] if settings.flip else views


def subject_area_of(reference: Reference) -> Tensor:
    """Where the subject is, with a margin of half a patch of CLIP around its mask: [H, W], 1 there, 0 elsewhere, with a
    soft edge. 1 everywhere where the mask is empty."""
    mask = reference.subject_mask
    if not mask.any():
        return torch.ones_like(mask)
    height, width = mask.shape
    cell = Frame(width, height).patch_size(math.isqrt(len(reference.tokens) - 1)) / CELLS
    grid = max(1, round(height / cell)), max(1, round(width / cell))
    touched = functional.adaptive_max_pool2d(mask[None], grid)
    wider = functional.max_pool2d(touched, 2 * ROUGH + 1, stride=1, padding=ROUGH)
    return functional.interpolate(wider[None], (height, width), mode="bilinear")[0, 0]


def shown_pixels(reference: Reference, size: tuple[int, int]) -> Tensor:
    """The pixels of a latent of this (h, w) ``size`` that show any of the subject's area: [h, w], 0 or 1."""
    return (functional.adaptive_max_pool2d(subject_area_of(reference)[None], size)[0] >= 0.5).float()


def subject_box(mask: Tensor, resolution: int) -> Box | None:
    """Rows and columns of a square around ``mask`` [h, w] with a margin, as large as ``resolution`` asks for at least
    (:func:`least_side`), moved and trimmed so that it lies in the picture; None where the mask is empty or the crop
    would be most of the picture."""
    height, width = mask.shape
    found = extent(mask)
    if found is None:
        return None
    side = max(round(larger_side(found) * (1 + 2 * MARGIN)), least_side(resolution, height, width))

    def span(within: slice, limit: int) -> slice:
        length = min(side, limit)
        first = min(max((within.start + within.stop - length) // 2, 0), limit - length)
        return slice(first, first + length)

    rows, columns = span(found[0], height), span(found[1], width)
    area = (rows.stop - rows.start) * (columns.stop - columns.start)
    return None if area > WORTH * height * width else (rows, columns)


def random_boxes(area: Tensor, resolution: int, count: int, generator: torch.Generator) -> list[Box]:
    """``count`` squares at random places and of random sizes, trimmed to the picture, all of which hold what is not 0
    of ``area`` [h, w]; none where that leaves no room. They are as large as ``resolution`` asks for at least
    (:func:`least_side`)."""
    height, width = area.shape
    found = extent(area)
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64).tolist()
    if found is None:
        return []
    least = max(larger_side(found), least_side(resolution, height, width))
    most = int(side_with(WORTH * height * width, height, width))
    if least <= min(height, width):
        most = min(most, height, width)  # no need to trim: squares share batches
    if least > most:
        return []

    def span(within: slice, limit: int, side: int, share: float) -> slice:
        length = min(side, limit)
        lowest, highest = max(within.stop - length, 0), min(within.start, limit - length)
        first = round(lowest + share * (highest - lowest))
        return slice(first, first + length)

    boxes = []
    for size, y, x in draws:
        side = round(least + size * (most - least))
        boxes.append((span(found[0], height, side, y), span(found[1], width, side, x)))
    return boxes


def least_side(resolution: int, height: int, width: int) -> int:
    """Side of the smallest square, trimmed to a picture of this size, that is enlarged no more than ENLARGED times in
    height and width when it is scaled to ``resolution`` squared in area."""
    return math.ceil(side_with((resolution / ENLARGED) ** 2, height, width))


def side_with(area: float, height: int, width: int) -> float:
    """Side of the square that, trimmed to a picture of this size, has this ``area``."""
    return max(area**0.5, area / min(height, width))


def extent(mask: Tensor) -> Box | None:
    """Rows and columns of what is not 0 in ``mask`` [h, w]; None where all is."""
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return None
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def larger_side(box: Box) -> int:
    return max(box[0].stop - box[0].start, box[1].stop - box[1].start)


def backdrop(kind: str, size: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """A backdrop [h, w, 3], 0..1, of one random colour ("plain") or of random colours that run into each other
    ("random"). ``size``: (h, w)."""
    colours = torch.rand(1, 3, *([1, 1] if kind == "plain" else [COLOURS, COLOURS]), generator=generator)
    return functional.interpolate(colours, tuple(size), mode="bilinear")[0].movedim(0, -1)


def without(mask: Tensor, size: tuple[int, int]) -> Tensor:
    """The latent pixels that hold nothing of ``mask`` [H, W], [h, w], 0 or 1. ``size``: (h, w) of the latent."""
    return (resize(mask, size) < 1e-3).to(torch.float32)
