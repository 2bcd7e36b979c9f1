"""A bias of attention logits in the memory of an attention without one, and on kernels that take none."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

#: Stands for -inf: exp of it is 0 in every dtype, also beside logits that differ by 900, and float16 holds its product
#: with sqrt(d).
BLOCKED = -1024.0
#: Heads are widened to a multiple of this, the step of the widths that fast attention kernels take.
WIDTH_STEP = 8


class LogitBias(NamedTuple):
    """The bias sum_c on_queries[r, i, c] on_keys[r, j, c] of row r, query i and key j, for every head.

    ``on_queries`` [1 or rows, queries, c] and ``on_keys`` [1 or rows, keys, c], float32. No entry of the bias may be
    much below ``BLOCKED``.
    """

    on_queries: Tensor
    on_keys: Tensor


def log_share(share: Tensor) -> Tensor:
    """log of a factor of the softmax's terms, 0 or more; ``BLOCKED`` for 0."""
    return share.log().clamp_min(BLOCKED)


# softmax(q k^T / sqrt(d) + a b^T) = softmax([q sqrt(d' / d), a sqrt(d')] [k, b]^T / sqrt(d'))
def widened(q: Tensor, k: Tensor, v: Tensor, bias: LogitBias) -> tuple[Tensor, Tensor, Tensor]:
    """q, k and v [rows, heads, tokens, d] with more channels, whose attention without a bias is that of the given ones
    with it, in its first d channels. The kernel must divide by the square root of the new width, as it does by default.

    In half precision each factor of the bias is the sum of two numbers, and of the products all but the smallest are
    computed: with the unit roundoff u (2^-9 in bfloat16) the bias is off by 3 u^2 of itself, where a rounded one were
    off by u.
    """
    width = q.shape[-1]
    copies = 3 if q.dtype.itemsize < torch.float32.itemsize else 1
    total = math.ceil((width + copies * bias.on_keys.shape[-1]) / WIDTH_STEP) * WIDTH_STEP
    on_queries, on_keys = bias.on_queries * math.sqrt(total), bias.on_keys
    if copies == 3:
        (a, a_rest), (b, b_rest) = _in_two(on_queries, q.dtype), _in_two(on_keys, q.dtype)
        on_queries, on_keys = torch.cat([a, a_rest, a], -1), torch.cat([b, b, b_rest], -1)

    def with_channels(t: Tensor, more: Tensor | None) -> Tensor:
        wide = t.new_zeros(*t.shape[:-1], total)
        wide[..., :width] = t
        if more is not None:
            wide[..., width : width + more.shape[-1]] = more[:, None]
        return wide

    return with_channels(q * math.sqrt(total / width), on_queries), with_channels(k, on_keys), with_channels(v, None)


def _in_two(x: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """x, rounded, and what that leaves."""
    rounded = x.to(dtype)
    return rounded, (x - rounded).to(dtype)
