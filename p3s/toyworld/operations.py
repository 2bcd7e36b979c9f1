"""Layers for training: products in bfloat16, all else (weights, norms, attention, sums) in float32.

A processor with bfloat16 instructions does them at twice the speed of float32; torch's autocast would take the norms
and the attention along, which are slower that way on a CPU."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

GroupNorm, LayerNorm = nn.GroupNorm, nn.LayerNorm


class Linear(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x.bfloat16(), self.weight.bfloat16(), _half(self.bias)).float()


class Conv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x.bfloat16(), self.weight.bfloat16(), _half(self.bias)).float()


def _half(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.to(torch.bfloat16)
