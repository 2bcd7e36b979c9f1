"""How subjects enter the U-Net: one layer by hand, identities bit for bit, several subjects, guidance, masks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from small import SMALL, random_unet
from ssr_models import LENGTH, MODEL, SCALES, cross_attention_by_hand, rand, random_embeds, random_layers
from torch import Tensor

from p3s.errors import P3SError
from p3s.network.hooks import PLAIN, AttentionHooks
from p3s.network.injection import EffectMask
from p3s.network.unet import Attention
from p3s.network.unet_config import Layer
from p3s.sampling.layer_strengths import layer_strengths, parse_layer_strengths
from p3s.ssr.attend import (
    EVERYWHERE,
    AppliedSSR,
    KeysValues,
    SSRHooks,
    SubjectRun,
    add_subject,
    attention,
    reach_of,
)
from p3s.ssr.embeds import SubjectEmbeds
from p3s.ssr.layers import SubjectLayers, file_index

LAYER = Layer("output", 11)
BOTH = (False, True)  # parts of a batch: negative prompt, prompt


class Counted(SubjectLayers):
    """Subject layers that count how often they are computed."""

    calls = 0

    def project(self, *arguments: Any) -> tuple[Tensor, Tensor]:
        self.calls += 1
        return super().project(*arguments)


def counted_layers() -> Counted:
    layers = Counted(SMALL).requires_grad_(False)
    layers.load_state_dict(random_layers().state_dict())
    return layers


def run(applied: AppliedSSR) -> SubjectRun:
    return SubjectRun(applied, random_layers())


def applied(count: int = 1, **options: Any) -> AppliedSSR:
    return AppliedSSR(random_embeds(count), **{"strength": 0.8} | options)


def call(hooks: AttentionHooks = PLAIN, images: int = 1, size: tuple[int, int] = (16, 16)) -> Tensor:
    x = rand(images, 4, *size).repeat(2, 1, 1, 1)
    context = torch.cat([rand(1, 7, 24, seed=1).expand(images, -1, -1), rand(1, 7, 24, seed=2).expand(images, -1, -1)])
    with torch.no_grad():
        out = random_unet()(x, torch.full((len(x),), 400.0), context, hooks)
    assert out is not None
    return out


@pytest.mark.parametrize("heads", [1, 5, 8])
def test_one_layer_equals_the_formula(heads: int) -> None:
    torch.manual_seed(0)
    attn = Attention(40, 24, heads, torch.nn).requires_grad_(False)
    w_k, w_v = rand(40, 24, seed=1), rand(40, 24, seed=2)
    n, text, c = rand(2, 16, 40, seed=3), rand(2, 7, 24, seed=4), rand(1, 21, 24, seed=5)
    subject = KeysValues(c @ w_k.T, c @ w_v.T)
    for scale in (0.65, 2.0):

        def result(out: Tensor, q: Tensor, scale: float = scale) -> Tensor:
            return add_subject(out, q, heads, subject, subject, (True, False), scale)

        found = attn(n, text, text, result=result)
        for row in range(2):
            expected = cross_attention_by_hand(attn, n[row], text[row], c[0], w_k, w_v, scale, heads)
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_every_layer_of_the_u_net_reads_its_own_weights() -> None:
    """The whole pass under the hooks, held against the formula at the inputs that each layer had in it."""
    net, state, subjects = random_unet(), random_layers().state_dict(), random_embeds()
    seen: dict[Layer, tuple[Tensor, Tensor, Tensor]] = {}

    def watch(layer: Layer) -> None:
        def hook(_: Any, args: Any, out: Tensor) -> None:
            seen[layer] = args[0], args[1], out

        net.block(layer).attn2.register_forward_hook(hook)

    for layer in SMALL.layers():
        watch(layer)
    with torch.no_grad():
        x, context = rand(2, 4, 16, 16), rand(2, 7, 24, seed=1)
        net(x, torch.tensor([400.0, 400.0]), context, SSRHooks([run(applied())], BOTH))
    for layer, number in file_index(SMALL).items():
        n, text, out = seen[layer]
        for row, c in ((0, subjects.subjects[0].unconditional), (1, subjects.subjects[0].c)):
            expected = cross_attention_by_hand(
                net.block(layer).attn2,
                n[row],
                text[row],
                c[0],
                state[f"{number}.to_k_SSR.weight"],
                state[f"{number}.to_v_SSR.weight"],
                0.8,
                8,
            )
            torch.testing.assert_close(out[row], expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0.0},
        {"mask": EffectMask(torch.zeros(4, 4))},
        {"start": 0.5, "end": 0.5},
        {"layers": dict.fromkeys(SMALL.layers(), 0.0)},
        {"embeds": random_embeds(2, weights=(0.0, 0.0))},
    ],
    ids=["strength", "mask", "window", "layers", "weights"],
)
def test_nothing_is_the_plain_model_bit_for_bit_and_computes_nothing(options: dict[str, Any]) -> None:
    layers = counted_layers()
    nothing = AppliedSSR(**{"embeds": random_embeds(), "strength": 0.8} | options)
    found = call(SSRHooks([SubjectRun(nothing, layers)], BOTH))
    assert torch.equal(found, call()) and layers.calls == 0
    assert nothing.never or all(nothing.factor(layer) == 0 for layer in SMALL.layers())
    assert not torch.equal(call(SSRHooks([run(applied())], BOTH)), call())


def test_a_mask_of_ones_is_no_mask_bit_for_bit() -> None:
    masked = call(SSRHooks([run(applied(mask=EffectMask(torch.ones(5, 7))))], BOTH))
    assert torch.equal(masked, call(SSRHooks([run(applied())], BOTH)))


def one_layer(out: Tensor, q: Tensor, *runs: SubjectRun, prompts: Sequence[bool] = (True,)) -> Tensor:
    for each in runs:
        out = each.add(LAYER, out, q, 8, (4, 6), prompts)
    return out


def inputs(rows: int = 1) -> tuple[Tensor, Tensor]:
    return rand(rows, 24, 32, seed=7), rand(rows, 24, 32, seed=8)


def test_the_strength_is_linear() -> None:
    out, q = inputs()
    once = one_layer(out, q, run(applied(strength=1.0))) - out
    for s in (0.3, 0.65, 2.0):
        torch.testing.assert_close(one_layer(out, q, run(applied(strength=s))) - out, s * once)
        layers = {LAYER: s}
        torch.testing.assert_close(one_layer(out, q, run(applied(strength=1.0, layers=layers))) - out, s * once)


def test_layer_strengths_leave_the_layers_with_0_alone() -> None:
    layers = layer_strengths(parse_layer_strengths("output: 0, input 4: 0.5"), SMALL)
    counted = counted_layers()
    seen: dict[Layer, bool] = {}
    part = SubjectRun(applied(layers=layers), counted)

    class Watched(SSRHooks):
        def cross_attention_result(self, layer: Layer, out: Tensor, *arguments: Any) -> Tensor:
            result = super().cross_attention_result(layer, out, *arguments)
            seen[layer] = result is out
            return result

    call(Watched([part], BOTH))
    assert {layer for layer, same in seen.items() if same} == {x for x in SMALL.layers() if x.side == "output"}
    assert part.applied.factor(Layer("input", 4)) == 0.4


def test_prompts_rows_read_c_all_others_the_zero_picture() -> None:
    out, q = inputs(3)
    subject = random_embeds().subjects[0]
    found = one_layer(out, q, run(applied()), prompts=(False, True, False))  # PerpNeg has two that are not the prompt's
    layers = random_layers()
    for row, c in enumerate((subject.unconditional, subject.c, subject.unconditional)):
        k, v = layers.project(LAYER, c)
        expected = out[row : row + 1] + 0.8 * attention(q[row : row + 1], k, v, 8)
        torch.testing.assert_close(found[row : row + 1], expected, atol=1e-6, rtol=1e-6)
    conditional = one_layer(out, q, run(applied(guidance="conditional")), prompts=(False, True, False))
    assert torch.equal(conditional[[0, 2]], out[[0, 2]])
    torch.testing.assert_close(conditional[1], found[1])
    assert one_layer(out, q, run(applied(guidance="conditional")), prompts=(False,) * 3) is out


def test_conditional_leaves_the_other_half_of_a_pass_alone() -> None:
    plain, found = call(), call(SSRHooks([run(applied(guidance="conditional"))], BOTH))
    assert torch.equal(found[0], plain[0]) and not torch.equal(found[1], plain[1])


@pytest.mark.parametrize("masked", [False, True])
def test_a_batch_equals_its_images_one_by_one_in_either_order_of_its_parts(masked: bool) -> None:
    out, q = inputs(4)
    mask = EffectMask(torch.stack([torch.linspace(0, 1, 24).view(4, 6), torch.ones(4, 6).tril()])) if masked else None
    subject = applied(mask=mask)
    whole = one_layer(out, q, run(subject), prompts=(False, True))
    turned = one_layer(out[[2, 3, 0, 1]], q[[2, 3, 0, 1]], run(subject), prompts=(True, False))
    torch.testing.assert_close(whole[[2, 3, 0, 1]], turned)
    for row in range(4):
        own = applied(mask=None if mask is None else mask.of([row % 2]))
        single = one_layer(out[row : row + 1], q[row : row + 1], run(own), prompts=(row >= 2,))
        torch.testing.assert_close(whole[row : row + 1], single)


def test_chained_subjects_share_one_softmax_whatever_their_order() -> None:
    out, q = inputs()
    a, b = random_embeds(2).subjects
    both = SubjectEmbeds((a,), MODEL) + SubjectEmbeds((b,), MODEL)
    joint = torch.cat([a.c, b.c], 1)
    expected = out + 0.8 * attention(q, *random_layers().project(LAYER, joint), 8)
    found = one_layer(out, q, run(AppliedSSR(both, 0.8)))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    turned = SubjectEmbeds((b,), MODEL) + SubjectEmbeds((a,), MODEL)
    torch.testing.assert_close(one_layer(out, q, run(AppliedSSR(turned, 0.8))), found, atol=1e-5, rtol=1e-5)
    twice = SubjectEmbeds((a, a), MODEL)
    once = one_layer(out, q, run(AppliedSSR(SubjectEmbeds((a,), MODEL), 0.8)))
    torch.testing.assert_close(one_layer(out, q, run(AppliedSSR(twice, 0.8))), once, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("weighting", ["embedding", "output"])
def test_the_weight_of_every_chained_subject_acts(weighting: str) -> None:
    """All but the first had none in the authors' code."""
    out, q = inputs()
    layers = random_layers()

    def with_weights(*weights: float) -> Tensor:
        return one_layer(out, q, run(AppliedSSR(random_embeds(3, weights=weights), 0.8, weighting=weighting)))

    plain = with_weights(1.0, 1.0, 1.0)
    a, b, c = random_embeds(3).subjects
    for weights in ((0.5, 1, 1), (1, 0.5, 1), (1, 1, 2.0)):
        scaled = torch.cat([s.c * w for s, w in zip((a, b, c), weights, strict=True)], 1)
        keys = scaled if weighting == "embedding" else torch.cat([a.c, b.c, c.c], 1)
        expected = out + 0.8 * attention(q, *layers.project(LAYER, keys, scaled), 8)
        torch.testing.assert_close(with_weights(*weights), expected, atol=1e-5, rtol=1e-5)
        assert (with_weights(*weights) - plain).abs().max() > 1e-2
    without = AppliedSSR(SubjectEmbeds((a, c), MODEL), 0.8)
    torch.testing.assert_close(with_weights(1, 0, 1), one_layer(out, q, run(without)), atol=1e-6, rtol=1e-6)


