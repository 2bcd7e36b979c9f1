"""What the optimiser of a training does besides AdamW: which weights decay, and the warm-up of the rates."""

import pytest
import torch
from small import TOKEN_DIM, random_examples, random_unet, train

from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.unet_config import UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.settings import TrainSettings

NOISE = NoiseSchedule.stable_diffusion()
TINY = UNetConfig.build(32, (1,), res_blocks=1, transformer_depth=(1,), context_dim=8)
EMPTY = torch.randn(7, TINY.context_dim, generator=torch.Generator().manual_seed(99))


@pytest.fixture(scope="module")
def base():
    return random_unet(TINY)


def trained(base, kind, callback=None, **settings):
    """A copy whose zero convolutions and changes start away from 0, after a training, and its weights before it."""
    copy = start_copy(base.state_dict(), CopySettings(kind=kind, rank=2, weight="learned"), TOKEN_DIM)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for p in copy.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=generator))
    before = {name: p.detach().clone() for name, p in copy.named_parameters()}
    train(base, copy, random_examples(1, 8, config=TINY), EMPTY, NOISE, TrainSettings(**settings), callback)
    return before, dict(copy.named_parameters())


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_matrices_and_convolutions_decay_and_nothing_else(base, kind):
    """AdamW takes rate * decay * weight off, whatever the gradient is."""
    before, without = trained(base, kind, steps=1, learning_rate=1e-2, weight_decay=0.0)
    _, found = trained(base, kind, steps=1, learning_rate=1e-2, weight_decay=0.5)
    decayed = 0
    for name, p in found.items():
        if p.ndim > 1 and not name.startswith("learned_weight.") and not torch.equal(without[name], before[name]):
            torch.testing.assert_close(p, without[name] - 1e-2 * 0.5 * before[name], rtol=0, atol=1e-6)
            decayed += 1
        else:
            assert torch.equal(p, without[name]), name
    assert decayed > 30


@pytest.mark.parametrize(("warmup", "shares"), [(0, [1, 1, 1, 1, 1]), (4, [0.25, 0.5, 0.75, 1, 1])])
def test_all_rates_rise_linearly_and_stay(base, monkeypatch, warmup, shares):
    seen, step = [], torch.optim.AdamW.step

    def look(self, *arguments):
        seen.append([group["lr"] for group in self.param_groups])
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", look)
    trained(base, "lora", steps=5, learning_rate=8e-4, weight_learning_rate=1e-2, warmup_steps=warmup)
    assert seen == [[8e-4 * share, 8e-4 * share, 1e-2 * share] for share in shares]
