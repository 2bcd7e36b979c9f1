"""Pictures for the tests of RNGR, points on them, and stand-ins for CLIP that know their colours."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from p3s.reference.masks import MaskSettings
from p3s.reference.points import PointSet

DATA = Path(__file__).parent / "data"
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
SHARP = MaskSettings(blur=0)
LEFT_AND_RIGHT = PointSet([(1 / 6, 0.5)], [(5 / 6, 0.5)])


def mean_colours(picture: torch.Tensor, grid: int = 16) -> torch.Tensor:
    """A stand-in for CLIP: the mean colour of the middle of each patch, so that red, green and blue are orthogonal."""
    assert picture.shape == (1, 224, 224, 3) and picture.min() >= 0 and picture.max() <= 1
    patch = 224 // grid
    middle = picture.view(grid, patch, grid, patch, 3)[:, 3 : patch - 3, :, 3 : patch - 3]
    return torch.cat([torch.ones(1, 1, 3), middle.mean(dim=(1, 3)).view(1, grid * grid, 3)], dim=1)


def colour_histograms(picture: torch.Tensor, grid: int = 16) -> torch.Tensor:
    """A stand-in for CLIP on photos: soft histograms of the colours in each patch."""
    patch = 224 // grid
    levels = torch.linspace(0, 1, 5)
    cube = torch.cartesian_prod(levels, levels, levels)
    near = torch.exp(-torch.cdist(picture.view(-1, 3), cube).square() / 0.03)
    return torch.cat(
        [
            torch.ones(1, 1, len(cube)),
            near.view(grid, patch, grid, patch, -1).mean(dim=(1, 3)).view(1, grid * grid, -1),
        ],
        dim=1,
    )


def stripes(width: int, height: int, colours: tuple = (RED, GREEN, BLUE), vertical: bool = True) -> torch.Tensor:
    """Equal stripes side by side (vertical) or one above the other."""
    count = width if vertical else height
    line = torch.tensor(colours)[torch.arange(count) * len(colours) // count]
    return (line[None] if vertical else line[:, None]).expand(height, width, 3).contiguous()


def noise_tokens(seed: int = 0, grid: int = 16) -> torch.Tensor:
    """Smooth random tokens, the same for every picture."""
    noise = torch.randn((1, 8, grid, grid), generator=torch.Generator().manual_seed(seed))
    smooth = torch.nn.functional.avg_pool2d(noise, 5, stride=1, padding=2)
    return torch.cat([torch.zeros(1, 1, 8), smooth.flatten(2).transpose(1, 2)], dim=1)


def photo(name: str) -> torch.Tensor:
    with Image.open(DATA / f"{name}.jpg") as file:
        return torch.from_numpy(np.asarray(file.convert("RGB")).astype(np.float32) / 255)
