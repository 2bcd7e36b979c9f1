"""Tiles: the photo in overlapping crops, so that each patch shows less of it (docs/method.md, row j).

A vision model divides a picture into g x g patches. For n x n tiles the padded square (:class:`.framing.Frame`) is
divided into G x G cells instead, and each tile is a crop of g x g of these cells, enlarged to the model's picture, so
that its patches are cells. Neighbours start s cells apart and share g - s:

    s = round(3 g / 4),   G = g + (n - 1) s       (g = 16: G = 28 for 2 x 2 tiles, 40 for 3 x 3)
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from .framing import Frame


@dataclass(frozen=True)
class Tiling:
    """``count`` x ``count`` tiles of ``patches`` x ``patches`` patches on a frame. One tile is the whole square."""

    frame: Frame
    patches: int
    count: int = 1

    @property
    def stride(self) -> int:
        """s, cells from one tile to the next."""
        return (3 * self.patches + 2) // 4

    @property
    def grid(self) -> int:
        """G, cells along a side of the padded square."""
        return self.patches + (self.count - 1) * self.stride

    @cached_property
    def places(self) -> tuple[tuple[int, int], ...]:
        """Row and column of the first cell of each tile, row by row; tiles of padding alone are left out."""
        rows, columns = self.frame.valid_patches(self.grid)
        starts = range(0, self.count * self.stride, self.stride)

        def shows(start: int, valid: slice) -> bool:
            return start < valid.stop and valid.start < start + self.patches

        return tuple((top, left) for top in starts if shows(top, rows) for left in starts if shows(left, columns))

    @cached_property
    def weights(self) -> Tensor:
        """[tiles, G, G], float64: how far a cell lies from the edges of each tile, w(i) w(j) with w(i) = min(i, g - 1
        - i) + 1 for its i-th row or column; 0 outside of it."""
        steps = torch.arange(self.patches, dtype=torch.float64)
        tent = torch.minimum(steps, self.patches - 1 - steps) + 1
        found = torch.zeros(len(self.places), self.grid, self.grid, dtype=torch.float64)
        for number, place in enumerate(self.places):
            found[number][self._cells(place)] = torch.outer(tent, tent)
        return found

    def merged(self, vectors: Tensor) -> Tensor:
        """Vectors of the tiles' patches [tiles, g, g, D] on the grid of cells, [G, G, D]: their mean with ``weights``.

        The cosine to a unit vector is linear in unit vectors, so this is also the weighted mean of the tiles' maps.
        """
        total = torch.zeros(self.grid, self.grid, vectors.shape[-1], dtype=vectors.dtype)
        for own, weight, place in zip(vectors, self.weights, self.places, strict=True):
            cells = self._cells(place)
            total[cells] += weight[cells].unsqueeze(-1).to(vectors.dtype) * own
        return total / self.weights.sum(0).clamp(min=1).unsqueeze(-1).to(vectors.dtype)

    def most_central(self, row: int, column: int) -> tuple[int, int, int]:
        """The tile in which a cell lies furthest from the edges (the first of several), and the cell's row and column
        in it."""
        tile = int(self.weights[:, row, column].argmax())
        top, left = self.places[tile]
        return tile, row - top, column - left

    def _cells(self, place: tuple[int, int]) -> tuple[slice, slice]:
        top, left = place
        return slice(top, top + self.patches), slice(left, left + self.patches)
