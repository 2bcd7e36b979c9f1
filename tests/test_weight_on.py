"""(d) The weight as a factor of the subject's share of attention."""

from __future__ import annotations

import pytest
import torch
from small import SMALL
from test_effect_mask import World, half

from p3s.errors import P3SError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.injection import Features, Injection, InjectionHooks
from p3s.network.unet import Attention
from p3s.network.unet_config import Layer
from p3s.sampling.application import Application, AppliedSubject, application
from p3s.sampling.ddim import generate
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import injection
from p3s.toyworld.scenes import scene
from p3s.toyworld.world import click, load_world, picture_of

A, B = SMALL.layers()[:2]


@pytest.fixture(scope="module")
def world() -> World:
    return World()


@pytest.mark.parametrize("weight", [0.25, torch.tensor(0.25)], ids=["number", "tensor"])
@pytest.mark.parametrize("masked", [False, True])
def test_the_subjects_share_of_the_softmax_is_multiplied(weight: float | torch.Tensor, masked: bool) -> None:
    """And so is what is added to the image's own values and to the queries of cross-attention."""
    torch.manual_seed(0)
    layer, grid = Layer("input", 1), (4, 4)
    attention, z, f, g = Attention(8, 8, 2, torch.nn), *torch.randn(3, 1, 16, 8)
    mask = half() if masked else None
    m = half().tokens(grid)[0] if masked else torch.ones(16)
    part = Injection(Features({layer: f}, {layer: g}, {layer: grid}), 0.2, mask, weights={layer: weight})
    hooks = InjectionHooks(part)
    with torch.no_grad():
        q, k, v = hooks.self_attention(layer, z, grid)
        found = attention(q, k, v, hooks.self_attention_bias(layer, k.shape[1], grid))
        assert torch.equal(k, torch.cat([z, f], 1))
        values = torch.cat([z + 0.2 * 0.25 * m[:, None] * f, f], 1)
        split = [t.view(1, -1, 2, 4).transpose(1, 2) for t in (attention.to_q(z), attention.to_k(k))]
        terms = (split[0] @ split[1].transpose(2, 3) / 2).exp()
        terms[..., 16:] *= 0.25 * m[:, None]
        shares = terms / terms.sum(-1, keepdim=True)
        out = (shares @ attention.to_v(values).view(1, -1, 2, 4).transpose(1, 2)).transpose(1, 2).flatten(2)
        torch.testing.assert_close(found, attention.to_out(out))
        cross = hooks.cross_attention(layer, z, z, grid)
        torch.testing.assert_close(cross, z + 0.25 * m[:, None] * g)


def test_layer_strengths_multiply_the_weight(world: World) -> None:
    copy = world.copies[0]
    features = copy(world.latents, torch.full((2,), 500), world.texts[0].expand(2, -1, -1), world.condition)
    kept = injection(copy, features, 0.5, layers={A: 0.0, B: 3.0}, weight_on="attention")
    assert A not in kept.features.self_attention and kept.weights[B] == 1.5
    assert {w for layer, w in kept.weights.items() if layer not in (A, B)} == {0.5}
    assert kept.features.self_attention[B] is features.self_attention[B]
    part = kept.self_attention_part(B, features.grids[B], features.self_attention[B])
    assert part.weight == 1.5 and torch.equal(part.added, features.self_attention[B])


def test_a_weight_of_1_is_the_same_on_both_bit_for_bit(world: World) -> None:
    one = world.image(world.subject())
    assert torch.equal(world.image(world.subject(weight_on="attention")), one)
    masked = world.image(world.subject(mask=half(16)))
    assert torch.equal(world.image(world.subject(mask=half(16), weight_on="attention")), masked)
    assert not torch.equal(world.image(world.subject(weight_on="attention", strength=0.5)), one)
    plain = world.image()
    assert torch.equal(world.image(world.subject(weight_on="attention", strength=0.0)), plain)


@pytest.mark.parametrize("start", ["zero", "identity"])
def test_in_the_toy_world_it_fades_to_the_plain_model(start: str) -> None:
    """Features of 0, whose keys have the logit 0, and those of the identity, some of whose keys have logits so high
    that a millionth of exp of them still counts."""
    toy, s = load_world(), scene("heldout", 0, "different")
    reference = toy.reference(picture_of(s), click(s, 0))
    copy = start_copy(toy.unet.state_dict(), CopySettings(), toy.clip.position.shape[1], start, 0)
    condition = copy.condition(toy.encode_latent(reference.image)[None], reference.tokens[None])

    def x0(weight: float, weight_on: str) -> torch.Tensor:
        how = Application(Schedule("fixed"), strength=weight, weight_on=weight_on)
        texts = toy.encode_text(f"a photo of a {s.animal} on the beach"), toy.encode_text("")
        subjects = [AppliedSubject(copy, condition, how)]
        *_, last = generate(toy.unet, *texts, toy.noise, toy.start([1]), subjects, 4, 3.0)
        return last

    plain = x0(0.0, "features")

    def away(weight: float, weight_on: str) -> float:
        return float((x0(weight, weight_on) - plain).square().mean().sqrt())

    tiny = away(1e-6, "attention")
    assert tiny < 0.1 * away(1e-6, "features")
    if start == "zero":
        assert tiny < 1e-5
        assert away(1e-2, "attention") == pytest.approx(10 * away(1e-3, "attention"), rel=0.1)
    torch.testing.assert_close(x0(1.0, "attention"), x0(1.0, "features"))


def test_another_name_is_refused(world: World) -> None:
    assert application(world.base.config, weight_on="attention").weight_on == "attention"
    with pytest.raises(P3SError, match="weight_on must be one of features, attention; got 'keys'"):
        application(world.base.config, weight_on="keys")
