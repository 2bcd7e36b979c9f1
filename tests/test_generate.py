"""Sampling without a host: Eq. 9 and 10 in the loop, guidance, and weight 0."""

import math

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_unet

from p3s.errors import P3SError
from p3s.network.copy_settings import CopySettings
from p3s.network.injection import Injection, InjectionHooks
from p3s.network.subject_copy import SubjectCopy
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule, ddim_timesteps
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import AppliedSubject

NOISE = NoiseSchedule.stable_diffusion()


@pytest.fixture(scope="module")
def world():
    base = random_unet()
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(shape, generator=generator)

    names = ("prompt", "empty_prompt", "latents", "condition")
    shapes = ((7, SMALL.context_dim), (7, SMALL.context_dim), (2, 4, 16, 16), (1, 4, 16, 16))
    tensors = {name: draw(*shape) for name, shape in zip(names, shapes, strict=True)}
    return {"base": base, "copy": random_copy(base), "noise": NOISE, "steps": 2, **tensors}


def image(world, **changes):
    *_, x0 = generate(**{**world, **changes})
    return x0


def plain(world):
    return image(world, copy=None, condition=None)


def test_a_subject_changes_the_image(world):
    assert (image(world) - plain(world)).abs().mean() > 0.01


@pytest.mark.parametrize("off", [Schedule("fixed", value=0.0), Schedule("fixed", start=1.0, end=1.0)])
def test_weight_0_is_the_plain_model_bit_for_bit_and_runs_no_copy(world, off):
    class Untouchable(SubjectCopy):
        def forward(self, *args):
            raise AssertionError("the copy was run")

    untouchable = Untouchable(SMALL, CopySettings(), TOKEN_DIM)
    assert torch.equal(image(world, copy=untouchable, weight=off), plain(world))


def test_near_weight_0_the_picture_no_longer_depends_on_the_subject_and_is_not_the_plain_one(world):
    """(d) The limit is that of zero features, whose keys take part in the softmax; at 0 itself nothing does."""
    near = Schedule("fixed", value=1e-6)
    one, other = image(world, weight=near), image(world, weight=near, copy=random_copy(world["base"], seed=5))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert (image(world) - image(world, copy=random_copy(world["base"], seed=5))).abs().mean() > 0.01
    assert (one - plain(world)).abs().mean() > 0.01


@pytest.mark.parametrize("halves", ["both", "conditional"])
def test_one_step_by_hand(world, halves):
    """Eq. 9 with eps_t of Eq. 10, and uncond + g (cond - uncond)."""
    (t,) = ddim_timesteps(NOISE, 1)
    eps_t = 1 - 0.5 * (t / 1000) ** 2 + 0.2
    base, copy, x = world["base"], world["copy"], world["latents"]
    times = torch.full((2,), t)

    def call(text, injected):
        context = text[None].expand(2, -1, -1)
        if not injected:
            return base(x, times, context)
        features = copy(x, times, context, world["condition"])
        for part in (features.self_attention, features.cross_attention):
            for layer in part:
                part[layer] = part[layer] * eps_t
        return base(x, times, context, InjectionHooks(Injection(features, 0.2)))

    with torch.no_grad():
        uncond = call(world["empty_prompt"], halves == "both")
        guided = uncond + 7.5 * (call(world["prompt"], True) - uncond)
        expected = NOISE.split(x, guided, times)[0]
        found = image(world, steps=1, halves=halves)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_without_guidance_the_prompt_alone_is_run(world):
    found = image(world, guidance=1.0, empty_prompt=torch.full((7, SMALL.context_dim), float("nan")))
    assert torch.isfinite(found).all()


def test_every_step_is_yielded_and_the_run_repeats(world):
    steps = list(generate(**{**world, "steps": 3}))
    assert len(steps) == 3
    assert torch.equal(steps[-1], image(world, steps=3))


def test_what_is_missing_is_named(world):
    with pytest.raises(P3SError, match="condition"):
        image(world, condition=None)
    with pytest.raises(P3SError, match="halves"):
        image(world, halves="some")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_would_give_no_picture_are_named(world, bad):
    with pytest.raises(P3SError, match="guidance must be a finite number"):
        image(world, guidance=bad)
    with pytest.raises(P3SError, match=r"strength must be a number in 0\.\.10"):
        AppliedSubject(world["copy"], world["condition"], strength=bad)
