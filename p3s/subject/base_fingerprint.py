"""What tells checkpoints apart, from their weights."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

from ..safetensors_format import as_bytes

FINGERPRINT_VALUES = 256  # of each tensor


def fingerprint(state_dict: Mapping[str, Tensor], rounded: torch.dtype | None = None) -> str:
    """sha256 (hex) that distinguishes checkpoints quickly: names, shapes and up to 256 values of each tensor.

    The values are spread evenly and rounded to float16, so float32 and float16 files of one checkpoint agree. Names
    count: give them without a prefix. ``rounded``: the type that the values are rounded to before that.
    """
    digest = hashlib.sha256()
    for name in sorted(state_dict):
        tensor = state_dict[name].detach()
        flat = tensor.reshape(-1)
        count = min(flat.numel(), FINGERPRINT_VALUES)
        picked = torch.arange(count, device=flat.device) * (flat.numel() - 1) // max(count - 1, 1)
        digest.update(f" {name} {' x '.join(map(str, tensor.shape)) or 'scalar'} ".encode())
        values = flat[picked].to("cpu", rounded or flat.dtype)
        digest.update(as_bytes(values.to(torch.float16).contiguous()))
    return digest.hexdigest()
