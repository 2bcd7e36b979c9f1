"""How torch computes during a training: what is switched is switched back, and what is finite."""

import math

import pytest
import torch
from small import TOKEN_DIM, random_examples, random_unet, train

from p3s import arithmetic
from p3s.arithmetic import SMALL, deterministic, few_threads
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.unet_config import UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.gradients import read
from p3s.training.settings import TrainSettings

NOISE = NoiseSchedule.stable_diffusion()
TINY = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=24)
EMPTY = torch.zeros(7, TINY.context_dim)
CPU = torch.device("cpu")


@pytest.fixture
def threads():
    """Several threads, wherever the tests run."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def run(callback=None):
    base = random_unet(TINY)
    copy = start_copy(base.state_dict(), CopySettings(), TOKEN_DIM)
    examples = random_examples(2, size=8, config=TINY)
    return copy, train(base, copy, examples, EMPTY, NOISE, TrainSettings(steps=2), callback)


def switches():
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.backends.cudnn.deterministic,
        torch.backends.cudnn.benchmark,
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.get_num_threads(),
    )


@pytest.mark.parametrize("fails", [False, True])
def test_what_a_training_switches_is_switched_back(threads, fails):
    before, within = switches(), []

    def look(report):
        within.append(switches())
        if fails:
            raise RuntimeError("a cable was pulled")

    _, result = run(look)
    assert (result.error is None) != fails
    assert within[0] == (True, False, True, False, False, 1)
    assert switches() == before


@pytest.mark.parametrize("obeys", [True, False])
def test_without_deterministic_products_torch_only_prefers_them(monkeypatch, obeys):
    """On CUDA torch refuses a matrix product unless CUBLAS_WORKSPACE_CONFIG is one of two values."""
    before, asked = switches(), []

    class One:
        def __matmul__(self, other):
            asked.append(switches()[:2])
            if not obeys:
                raise RuntimeError("Deterministic behavior was enabled with ..., set CUBLAS_WORKSPACE_CONFIG=:4096:8")

    monkeypatch.setattr(arithmetic.torch, "ones", lambda *_, device: One())
    with deterministic(torch.device("cuda")):
        assert switches()[:2] == (True, not obeys)
    assert asked == [(True, False)], "the product is tried where nothing else is allowed"
    assert switches() == before


def test_the_number_of_threads_does_not_change_what_a_small_model_learns(threads):
    """Sums are split by threads, so their number decides the last bits."""
    weights = []
    for number in (1, 2, 3):
        torch.set_num_threads(number)
        weights.append(run()[0].state_dict())
    assert all(torch.equal(weights[0][key], other[key]) for other in weights[1:] for key in other)


@pytest.mark.parametrize(("count", "device", "limited"), [(9, "cpu", True), (9, "meta", False), (SMALL, "cpu", False)])
def test_only_small_networks_on_the_cpu_have_one_thread(threads, count, device, limited):
    network = torch.nn.ParameterList([torch.empty(count, dtype=torch.float16, device=device)])
    with few_threads(network):
        assert torch.get_num_threads() == (1 if limited else threads)
    with pytest.raises(ZeroDivisionError), few_threads(network):
        1 / 0  # noqa: B018
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("where", "value", "finite"),
    [
        ("loss", 1e38, True),
        ("a gradient", 1e18, True),
        ("a gradient", 1e20, False),  # its square is infinite in float32
        *((where, value, False) for where in ("loss", "a gradient") for value in (math.inf, -math.inf, math.nan)),
    ],
)
def test_what_is_finite(where, value, finite):
    """No gradient is written to."""
    first, second, third = (torch.nn.Parameter(torch.ones(2, 3)) for _ in range(3))  # the third has no gradient
    first.grad, second.grad = torch.ones(2, 3), torch.ones(2, 3)
    loss = torch.tensor(value if where == "loss" else 1.0)
    if where == "a gradient":
        second.grad[1, 2] = value
    versions = [p.grad._version for p in (first, second)]
    losses = loss, torch.tensor(2.0), torch.tensor(3.0)
    numbers, found = read(losses, [first, second, third])
    assert found == finite
    assert torch.equal(torch.tensor(numbers).nan_to_num(), torch.stack(losses).nan_to_num())
    assert [p.grad._version for p in (first, second)] == versions


def test_without_gradients_the_loss_decides():
    """As in fp16, where the scaler skips those that are infinite."""
    losses = torch.tensor(1.0), torch.tensor(2.0), torch.tensor(3.0)
    assert read(losses, ()) == ([1.0, 2.0, 3.0], True)
