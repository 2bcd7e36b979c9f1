"""What is drawn for a step of training, and which maps it compares."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_examples, random_unet, train

from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.unet import Attention
from p3s.network.unet_config import Layer
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.settings import TrainSettings
from p3s.training.step import batch_losses, compared_layers, draw_batch, epoch_batches

NOISE = NoiseSchedule.stable_diffusion()
EMPTY = torch.randn(7, SMALL.context_dim, generator=torch.Generator().manual_seed(99))


@pytest.fixture(scope="module")
def base():
    return random_unet()


def run(base, **settings):
    copy = start_copy(base.state_dict(), CopySettings(), TOKEN_DIM)
    result = train(base, copy, random_examples(), EMPTY, NOISE, TrainSettings(steps=2, **settings))
    return copy, result


def one_batch(examples, settings):
    return draw_batch(examples, range(len(examples)), EMPTY, NOISE, settings, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("which", "count"), [("last", 1), ("all", 10), ("none", 0)])
def test_which_attention_layers_are_compared(base, which, count):
    copy = random_copy(base)
    layers = compared_layers(copy, which)
    assert len(layers) == count
    if which == "last":
        assert layers == (Layer("output", 7),)
        assert copy.map.twin(layers[0]) == Layer("output", 11)
    settings = TrainSettings(attention_layers=which)
    assert (batch_losses(base, copy, one_batch(random_examples(), settings), settings)[1] > 0) == (count > 0)


def test_the_paper_weighs_the_last_layer_with_gamma(base):
    copy, settings = random_copy(base), TrainSettings()
    assert (settings.gamma, settings.epochs, settings.learning_rate, settings.prompt_dropout) == (0.1, 60, 1e-5, 0.1)
    assert (settings.attention_layers, settings.attention_norm) == ("last", "mean")
    batch = one_batch(random_examples(), settings)
    assert (
        batch_losses(base, copy, batch, settings)[1]
        > 1000 * batch_losses(base, copy, batch, replace(settings, attention_norm="sum"))[1]
    )


def test_prompts_are_dropped_at_the_given_rate():
    examples = random_examples()
    settings, dropped = TrainSettings(prompt_dropout=0.1), 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        batch = draw_batch(examples, [0], EMPTY, NOISE, settings, generator)
        dropped += int(torch.equal(batch.context[0], EMPTY))
    assert 20 <= dropped <= 62  # 40 expected; 3.6 standard deviations to either side


def test_the_condition_is_another_reference():
    examples = random_examples(3)
    generator = torch.Generator().manual_seed(0)

    def sources(pairs, examples, row):
        found = set()
        for _ in range(40):
            batch = draw_batch(examples, [row], EMPTY, NOISE, TrainSettings(pairs=pairs), generator)
            ((latent, tokens),) = batch.sources
            (source,) = (i for i, e in enumerate(examples) if torch.equal(e.latent, latent))
            assert torch.equal(examples[source].tokens, tokens)
            found.add(source)
        return found

    assert sources("other", examples, 1) == {0, 2}
    assert sources("self", examples, 1) == {1}
    assert sources("other", examples[:1], 0) == {0}


@pytest.mark.parametrize(
    ("counts", "batch_size", "batches", "most"),
    [((4, 3), 2, 4, 2), ((7,), 1, 7, 1), ((1,), 4, 1, 4), ((2,), 3, 1, 2), ((5, 1), 4, 3, 4)],
)
def test_an_epoch_shows_every_reference_in_full_batches_of_one_size(counts, batch_size, batches, most):
    """Where there are too few for a batch, some come again, as evenly as they can."""
    examples = [e for i, count in enumerate(counts) for e in random_examples(count, size=8 * (i + 1))]
    found = epoch_batches(examples, batch_size, torch.Generator().manual_seed(0))
    assert [len(rows) for rows in found] == [batch_size] * batches
    assert all(len({examples[i].latent.shape for i in rows}) == 1 for rows in found)
    shown = Counter(i for rows in found for i in rows)
    assert set(shown) == set(range(len(examples)))
    assert max(shown.values()) == most
    for rows in found:
        times = Counter(rows).values()
        assert max(times) - min(times) <= 1 or len(times) == 1


def test_one_reference_fills_a_batch_with_other_noise():
    """Not one row four times: that would cost four times as much and learn the same."""
    (rows,) = epoch_batches(random_examples(1), 4, torch.Generator().manual_seed(0))
    batch = draw_batch(random_examples(1), rows, EMPTY, NOISE, TrainSettings(), torch.Generator().manual_seed(0))
    assert len(batch.x) == len(set(batch.timesteps.tolist())) == 4


@pytest.mark.parametrize("layers", ["last", "all"])
def test_at_gamma_0_no_map_is_made(base, monkeypatch, layers):
    """And it is the training without a map to compare, bit for bit."""
    expected, _ = run(base, attention_layers="none")
    monkeypatch.setattr(Attention, "attention_map", None)
    found, result = run(base, gamma=0.0, attention_layers=layers)
    assert [report.consistency for report in result.reports] == [0, 0]
    assert all(torch.equal(a, b) for a, b in zip(expected.parameters(), found.parameters(), strict=True))
