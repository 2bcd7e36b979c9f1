"""What is drawn for a step of training, and which maps it compares."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_examples, random_unet, train

from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.unet import Attention
from p3s.network.unet_config import Layer
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.settings import TrainSettings
from p3s.training.step import batch_losses, compared_layers, draw_batch, draw_timesteps, epoch_batches

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


# Timesteps


def timesteps(steps, rows=1, seed=0, which="stratified"):
    """Those of the rows of so many steps, one after the other."""
    settings, generator = TrainSettings(timesteps=which, seed=seed), torch.Generator().manual_seed(seed)
    return [t for step in range(steps) for t in draw_timesteps(rows, 1000, settings, generator, step).tolist()]


@pytest.mark.parametrize(("seed", "rows"), [(0, 1), (1, 1), (2**64 - 1, 1), (0, 4), (3, 7)])
def test_any_20_stratified_rows_in_succession_have_every_tenth_of_the_timesteps(seed, rows):
    """Within a step and over several; independent ones lack one in 79 % of the cases."""
    found = timesteps(2100 // rows, rows, seed)
    missed = [i for i in range(len(found) - 19) if len({t // 100 for t in found[i : i + 20]}) < 10]
    assert missed == []
    assert {(b - a) % 1000 for a, b in pairwise(found)} == {618, 619}  # 1000 (sqrt(5) - 1) / 2 = 618.03


def test_the_number_of_rows_in_a_step_does_not_change_the_sequence():
    assert timesteps(60) == timesteps(15, rows=4) == timesteps(3, rows=20)


def test_stratified_timesteps_are_uniform_over_a_training_and_over_seeds():
    counts = Counter(timesteps(20_000))
    assert set(counts) == set(range(1000))
    assert 17 <= min(counts.values()) <= max(counts.values()) <= 23  # 20 expected; drawn independently 7..37
    tenths = Counter(t // 100 for seed in range(2000) for t in timesteps(1, seed=seed))
    assert all(150 <= tenths[tenth] <= 250 for tenth in range(10))  # 200 expected, 3.7 standard deviations


def test_nothing_else_of_a_step_depends_on_how_timesteps_are_drawn():
    examples = random_examples(3)
    one, other = (one_batch(examples, TrainSettings(timesteps=which)) for which in ("uniform", "stratified"))
    assert not torch.equal(one.timesteps, other.timesteps)
    assert torch.equal(one.target, other.target)  # the noise
    assert torch.equal(one.context, other.context)
    for a, b in zip(one.sources, other.sources, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])


def test_a_training_draws_the_sequence(base, monkeypatch):
    seen = []
    losses = batch_losses
    monkeypatch.setattr(
        "p3s.training.gradients.batch_losses",
        lambda *given: seen.extend(given[2].timesteps.tolist()) or losses(*given),
    )
    run(base, timesteps="stratified", batch_size=3)
    assert seen == timesteps(2, rows=3)


# Weights of timesteps


@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_min_snr_weighs_the_rows_of_a_batch(base, prediction):
    """The loss of a batch is the mean of its rows' own losses times their weights."""
    copy, examples, noise = random_copy(base), random_examples(3), replace(NOISE, prediction=prediction)
    weighted, plain = (TrainSettings(loss_weighting=which, prompt_dropout=0.0) for which in ("min_snr", "none"))

    def batch(settings):
        generator = torch.Generator().manual_seed(0)  # t = 44, 239, 933
        return draw_batch(examples, [0, 1, 2], EMPTY, noise, settings, generator)

    drawn = batch(plain)
    assert drawn.row_weights is None
    rows = [
        replace(
            drawn,
            **{name: getattr(drawn, name)[i : i + 1] for name in ("x", "timesteps", "target", "context", "loss_mask")},
            sources=drawn.sources[i : i + 1],
        )
        for i in range(3)
    ]
    own = [batch_losses(base, copy, row, plain)[0].item() for row in rows]
    abar = NOISE.alphas_cumprod.double()[drawn.timesteps]
    snr = (abar / (1 - abar)).tolist()
    weights = [min(s, 5) / (s if prediction == "eps" else s + 1) for s in snr]
    assert len({round(weight, 3) for weight in weights}) > 1
    expected = sum(w * loss for w, loss in zip(weights, own, strict=True)) / 3
    assert batch_losses(base, copy, batch(weighted), weighted)[0].item() == pytest.approx(expected, rel=1e-4)
    assert batch_losses(base, copy, drawn, plain)[0].item() == pytest.approx(sum(own) / 3, rel=1e-4)
