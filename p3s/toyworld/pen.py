"""Shapes on a canvas [height, width] or [height, width, 3], uint8, drawn in place. Coordinates are x, y; a pixel's
number is its middle. What lies outside the canvas is left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..optional_packages import import_package

Colour = tuple[int, ...]
EDGE = 0.5  # pixels: those that a polygon's edge passes belong to it


def polygon(canvas: np.ndarray, corners: np.ndarray, colour: Colour) -> None:
    """Fill what lies within ``corners`` [n, 2], and on the edge."""
    outwards = corners - corners.mean(0)
    x, y = (corners + outwards / np.hypot(*outwards.T)[:, None] * EDGE).T
    canvas[_draw().polygon(y, x, canvas.shape[:2])] = colour


def circle(canvas: np.ndarray, middle: Sequence[int], radius: float, colour: Colour) -> None:
    canvas[_draw().disk(middle[::-1], radius + EDGE, shape=canvas.shape[:2])] = colour


def ring(canvas: np.ndarray, middle: Sequence[int], radius: float, colour: Colour, width: float) -> None:
    rows, columns = _draw().disk(middle[::-1], radius + width / 2, shape=canvas.shape[:2])
    rim = np.hypot(columns - middle[0], rows - middle[1]) > radius - width / 2
    canvas[rows[rim], columns[rim]] = colour


def line(canvas: np.ndarray, start: Sequence[int], end: Sequence[int], colour: Colour, width: float) -> None:
    a, b = np.array(start), np.array(end)
    side = (b - a)[::-1] * (1, -1) / np.hypot(*(b - a)) * (width / 2 - EDGE)
    polygon(canvas, np.stack([a + side, b + side, b - side, a - side]), colour)


def rectangle(canvas: np.ndarray, start: Sequence[int], end: Sequence[int], colour: Colour) -> None:
    """Fill from the pixel ``start`` to the pixel ``end``, both included."""
    (left, top), (right, bottom) = (np.maximum(corner, 0) for corner in (start, end))
    canvas[top : bottom + 1, left : right + 1] = colour


def averaged(canvas: np.ndarray, by: int) -> np.ndarray:
    """A picture a ``by``-th as large: the means of ``by`` x ``by`` pixels."""
    height, width = canvas.shape[0] // by, canvas.shape[1] // by
    sums = canvas.reshape(height, by, width, by, *canvas.shape[2:]).sum((1, 3), dtype=np.uint16)
    return ((sums + by * by // 2) // (by * by)).astype(np.uint8)


def _draw() -> Any:
    return import_package("skimage.draw", "scikit-image", "The toy world needs")
