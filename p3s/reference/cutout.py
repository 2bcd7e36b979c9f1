"""A picture of the subject for other models: a reference whole or cut around its subject, on a background of choice.

mask -> box -> frame (margin, multiple) -> picture and soft mask of the frame -> background
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import MaskError, shown
from ..optional_packages import import_package
from ..settings import check, setting
from .fill import smooth
from .rngr import Reference

COARSE = 24  # cells along the longer side of a background that is painted over


@dataclass(frozen=True)
class PictureSettings:
    """How a picture is cut out of a reference. Raises MaskError for a value that is not allowed."""

    view: str = setting(
        "subject",
        "subject: cut around the subject. whole: the whole photo, without the negative subject.",
        ("subject", "whole"),
    )
    margin: float = setting(
        0.1,
        "Room on each side of the subject when it is cut out, as a share of its box's longer side.",
        low=0.0,
        high=4.0,
        step=0.05,
    )
    background: str = setting(
        "kept",
        "What is around the subject. kept: the cleaned photo. painted: painted over with its own colours, without "
        "detail. plain: the colour. transparent: a fourth channel, for Save Image.",
        ("kept", "painted", "plain", "transparent"),
    )
    #: Any of Pillow's: #rgb, #rrggbb, names.
    colour: str = setting("#ffffff", "Of a plain background: #rrggbb, or a name such as white.")
    multiple: int = setting(
        16,
        "Width and height become multiples of this: 16 suits Flux and Qwen-Image, 8 Stable Diffusion; 1 is any size.",
        low=1,
        high=128,
    )
    mask_grow: int = setting(
        0,
        "Widen the subject's mask by this many pixels of the photo, so that a rough mask cuts nothing off.",
        low=0,
        high=512,
    )
    feather: int = setting(
        4, "Pixels of the photo over which the mask fades out, outside of the subject.", low=0, high=256
    )

    def __post_init__(self) -> None:
        check(self, MaskError)
        self.rgb()

    def rgb(self) -> tuple[float, float, float]:
        """The colour, 0..1. Raises MaskError."""
        from PIL import ImageColor

        try:
            red, green, blue, alpha = (*ImageColor.getrgb(self.colour), 255)[:4]
        except (ValueError, TypeError, AttributeError):
            alpha = 0
        if alpha != 255:
            raise MaskError(
                f"colour must be an opaque colour, such as #ffffff or white; got {shown(self.colour)}. For no "
                "background at all, set background to transparent."
            )
        return red / 255, green / 255, blue / 255


@dataclass(frozen=True)
class Box:
    """A rectangle of whole pixels; ``left`` and ``top`` are its first column and row."""

    left: int
    top: int
    width: int
    height: int

    def of(self, plane: Tensor) -> Tensor:
        """The part of [H, W, ...] that lies in it."""
        return plane[self.top : self.top + self.height, self.left : self.left + self.width]


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture of the subject, float32 on the CPU.

    Attributes:
        image: [h, w, 3], or [h, w, 4] with the mask as its opacity; 0..1.
        mask: [h, w], 1 on the subject, 0 on the background.
        box: of the subject in the picture, without what ``mask_grow`` and ``feather`` add.
    """

    image: Tensor
    mask: Tensor
    box: Box


def reference_picture(reference: Reference, settings: PictureSettings | None = None) -> Picture:
    """Make the picture. Raises MaskError for a reference whose subject mask is empty."""
    settings = settings or PictureSettings()
    subject = bounding_box(reference.subject_mask)
    height, width = reference.subject_mask.shape
    around = Box(0, 0, width, height)
    if settings.view == "subject":
        around = _with_margin(subject, settings.margin, width, height)
    frame = _fitted(around, subject, settings.multiple, width, height)
    size = tuple(_nearest(side, settings.multiple) for side in (frame.height, frame.width))

    # All of the subject lies in the frame, so the mask of the frame is that of the photo.
    part = frame.of(reference.image)
    mask = soft_mask(frame.of(reference.subject_mask), settings.mask_grow, settings.feather)
    shown_mask, image = _resized(mask, size), _resized(part, size)
    if settings.background != "kept":
        behind = torch.tensor(settings.rgb()).expand_as(image)
        if settings.background == "painted":
            behind = _resized(_without_detail(part, mask > 0), size)
        if settings.background == "transparent":
            # Not mixed where the mask fades: opacity does that. What reads no opacity sees the colour.
            image = torch.where((shown_mask > 0)[..., None], image, behind)
            image = torch.cat([image, shown_mask[..., None]], 2)
        else:
            image = torch.lerp(behind, image, shown_mask[..., None])
    # Copies: a node that writes into its input must not change the reference.
    return Picture(
        image.clone(memory_format=torch.contiguous_format),
        shown_mask.clone(memory_format=torch.contiguous_format),
        _seen(subject, frame, size),
    )


