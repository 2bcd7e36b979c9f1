"""Noise and DDIM against diffusers and against a case with a known answer."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from p3s.errors import P3SError
from p3s.sampling.diffusion import NoiseSchedule, ddim, ddim_timesteps


def scheduler(prediction):
    diffusers = pytest.importorskip("diffusers")
    return diffusers.DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
        prediction_type={"eps": "epsilon", "v": "v_prediction"}[prediction],
    )


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_noise_and_targets_equal_diffusers(prediction):
    ours, theirs = NoiseSchedule.stable_diffusion(prediction), scheduler(prediction)
    torch.testing.assert_close(ours.alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5, atol=1e-7)
    x0, noise, t = torch.randn(3, 4, 2, 2), torch.randn(3, 4, 2, 2), torch.tensor([0, 500, 999])
    torch.testing.assert_close(ours.add_noise(x0, noise, t), theirs.add_noise(x0, noise, t), rtol=1e-4, atol=1e-5)
    expected = noise if prediction == "eps" else theirs.get_velocity(x0, noise, t)
    torch.testing.assert_close(ours.target(x0, noise, t), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_ddim_equals_diffusers(prediction):
    ours, theirs = NoiseSchedule.stable_diffusion(prediction), scheduler(prediction)
    theirs.set_timesteps(10)
    assert ddim_timesteps(ours, 10) == theirs.timesteps.tolist()

    seen = {"ours": [], "theirs": []}

    def model(who, x, t):
        seen[who].append(x)
        return torch.tanh(x) * (0.5 + t / 2000)

    x = start = torch.randn(2, 4, 3, 3)
    for t in theirs.timesteps:
        step = theirs.step(model("theirs", x, int(t)), t, x, eta=0.0)
        x = step.prev_sample
    *_, image = ddim(lambda x, t: model("ours", x, t), ours, start, 10)
    for a, b in zip(seen["ours"], seen["theirs"], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(image, step.pred_original_sample, rtol=1e-4, atol=1e-4)


def test_any_number_of_steps_goes_from_noise_to_image_evenly():
    """The first timestep is one stride below 1001, and so rises with the number of steps: 60 steps begin between 50 and
    100. (With the stride rounded down they would begin at 945, below 50 steps.)"""
    schedule, first = NoiseSchedule.stable_diffusion(), []
    for steps in range(1, 1001):
        times = ddim_timesteps(schedule, steps)
        gaps = {a - b for a, b in pairwise(times)}
        assert len(times) == steps and gaps <= {1000 // steps, -(-1000 // steps)} and 0 not in gaps
        assert times[-1] == (1 if steps < 1000 else 0)
        assert times[0] == (1001 - -(-1000 // steps) if steps < 1000 else 999)
        first.append(times[0])
    assert first == sorted(first)
    assert (first[49], first[59], first[99]) == (981, 984, 991)


@pytest.mark.parametrize("steps", [n for n in range(1, 1000) if 1000 % n == 0])
def test_steps_that_divide_the_timesteps_are_those_of_the_original_sampler(steps):
    stride = 1000 // steps
    assert ddim_timesteps(NoiseSchedule.stable_diffusion(), steps) == list(range(1, 1000, stride))[::-1]


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("steps", [7, 30, 37, 64, 300, 600, 999, 1000])
def test_ddim_of_gaussian_data_against_its_closed_form(steps, prediction):
    """For pixels of N(0, s^2) the best prediction is linear in x_t, so a run multiplies the starting noise by a number:
    the product over its steps, in NumPy. With many steps the result has the data's own deviation s."""
    schedule, s = NoiseSchedule.stable_diffusion(prediction), 0.25
    a = schedule.alphas_cumprod.double().numpy()

    def best(x, t):
        share = a[t] * s**2 + 1 - a[t]
        x0, eps = np.sqrt(a[t]) * s**2 / share * x, np.sqrt(1 - a[t]) / share * x
        return eps if prediction == "eps" else np.sqrt(a[t]) * eps - np.sqrt(1 - a[t]) * x0

    *_, found = ddim(best, schedule, torch.ones(1, 1, 1, 1, dtype=torch.float64), steps)
    times, factor = [i * 1000 // steps + (steps < 1000) for i in range(steps)][::-1], 1.0
    for t, following in pairwise(times):
        kept = np.sqrt(a[t] * a[following]) * s**2 + np.sqrt((1 - a[t]) * (1 - a[following]))
        factor *= kept / (a[t] * s**2 + 1 - a[t])
    t = times[-1]
    factor *= np.sqrt(a[t]) * s**2 / (a[t] * s**2 + 1 - a[t])
    assert found.item() == pytest.approx(factor, rel=1e-4)
    if steps >= 300:
        assert factor == pytest.approx(s, rel=0.03)


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_a_perfect_model_gives_back_the_image(prediction):
    schedule = NoiseSchedule.stable_diffusion(prediction)
    image, noise = torch.randn(1, 4, 5, 5), torch.randn(1, 4, 5, 5)

    def perfect(x, t):
        return schedule.target(image, noise, torch.tensor([t]))

    start = schedule.add_noise(image, noise, torch.tensor([ddim_timesteps(schedule, 7)[0]]))
    for x0 in ddim(perfect, schedule, start, 7):
        torch.testing.assert_close(x0, image, atol=1e-3, rtol=1e-3)


def test_signal_and_noise_keep_unit_power():
    signal, sigma = NoiseSchedule.stable_diffusion().scales(torch.arange(1000))
    np.testing.assert_allclose((signal**2 + sigma**2).numpy(), 1, atol=1e-6)


@pytest.mark.parametrize("steps", [0, 1001])
def test_impossible_step_counts_are_refused(steps):
    with pytest.raises(P3SError, match="steps"):
        ddim_timesteps(NoiseSchedule.stable_diffusion(), steps)


def test_other_predictions_are_refused():
    with pytest.raises(P3SError, match="flow"):
        NoiseSchedule(torch.ones(3), "flow")


def test_sigmas_stand_for_timesteps():
    noise = NoiseSchedule.stable_diffusion()
    sigmas = (1 / noise.alphas_cumprod.double() - 1).sqrt()
    assert torch.equal(noise.timesteps(sigmas), torch.arange(1000))
    between = (sigmas[10] * sigmas[11]).sqrt()
    assert noise.timesteps(torch.stack([between * 1.001, between * 0.999])).tolist() == [11, 10]
    assert noise.timesteps(torch.tensor([14.7, 0.0291])).tolist() == [999, 0]
