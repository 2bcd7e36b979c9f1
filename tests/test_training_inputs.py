"""What cannot be trained is refused by name, before the first step."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_examples, random_unet, train

from p3s.errors import TrainingError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.unet_config import SDXL, UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.examples import training_size
from p3s.training.settings import TrainSettings
from p3s.training.step import check_base, check_examples

NOISE = NoiseSchedule.stable_diffusion()
EMPTY = torch.zeros(7, SMALL.context_dim)


@pytest.fixture(scope="module")
def base():
    return random_unet()


def fresh(base):
    return start_copy(base.state_dict(), CopySettings(), TOKEN_DIM)


def bad_examples(**change):
    return [replace(random_examples()[0], **change)]


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([], "no reference"),
        (bad_examples(latent=torch.zeros(3, 16, 16)), "4 channels"),
        (bad_examples(prompt=torch.zeros(7, 5)), "24 wide"),
        (bad_examples(prompt=torch.zeros(8, SMALL.context_dim)), "equally long"),
        (bad_examples(tokens=torch.full((17, TOKEN_DIM), float("nan"))), "not finite"),
        ([*random_examples(), *bad_examples(tokens=torch.zeros(5, TOKEN_DIM))], "reference 2"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(base, examples, message):
    with pytest.raises(TrainingError, match=message):
        train(base, fresh(base), examples, EMPTY, NOISE, TrainSettings(steps=1))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"tokens": torch.zeros(5, TOKEN_DIM)},
            "reference 2: its CLIP vision tokens have the shape (5, 20), those of ",
        ),
        ({"prompt": torch.zeros(8, SMALL.context_dim)}, "reference 2: its prompt has the shape (8, 24)"),
        ({"latent": torch.zeros(3, 16, 16)}, "reference 2: expected a latent of 4 channels, got (3, 16, 16)"),
        ({"loss_mask": torch.zeros(5, 5)}, "reference 2: loss_mask has the shape (5, 5)"),
        ({"latent": torch.full((4, 16, 16), torch.nan)}, "reference 2 holds values that are not finite"),
    ],
)
def test_an_error_names_the_photo_and_not_the_view(change, message):
    """Every photo has two views here; the second photo is wrong."""
    good, other = random_examples(2)
    wrong = replace(other, **change)
    views = [replace(e, view=torch.zeros(4, 8, 8), loss_mask=None) for e in (good, wrong)]
    with pytest.raises(TrainingError) as error:
        check_examples(SMALL, [good, views[0], wrong, views[1]], EMPTY)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize(
    ("channels", "kind"),
    [(9, "an inpainting model"), (8, "an InstructPix2Pix or IC-Light model"), (5, "a model that reads more than the")],
)
def test_a_base_that_reads_more_than_the_latent_is_refused_for_training(channels, kind):
    config = UNetConfig.build(model_channels=32, channel_mult=(1, 2, 2, 2), context_dim=24, in_channels=channels)
    base = random_unet(config)
    with pytest.raises(TrainingError, match=rf"reads {channels} channels and predicts 4 \({kind}"):
        train(base, fresh(base), random_examples(), EMPTY, NOISE, TrainSettings(steps=1))


@pytest.mark.parametrize("numbers", [{}, {"context_dim": 1024, "linear_projection": True}, SDXL])
def test_sd1_sd2_and_sdxl_are_bases_for_training(numbers):
    check_base(UNetConfig.build(**numbers))


@pytest.mark.parametrize("resolution", [0, -64, float("nan")])
def test_a_size_that_cannot_be_trained_is_refused(resolution):
    """It was trained at 16 x 16 pixels."""
    with pytest.raises(TrainingError, match="resolution must be at least 16 pixels"):
        training_size(512, 512, resolution)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
        {"steps": -5},
        {"gamma": float("nan")},
        {"gamma": -1.0},
        {"learning_rate": float("inf")},
        {"weight_decay": True},
        {"seed": 2**64},
        {"batch_size": 0},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"prompt_dropout": 1.5},
        {"precision": "fp4"},
        {"attention_layers": "first"},
        {"attention_norm": "x"},
        {"zero_init": "one"},
        {"pairs": "x"},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(TrainingError, match=next(iter(bad))):
        TrainSettings(**bad)
