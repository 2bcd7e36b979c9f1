"""What SDXL's U-Net reads beside the prompt's tokens: pooled text, and sizes in pixels (Podell et al. 2023, 2.2)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from .unet import timestep_embedding

SIZE_DIM = 256  # of the embedding of each number in Sizes
LATENT_PIXEL = 8  # pixels along a latent pixel of SDXL


class Sizes(NamedTuple):
    """Of a picture, in pixels, all 0 or more, in the order in which the label holds them.

    ``height``, ``width``: what it was made of, before it was resized; a small one stands for a blurred picture.
    ``top``, ``left``: where it begins in a larger picture of its own scale; other numbers than 0 stand for one that is
    cut off. ``target_height``, ``target_width``: of the picture itself.
    """

    height: int
    width: int
    top: int
    left: int
    target_height: int
    target_width: int

    @classmethod
    def of(cls, height: int, width: int) -> Sizes:
        """Those of a whole picture in its own size."""
        return cls(height, width, 0, 0, height, width)


SIZES_DIM = SIZE_DIM * len(Sizes._fields)


def label_of(pooled: Tensor, sizes: Sizes) -> Tensor:
    """The label [pooled width + SIZES_DIM] of a prompt's ``pooled`` text [pooled width] in a picture of these sizes."""
    embedded = timestep_embedding(torch.tensor(sizes, device=pooled.device), SIZE_DIM).flatten()
    return torch.cat([pooled.float(), embedded])


def label_without_text(dim: int, height: int, width: int) -> Tensor:
    """The label [dim] of a whole picture of this size in pixels with nothing in its pooled text."""
    return label_of(torch.zeros(dim - SIZES_DIM), Sizes.of(height, width))
