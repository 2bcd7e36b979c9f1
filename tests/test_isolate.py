"""Subjects under masks kept apart in self-attention, against attention with blocks of -inf."""

from __future__ import annotations

import pytest
import torch
from test_effect_mask import GRID, LAYER, World, features, half

from p3s.errors import P3SError
from p3s.network.injection import EffectMask, Injection, InjectionHooks
from p3s.network.logit_bias import BLOCKED
from p3s.network.unet import Attention
from p3s.sampling.application import Application, application

N = GRID[0] * GRID[1]


def region(*rows: str) -> EffectMask:
    return EffectMask(torch.tensor([[float(c) for c in row] for row in rows]))


#: Each leaves tokens outside all of them; the first two overlap in two tokens.
MASKS = [
    region("1110", "1100", "0000", "0000"),
    region("0011", "0001", "0000", "0000"),
    region("0000", "0000", "0110", "0110"),
]


def attend(masks: list[EffectMask | None], isolated: list[bool], batch: int = 1) -> torch.Tensor:
    """One self-attention under injections with lambda 0.2."""
    torch.manual_seed(0)
    attention, z = Attention(8, 8, 2, torch.nn), torch.randn(batch, N, 8)
    hooks = InjectionHooks(
        *[
            Injection(features(i), 0.2, mask, isolated=apart)
            for i, (mask, apart) in enumerate(zip(masks, isolated, strict=True))
        ]
    )
    with torch.no_grad():
        q, k, v = hooks.self_attention(LAYER, z, GRID)
        return attention(q, k, v, hooks.self_attention_bias(LAYER, k.shape[1], GRID))


def blocked(masks: list[EffectMask | None], isolated: list[bool]) -> torch.Tensor:
    """[queries, keys] of one image: which query must not see which key, from the sets of subjects at each token."""
    sets = [{s for s, m in enumerate(masks) if m is not None and m.tokens(GRID)[0, i] == 1} for i in range(N)]
    apart = [
        [s != t and (isolated[s] or isolated[t]) and None not in (masks[s], masks[t]) for t in range(len(masks))]
        for s in range(len(masks))
    ]
    found = torch.zeros(N, N * (1 + len(masks)), dtype=torch.bool)
    for i in range(N):
        for j in range(N):
            for s in sets[i]:
                others = {t for t in range(len(masks)) if apart[s][t]}
                if not sets[i] & others and s not in sets[j] and sets[j] & others:
                    found[i, j] = True
        for s, m in enumerate(masks):
            if m is not None and s not in sets[i]:
                found[i, N * (s + 1) : N * (s + 2)] = True
    return found


def expected(masks: list[EffectMask | None], isolated: list[bool]) -> torch.Tensor:
    torch.manual_seed(0)
    attention, z = Attention(8, 8, 2, torch.nn), torch.randn(1, N, 8)
    f = [features(i).self_attention[LAYER] for i in range(len(masks))]
    m = [torch.ones(1, N) if mask is None else mask.tokens(GRID) for mask in masks]
    values = z + sum(0.2 * share[..., None] * each for share, each in zip(m, f, strict=True))
    with torch.no_grad():
        q, k, v = (
            to(t).view(1, -1, 2, 4).transpose(1, 2)
            for to, t in (
                (attention.to_q, z),
                (attention.to_k, torch.cat([z, *f], 1)),
                (attention.to_v, torch.cat([values, *f], 1)),
            )
        )
        logits = (q @ k.transpose(2, 3) / 2).masked_fill(blocked(masks, isolated), -torch.inf)
        return attention.to_out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    ("masks", "isolated"),
    [
        (MASKS[::2], [True, True]),
        (MASKS[:2], [True, True]),
        (MASKS, [True, True, True]),
        (MASKS, [False, False, True]),
        ([*MASKS[::2], None], [True, True, True]),
        (MASKS[::2], [False, False]),
    ],
    ids=["apart", "overlapping", "three", "one of three", "and one without a mask", "off"],
)
def test_is_attention_with_blocks(masks: list[EffectMask | None], isolated: list[bool]) -> None:
    torch.testing.assert_close(attend(masks, isolated), expected(masks, isolated), atol=1e-6, rtol=1e-5)


def test_the_blocks_matter_and_reach_no_token_outside_the_masks() -> None:
    masks = MASKS[::2]
    change = (attend(masks, [True, True]) - attend(masks, [False, False])).abs().amax(2)[0]
    inside = sum(m.tokens(GRID)[0] for m in masks) > 0
    assert change[inside].min() > 1e-4 and torch.equal(change[~inside], torch.zeros(int((~inside).sum())))


