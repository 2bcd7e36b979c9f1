"""Sampling without a host: Eq. 9 and 10 in the loop, guidance, and weight 0."""

import math

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_unet

from p3s.errors import P3SError
from p3s.network.copy_settings import CopySettings
from p3s.network.injection import Injection, InjectionHooks
from p3s.network.subject_copy import SubjectCopy
from p3s.sampling.application import Application, AppliedSubject
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule, ddim_timesteps
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import SamplingSettings

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


def run(world, copy=None, subjects=None, **changes):
    """``changes``: of the application of the copy, or of the sampling."""
    given = {**world, "copy": copy or world["copy"], **changes}
    how = {name: given.pop(name) for name in ("schedule", "strength", "settings", "mask", "layers") if name in given}
    subject = AppliedSubject(given.pop("copy"), given.pop("condition"), Application(**how))
    return generate(**given, subjects=[subject] if subjects is None else subjects)


def image(world, **changes):
    *_, x0 = run(world, **changes)
    return x0


def plain(world):
    return image(world, subjects=[])


def test_a_subject_changes_the_image(world):
    assert (image(world) - plain(world)).abs().mean() > 0.01


@pytest.mark.parametrize("off", [Schedule("fixed", value=0.0), Schedule("fixed", start=1.0, end=1.0)])
def test_weight_0_is_the_plain_model_bit_for_bit_and_runs_no_copy(world, off):
    class Untouchable(SubjectCopy):
        def forward(self, *args):
            raise AssertionError("the copy was run")

    untouchable = Untouchable(SMALL, CopySettings(), TOKEN_DIM)
    assert torch.equal(image(world, copy=untouchable, schedule=off), plain(world))


def test_near_weight_0_the_picture_no_longer_depends_on_the_subject_and_is_not_the_plain_one(world):
    """(d) The limit is that of zero features, whose keys take part in the softmax; at 0 itself nothing does."""
    near = Schedule("fixed", value=1e-6)
    one, other = image(world, schedule=near), image(world, schedule=near, copy=random_copy(world["base"], seed=5))
    torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    assert (image(world) - image(world, copy=random_copy(world["base"], seed=5))).abs().mean() > 0.01
    assert (one - plain(world)).abs().mean() > 0.01


def test_a_gain_multiplies_the_strength(world):
    half = image(world, settings=SamplingSettings(gain=0.5))
    assert torch.equal(half, image(world, strength=0.5))
    assert not torch.equal(half, image(world))
    assert torch.equal(image(world, settings=SamplingSettings(gain=0.0)), plain(world))


@pytest.mark.parametrize("branches", ["both", "conditional"])
def test_one_step_by_hand(world, branches):
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
        uncond = call(world["empty_prompt"], branches == "both")
        guided = uncond + 7.5 * (call(world["prompt"], True) - uncond)
        expected = NOISE.split(x, guided, times)[0]
        found = image(world, steps=1, settings=SamplingSettings(branches))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_subjects_may_differ_in_the_branches_that_see_them(world):
    """One step by hand: the first subject in both branches, the second in the prompt's only."""
    (t,) = ddim_timesteps(NOISE, 1)
    base, x, times, condition = world["base"], world["latents"], torch.full((2,), t), world["condition"]
    copies, fixed = (world["copy"], random_copy(base, seed=5)), Schedule("fixed")

    def call(text, *seen):
        context = text[None].expand(2, -1, -1)
        found = [Injection(copy(x, times, context, condition), 0.2) for copy in seen]
        return base(x, times, context, InjectionHooks(*found))

    both, conditional = (
        AppliedSubject(copy, condition, Application(fixed, settings=SamplingSettings(branches)))
        for copy, branches in zip(copies, ("both", "conditional"), strict=True)
    )
    with torch.no_grad():
        uncond = call(world["empty_prompt"], copies[0])
        guided = uncond + 7.5 * (call(world["prompt"], *copies) - uncond)
        expected = NOISE.split(x, guided, times)[0]
    found = image(world, subjects=[both, conditional], steps=1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)
    assert (found - image(world, subjects=[both, both], steps=1)).abs().max() > 0.01


def test_without_guidance_the_prompt_alone_is_run(world):
    found = image(world, guidance=1.0, empty_prompt=torch.full((7, SMALL.context_dim), float("nan")))
    assert torch.isfinite(found).all()


def test_every_step_is_yielded_and_the_run_repeats(world):
    steps = list(run(world, steps=3))
    assert len(steps) == 3
    assert torch.equal(steps[-1], image(world, steps=3))


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_would_give_no_picture_are_named(world, bad):
    with pytest.raises(P3SError, match="guidance must be a finite number"):
        image(world, guidance=bad)
    with pytest.raises(P3SError, match=r"strength must be a number in 0\.\.10"):
        Application(strength=bad)


def test_another_solver_names_the_timesteps_and_gives_the_result(world):
    """The model is asked at the solver's own timesteps, with guidance, and features are reused by its evaluations."""
    times, asked, copied = (901, 420, 33), [], []

    class Counted(SubjectCopy):
        def forward(self, x, t, *more):
            copied.append(int(t[0]))
            return super().forward(x, t, *more)

    copy = Counted(SMALL, CopySettings(), TOKEN_DIM)
    copy.load_state_dict(world["copy"].state_dict())

    def solver(predict, schedule, noise, steps):
        assert schedule is NOISE and torch.equal(noise, world["latents"])
        x = noise
        for t in times[:steps]:
            output = predict(x, t)
            asked.append((x, output))
            x = x - 0.1 * output
            yield x

    found = list(run(world, copy=copy, steps=3, solver=solver, settings=SamplingSettings(reuse=2)))
    assert copied == [901, 33] and len(found) == 3
    assert torch.equal(found[-1], asked[-1][0] - 0.1 * asked[-1][1])
    (x, output), eps_t = asked[0], 1 - 0.5 * (901 / 1000) ** 2 + 0.2
    times_of = torch.full((2,), 901)
    with torch.no_grad():
        both = []
        for text in (world["empty_prompt"], world["prompt"]):
            context = text[None].expand(2, -1, -1)
            features = world["copy"](x, times_of, context, world["condition"])
            for part in (features.self_attention, features.cross_attention):
                for layer in part:
                    part[layer] = part[layer] * eps_t
            both.append(world["base"](x, times_of, context, InjectionHooks(Injection(features, 0.2))))
    torch.testing.assert_close(output, both[0] + 7.5 * (both[1] - both[0]), rtol=1e-4, atol=1e-3)
