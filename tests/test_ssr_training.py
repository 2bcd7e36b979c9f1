"""Training an SSR-Encoder: its losses by hand, what is drawn, and that a step learns."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SMALL, random_unet
from ssr_models import LENGTH, rand
from torch import Tensor

from p3s.errors import P3SError, TrainingError
from p3s.sampling.diffusion import NoiseSchedule
from p3s.ssr.layers import file_index
from p3s.ssr.training import (
    Batch,
    Pair,
    SSRTrainSettings,
    Trainee,
    draw,
    embedding_consistency,
    optimizer,
    start,
    training_step,
)

NOISE = NoiseSchedule.stable_diffusion()
EMPTY = Pair(torch.zeros(4, 8, 8), rand(LENGTH, 24, seed=90), rand(3, 17, 20, seed=91), rand(LENGTH, 24, seed=92))


def pairs(count: int = 3, masked: bool = False) -> list[Pair]:
    bias = torch.where(torch.arange(17) % 3 == 0, -math.inf, 0.0) if masked else None
    return [
        Pair(
            rand(4, 8, 8, seed=i),
            rand(LENGTH, 24, seed=20 + i),
            rand(3, 17, 20, seed=40 + i),
            rand(LENGTH, 24, seed=60 + i),
            bias,
        )
        for i in range(count)
    ]


def batch(settings: SSRTrainSettings | None = None, seed: int = 0, masked: bool = False, **more: Any) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return draw(pairs(masked=masked), EMPTY, NOISE, settings or SSRTrainSettings(), generator, **more)


def trainee(seed: int = 0, kind: str = "random") -> Trainee:
    return start(random_unet(), 20, SSRTrainSettings(start=kind), seed, inner=16, heads=2, scales=3)


def test_the_consistency_of_both_readings_by_hand() -> None:
    c, z = rand(2, 3 * LENGTH, 24), rand(2, LENGTH, 24, seed=1)

    def distance(a: Tensor, b: Tensor) -> float:
        return 1 - float(a @ b) / math.sqrt(float(a @ a) * float(b @ b))

    tokens = [(row, token) for row in range(2) for token in range(LENGTH)]
    scale = [sum(distance(c[r, k * LENGTH + i], z[r, i]) for r, i in tokens) / len(tokens) for k in range(3)]
    assert embedding_consistency(c, z, 3).item() == pytest.approx(sum(scale), abs=1e-5)
    mean = [distance(sum(c[r, k * LENGTH + i] for k in range(3)), z[r, i]) for r, i in tokens]
    assert embedding_consistency(c, z, 3, "mean").item() == pytest.approx(sum(mean) / len(mean), abs=1e-5)
    assert embedding_consistency(z.repeat(1, 3, 1), z, 3).item() == pytest.approx(0, abs=1e-5)
    assert embedding_consistency(-z.repeat(1, 3, 1), z, 3).item() == pytest.approx(6, abs=1e-5)


def test_the_query_gets_no_gradient_from_the_consistency() -> None:
    c, z = rand(1, 3 * LENGTH, 24).requires_grad_(), rand(1, LENGTH, 24, seed=1).requires_grad_()
    embedding_consistency(c, z, 3).backward()
    assert c.grad is not None and z.grad is None


@pytest.mark.parametrize("masked", [False, True])
def test_the_losses_are_those_of_a_pass_by_hand(masked: bool) -> None:
    """The text's attention plus the subject's, both at full strength, every row with its own embedding."""
    base, model, drawn = random_unet(), trainee(), batch(masked=masked)
    denoising, consistency = model(base, drawn)
    c = model.aligner(drawn.states, drawn.query, drawn.bias)
    index = file_index(SMALL)

    class ByHand:
        def __getattr__(self, name: str) -> Any:
            from p3s.network.hooks import PLAIN

            return getattr(PLAIN, name)

        def cross_attention_result(self, layer: Any, out: Tensor, q: Tensor, heads: int, grid: Any) -> Tensor:
            part = model.layers.get_submodule(str(index[layer]))
            k, v, q = ((t).unflatten(-1, (heads, -1)).transpose(1, 2) for t in (part.to_k_SSR(c), part.to_v_SSR(c), q))
            weights = (q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])).softmax(-1)
            return out + (weights @ v).transpose(1, 2).flatten(2)

    predicted = base(drawn.x, drawn.timesteps, drawn.context, ByHand())  # type: ignore[arg-type]
    assert denoising.item() == pytest.approx((predicted - drawn.target).square().mean().item(), rel=1e-5)
    assert consistency.item() == pytest.approx(embedding_consistency(c, drawn.query, 3).item())


def test_what_is_drawn() -> None:
    keep = SSRTrainSettings(prompt_dropout=0)
    drawn, rows = batch(keep), pairs()
    assert torch.equal(drawn.context, torch.stack([p.prompt for p in rows]))
    assert torch.equal(drawn.query, torch.stack([p.query for p in rows])) and drawn.bias is None
    assert torch.equal(drawn.states, torch.stack([p.states for p in rows]))
    latents = torch.stack([p.latent for p in rows])
    torch.testing.assert_close(NOISE.add_noise(latents, drawn.target, drawn.timesteps), drawn.x)
    dropped = batch(SSRTrainSettings(prompt_dropout=1, image_dropout=1))
    assert (dropped.context == EMPTY.prompt).all() and (dropped.query == EMPTY.query).all()
    assert (dropped.states == EMPTY.states).all()
    many = draw(pairs(1) * 2000, EMPTY, NOISE, SSRTrainSettings(), torch.Generator().manual_seed(1))
    share = (many.context == EMPTY.prompt).all(2).all(1).float().mean().item()
    assert share == pytest.approx(0.8, abs=0.03)
    assert torch.equal(many.query, pairs(1)[0].query.expand(2000, -1, -1))  # the query is never dropped


def test_noisy_timesteps_are_drawn_in_proportion_to_t() -> None:
    settings, rows = SSRTrainSettings(timesteps="noisy"), pairs(1) * 1000
    t = draw(rows, EMPTY, NOISE, settings, torch.Generator().manual_seed(0)).timesteps
    assert t.min() >= 0 and t.max() <= 999
    for part in (0.25, 0.5, 0.75):  # the share below T x is x^2
        assert (t < 1000 * part).float().mean().item() == pytest.approx(part**2, abs=0.002)


def test_a_mask_of_some_rows_is_none_for_the_others() -> None:
    rows = [pairs(1)[0], pairs(1, masked=True)[0]]
    drawn = draw(rows, EMPTY, NOISE, SSRTrainSettings(), torch.Generator().manual_seed(0))
    assert drawn.bias is not None and (drawn.bias[0] == 0).all() and torch.equal(drawn.bias[1], rows[1].bias)


def test_a_v_model_is_trained_on_v() -> None:
    v = NoiseSchedule.stable_diffusion("v")
    drawn = draw(pairs(), EMPTY, v, SSRTrainSettings(), torch.Generator().manual_seed(0))
    latents = torch.stack([p.latent for p in pairs()])
    torch.testing.assert_close(v.split(drawn.x, drawn.target, drawn.timesteps)[0], latents, atol=1e-4, rtol=1e-4)


def test_the_start() -> None:
    before = torch.get_rng_state()
    first, again, other = trainee().state_dict(), trainee().state_dict(), trainee(1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["aligner.to_q.weight"], other["aligner.to_q.weight"])
    copied, base = trainee(kind="copy"), random_unet()
    for layer, number in file_index(SMALL).items():
        part: Any = copied.layers.get_submodule(str(number))
        assert torch.equal(part.to_k_SSR.weight, base.block(layer).attn2.to_k.weight)
        assert torch.equal(part.to_v_SSR.weight, base.block(layer).attn2.to_v.weight)


def trained(steps: int, settings: SSRTrainSettings, seed: int = 0) -> tuple[Trainee, list[tuple[float, float]]]:
    base, model = random_unet(), trainee(seed)
    optimiser = optimizer(model, settings)
    fixed = batch(settings)
    return model, [training_step(model, base, fixed, optimiser, settings) for _ in range(steps)]


def test_steps_on_one_batch_lower_its_losses_and_repeat_bit_for_bit() -> None:
    settings = SSRTrainSettings(learning_rate=3e-3, consistency=0.1)
    model, losses = trained(8, settings)
    assert losses[-1][0] < 0.98 * losses[0][0] and losses[-1][1] < losses[0][1]
    again, repeated = trained(8, settings)
    assert repeated == losses
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), again.parameters(), strict=True))
    fresh = trainee()
    assert all(not torch.equal(p, q) for p, q in zip(model.parameters(), fresh.parameters(), strict=True))


def test_the_base_is_left_alone_and_nothing_changes_at_a_loss_that_is_not_finite() -> None:
    base, model, settings = random_unet(), trainee(), SSRTrainSettings()
    state = {key: tensor.clone() for key, tensor in base.state_dict().items()}
    training_step(model, base, batch(), optimizer(model, settings), settings)
    assert all(torch.equal(tensor, state[key]) for key, tensor in base.state_dict().items())
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    broken = batch()._replace(x=torch.full((3, 4, 8, 8), math.nan))
    with pytest.raises(TrainingError, match="the loss is nan: lower the learning rate"):
        training_step(model, base, broken, optimizer(model, settings), settings)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())


def test_settings_out_of_range_are_refused() -> None:
    for options, message in [
        ({"start": "zero"}, "start must be one of random, copy; got 'zero'"),
        ({"consistency_norm": "max"}, "consistency_norm must be one of sum, mean"),
        ({"prompt_dropout": 1.1}, r"prompt_dropout must be a number in 0\.\.1"),
        ({"learning_rate": math.nan}, "learning_rate must be a number"),
    ]:
        with pytest.raises(P3SError, match=message):
            replace(SSRTrainSettings(), **options)
