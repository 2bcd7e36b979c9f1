"""Training: gradients, randomness, losses falling, and every way in which inputs can be wrong."""

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_examples, random_unet, train

from p3s.errors import TrainingError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.hooks import AttentionHooks
from p3s.network.subject_copy import CopyReader
from p3s.network.unet_config import Layer, UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.examples import training_size
from p3s.training.settings import TrainSettings
from p3s.training.step import batch_losses, draw_batch

NOISE = NoiseSchedule.stable_diffusion()
EMPTY = torch.randn(7, SMALL.context_dim, generator=torch.Generator().manual_seed(99))


LAST = "unet.output_blocks.7.1."
#: What comes behind the last feature in the copy, and behind its last attention map.
UNREAD = (
    "unet.out.",
    LAST + "proj_out.",
    LAST + "transformer_blocks.0.ff.",
    LAST + "transformer_blocks.0.norm3.",
    LAST + "transformer_blocks.0.attn2.to_v.",
    LAST + "transformer_blocks.0.attn2.to_out.",
)


@pytest.fixture(scope="module")
def base():
    return random_unet()


def fresh(base, settings=None, **kwargs):
    return start_copy(base.state_dict(), settings or CopySettings(), TOKEN_DIM, **kwargs)


def run(base, copy=None, examples=None, callback=None, **settings):
    copy = copy or fresh(base)
    settings = TrainSettings(**{"steps": 3, **settings})
    return copy, train(base, copy, examples or random_examples(), EMPTY, NOISE, settings, callback)


