"""Finding a training again: the key of all that its result depends on, and the losses that are filed with it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SMALL, random_examples

from p3s.diffusion import NoiseSchedule
from p3s.loss_map import loss_map
from p3s.subject_copy import CopySettings
from p3s.training_key import state_key, training_key
from p3s.training_settings import TrainSettings
from p3s.training_step import StepReport

NOISE = NoiseSchedule.stable_diffusion()


def key(of: Callable[..., str] = training_key, **changes: object) -> str:
    inputs = {
        "base_fingerprint": "ab" * 32,
        "examples": random_examples(2),
        "empty_prompt": torch.zeros(7, SMALL.context_dim),
        "noise": NOISE,
        "copy_settings": CopySettings(),
        "train_settings": TrainSettings(),
    }
    return of(**{**inputs, **changes})


def test_equal_inputs_give_equal_keys() -> None:
    assert key() == key()
    assert len(key()) == 64
    for same in (TrainSettings(steps=120), TrainSettings(steps=120, epochs=7), TrainSettings(checkpointing=True)):
        assert key(train_settings=same) == key(), "two examples, 60 times"


@pytest.mark.parametrize("part", ["latent", "tokens", "prompt"])
def test_every_bit_of_an_example_counts(part: str) -> None:
    first, second = random_examples(2)
    changed = getattr(second, part).clone()
    changed.view(-1)[-1] = torch.nextafter(changed.view(-1)[-1], torch.tensor(9.0))
    assert key(examples=[first, replace(second, **{part: changed})]) != key()


def test_views_and_what_counts_of_them_count() -> None:
    (example,) = random_examples(1)
    changed = [example, replace(example, view=example.latent), replace(example, counted=torch.ones(16, 16))]
    assert len({key(examples=[e]) for e in changed}) == 3


@pytest.mark.parametrize(
    "changes",
    [
        {"base_fingerprint": "cd" * 32},
        {"examples": random_examples(2)[::-1]},
        {"examples": random_examples(2)[:1]},
        {"empty_prompt": torch.ones(7, SMALL.context_dim)},
        {"noise": replace(NOISE, prediction="v")},
        {"noise": NoiseSchedule.stable_diffusion(steps=500)},
        {"copy_settings": CopySettings(lam=0.3)},
        {"train_settings": TrainSettings(steps=7)},
        {"train_settings": TrainSettings(seed=1)},
    ],
)
def test_whatever_changes_the_result_changes_the_key(changes: dict[str, object]) -> None:
    assert key(**changes) != key()


def test_a_training_may_be_resumed_with_more_steps() -> None:
    state = key(state_key)
    assert len(state) == 16
    assert state == key(state_key, train_settings=TrainSettings(steps=7))
    assert key(state_key, train_settings=TrainSettings(seed=1))[:8] != state[:8]


@pytest.mark.parametrize("remedy", [{"learning_rate": 1e-6}, {"precision": "bf16"}])
def test_a_training_that_diverged_is_found_with_another_rate_or_precision(remedy: dict[str, Any]) -> None:
    other, state = key(state_key, train_settings=TrainSettings(**remedy)), key(state_key)
    assert other[:8] == state[:8]
    assert other[8:] != state[8:]


def reports(count: int) -> list[StepReport]:
    return [StepReport(i, count, loss=float(i), denoising=2.0 * i, consistency=0.5) for i in range(1, count + 1)]


def test_the_losses_of_every_step() -> None:
    assert loss_map(reports(3)) == {
        "loss": [1.0, 2.0, 3.0],
        "denoising": [2.0, 4.0, 6.0],
        "consistency": [0.5, 0.5, 0.5],
        "step": [1, 2, 3],
    }
    assert loss_map([]) == {"loss": [], "denoising": [], "consistency": [], "step": []}


@pytest.mark.parametrize(("count", "values", "last"), [(4, 4, 4), (5, 3, 5), (8, 4, 8), (9, 3, 9), (1001, 4, 1001)])
def test_a_long_training_is_filed_as_means(count: int, values: int, last: int) -> None:
    filed = loss_map(reports(count), most=4)
    assert {len(part) for part in filed.values()} == {values}
    assert filed["step"][-1] == last
    size = filed["step"][0]
    assert filed["loss"][0] == sum(range(1, size + 1)) / size
