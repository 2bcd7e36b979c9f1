"""Eq. 4, 7, 8, 9 against NumPy, and the injection's invariants."""

import numpy as np
import pytest
import torch
from small import SMALL, random_copy, random_unet

from p3s.network.image_latent import ImageLatent, fit_condition
from p3s.network.injection import Features, Injection, InjectionHooks, extend_keys, extend_values, fit_tokens
from p3s.network.resize import resize
from p3s.network.unet import Attention
from p3s.network.unet_config import Layer


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def test_eq_4_image_latent():
    torch.manual_seed(0)
    module = ImageLatent(4, 10, dim=6)
    latent, tokens = torch.randn(1, 4, 3, 5), torch.randn(1, 7, 10)
    with torch.no_grad():
        found = module(latent, tokens)[0].numpy().reshape(4, 15).T
        z, w_q, w_k, w_v = (
            p.numpy().reshape(p.shape[0], -1)
            for p in (module.zero.weight, module.to_q.weight, module.to_k.weight, module.to_v.weight)
        )
    pixels, c_s = latent[0].numpy().reshape(4, 15).T, tokens[0].numpy()
    q = (pixels @ z.T + module.zero.bias.detach().numpy()) @ w_q.T
    expected = pixels + softmax(q @ (c_s @ w_k.T).T / np.sqrt(6)) @ (c_s @ w_v.T)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_eq_7_and_8_self_attention():
    """One head at a time, by hand: Q = W_Q z, K' = W_K [z, f], V' = W_V [z + lambda f, f]."""
    torch.manual_seed(0)
    heads, dim, lam = 2, 8, 0.2
    layer = Attention(dim, dim, heads, torch.nn)
    z, f = torch.randn(1, 5, dim), torch.randn(1, 5, dim)
    with torch.no_grad():
        found = layer(z, extend_keys(z, [f]), extend_values(z, [lam * f], [f]))[0].numpy()
    w = {n: getattr(layer, f"to_{n}").weight.detach().numpy() for n in "qkv"}
    zn, fn = z[0].numpy(), f[0].numpy()
    q, k = zn @ w["q"].T, np.concatenate([zn, fn]) @ w["k"].T
    v = np.concatenate([zn + lam * fn, fn]) @ w["v"].T
    parts = [np.split(m, heads, axis=1) for m in (q, k, v)]
    out = np.concatenate([softmax(a @ b.T / np.sqrt(dim // heads)) @ c for a, b, c in zip(*parts, strict=True)], axis=1)
    expected = out @ layer.to_out[0].weight.detach().numpy().T + layer.to_out[0].bias.detach().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_several_subjects_are_concatenated_once_and_add_lambda_f_to_the_image_tokens_alone():
    z, f, g, foreign = (torch.randn(1, 3, 2) for _ in range(4))
    longer = torch.cat([z, foreign], 1)
    k = extend_keys(longer, [f, g])
    v = extend_values(longer, [0.2 * f, 0.5 * g], [f, g])
    assert torch.equal(k, torch.cat([z, foreign, f, g], 1))
    torch.testing.assert_close(v, torch.cat([z + 0.2 * f + 0.5 * g, foreign, f, g], 1))


def test_zero_features_are_not_off():
    """(d) Zero keys keep their share of the softmax: f = 0 changes the output, so weight 0 must skip the injection."""
    torch.manual_seed(0)
    layer, z = Attention(8, 8, 2, torch.nn), torch.randn(1, 5, 8)
    with torch.no_grad():
        plain, injected = layer(z, z, z), layer(z, extend_keys(z, [z * 0]), extend_values(z, [z * 0], [z * 0]))
    assert (plain - injected).abs().max() > 0.01


def test_near_weight_0_self_attention_is_plain_attention_that_shares_with_zero_keys():
    """(d) As the weight falls to 0, each of the m added keys keeps exp(0) = 1 of the softmax and adds nothing: what was
    divided by S, a query's plain denominator, is divided by S + m. What is left of f falls with the weight."""
    torch.manual_seed(0)
    heads, dim, tokens = 2, 8, 5
    layer, z, f = Attention(dim, dim, heads, torch.nn), torch.randn(1, tokens, dim), torch.randn(1, tokens, dim)
    w = {n: getattr(layer, f"to_{n}").weight.detach().numpy() for n in "qkv"}
    zn = z[0].numpy()
    parts = []
    for q, k, v in zip(*(np.split(zn @ w[n].T, heads, axis=1) for n in "qkv"), strict=True):
        e = np.exp(q @ k.T / np.sqrt(dim // heads))
        parts.append(e @ v / (e.sum(1, keepdims=True) + tokens))
    to_out = layer.to_out[0]
    limit = np.concatenate(parts, axis=1) @ to_out.weight.detach().numpy().T + to_out.bias.detach().numpy()

    def error(weight):
        with torch.no_grad():
            found = layer(z, extend_keys(z, [weight * f]), extend_values(z, [0.2 * weight * f], [weight * f]))
        return np.abs(found[0].numpy() - limit).max()

    assert error(0.0) < 1e-6
    assert error(1e-3) / error(1e-2) == pytest.approx(0.1, rel=0.1)


def test_duplicated_tokens_leave_the_softmax_unchanged():
    """(d) Why the identity start is mild: with f = z and lambda = 0 nothing changes."""
    torch.manual_seed(0)
    layer, z = Attention(8, 8, 2, torch.nn), torch.randn(1, 5, 8)
    with torch.no_grad():
        torch.testing.assert_close(layer(z, z, z), layer(z, extend_keys(z, [z]), extend_values(z, [0 * z], [z])))


def test_eq_9_weights_scale_all_features_and_keep_sharing():
    f, a, b = torch.randn(2, 4, 3), Layer("input", 1), Layer("input", 2)
    features = Features({a: f, b: f}, {a: f}, {a: (2, 2), b: (2, 2)})
    scaled = features.with_weight(0.5)
    assert torch.equal(scaled.self_attention[a], 0.5 * f)
    assert scaled.self_attention[a] is scaled.self_attention[b]
    assert torch.equal(scaled.cross_attention[a], 0.5 * f)
    assert torch.equal(features.with_weight(torch.tensor(0.5)).self_attention[a], 0.5 * f)
    per_row = features.with_weight(torch.tensor([0.5, 2.0]))
    assert torch.equal(per_row.self_attention[b], f * torch.tensor([0.5, 2.0])[:, None, None])
    assert features.with_weight(1.0) is features


def test_cross_attention_part():
    z, g = torch.randn(1, 4, 3), torch.randn(1, 4, 3)
    layer = Layer("input", 1)
    hooks = InjectionHooks(Injection(Features({}, {layer: g}, {layer: (2, 2)}), 0.2))
    assert torch.equal(hooks.cross_attention(layer, z, z, (2, 2)), z + g)
    assert hooks.cross_attention(Layer("input", 2), z, z, (2, 2)) is z
    assert hooks.self_attention(layer, z, (2, 2)) == (z, z, z)


def test_zero_cross_convolutions_are_exactly_off():
    """(l) At its zero start the cross-attention part is the identity, bit for bit."""
    base = random_unet()
    copy = random_copy(base)
    for zero in copy.zero_cross.values():
        torch.nn.init.zeros_(zero.weight)
        torch.nn.init.zeros_(zero.bias)
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([300.0]), torch.randn(1, 7, SMALL.context_dim)
    with torch.no_grad():
        features = copy(x, t, context, torch.randn(1, 4, 16, 16))
        with_part = base(x, t, context, InjectionHooks(Injection(features, 0.2)))
        without = base(
            x, t, context, InjectionHooks(Injection(Features(features.self_attention, {}, features.grids), 0.2))
        )
    assert torch.equal(with_part, without)


@pytest.mark.parametrize("target", [(4, 6), (8, 12), (3, 5)])
def test_tokens_are_resized_in_their_grid(target):
    rows = torch.arange(4.0)[:, None].expand(4, 6)
    cols = torch.arange(6.0)[None].expand(4, 6)
    tokens = torch.stack([rows, cols, torch.ones(4, 6)], dim=-1).reshape(1, 24, 3)
    out = fit_tokens(tokens, (4, 6), target)
    assert (out is tokens) == (target == (4, 6))
    grid = out.reshape(*target, 3)
    assert (grid[1:, :, 0] > grid[:-1, :, 0]).all()
    assert (grid[:, 1:, 1] > grid[:, :-1, 1]).all()
    torch.testing.assert_close(grid[..., 2], torch.ones(target))


def test_a_condition_keeps_its_proportions_on_another_grid():
    condition = torch.ones(1, 4, 8, 8)
    assert fit_condition(condition, (8, 8)) is condition
    wide = fit_condition(condition, (8, 16))
    assert wide.shape == (1, 4, 8, 16)
    assert wide[..., 4:12].eq(1).all()
    assert not wide[..., :4].any()
    assert not wide[..., 12:].any()
    large = fit_condition(condition, (16, 16))
    torch.testing.assert_close(large, torch.ones(1, 4, 16, 16))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_resizing_works_in_16_bits(dtype):
    assert fit_tokens(torch.randn(1, 24, 3, dtype=dtype), (4, 6), (3, 5)).dtype == dtype
    assert fit_condition(torch.randn(1, 4, 8, 8, dtype=dtype), (12, 16)).dtype == dtype


@pytest.mark.parametrize("size", [(4, 6), (8, 5), (13, 2), (3, 17)])
def test_resizing_is_torchs_antialiased_bilinear(size):
    picture = torch.randn(2, 3, 7, 9, dtype=torch.float64)
    expected = torch.nn.functional.interpolate(picture, size=size, mode="bilinear", antialias=True)
    torch.testing.assert_close(resize(picture, size), expected, atol=1e-6, rtol=1e-6)
