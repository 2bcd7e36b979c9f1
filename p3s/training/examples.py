"""What training uses of a clean reference: the whole picture, a crop around the subject, and which pixels count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import TrainingError
from ..network.resize import resize
from ..reference.rngr import Reference
from .settings import TrainSettings

MARGIN = 0.15  # of the subject's larger side, on every side of the crop
WORTH = 0.7  # a crop with more than this share of the picture's area shows nothing new


@dataclass(frozen=True)
class Example:
    """One picture to learn, and the reference it is a view of.

    ``latent`` I' [channels, h, w] (VAE mean, scaled) and ``tokens`` c_s [1 + patches, token_dim] are the reference's;
    ``prompt`` [text tokens, context_dim]. ``view`` [channels, h', w'] is what is learned, I' itself where it is None;
    ``loss_mask`` [h', w'], 0..1, is the share of each of its pixels in L_LDM, 1 everywhere where it is None.
    """

    latent: Tensor
    tokens: Tensor
    prompt: Tensor
    view: Tensor | None = None
    loss_mask: Tensor | None = None

    #: The names under which keys of trainings, sketches and states hold the fields. They never change.
    STORED: ClassVar[Mapping[str, str]] = {
        "latent": "latent",
        "tokens": "tokens",
        "prompt": "prompt",
        "view": "view",
        "loss_mask": "counted",
    }

    @property
    def learned_latent(self) -> Tensor:
        """The latent of the picture to learn, [channels, h', w']."""
        return self.latent if self.view is None else self.view

    def stored(self) -> dict[str, Tensor]:
        """Its tensors by their stored names."""
        tensors = ((name, getattr(self, field)) for field, name in self.STORED.items())
        return {name: tensor for name, tensor in tensors if tensor is not None}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> Example:
        """The example that :meth:`stored` gave."""
        field_of = {name: field for field, name in cls.STORED.items()}
        return cls(**{field_of[name]: tensor for name, tensor in tensors.items()})


@dataclass(frozen=True, eq=False)
class View:
    """A picture to learn [h, w, 3], values 0..1, and where in it something was removed, [h, w], 0 or 1."""

    image: Tensor
    removed_mask: Tensor


def training_size(height: int, width: int, resolution: int, multiple: int = 16) -> tuple[int, int]:
    """The (height, width) in pixels at which a photo is trained: about ``resolution`` squared in area, with the
    photo's proportions as near as whole multiples of ``multiple`` allow. Nothing is cropped. Raises TrainingError for a
    ``resolution`` below ``multiple``."""
    if not resolution >= multiple:
        raise TrainingError(f"resolution must be at least {multiple} pixels; got {resolution!r}")
    scale = resolution / (height * width) ** 0.5
    rounded = [max(1, round(side * scale / multiple)) * multiple for side in (height, width)]
    return rounded[0], rounded[1]


def examples_of(
    reference: Reference, prompt: Tensor, encode: Callable[[Tensor], Tensor], settings: TrainSettings
) -> list[Example]:
    """The training examples of one reference, the whole picture first.

    ``prompt`` [text tokens, context_dim]; ``encode`` turns a picture [H, W, 3] in 0..1 into a scaled VAE latent
    [channels, h, w] (float32, CPU) of the size that is trained.
    """
    latent = encode(reference.image)
    found = []
    for number, view in enumerate(views_of(reference, settings.views)):
        learned = encode(view.image) if number else latent
        size = learned.shape[1], learned.shape[2]
        mask = loss_mask_of(view.removed_mask, size) if settings.removed == "ignored" else None
        found.append(Example(latent, reference.tokens, prompt, learned if number else None, mask))
    return found


def views_of(reference: Reference, which: str = "whole") -> tuple[View, ...]:
    """The views of a reference. ``which``: "whole", I' as it is (the paper), or "whole+subject", also a square crop
    around the subject, which shows it in another place and size, so that training cannot memorise its position.

    The crop is left out where the subject already fills the picture.
    """
    whole = View(reference.image, reference.negative_mask)
    if which == "whole":
        return (whole,)
    box = subject_box(reference.subject_mask)
    return (whole,) if box is None else (whole, View(whole.image[box], whole.removed_mask[box]))


def subject_box(mask: Tensor) -> tuple[slice, slice] | None:
    """Rows and columns of a square around ``mask`` [h, w] with a margin, moved and trimmed so that it lies in
    the picture; None where the mask is empty or the crop would be most of the picture."""
    height, width = mask.shape
    rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
    if not len(rows):
        return None
    (top, bottom), (left, right) = (
        (int(rows[0]), int(rows[-1]) + 1),
        (int(columns[0]), int(columns[-1]) + 1),
    )
    side = max(1, round(max(bottom - top, right - left) * (1 + 2 * MARGIN)))

    def span(start: int, end: int, limit: int) -> slice:
        length = min(side, limit)
        first = min(max((start + end - length) // 2, 0), limit - length)
        return slice(first, first + length)

    box = span(top, bottom, height), span(left, right, width)
    area = (box[0].stop - box[0].start) * (box[1].stop - box[1].start)
    return None if area > WORTH * height * width else box


def loss_mask_of(removed_mask: Tensor, size: tuple[int, int]) -> Tensor:
    """Which latent pixels count in the denoising loss, [h, w], 0 or 1: those without any pixel of ``removed_mask``
    [H, W] in them. ``size``: (h, w) of the latent."""
    return (resize(removed_mask, size) < 1e-3).to(torch.float32)