def one_batch(examples, settings, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return draw_batch(examples, range(len(examples)), EMPTY, NOISE, settings, generator)


@pytest.mark.parametrize("cross", [True, False])
def test_gradients_reach_all_that_is_read_and_nothing_else(base, cross):
    copy = random_copy(base, CopySettings(cross_attention=cross)).requires_grad_(True)
    settings = TrainSettings(prompt_dropout=0.0)
    denoising, consistency = batch_losses(base, copy, one_batch(random_examples(), settings), settings)
    (denoising + consistency).backward()
    for name, p in copy.named_parameters():
        if name.startswith(UNREAD):
            assert p.grad is None, f"{name} cannot be reached"
        else:
            assert p.grad is not None and p.grad.abs().sum() > 0, f"no gradient reaches {name}"
    assert all(p.grad is None for p in base.parameters())


def test_everything_that_is_read_moves_from_the_zero_start(base):
    """The zero convolutions move first; a few steps later everything that is read has moved."""
    copy = fresh(base)
    before = {k: v.clone() for k, v in copy.state_dict().items()}
    run(base, copy, steps=5, learning_rate=1e-3, weight_decay=0.0, prompt_dropout=0.0)
    still = {k for k, v in copy.state_dict().items() if torch.equal(v, before[k])}
    assert still == {k for k in before if k.startswith(UNREAD)}


@pytest.mark.parametrize("feature", ["norm1", "attn1"])
def test_the_losses_by_hand(base, feature):
    """Eq. 4-8 and 11-14 with plain tensors: what is compared, with what, and where the features enter."""
    copy = random_copy(base, CopySettings(feature=feature))
    examples, settings = random_examples(2), TrainSettings(prompt_dropout=0.0, batch_size=2)
    batch = one_batch(examples, settings)
    with torch.no_grad():
        found = batch_losses(base, copy, batch, settings)
        # With two references each is the other's condition.
        condition = copy.image_latent(
            torch.stack([examples[1].latent, examples[0].latent]), torch.stack([e.tokens for e in examples[::-1]])
        )
        reader = CopyReader()
        copy.unet(batch.x + condition, batch.timesteps, batch.context, reader)
        hidden = reader.norm1 if feature == "norm1" else reader.attn1
        queries = {}

        class ByHand(AttentionHooks):
            def self_attention(self, layer, z, grid):
                f = copy.zero_self[str(copy.map.reads[layer])](hidden[copy.map.reads[layer]])
                return z, torch.cat([z, f], 1), torch.cat([z + 0.2 * f, f], 1)

            def cross_attention(self, layer, z, context, grid):
                queries[layer] = z + copy.zero_cross[str(copy.map.reads[layer])](reader.norm2[copy.map.reads[layer]])
                return queries[layer]

        prediction = base(batch.x, batch.timesteps, batch.context, ByHand())

        def attention_map(attention, q_in):
            q, k = attention.to_q(q_in).unflatten(-1, (8, -1)), attention.to_k(batch.context).unflatten(-1, (8, -1))
            return (torch.einsum("bqhc,bkhc->bhqk", q, k) * q.shape[-1] ** -0.5).softmax(-1)

        ours = attention_map(copy.unet.block(Layer("output", 7)).attn2, reader.norm2[Layer("output", 7)])
        theirs = attention_map(base.block(Layer("output", 11)).attn2, queries[Layer("output", 11)])
        consistency = ((ours - theirs) ** 2).mean() / ((ours + theirs).mean() / 2)
    torch.testing.assert_close(found[0], ((prediction - batch.target) ** 2).mean())
    torch.testing.assert_close(found[1], consistency, rtol=1e-4, atol=1e-8)


def test_a_batch_is_made_from_the_reference_that_is_learned():
    """x_t and the target come from the example's own latent, I' and c_s together from the other one."""
    examples, settings = random_examples(2), TrainSettings(prompt_dropout=0.0)
    batch = draw_batch(examples, [0], EMPTY, NOISE, settings, torch.Generator().manual_seed(4))
    signal, sigma = NOISE.scales(batch.timesteps)
    torch.testing.assert_close(batch.x, signal * examples[0].latent + sigma * batch.target)
    ((latent, tokens),) = batch.sources
    assert torch.equal(latent, examples[1].latent)
    assert torch.equal(tokens, examples[1].tokens)
    assert torch.equal(batch.context[0], examples[0].prompt)


def test_training_and_sampling_see_one_condition(base):
    """A reference of another shape than x_t is placed on its grid in the same way in both."""
    copy = random_copy(base)
    examples = [random_examples(1, size=16)[0], random_examples(1, size=8, seed=2)[0]]
    settings = TrainSettings(prompt_dropout=0.0)
    batch = draw_batch(examples, [0], EMPTY, NOISE, settings, torch.Generator().manual_seed(0))
    seen = []
    copy.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    with torch.no_grad():
        batch_losses(base, copy, batch, settings)
        copy(
            batch.x, batch.timesteps, batch.context, copy.condition(examples[1].latent[None], examples[1].tokens[None])
        )
    assert torch.equal(seen[0], seen[1])


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
    batch = draw_batch(examples, range(4), EMPTY, noise, settings, torch.Generator().manual_seed(5))

    def error():
        with torch.no_grad():
            return batch_losses(base, copy, batch, settings)[0].item()

    before = error()
    # It ends as soon as it is there.
    train(base, copy, examples, EMPTY, noise, settings, lambda report: report.step % 4 or error() >= share * before)
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


def test_equal_seeds_give_equal_weights_in_other_processes():
    """Nothing may hang on the order of a set of strings, which changes from process to process."""
    code = (
        "import hashlib, torch; torch.set_num_threads(1); import test_training as t; "
        "copy, _ = t.run(t.random_unet(), steps=2); "
        "print(hashlib.sha256(b''.join(v.numpy().tobytes() for v in copy.state_dict().values())).hexdigest())"
    )
    folder = Path(__file__).parent
    hashes = set()
    for seed in ("1", "2"):
        paths = os.pathsep.join([str(folder.parent), str(folder)])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        hashes.add(done.stdout.strip())
    assert len(hashes) == 1


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


def test_references_of_several_sizes_train_together(base):
    examples = random_examples(2, size=16) + random_examples(1, size=8, seed=3)
    assert run(base, examples=examples, epochs=1, steps=0, batch_size=2)[1].completed


def test_a_loss_that_explodes_keeps_the_last_good_step(base):
    copy, result = run(base, steps=30, learning_rate=1.0)
    assert isinstance(result.error, TrainingError)
    assert "learning_rate" in str(result.error)
    assert 1 <= len(result.reports) < 30
    assert not result.completed
    assert all(torch.isfinite(p).all() for p in copy.parameters())


def test_an_error_in_a_later_step_keeps_what_is_trained(base):
    def callback(report):
        if report.step == 2:
            raise MemoryError("out of memory")

    copy, result = run(base, callback=callback, steps=9)
    assert isinstance(result.error, MemoryError)
    assert len(result.reports) == 2
    assert copy.zero_self["middle_0_0"].weight.any()


def test_an_error_in_the_first_step_is_raised(base):
    wrong = replace(random_examples()[0], tokens=torch.zeros(5, 3))
    with pytest.raises(RuntimeError):
        train(base, fresh(base), [wrong], EMPTY, NOISE, TrainSettings(steps=1))
