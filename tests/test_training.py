"""Training: gradients, randomness, losses falling, and every way in which inputs can be wrong."""

from dataclasses import replace

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_examples, random_unet

from p3s.diffusion import NoiseSchedule
from p3s.errors import TrainingError
from p3s.subject_copy import CopySettings, SubjectCopy
from p3s.training import TrainSettings, compared_layers, draw, epoch, losses, train, training_size
from p3s.unet_config import Layer, UNetConfig

NOISE = NoiseSchedule.stable_diffusion()
EMPTY = torch.randn(7, SMALL.context_dim, generator=torch.Generator().manual_seed(99))


@pytest.fixture(scope="module")
def base():
    return random_unet()


def fresh(base, settings=None, **kwargs):
    return SubjectCopy.from_base(base.state_dict(), settings or CopySettings(), TOKEN_DIM, **kwargs)


def run(base, copy=None, examples=None, callback=None, **settings):
    copy = copy or fresh(base)
    settings = TrainSettings(**{"steps": 3, **settings})
    return copy, train(base, copy, examples or random_examples(), EMPTY, NOISE, settings, callback)


def one_batch(examples, settings, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return draw(examples, range(len(examples)), EMPTY, NOISE, settings, generator, torch.device("cpu"))


@pytest.mark.parametrize("cross", [True, False])
def test_gradients_reach_all_that_is_read_and_nothing_else(base, cross):
    copy = random_copy(base, CopySettings(cross_attention=cross)).requires_grad_(True)
    settings = TrainSettings(prompt_dropout=0.0)
    denoising, consistency = losses(base, copy, one_batch(random_examples(), settings), settings)
    (denoising + consistency).backward()
    last = "unet.output_blocks.7.1."
    unread = (
        "unet.out.",
        last + "proj_out.",
        last + "transformer_blocks.0.ff.",
        last + "transformer_blocks.0.norm3.",
        last + "transformer_blocks.0.attn2.to_v.",
        last + "transformer_blocks.0.attn2.to_out.",
    )
    for name, p in copy.named_parameters():
        if name.startswith(unread):
            assert p.grad is None, f"{name} cannot be reached"
        else:
            assert p.grad is not None and p.grad.abs().sum() > 0, f"no gradient reaches {name}"
    assert all(p.grad is None for p in base.parameters())


def test_gradients_reach_everything_from_the_zero_start(base):
    """The zero convolutions move first; a few steps later everything that is read has moved."""
    copy = fresh(base)
    before = {k: v.clone() for k, v in copy.state_dict().items()}
    run(base, copy, steps=5, learning_rate=1e-3, weight_decay=0.0)
    still = {k for k, v in copy.state_dict().items() if torch.equal(v, before[k])}
    last = "unet.output_blocks.7.1."
    assert all(k.startswith(("unet.out.", last)) for k in still), still
    assert {"image_latent.to_q.weight", "image_latent.to_k.weight"}.isdisjoint(still)


def test_the_base_is_left_alone(base):
    before = {k: v.clone() for k, v in base.state_dict().items()}
    run(base)
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    assert not any(p.requires_grad for p in base.parameters())


@pytest.mark.parametrize(
    ("noise", "brightness", "zero_init", "share"),
    [
        (NoiseSchedule(torch.linspace(0.05, 0.005, 100), "v"), 0.7, "zero", 0.5),
        (NoiseSchedule(torch.linspace(0.05, 0.005, 100), "v"), 0.7, "identity", 0.5),
        # A random base passes on little of the fine detail that predicting the noise asks for.
        (NoiseSchedule(torch.linspace(0.6, 0.2, 100), "eps"), 2.5, "zero", 0.9),
    ],
    ids=["v", "v, identity start", "eps"],
)
def test_a_tiny_model_overfits_one_image(noise, brightness, zero_init, share):
    config = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=SMALL.context_dim)
    base = random_unet(config)
    copy = fresh(base, zero_init=zero_init)
    colour = torch.randn(4, 1, 1, generator=torch.Generator().manual_seed(3)).expand(4, 8, 8) * brightness
    examples = [replace(random_examples()[0], latent=colour)] * 4
    settings = TrainSettings(steps=70, batch_size=4, learning_rate=2e-2, weight_decay=0.0)
    batch = draw(examples, range(4), EMPTY, noise, settings, torch.Generator().manual_seed(5), torch.device("cpu"))

    def error():
        with torch.no_grad():
            return losses(base, copy, batch, settings)[0].item()

    before = error()
    train(base, copy, examples, EMPTY, noise, settings)
    assert error() < share * before


@pytest.mark.parametrize("size", [(512, 512), (1000, 500), (333, 1999), (32, 32), (4000, 6000)])
@pytest.mark.parametrize("resolution", [128, 512])
def test_training_keeps_area_and_proportions(size, resolution):
    height, width = training_size(*size, resolution)
    assert height % 16 == 0 and width % 16 == 0
    assert height * width == pytest.approx(resolution**2, rel=0.2)
    assert height / width == pytest.approx(size[0] / size[1], rel=0.2)


def test_equal_seeds_give_equal_weights_and_other_seeds_do_not(base):
    runs = [run(base, seed=seed, examples=random_examples(3))[0].state_dict() for seed in (7, 7, 8)]
    assert all(torch.equal(runs[0][k], runs[1][k]) for k in runs[0])
    assert any(not torch.equal(runs[0][k], runs[2][k]) for k in runs[0])