def test_the_weights_leave_the_zero_picture_alone() -> None:
    weighted, plain = random_embeds(2, weights=(0.5, 2.0)).joint(), random_embeds(2).joint()
    assert weighted is not None and plain is not None
    assert torch.equal(weighted.unconditional, plain.unconditional)


def test_two_applied_are_a_sum_each_with_its_own_strength() -> None:
    out, q = inputs()
    one, other = AppliedSSR(random_embeds(), 0.5), AppliedSSR(random_embeds(seed=30), 0.9)
    found = one_layer(out, q, run(one), run(other))
    expected = out + (one_layer(out, q, run(one)) - out) + (one_layer(out, q, run(other)) - out)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(found, one_layer(out, q, run(other), run(one)), atol=1e-6, rtol=1e-6)


def test_two_branches_of_one_model_do_not_meet_and_embeds_stay_as_they_are() -> None:
    layers = random_layers()
    runs = [SubjectRun(AppliedSSR(random_embeds(seed=seed), 0.8), layers) for seed in (5, 30)]
    before = [[t.clone() for t in r.applied.embeds.subjects[0][:2]] for r in runs]
    first, second = (call(SSRHooks([r], BOTH)) for r in runs)
    assert not torch.equal(first, second)
    again = [call(SSRHooks([SubjectRun(r.applied, layers)], BOTH)) for r in reversed(runs)]
    assert torch.equal(again[1], first) and torch.equal(again[0], second)
    for r, tensors in zip(runs, before, strict=True):
        kept = r.applied.embeds.subjects[0]
        assert all(torch.equal(t, old) and t.dtype == torch.float32 for t, old in zip(kept[:2], tensors, strict=True))


