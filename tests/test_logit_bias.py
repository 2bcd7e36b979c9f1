"""A bias of attention logits as channels of queries and keys."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from p3s.network.logit_bias import BLOCKED, LogitBias, log_share, widened
from p3s.network.unet import Attention

HALVES = [torch.float16, torch.bfloat16]
DTYPES = [torch.float32, *HALVES]
#: The unit roundoff.
ROUNDING = {torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8 / 2}


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads(dtype: torch.dtype, rows: int = 2, width: int = 20) -> tuple[torch.Tensor, ...]:
    return tuple(draw(rows, 3, n, width, seed=n).to(dtype) for n in (5, 7, 7))


def some_bias(rows: int = 2) -> LogitBias:
    return LogitBias(log_share(draw(rows, 5, 2, seed=1).abs()), draw(1, 7, 2, seed=2).abs())


def dense(bias: LogitBias) -> torch.Tensor:
    return (bias.on_queries.double() @ bias.on_keys.double().transpose(1, 2))[:, None]


@pytest.mark.parametrize("rows", [1, 2])
def test_attention_of_the_widened_is_attention_with_the_bias(rows: int) -> None:
    q, k, v = heads(torch.float32)
    bias = some_bias(rows)
    found = F.scaled_dot_product_attention(*widened(q, k, v, bias))
    expected = (q.double() @ k.double().transpose(-1, -2) / 20**0.5 + dense(bias)).softmax(-1) @ v.double()
    torch.testing.assert_close(found[..., :20].double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_product_of_the_channels_is_the_bias_within_three_squared_roundings(dtype: torch.dtype) -> None:
    """In float32 it is within the three roundings of the two factors and the scale."""
    bias = some_bias()
    q, k, _ = widened(*heads(dtype), bias)
    product = q[:, :1, :, 20:].double() @ k[:, :1, :, 20:].double().transpose(-1, -2) / q.shape[-1] ** 0.5
    size = (bias.on_queries.double().abs() @ bias.on_keys.double().abs().transpose(1, 2))[:, None]
    u = ROUNDING[dtype]
    bound = 3 * (u * u if dtype in HALVES else u) * size + 1e-6  # float16 is absolute below 2^-14
    assert ((product - dense(bias)).abs() <= bound).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_blocked_key_has_a_share_of_exactly_0(dtype: torch.dtype) -> None:
    """Although its logit were higher than the others' by 400, and its value is the largest there is."""
    q = torch.full((1, 1, 3, 40), 8.0, dtype=dtype)
    k = torch.full((1, 1, 4, 40), 4.0, dtype=dtype)
    k[:, :, :2] = -4.0
    assert float(q[0, 0, 0].float() @ (k[0, 0, 3] - k[0, 0, 0]).float()) / 40**0.5 > 400
    v = torch.zeros(1, 1, 4, 40, dtype=dtype)
    v[:, :, 2:] = 60000
    bias = LogitBias(log_share(torch.zeros(1, 3, 1)), torch.tensor([0.0, 0, 1, 1]).view(1, 4, 1))
    found = F.scaled_dot_product_attention(*widened(q, k, v, bias))
    assert torch.equal(found, torch.zeros_like(found))


@pytest.mark.parametrize(("width", "dtype", "total"), [(40, DTYPES[0], 48), (38, DTYPES[0], 40), (40, DTYPES[1], 48)])
def test_widths_are_those_that_fast_kernels_take(width: int, dtype: torch.dtype, total: int) -> None:
    assert {t.shape[-1] for t in widened(*heads(dtype, width=width), some_bias())} == {total}


def test_the_largest_sum_of_a_blocked_logit_fits_float16() -> None:
    """Kernels without fused softmax keep q k^T before it is divided by sqrt(d)."""
    assert torch.finfo(torch.float16).max > -2 * BLOCKED * (160 + 32) ** 0.5


class Largest(TorchDispatchMode):
    """The size of the largest tensor that is made, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        found = [t.numel() for t in (made if isinstance(made, (list, tuple)) else [made]) if hasattr(t, "numel")]
        self.numbers = max([self.numbers, *found])
        return made


def test_an_attention_with_a_bias_makes_nothing_as_large_as_its_logits() -> None:
    attention, tokens = Attention(16, 16, 2, torch.nn), draw(1, 900, 16)
    bias = LogitBias(draw(1, 900, 1), draw(1, 900, 1))
    with torch.no_grad(), Largest() as largest:
        attention(tokens, tokens, tokens, bias)
    assert largest.numbers <= 900 * (16 + 2 * 8)
