"""Which tokens of a reference show its subject."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

Grid = tuple[int, int]


class SubjectTokens:
    """The tokens of a reference's own grids that show its subject: those with at least one latent pixel of it.

    ``mask`` [h, w]: 1 where a pixel of the reference's latent shows the subject, 0 elsewhere. It is read once, on the
    CPU, so that no step waits for a GPU to count tokens. Two of equal masks are equal.
    """

    def __init__(self, mask: Tensor | np.ndarray) -> None:
        self._mask = np.asarray(mask) > 0
        self._found: dict[tuple[Grid, torch.device, int], tuple[Tensor, Tensor]] = {}

    @classmethod
    def of(cls, mask: Tensor) -> SubjectTokens:
        """Those of a ``mask`` on the CPU, which equal masks share."""
        values = mask.numpy() > 0
        return _tokens_of(values.shape, values.tobytes())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SubjectTokens) and np.array_equal(self._mask, other._mask)

    def __hash__(self) -> int:
        return hash((self._mask.shape, self._mask.tobytes()))

    def numbers(self, grid: Grid, device: torch.device, pool: int = 1) -> Tensor:
        """The numbers of the tokens that show it in the (height, width) ``grid`` of a level, int64; with ``pool`` of
        the squares of pool x pool tokens that hold one of them."""
        return self._on(grid, device, pool)[0]

    def share(self, grid: Grid, device: torch.device) -> Tensor:
        """1 where a token of the ``grid`` shows it, 0 elsewhere, float32 [height * width, 1]."""
        return self._on(grid, device, 1)[1]

    def _on(self, grid: Grid, device: torch.device, pool: int) -> tuple[Tensor, Tensor]:
        key = grid, device, pool
        if key not in self._found:
            shown = _any(_any(self._mask, self._step(grid)), pool).flatten()
            with torch.inference_mode(False):  # they may be used outside of it later
                self._found[key] = (
                    torch.tensor(shown.nonzero()[0].tolist(), device=device),
                    torch.tensor(shown.tolist(), dtype=torch.float32, device=device)[:, None],
                )
        return self._found[key]

    def _step(self, grid: Grid) -> int:
        """How many latent pixels lie along a token: each level of a U-Net halves the grid, rounding up."""
        height, width = self._mask.shape
        by = 1
        while (-(-height // by), -(-width // by)) != grid:
            by *= 2
            if by > max(height, width):
                raise ValueError(f"a latent of {height} x {width} has no level of {grid[0]} x {grid[1]} tokens")
        return by


@lru_cache(maxsize=64)
def _tokens_of(shape: Grid, values: bytes) -> SubjectTokens:
    return SubjectTokens(np.frombuffer(values, dtype=bool).reshape(shape))


def _any(mask: np.ndarray, by: int) -> np.ndarray:
    """Whether any of each ``by`` x ``by`` values is true; at the far edges of fewer."""
    height, width = (-(-side // by) for side in mask.shape)
    padded = np.pad(mask, ((0, height * by - mask.shape[0]), (0, width * by - mask.shape[1])))
    return np.asarray(padded.reshape(height, by, width, by).any((1, 3)))