def test_keys_and_values_are_computed_once_a_run() -> None:
    layers = counted_layers()
    part = SubjectRun(applied(), layers)
    first = call(SSRHooks([part], BOTH))
    assert layers.calls == 2 * len(SMALL.layers())  # for the prompt and for the others
    assert torch.equal(call(SSRHooks([part], BOTH)), first)
    assert layers.calls == 2 * len(SMALL.layers())
    layers = counted_layers()
    call(SSRHooks([SubjectRun(applied(guidance="conditional"), layers)], BOTH))
    assert layers.calls == len(SMALL.layers())


def test_an_effect_mask_acts_where_it_is_and_in_its_measure() -> None:
    out, q = inputs()
    everywhere = one_layer(out, q, run(applied())) - out
    m = torch.zeros(4, 6)
    m[:, :3] = 1
    left = one_layer(out, q, run(applied(mask=EffectMask(m))))
    on = m.flatten() > 0
    assert torch.equal(left[:, ~on], out[:, ~on])
    torch.testing.assert_close(left[:, on] - out[:, on], everywhere[:, on])
    soft = torch.linspace(0, 1, 24).view(4, 6)
    found = one_layer(out, q, run(applied(mask=EffectMask(soft)))) - out
    torch.testing.assert_close(found, soft.flatten()[None, :, None] * everywhere, atol=1e-5, rtol=1e-5)