def bounding_box(mask: Tensor) -> Box:
    """The smallest box with all of a subject's mask [H, W] that is at least one half. Raises MaskError for none."""
    found = (mask >= 0.5).nonzero()
    if not len(found):
        raise MaskError(
            "The reference's subject mask is empty: there is nothing to cut around. Check its points or mask."
        )
    top, left = found.amin(0).tolist()
    bottom, right = found.amax(0).tolist()
    return Box(left, top, right - left + 1, bottom - top + 1)


def soft_mask(mask: Tensor, grow: float, feather: float) -> Tensor:
    """A mask [H, W] that is 1 on the subject and up to ``grow`` pixels around it, and fades to 0 over ``feather`` more.

    Distances are those between pixels' middles. Levels of a soft mask stay where they are higher.
    """
    ndimage = import_package("scipy.ndimage", "scipy", "Masks need")

    distance = torch.from_numpy(ndimage.distance_transform_edt((mask < 0.5).numpy())).float()
    faded = (1 - (distance - grow).clamp(min=0) / (feather + 1)).clamp(0, 1)
    return torch.maximum(faded, mask)


def _with_margin(subject: Box, margin: float, width: int, height: int) -> Box:
    """The subject's box with room on each side, as far as the photo goes."""
    room = math.floor(margin * max(subject.width, subject.height) + 0.5)
    left, top = max(0, subject.left - room), max(0, subject.top - room)
    right = min(width, subject.left + subject.width + room)
    bottom = min(height, subject.top + subject.height + room)
    return Box(left, top, right - left, bottom - top)


def _fitted(around: Box, subject: Box, multiple: int, width: int, height: int) -> Box:
    """A frame whose sides are multiples where the photo allows it: see :func:`_side`."""
    left, across = _side(around.left, around.width, subject.left, subject.width, multiple, width)
    top, down = _side(around.top, around.height, subject.top, subject.height, multiple, height)
    return Box(left, top, across, down)


def _side(start: int, length: int, subject: int, extent: int, multiple: int, photo: int) -> tuple[int, int]:
    """Start and length of a side of the frame. It grows to the next multiple; where the photo is too short for that, it
    takes the photo's last multiple that holds the whole subject; where none does, all of the photo, to be resized."""
    longer, shorter = -(-length // multiple) * multiple, photo // multiple * multiple
    if longer <= photo:
        wanted = longer
    elif shorter >= extent:
        wanted = shorter
    else:
        return 0, photo
    middle = start - (wanted - length) // 2  # with an odd rest, the far side gets one more
    first, last = max(0, subject + extent - wanted), min(subject, photo - wanted)
    return min(max(middle, first), last), wanted


def _nearest(length: int, multiple: int) -> int:
    return max(1, math.floor(length / multiple + 0.5)) * multiple


def _resized(plane: Tensor, size: tuple[int, ...]) -> Tensor:
    """[h, w] or [h, w, 3], 0..1, at another (height, width)."""
    if plane.shape[:2] == size:
        return plane
    planes = plane.reshape(1, *plane.shape[:2], -1).movedim(3, 1)
    changed = functional.interpolate(planes, size, mode="bicubic", antialias=True, align_corners=False)
    return changed[0].movedim(0, 2).reshape(*size, *plane.shape[2:]).clamp(0, 1)


def _without_detail(image: Tensor, subject: Tensor) -> Tensor:
    """A photo [H, W, 3] in soft colours of what is not ``subject``, a bool mask [H, W]."""
    height, width = subject.shape
    scale = min(1.0, COARSE / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    known = functional.adaptive_avg_pool2d((~subject)[None].float(), size)
    colours = functional.adaptive_avg_pool2d(image.movedim(2, 0) * ~subject, size) / known.clamp(min=1e-6)
    filled = smooth(colours, known[0] == 0)
    return _resized(filled.movedim(0, 2), (height, width))


def _seen(subject: Box, frame: Box, size: tuple[int, ...]) -> Box:
    """The subject's box in the picture, rounded outwards."""

    def side(start: int, length: int, origin: int, cut: int, now: int) -> tuple[int, int]:
        first, end = (start - origin) * now // cut, -(-(start + length - origin) * now // cut)
        return first, end - first

    left, width = side(subject.left, subject.width, frame.left, frame.width, size[1])
    top, height = side(subject.top, subject.height, frame.top, frame.height, size[0])
    return Box(left, top, width, height)
