"""Weights that are random but repeat: to draw all of them would take longer than a step."""

from __future__ import annotations

import torch
from torch import nn


def fill(net: nn.Module) -> nn.Module:
    """Give a network, on any device, weights that keep the size of its activations."""
    some = torch.randn(2**18, generator=torch.Generator().manual_seed(0))
    for weight in net.parameters():
        size = weight[0].numel() ** -0.5 if weight.ndim > 1 else 1.0
        scaled = (some * size).to(weight.device, weight.dtype)
        for part in weight.data.view(-1).split(len(some)):
            part.copy_(scaled[: len(part)])
    return net
