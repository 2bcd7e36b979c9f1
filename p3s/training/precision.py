"""The arithmetic of a training step, by ``TrainSettings.precision``."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import nn

#: What the frozen base may be held in.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    """The arithmetic of a step in a ``precision``."""
    dtype = DTYPES[precision]
    return nullcontext() if dtype is torch.float32 else torch.autocast(device.type, dtype)


def normalise_in_32_bits(network: nn.Module) -> None:
    """Have a network's normalisations take and give float32 under the CPU's :func:`autocast`, as they do under a GPU's
    (torch's list of CUDA operations that autocast to float32 has both, the CPU's neither)."""
    for part in network.modules():
        if isinstance(part, (nn.GroupNorm, nn.LayerNorm)):
            for name, weight in part.named_parameters():
                setattr(part, name, nn.Parameter(weight.detach().float(), weight.requires_grad))
            part.register_forward_pre_hook(lambda _, given: tuple(x.float() for x in given))
