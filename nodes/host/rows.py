"""Some rows of a batch, as those of the prompt beside those of the negative prompt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor


class Rows:
    """Rows of a batch of ``of`` rows, by their ascending ``numbers``, at least one.

    Of a tensor that has several rows for each of the batch, one after the other as the tiles of an image, they are all
    of these; a tensor of one row is that of each.
    """

    def __init__(self, numbers: Sequence[int], of: int, device: torch.device | str = "cpu") -> None:
        self.numbers, self.of, self._device = numbers, of, device
        first, last = numbers[0], numbers[-1]
        follow = last - first + 1 == len(numbers)  # then they are a view
        self._index = slice(first, last + 1) if follow else torch.tensor(numbers, device=device)

    @cached_property
    def others(self) -> Rows:
        """Those of the batch that are not of these, which must not be all."""
        return Rows([i for i in range(self.of) if i not in self.numbers], self.of, self._device)

    def pick(self, t: Tensor) -> Tensor:
        """These rows of ``t`` [n of, ...], [n len(numbers), ...]: a view where they follow each other."""
        if len(t) == 1:
            return t
        return t.unflatten(0, (self.of, -1))[self._index].flatten(0, 1)

    def put(self, values: Tensor, into: Tensor) -> Tensor:
        """``into`` [n of, ...] with ``values`` [n len(numbers), ...] for these rows, in place."""
        into.unflatten(0, (self.of, -1))[self._index] = values.unflatten(0, (len(self.numbers), -1))
        return into

    def spread(self, values: Tensor) -> Tensor:
        """``values`` [n len(numbers), ...] for these rows and 0 for the others, [n of, ...]."""
        rows = len(values) * self.of // len(self.numbers)
        return self.put(values, values.new_zeros(rows, *values.shape[1:]))


def folded(parts: Sequence[Tensor], rows: int) -> Tensor:
    """The tokens of ``parts``, [count, m, channels] each, over the rows of one tensor [rows, n, channels] with as few
    more as that takes, which are 0: a layer that works on each token by itself then does no work in vain."""
    tokens = torch.cat([part.flatten(0, 1) for part in parts])
    return F.pad(tokens, (0, 0, 0, -len(tokens) % rows)).unflatten(0, (rows, -1))


def folded_length(shapes: Sequence[tuple[int, int]], rows: int) -> int:
    """How many tokens a row of :func:`folded` has, of parts of these (count, m)."""
    return -(-sum(count * each for count, each in shapes) // rows)


def unfolded(tokens: Tensor, shapes: Sequence[tuple[int, int]]) -> list[Tensor]:
    """The parts [count, m, channels], of these (count, m), that :func:`folded` has put together, of its result or of
    what a layer has made of that."""
    sizes = [count * each for count, each in shapes]
    parts = tokens.flatten(0, 1)[: sum(sizes)].split(sizes)
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]
