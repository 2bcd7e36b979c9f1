"""The layers of a low-rank copy: those of the base, called where they are, plus trained changes of low rank."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import P3SError


class Borrowed(nn.Module):
    """A layer of another network, called where it is. It is not part of this module: code that moves, casts, patches
    or counts the owner's weights need not know about the borrower."""

    def __init__(self) -> None:
        super().__init__()
        self._lender: tuple[Callable[[Tensor], Tensor], ...] = ()  # in a tuple, or torch would make it a part

    def borrow(self, layer: Callable[[Tensor], Tensor]) -> None:
        """From now on call ``layer``."""
        self._lender = (layer,)

    def forward(self, x: Tensor) -> Tensor:
        if not self._lender:
            raise P3SError("a low-rank copy runs on its base's layers: call SubjectCopy.borrow(base) first")
        return self._lender[0](x)


# scale * up(down(x)),  scale = alpha / rank
def _change(x: Tensor, down: nn.Module, up: nn.Module, scale: float) -> Tensor:
    """A change of low rank, scaled where it is narrow."""
    narrow = down(x)
    return up(narrow if scale == 1 else scale * narrow)


class LowRankLayer(Borrowed):
    """W x + b of the borrowed layer, plus ``scale * up(down(x))``; ``up`` starts at zero."""

    def __init__(self, down: nn.Module, up: nn.Module, scale: float = 1.0) -> None:
        super().__init__()
        self.down = down
        self.up = up
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + _change(x, self.down, self.up, self.scale)


class LowRank:
    """``operations`` (see :class:`UNet`) for a network that borrows its layers and changes the linear ones and the
    convolutions by at most ``rank``, times ``scale``; the changes are built from the given ``operations``."""

    GroupNorm = LayerNorm = staticmethod(lambda *_, **__: Borrowed())

    def __init__(self, operations: Any, rank: int, scale: float = 1.0) -> None:
        self.operations = operations
        self.rank = rank
        self.scale = scale

    def Linear(self, inp: int, out: int, bias: bool = True, **factory: Any) -> LowRankLayer:
        rank = min(self.rank, inp, out)
        layer = self.operations.Linear
        down, up = layer(inp, rank, bias=False, **factory), layer(rank, out, bias=False, **factory)
        return LowRankLayer(down, up, self.scale)

    def Conv2d(
        self, inp: int, out: int, kernel: int, stride: int = 1, padding: int = 0, **factory: Any
    ) -> LowRankLayer:
        rank = min(self.rank, inp * kernel**2, out)
        layer = self.operations.Conv2d
        down = layer(inp, rank, kernel, stride, padding, bias=False, **factory)
        return LowRankLayer(down, layer(rank, out, 1, bias=False, **factory), self.scale)


class Diagonal(nn.Module):
    """x times a weight per channel, plus a bias."""

    def __init__(self, width: int, **factory: Any) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, **factory))
        self.bias = nn.Parameter(torch.empty(width, **factory))

    def forward(self, x: Tensor) -> Tensor:
        # Cast here, because a host casts the weights of its own layers only.
        return x * self.weight.to(x.device, x.dtype) + self.bias.to(x.device, x.dtype)


class LowRankZero(nn.Module):
    """A zero convolution as diagonal + scale * low rank + bias: both of its starts, zero and the identity, are
    exact."""

    def __init__(self, width: int, rank: int, operations: Any, scale: float = 1.0, **factory: Any) -> None:
        super().__init__()
        rank = min(rank, width)
        self.diagonal = Diagonal(width, **factory)
        self.down = operations.Linear(width, rank, bias=False, **factory)
        self.up = operations.Linear(rank, width, bias=False, **factory)
        self.scale = scale

    def forward(self, x: Tensor) -> Tensor:
        return self.diagonal(x) + _change(x, self.down, self.up, self.scale)


def convolution_channels(convolution: Any) -> int:
    """How many channels a convolution reads."""
    return convolution.weight.shape[1]


def lend_layers(
    base: nn.Module, network: nn.Module, base_key: Callable[[str], str], channels: Callable[[Any], int]
) -> None:
    """Let every :class:`Borrowed` layer of ``network`` run on that of ``base`` whose name ``base_key`` gives.

    ``channels`` is how many the base's first convolution reads when it is called.
    """
    for name, layer in network.named_modules():
        if isinstance(layer, Borrowed):
            lent = base.get_submodule(base_key(name))
            layer.borrow(_padded(lent, channels) if name == "input_blocks.0.0" else lent)


def _padded(convolution: Any, channels: Callable[[Any], int]) -> Callable[[Tensor], Tensor]:
    """The first convolution of an inpainting base, or one with a patch that pads it, reads more channels than the copy,
    which leaves them at 0."""

    def call(x: Tensor) -> Tensor:
        return convolution(F.pad(x, (0, 0, 0, 0, 0, channels(convolution) - x.shape[1])))

    return call


@torch.no_grad()
def reset_changes(module: nn.Module, generator: torch.Generator) -> None:
    """Start values of all low-rank changes in ``module``: no change, with directions to change along."""
    for part in module.modules():
        if isinstance(part, (LowRankLayer, LowRankZero)):
            down, up = part.down.weight, part.up.weight
            assert isinstance(down, Tensor) and isinstance(up, Tensor)
            down.normal_(std=1 / math.sqrt(down[0].numel()), generator=generator)
            up.zero_()