def test_the_global_random_state_is_neither_read_nor_changed(base):
    torch.manual_seed(1)
    one = run(base)[0].state_dict()
    torch.manual_seed(2)
    state = torch.get_rng_state()
    two = run(base)[0].state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(one[k], two[k]) for k in one)


def test_works_inside_inference_mode(base):
    """A host runs nodes under inference_mode; the networks and examples are made outside of it."""
    copy = fresh(base)
    with torch.inference_mode():
        _, result = run(base, copy)
    assert result.completed
    assert copy.zero_self["middle_0_0"].weight.any()


def test_deterministic_switches_are_restored(base):
    before = torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark
    run(base)
    assert (torch.are_deterministic_algorithms_enabled(), torch.backends.cudnn.benchmark) == before


def test_reports_and_callback(base):
    seen = []
    _, result = run(base, callback=seen.append, epochs=2, steps=0, examples=random_examples(3), batch_size=2)
    assert [r.step for r in seen] == [1, 2, 3, 4]
    assert all(r.total == 4 for r in seen)
    assert result.completed and result.reports == tuple(seen)
    for r in seen:
        assert r.loss == pytest.approx(r.denoising + 0.1 * r.consistency, rel=1e-5)
        assert r.denoising > 0 and r.consistency > 0


def test_a_callback_stops_the_training(base):
    _, result = run(base, callback=lambda report: report.step < 2, steps=9)
    assert len(result.reports) == 2
    assert not result.completed


def test_bf16_trains_float32_weights(base):
    copy, result = run(base, precision="bf16", learning_rate=1e-3)
    assert result.completed
    assert all(p.dtype == torch.float32 for p in copy.parameters())
    assert copy.zero_self["middle_0_0"].weight.any()


@pytest.mark.parametrize(("which", "count"), [("last", 1), ("all", 10), ("none", 0)])
def test_which_attention_layers_are_compared(base, which, count):
    copy = random_copy(base)
    layers = compared_layers(copy, which)
    assert len(layers) == count
    if which == "last":
        assert layers == (Layer("output", 7),)
        assert copy.map.twin(layers[0]) == Layer("output", 11)
    settings = TrainSettings(attention_layers=which)
    assert (losses(base, copy, one_batch(random_examples(), settings), settings)[1] > 0) == (count > 0)


def test_the_paper_weighs_the_last_layer_with_gamma(base):
    copy, settings = random_copy(base), TrainSettings()
    assert (settings.gamma, settings.epochs, settings.learning_rate, settings.prompt_dropout) == (0.1, 60, 1e-5, 0.1)
    assert (settings.attention_layers, settings.attention_norm) == ("last", "mean")
    batch = one_batch(random_examples(), settings)
    assert (
        losses(base, copy, batch, settings)[1]
        > 1000 * losses(base, copy, batch, replace(settings, attention_norm="sum"))[1]
    )


def test_prompts_are_dropped_at_the_given_rate():
    examples = random_examples()
    settings, dropped = TrainSettings(prompt_dropout=0.1), 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        batch = draw(examples, [0], EMPTY, NOISE, settings, generator, torch.device("cpu"))
        dropped += int(torch.equal(batch.context[0], EMPTY))
    assert 20 <= dropped <= 62  # 40 expected; 3.6 standard deviations to either side


def test_the_condition_is_another_reference():
    examples = random_examples(3)
    generator, device = torch.Generator().manual_seed(0), torch.device("cpu")

    def sources(pairs, examples):
        found = set()
        for _ in range(40):
            batch = draw(examples, [1], EMPTY, NOISE, TrainSettings(pairs=pairs), generator, device)
            found |= {i for i, e in enumerate(examples) if torch.equal(e.latent, batch.latents[0])}
            assert any(torch.equal(e.tokens, batch.tokens[0]) for e in examples)
        return found

    assert sources("other", examples) == {0, 2}
    assert sources("self", examples) == {1}
    assert sources("other", [examples[0], examples[0]]) == {0, 1}


def test_an_epoch_shows_every_reference_once_in_batches_of_one_size():
    examples = random_examples(4, size=8) + random_examples(3, size=16)
    batches = epoch(examples, 2, torch.Generator().manual_seed(0))
    assert sorted(i for rows in batches for i in rows) == list(range(7))
    assert all(len({examples[i].latent.shape for i in rows}) == 1 for rows in batches)
    assert len(batches) == 4


def test_references_of_several_sizes_train_together(base):
    examples = random_examples(2, size=16) + random_examples(1, size=8, seed=3)
    assert run(base, examples=examples, epochs=1, steps=0, batch_size=2)[1].completed


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


def test_an_inpainting_base_is_refused_for_training():
    base = random_unet(UNetConfig.build(model_channels=32, channel_mult=(1, 2, 2, 2), context_dim=24, in_channels=9))
    with pytest.raises(TrainingError, match="inpainting"):
        train(base, fresh(base), random_examples(), EMPTY, NOISE, TrainSettings(steps=1))


def test_a_loss_that_is_not_finite_stops_the_training(base):
    with pytest.raises(TrainingError, match="learning_rate"):
        run(base, steps=30, learning_rate=1e30)


@pytest.mark.parametrize(
    "bad",
    [
        {"epochs": 0},
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
