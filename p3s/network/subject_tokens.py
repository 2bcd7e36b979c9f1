"""Which tokens of a reference show its subject."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

Grid = tuple[int, int]


class SubjectTokens:
    """The tokens of a reference's own grids that show its subject: those with at least one latent pixel of it.

    ``mask`` [h, w]: 1 where a pixel of the reference's latent shows the subject, 0 elsewhere. It is read once, on the
    CPU, so that no step waits for a GPU to count tokens. Two of equal masks are equal.
    """

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask.detach().cpu().numpy() > 0
        self._found: dict[tuple[Grid, torch.device], tuple[Tensor, Tensor]] = {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubjectTokens) and np.array_equal(self._mask, other._mask)

    def __hash__(self) -> int:
        return hash((self._mask.shape, self._mask.tobytes()))

    def numbers(self, grid: Grid, device: torch.device) -> Tensor:
        """The numbers of the tokens that show it in the (height, width) ``grid`` of a level, int64."""
        return self._on(grid, device)[0]

    def share(self, grid: Grid, device: torch.device) -> Tensor:
        """1 where a token of the ``grid`` shows it, 0 elsewhere, float32 [height * width, 1]."""
        return self._on(grid, device)[1]

    def _on(self, grid: Grid, device: torch.device) -> tuple[Tensor, Tensor]:
        if (grid, device) not in self._found:
            shown = self._pooled(grid).flatten()
            self._found[grid, device] = (
                torch.tensor(shown.nonzero()[0].tolist(), device=device),
                torch.tensor(shown.tolist(), dtype=torch.float32, device=device)[:, None],
            )
        return self._found[grid, device]

    def _pooled(self, grid: Grid) -> np.ndarray:
        height, width = self._mask.shape
        by = 1
        while (-(-height // by), -(-width // by)) != grid:
            by *= 2  # each level of a U-Net halves the grid, rounding up
            if by > max(height, width):
                raise ValueError(f"a latent of {height} x {width} has no level of {grid[0]} x {grid[1]} tokens")
        padded = np.pad(self._mask, ((0, grid[0] * by - height), (0, grid[1] * by - width)))
        found: np.ndarray = padded.reshape(grid[0], by, grid[1], by).any((1, 3))
        return found
