"""A quick look at the subject while it is trained."""

from __future__ import annotations

import pytest
import torch
from small import random_copy, random_examples, random_unet, train

from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet_config import UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.settings import settings_of
from p3s.training.sample_preview import STEPS, preview_size, sample_preview
from p3s.training.settings import TrainSettings
from p3s.training.step import StepReport

NOISE = NoiseSchedule.stable_diffusion()
TINY = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=24)
EMPTY = torch.zeros(7, TINY.context_dim)


@pytest.mark.parametrize(("size", "smaller"), [((64, 64), (48, 48)), ((46, 90), (32, 64)), ((4, 4), (8, 8))])
def test_its_size_fits_the_network(size: tuple[int, int], smaller: tuple[int, int]) -> None:
    assert preview_size(*size) == smaller


@pytest.mark.parametrize("precision", settings_of(TrainSettings)["precision"].choices)
def test_it_shows_the_subject_and_only_that_changes_it(precision: str) -> None:
    base, (example,) = random_unet(TINY), random_examples(size=24, config=TINY)
    if precision == "bf16":
        base.to(torch.bfloat16)
    first, second = random_copy(base, seed=1), random_copy(base, seed=2)
    pictures = [sample_preview(base, copy, example, EMPTY, NOISE, precision) for copy in (first, first, second)]
    assert pictures[0].shape == (1, 4, 16, 16)
    assert pictures[0].dtype == torch.float32
    assert torch.equal(pictures[0], pictures[1])
    assert (pictures[0] - pictures[2]).abs().mean() > 1e-3


def test_it_leaves_the_training_as_it_is() -> None:
    base, examples = random_unet(TINY), random_examples(2, config=TINY)
    trained = []
    for every in (0, 1):
        copy = start_copy(base.state_dict(), CopySettings(), examples[0].tokens.shape[-1])

        def look(report: StepReport, copy: SubjectCopy = copy, every: int = every) -> None:
            if every:
                sample_preview(base, copy, examples[0], EMPTY, NOISE, "fp32")

        result = train(base, copy, examples, EMPTY, NOISE, TrainSettings(steps=3, learning_rate=1e-3), look)
        assert result.completed
        trained.append(copy.state_dict())
    assert all(torch.equal(weight, trained[1][key]) for key, weight in trained[0].items())


def test_it_can_be_left_between_its_steps() -> None:
    base, (example,) = random_unet(TINY), random_examples(config=TINY)
    calls = []
    sample_preview(base, random_copy(base), example, EMPTY, NOISE, "fp32", lambda: calls.append(1))
    assert len(calls) == STEPS

    def cancel() -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        sample_preview(base, random_copy(base), example, EMPTY, NOISE, "fp32", cancel)
