"""Effect masks and several subjects in the core's injection."""

from dataclasses import replace

import pytest
import torch
from small import SMALL, random_copy, random_unet

from p3s.errors import MaskError
from p3s.network.injection import (
    EffectMask,
    Features,
    Injection,
    InjectionHooks,
    SelfAttentionPart,
    pool_tokens,
    subject_bias,
)
from p3s.network.logit_bias import BLOCKED
from p3s.network.unet import Attention
from p3s.network.unet_config import Layer
from p3s.sampling.application import Application, AppliedSubject
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import SamplingSettings

LAYER, GRID = Layer("input", 1), (4, 4)


def half(side=4):
    """The left half of the image."""
    mask = torch.zeros(side, side)
    mask[:, : side // 2] = 1
    return EffectMask(mask)


def attend(*injections, seed=0):
    """One self-attention on random tokens under injections."""
    torch.manual_seed(seed)
    attention, z = Attention(8, 8, 2, torch.nn), torch.randn(1, 16, 8)
    hooks = InjectionHooks(*injections)
    with torch.no_grad():
        q, k, v = hooks.self_attention(LAYER, z, GRID)
        return attention(q, k, v, hooks.self_attention_bias(LAYER, k.shape[1], GRID))


def features(seed=1):
    f = torch.randn(1, 16, 8, generator=torch.Generator().manual_seed(seed))
    return Features({LAYER: f}, {}, {LAYER: GRID})


def test_queries_inside_see_the_subject_and_those_outside_do_not():
    """With lambda = 0 the image's own values are the plain ones, so both sides are known exactly."""
    one = attend(Injection(features(), 0.0))
    masked, plain = attend(Injection(features(), 0.0, half())), attend()
    inside = half().tokens(GRID)[0] == 1
    torch.testing.assert_close(masked[:, inside], one[:, inside])
    torch.testing.assert_close(masked[:, ~inside], plain[:, ~inside])
    assert (one - plain).abs().max() > 0.01


def test_a_soft_mask_weighs_the_subjects_share_of_the_softmax():
    torch.manual_seed(0)
    logits, share = torch.randn(1, 6), 0.3
    part = SelfAttentionPart(torch.zeros(1, 1, 8), torch.zeros(1, 2, 8), torch.tensor([[share]]))
    on_queries, on_keys = (side[0] for side in subject_bias([part], 4, 1, 6))
    bias = on_queries @ on_keys.T
    weighed = logits.exp() * torch.tensor([1, 1, 1, 1, share, share])
    torch.testing.assert_close((logits + bias).softmax(-1), weighed / weighed.sum())


@pytest.mark.parametrize("order", [[None, half()], [half(), None]], ids=["the second", "the first"])
def test_the_bias_is_where_the_query_is_when_one_of_two_subjects_has_a_mask(order):
    """The device "meta", which is not the CPU either, stands for a GPU."""
    z = torch.randn(2, 16, 8, device="meta", dtype=torch.bfloat16)
    f = Features({LAYER: torch.randn(1, 16, 8, device="meta")}, {}, {LAYER: GRID})
    hooks = InjectionHooks(*[Injection(f, 0.2, mask) for mask in order])
    q, k, _ = hooks.self_attention(LAYER, z, GRID)
    bias = hooks.self_attention_bias(LAYER, k.shape[1], GRID)
    assert bias.on_queries.device == bias.on_keys.device == q.device
    assert (bias.on_queries.shape, bias.on_keys.shape) == ((1, 16, 1), (1, 48, 1))


def test_only_what_a_masked_subject_has_appended_gets_a_bias():
    part = SelfAttentionPart(torch.zeros(1, 16, 8), torch.zeros(1, 2, 8), None)
    masked = part._replace(added=torch.zeros(1, 3, 8), mask=half().tokens(GRID))
    on_queries, on_keys = (side[0] for side in subject_bias([part, masked], 17, 16, 23))
    bias = on_queries @ on_keys.T
    assert torch.equal(bias[:, :19], torch.zeros(16, 19)) and torch.equal(bias[:, 22:], torch.zeros(16, 1))
    assert torch.equal(bias[:, 19:22], torch.where(half().tokens(GRID)[0] == 1, 0.0, BLOCKED)[:, None].expand(-1, 3))
    assert subject_bias([part, part], 16, 16, 20) is None


def test_the_sums_are_masked_by_token():
    z = torch.randn(1, 16, 8)
    _, _, v = InjectionHooks(Injection(features(), 0.2, half())).self_attention(LAYER, z, GRID)
    f, m = features().self_attention[LAYER], half().tokens(GRID)[:, :, None]
    torch.testing.assert_close(v, torch.cat([z + 0.2 * m * f, f], 1))


def test_two_subjects_side_by_side_are_each_alone_on_their_side():
    right = EffectMask(1 - half()._mask)
    both = attend(Injection(features(1), 0.0, half()), Injection(features(2), 0.0, right))
    one, two = attend(Injection(features(1), 0.0)), attend(Injection(features(2), 0.0))
    inside = half().tokens(GRID)[0] == 1
    torch.testing.assert_close(both[:, inside], one[:, inside])
    torch.testing.assert_close(both[:, ~inside], two[:, ~inside])


def test_pooled_features_are_means_and_only_at_the_finest_layers():
    f = torch.arange(15.0).view(1, 15, 1)
    pooled = pool_tokens(f, (3, 5), 2)
    assert pooled.flatten().tolist() == [3.0, 5.0, 6.5, 10.5, 12.5, 14.0]
    coarse = Layer("input", 4)
    two = Features({LAYER: torch.ones(1, 16, 8), coarse: torch.ones(1, 4, 8)}, {}, {LAYER: GRID, coarse: (2, 2)})
    injection = Injection(two, 0.2, pool=2)
    assert injection.self_attention_part(LAYER, GRID, torch.zeros(1, 16, 8)).added.shape == (1, 4, 8)
    assert injection.self_attention_part(LAYER, GRID, torch.zeros(1, 16, 8)).sums.shape == (1, 16, 8)
    assert injection.self_attention_part(coarse, (2, 2), torch.zeros(1, 4, 8)).added.shape == (1, 4, 8)


def test_a_mask_is_exact_where_it_is_0_or_1_on_every_grid():
    mask = torch.zeros(37, 53)
    mask[:, :20] = 1
    tokens = EffectMask(mask).tokens((16, 16)).view(16, 16)
    assert (tokens[:, :5] == 1).all()
    assert (tokens[:, 8:] == 0).all()
    assert EffectMask(torch.ones(37, 53)).tokens((7, 9)).eq(1).all()


@pytest.mark.parametrize(
    "wrong", [torch.ones(1, 1, 2, 2), torch.ones(2), torch.full((2, 2), 1.5), torch.tensor([[float("nan")]])]
)
def test_what_is_no_mask_is_refused(wrong):
    with pytest.raises(MaskError, match="effect mask"):
        EffectMask(wrong)


def test_what_resizing_overshoots_is_cut():
    """Bicubic resizing overshoots by up to a tenth at a hard edge."""
    hard = torch.zeros(1, 1, 8, 8)
    hard[..., 4:] = 1
    resized = torch.nn.functional.interpolate(hard, (37, 53), mode="bicubic")[0, 0]
    assert resized.max() > 1.01
    assert torch.equal(EffectMask(resized).tokens(GRID), EffectMask(resized.clamp(0, 1)).tokens(GRID))


def test_each_image_of_a_batch_has_its_own_mask():
    """Rows hold the images in their order, once for each prompt."""
    left, right = half()._mask[0], 1 - half()._mask[0]
    torch.manual_seed(0)
    attention, z = Attention(8, 8, 2, torch.nn), torch.randn(4, 16, 8)

    def run(z, mask):
        hooks = InjectionHooks(Injection(features(), 0.2, EffectMask(mask)))
        q, k, v = hooks.self_attention(LAYER, z, GRID)
        return attention(q, k, v, hooks.self_attention_bias(LAYER, k.shape[1], GRID))

    together = run(z, torch.stack([left, right]))
    for row, mask in enumerate((left, right, left, right)):
        torch.testing.assert_close(together[row : row + 1], run(z[row : row + 1], mask))
    assert torch.equal(EffectMask(torch.stack([left, right])).of([1]).tokens(GRID), EffectMask(right).tokens(GRID))


class World:
    def __init__(self):
        self.base = random_unet()
        generator = torch.Generator().manual_seed(5)

        def draw(*shape):
            return torch.randn(shape, generator=generator)

        self.copies = [random_copy(self.base, seed=s) for s in (1, 2)]
        self.condition, self.latents = draw(1, 4, 16, 16), draw(2, 4, 16, 16)
        self.texts = draw(7, SMALL.context_dim), draw(7, SMALL.context_dim)

    def subject(self, number=0, **changes):
        return AppliedSubject(self.copies[number], self.condition, Application(Schedule("fixed"), **changes))

    def image(self, *subjects, **settings):
        noise = NoiseSchedule.stable_diffusion()
        how = SamplingSettings(**settings)
        subjects = [replace(s, application=replace(s.application, settings=how)) for s in subjects]
        *_, x0 = generate(self.base, *self.texts, noise, self.latents, subjects, 3, 5.0)
        return x0


@pytest.fixture(scope="module")
def world():
    return World()


@pytest.mark.parametrize("branches", ["both", "conditional"])
def test_identities_of_the_mask_bit_for_bit(world, branches):
    ones, zeros = EffectMask(torch.ones(9, 7)), EffectMask(torch.zeros(9, 7))
    plain, image = world.image(branches=branches), world.image(world.subject(), branches=branches)
    assert torch.equal(world.image(world.subject(mask=ones), branches=branches), image)
    assert torch.equal(world.image(world.subject(mask=zeros), branches=branches), plain)
    two = world.image(world.subject(), world.subject(1, mask=zeros), branches=branches)
    assert torch.equal(two, image)
    assert not torch.equal(image, plain)


def test_a_mask_acts_where_it_is_and_a_second_subject_besides_the_first(world):
    left = world.subject(mask=half(16))
    one, plain = world.image(left), world.image()
    change = (one - plain).abs().mean(1)
    assert change[:, :, :8].mean() > 1.2 * change[:, :, 8:].mean()
    assert not torch.equal(world.image(left, world.subject(1)), one)


def test_a_mask_for_each_image_is_each_images_own_run(world):
    masks = torch.stack([half(16)._mask[0], 1 - half(16)._mask[0]])
    both, latents = world.image(world.subject(mask=EffectMask(masks))), world.latents
    for number in range(2):
        world.latents = latents[number : number + 1]
        alone = world.image(world.subject(mask=EffectMask(masks[number])))
        world.latents = latents
        torch.testing.assert_close(both[number : number + 1], alone, rtol=1e-3, atol=1e-4)
    with pytest.raises(MaskError, match=r"3 masks, and 2 image\(s\)"):
        world.image(world.subject(mask=EffectMask(torch.ones(3, 4, 4))))


def test_faster_settings_are_another_image_near_the_exact_one(world):
    exact, plain = world.image(world.subject(), branches="conditional"), world.image()
    for settings in ({"reuse": 2}, {"pool": 2}, {"pairing": "one_to_one"}, {"end": 0.5}):
        image = world.image(world.subject(), branches="conditional", **settings)
        assert not torch.equal(image, exact), settings
        assert not torch.equal(image, plain), settings
