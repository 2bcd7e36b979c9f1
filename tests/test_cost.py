"""What a step costs in floating-point work, as benchmarks/flops.py counts it."""

import pytest
import torch

from benchmarks.flops import TEXT, TOKENS, Models, count
from p3s.sampling.diffusion import NoiseSchedule
from p3s.sampling.settings import SamplingSettings
from p3s.training.examples import Example
from p3s.training.sample_preview import EVERY, sample_preview


def test_a_sampling_step_costs_no_more_than_the_method_needs():
    models = Models(512)
    plain = count(models.plain)
    assert models.step() / plain < 1.80
    assert models.literal() / plain < 1.85
    assert models.step(SamplingSettings(branches="conditional")) / plain < 1.42
    assert Models(512, cross_attention=False).step() / plain < 1.75


def test_training_computes_no_weight_gradients_of_the_frozen_base():
    """3.76 TFLOP with them left out; all of the base's would add its 0.8 again."""
    assert count(Models(512).train) < 3.80


@pytest.mark.parametrize("subjects", [1, 2])
def test_ssr_attends_to_its_subjects_at_every_step_and_makes_their_keys_and_values_once(subjects):
    """By hand: q K^T and A V with 462 tokens a subject, in both rows; K and V of 768 numbers a token, for either row.
    In TFLOP, over the numbers of layers, their widths and the sides of their grids."""
    models, tokens = Models(512), 462 * subjects
    plain = count(models.plain)
    first, second, third = models.ssr(subjects, steps=3)
    layers = ((5, 320, 64), (5, 640, 32), (5, 1280, 16), (1, 1280, 8))
    attention = sum(n * 2 * (2 * 2 * side**2 * tokens * width) for n, width, side in layers) / 1e12
    projections = sum(n * 2 * (2 * 2 * tokens * 768 * width) for n, width, _ in layers) / 1e12
    assert second - plain == pytest.approx(attention, rel=1e-6) and third == second
    assert first - second == pytest.approx(projections, rel=1e-6)
    assert second / plain == pytest.approx({1: 1.027, 2: 1.053}[subjects], abs=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [("full", 2.6), ("lora", 2.9)])
def test_previews_cost_less_than_5_percent_of_a_training(kind, steps):
    models = Models(512, kind=kind)
    example = Example(torch.zeros(4, 64, 64), torch.zeros(TOKENS, 1024), torch.zeros(TEXT, 768))
    noise = NoiseSchedule.stable_diffusion()
    cost = count(lambda: sample_preview(models.base, models.copy, example, example.prompt, noise, "fp32"))
    assert cost / count(models.train) == pytest.approx(steps, abs=0.1)
    assert cost / count(models.train) / EVERY < 0.05
