"""A drawn photo with two similar subjects: a brown and a blue dog on a meadow."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from p3s.reference.points import PointSet

SIZE = (480, 320)  # width, height: not square on purpose
OVERSAMPLING = 3  # drawn larger and scaled down, for smooth outlines
POINTS = PointSet(positive=((0.25, 0.6),), negative=((0.74, 0.6),))

Colour = tuple[int, int, int]


def draw_scene(seed: int = 0) -> Tensor:
    """The photo, [H, W, 3] float32 in 0..1. ``seed`` fixes spots and grain. ``POINTS`` lie on its two dogs."""
    from PIL import Image, ImageDraw

    random = np.random.default_rng(seed)
    width, height = (n * OVERSAMPLING for n in SIZE)
    image = Image.new("RGB", (width, height), (168, 206, 235))
    draw = ImageDraw.Draw(image)
    draw.rectangle([0, height * 0.45, width, height], fill=(120, 168, 84))
    _dog(draw, random, (width * 0.24, height * 0.6), height * 0.3, (176, 112, 54), (112, 64, 28))
    _dog(draw, random, (width * 0.73, height * 0.6), height * 0.3, (92, 112, 190), (52, 62, 128))
    small = image.resize(SIZE, Image.Resampling.LANCZOS)
    pixels = np.asarray(small, dtype=np.float32) / 255 + random.normal(0, 0.015, (SIZE[1], SIZE[0], 1))
    return torch.from_numpy(pixels.clip(0, 1).astype(np.float32))


def _dog(
    draw: Any, random: np.random.Generator, centre: tuple[float, float], size: float, coat: Colour, dark: Colour
) -> None:
    """A dog in profile, looking to the right; ``size`` is half its length in pixels."""

    def oval(x: float, y: float, rx: float, ry: float, colour: Colour) -> None:
        x, y = centre[0] + x * size, centre[1] + y * size
        draw.ellipse([x - rx * size, y - ry * size, x + rx * size, y + ry * size], fill=colour)

    for x in (-0.55, -0.35, 0.3, 0.5):
        oval(x, 0.55, 0.1, 0.42, coat)
    tail = [(-0.7, -0.1), (-1.0, -0.55), (-0.88, -0.6), (-0.55, -0.25)]
    draw.polygon([(centre[0] + x * size, centre[1] + y * size) for x, y in tail], fill=coat)
    oval(0, 0, 0.78, 0.4, coat)
    for _ in range(7):
        x, y = random.uniform(-0.6, 0.45), random.uniform(-0.25, 0.2)
        oval(x, y, random.uniform(0.05, 0.1), random.uniform(0.04, 0.08), dark)
    oval(0.72, -0.42, 0.32, 0.29, coat)
    oval(1.0, -0.34, 0.17, 0.13, coat)
    oval(0.55, -0.42, 0.11, 0.28, dark)
    oval(1.14, -0.37, 0.05, 0.05, (20, 20, 24))
    oval(0.82, -0.5, 0.045, 0.045, (20, 20, 24))