def test_a_batch_of_some_images_takes_their_masks() -> None:
    """As in a window that slides over the images."""
    out, q = inputs(2)
    masks = torch.stack([torch.eye(4, 6), torch.full((4, 6), 0.5), torch.ones(4, 6).tril()])
    whole = run(applied(mask=EffectMask(masks)))
    for images in ((2, 0), (1, 2)):
        found = whole.add(LAYER, out, q, 8, (4, 6), (True,), images=images)
        assert torch.equal(found, one_layer(out, q, run(applied(mask=EffectMask(masks[list(images)])))))
    one = run(applied(mask=EffectMask(masks[0])))
    assert torch.equal(one.add(LAYER, out, q, 8, (4, 6), (True,), images=(2, 0)), one_layer(out, q, one))


def test_queries_that_a_mask_leaves_out_are_not_computed() -> None:
    out, q = inputs(2)
    m = torch.zeros(4, 6)
    m[1, 2:5] = 1
    shapes = []

    def watched(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
        shapes.append((tuple(q.shape), tuple(k.shape), k.untyped_storage().nbytes()))
        return attention(q, k, v, heads)

    run(applied(mask=EffectMask(m))).add(LAYER, out, q, 8, (4, 6), BOTH, watched)
    tokens = SCALES * LENGTH
    assert [(a, b) for a, b, _ in shapes] == [((1, 3, 32), (1, tokens, 32))] * 2
    shapes.clear()
    run(applied()).add(LAYER, *inputs(8), 8, (4, 6), BOTH, watched)
    assert {(a, b) for a, b, _ in shapes} == {((4, 24, 32), (4, tokens, 32))}
    assert {size for _, _, size in shapes} == {tokens * 32 * 4}  # one K for all rows


def test_where_rows_and_tokens_are_not_the_images_the_mask_is_refused() -> None:
    out, q = inputs(3)
    two = EffectMask(torch.rand(2, 4, 6) * 0.5 + 0.2)
    with pytest.raises(P3SError, match="3 rows in 1 parts, and the mask distinguishes 2 images"):
        one_layer(out, q, run(applied(mask=two)))
    with pytest.raises(P3SError, match="3 rows in 2 parts"):
        one_layer(out, q, run(applied()), prompts=BOTH)
    with pytest.raises(P3SError, match="merges or cuts the tokens"):
        one_layer(out[:, :20], q[:, :20], run(applied(mask=EffectMask(torch.eye(4)))))
    assert reach_of(None, (4, 6), torch.device("cpu")) is EVERYWHERE


def test_settings_out_of_range_are_refused() -> None:
    for options, message in [
        ({"strength": math.nan}, r"strength must be a number in 0\.\.2; got nan"),
        ({"strength": -0.1}, "strength must be"),
        ({"guidance": "left"}, "guidance must be one of both, conditional; got 'left'"),
        ({"weighting": "k"}, "weighting must be one of embedding, output"),
        ({"start": 0.6, "end": 0.5}, r"start \(0.6\) must not be greater than end \(0.5\)"),
        ({"end": 1.5}, r"end must be a number in 0\.\.1"),
    ]:
        with pytest.raises(P3SError, match=message):
            applied(**options)
    assert applied().strength == 0.8 and AppliedSSR(random_embeds()).strength == 0.65
