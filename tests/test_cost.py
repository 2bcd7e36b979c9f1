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


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "steps"), [("full", 2.6), ("lora", 2.9)])
def test_previews_cost_less_than_5_percent_of_a_training(kind, steps):
    models = Models(512, kind=kind)
    example = Example(torch.zeros(4, 64, 64), torch.zeros(TOKENS, 1024), torch.zeros(TEXT, 768))
    noise = NoiseSchedule.stable_diffusion()
    cost = count(lambda: sample_preview(models.base, models.copy, example, example.prompt, noise, "fp32"))
    assert cost / count(models.train) == pytest.approx(steps, abs=0.1)
    assert cost / count(models.train) / EVERY < 0.05