@pytest.mark.parametrize("masks", [[MASKS[0]], [MASKS[0], None], [None, None]])
def test_nothing_happens_with_fewer_than_two_masks(masks: list[EffectMask | None]) -> None:
    apart, together = ([value] * len(masks) for value in (True, False))
    assert torch.equal(attend(masks, apart), attend(masks, together))


def test_one_of_a_pair_is_enough() -> None:
    both = attend(MASKS[::2], [True, True])
    assert torch.equal(attend(MASKS[::2], [True, False]), both)
    assert torch.equal(attend(MASKS[::2], [False, True]), both)


def test_every_image_of_a_batch_has_its_own_blocks() -> None:
    """The rows hold two images, once for each branch of the guidance."""
    first, second = (EffectMask(torch.cat([MASKS[i]._mask, MASKS[j]._mask])) for i, j in ((0, 1), (2, 2)))
    together = attend([first, second], [True, True], batch=4)
    torch.manual_seed(0)
    attention, z = Attention(8, 8, 2, torch.nn), torch.randn(4, N, 8)
    for row in range(4):
        masks = [first.of([row % 2]), second.of([row % 2])]
        hooks = InjectionHooks(*[Injection(features(i), 0.2, m, isolated=True) for i, m in enumerate(masks)])
        q, k, v = hooks.self_attention(LAYER, z[row : row + 1], GRID)
        with torch.no_grad():
            alone = attention(q, k, v, hooks.self_attention_bias(LAYER, k.shape[1], GRID))
        torch.testing.assert_close(together[row : row + 1], alone)


def test_soft_masks_fade_the_blocks() -> None:
    """A key's share is multiplied by (1 - b)^a, where a is how far the query belongs to one subject alone, and b how
    far the key belongs to the other and not to this one."""
    soft = torch.rand(2, N, generator=torch.Generator().manual_seed(3))
    soft[:, :3] = torch.tensor([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    injections = [Injection(features(i), 0.2, EffectMask(m.view(GRID)), isolated=True) for i, m in enumerate(soft)]
    hooks, z = InjectionHooks(*injections), torch.zeros(1, N, 8)
    hooks.self_attention(LAYER, z, GRID)
    bias = hooks.self_attention_bias(LAYER, 3 * N, GRID)
    factor = (bias.on_queries[0] @ bias.on_keys[0].T).exp()[:, :N]
    m, other = soft
    a = [m * (1 - other), other * (1 - m)]
    b = [(1 - m) * other, (1 - other) * m]
    logs = [(1 - each).log().clamp_min(BLOCKED) for each in b]
    shares = (a[0][:, None] * logs[0] + a[1][:, None] * logs[1]).exp()
    torch.testing.assert_close(factor, shares, atol=1e-6, rtol=1e-4)
    assert factor[0, 1] == factor[1, 0] == 0  # each of the other subject alone
    assert (factor[2] == 1).all() and (factor[:, 2] == 1).all()  # of both
    assert (factor.diagonal() > 0.7).all()  # every token still sees itself


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("branches", ["both", "conditional"])
def test_acts_in_the_first_part_of_a_run(world: World, branches: str) -> None:
    """The three steps are at 0.33, 0.67 and 1 of denoising. Of the values of a pair the larger one counts."""
    left, right = half(16), EffectMask(1 - half(16)._mask)

    def image(one: float, two: float) -> torch.Tensor:
        subjects = world.subject(mask=left, isolate=one), world.subject(1, mask=right, isolate=two)
        return world.image(*subjects, branches=branches)

    off, first, second, always = (image(share, 0.0) for share in (0.0, 0.5, 0.9, 1.0))
    assert len({float(x.sum()) for x in (off, first, second, always)}) == 4
    assert torch.equal(image(0.2, 0.3), off)
    assert torch.equal(image(0.0, 0.5), first) and torch.equal(image(0.3, 0.5), first)
    assert torch.equal(image(0.9, 0.1), second) and torch.equal(image(0.5, 1.0), always)
    alone = world.image(world.subject(mask=left, isolate=1.0), world.subject(1), branches=branches)
    assert torch.equal(alone, world.image(world.subject(mask=left), world.subject(1), branches=branches))


def test_the_part_is_a_fraction_from_0_to_1(world: World) -> None:
    assert [Application(isolate=0.5).isolates_at(p) for p in (0.0, 0.49, 0.5, 1.0)] == [True, True, False, False]
    assert not Application().isolates_at(0.0) and Application(isolate=1.0).isolates_at(1.0)
    assert application(world.base.config, isolate=0.25).isolate == 0.25
    with pytest.raises(P3SError, match=r"isolate must be a number in 0\.\.1; got 1\.5"):
        Application(isolate=1.5)
