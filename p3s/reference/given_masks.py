"""Masks made elsewhere (by a segmentation model, an alpha channel, a mask editor), used instead of those of Eq. 2."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor
from torch.nn import functional

from ..errors import MaskError
from ..image_files import in_range
from .framing import Frame
from .masks import ALMOST_ALL

HALF = 0.5  # from here on a pixel of a soft mask belongs to it
#: Where Load Image's mask is 0 all over, whatever the photo's size.
LOAD_IMAGE = "Load Image gives an empty mask for a picture without transparency"
INVERTED = "Is the mask inverted? Connect Invert Mask"


@dataclass(frozen=True, eq=False)
class GivenMasks:
    """The masks given for a photo, [H, W] float32 in 0..1, of its size; None where Eq. 2 makes the mask.

    A pixel belongs to a mask from HALF on. An empty ``negative`` means that nothing is removed.
    """

    subject: Tensor | None = None
    negative: Tensor | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Which of "subject_mask" and "negative_mask" were given."""
        given = {"subject_mask": self.subject, "negative_mask": self.negative}
        return tuple(name for name, mask in given.items() if mask is not None)


def given_masks(frame: Frame, subject: Tensor | None, negative: Tensor | None) -> GivenMasks:
    """The masks as :func:`fit_mask` reads them. Raises MaskError as that, and for a subject mask that marks nothing."""
    found = GivenMasks(
        None if subject is None else fit_mask(subject, frame, "subject_mask"),
        None if negative is None else fit_mask(negative, frame, "negative_mask"),
    )
    if found.subject is not None and not (found.subject >= HALF).any():
        highest = found.subject.max().item()
        raise MaskError(
            "subject_mask marks nothing: "
            + (f"no pixel reaches {HALF:g}, the highest is {highest:.2g}. " if highest else f"{LOAD_IMAGE}. ")
            + "Mark the subject in it, or disconnect it and click the subject."
        )
    return found


def fit_mask(mask: Any, frame: Frame, name: str) -> Tensor:
    """A mask at the size of its photo, [height, width] float32 on the CPU, 0..1.

    Args:
        mask: [h, w] or [masks, h, w], floating point, 0..1; several are united. Another size than the photo's is
            resized, bilinearly with antialiasing, if it has the photo's proportions. One of a single value may have any
            size.
        name: of the input, for messages.

    Raises:
        MaskError: another type, shape or proportions, or values that are not finite or far from 0..1.
    """
    if not isinstance(mask, Tensor) or mask.ndim not in (2, 3):
        came = f"{list(mask.shape)} of {mask.dtype}" if isinstance(mask, Tensor) else type(mask).__name__
        raise MaskError(f"{name} must be a mask [height, width], or several [masks, height, width]; got {came}.")
    mask = in_range(mask, name)
    levels = mask.amax(0) if mask.ndim == 3 else mask
    size = (frame.height, frame.width)
    if (levels == levels[0, 0]).all():
        return levels[:1, :1].expand(size).clone()
    height, width = levels.shape
    if (height, width) == size:
        return levels
    if not frame.has_proportions_of(width, height):
        raise MaskError(
            f"{name} is {width} x {height} pixels, the photo {frame.width} x {frame.height}: their shapes differ. "
            "Give the mask of this photo, of its size or of the same aspect ratio."
        )
    resized = functional.interpolate(levels[None, None], size, mode="bilinear", antialias=True, align_corners=False)
    return resized[0, 0].clamp(0, 1)


def binary(mask: Tensor) -> np.ndarray:
    """Which pixels belong to a mask, bool."""
    return (mask >= HALF).numpy()


def covered_by(mask: Tensor, size: tuple[int, int]) -> np.ndarray:
    """How much of each pixel of a smaller (height, width) copy belongs to a mask, 0..1."""
    return functional.interpolate((mask >= HALF).float()[None, None], size, mode="area")[0, 0].numpy()


def looks_inverted(mask: np.ndarray, name: str) -> list[str]:
    """A warning where a bool mask [h, w] covers almost all of the picture or of its border, which a subject rarely
    does, and what lies around one does."""
    border = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean()
    if max(mask.mean(), border) <= ALMOST_ALL:
        return []
    return [
        f"{name} covers {mask.mean():.0%} of the picture and {border:.0%} of its border. {INVERTED}: Load Image's mask "
        "is 1 where a picture is transparent."
    ]
