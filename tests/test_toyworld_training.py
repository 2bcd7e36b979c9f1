"""Training the toy world: stopped runs that continue bit for bit, the learned codec, and the packed weights."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from p3s.toyworld import operations, train
from p3s.toyworld.codec import CHANNELS, Autoencoder
from p3s.toyworld.losses import LossOf, Pool
from p3s.toyworld.models import PATCH
from p3s.toyworld.scenes import prompt, scene
from p3s.toyworld.train import LOSSES, PARTS, Settings, follow, pack, rate_at, run
from p3s.toyworld.world import SSR_FILE, WEIGHTS, load_world, picture_of

SETTINGS = Settings(steps=4, batch=3, pool=12)
Out = Callable[[str], Path]


def flat(state: object, name: str = "") -> dict[str, object]:
    """All that a state holds, by its path."""
    if isinstance(state, dict):
        return {k: v for key, value in state.items() for k, v in flat(value, f"{name}/{key}").items()}
    return {name: state}


def assert_equal(one: Path, two: Path) -> None:
    first, second = (flat(torch.load(file, weights_only=True)) for file in (one, two))
    assert first.keys() == second.keys()
    for name, value in first.items():
        if name == "/seconds":
            continue
        same = torch.equal(value, second[name]) if isinstance(value, Tensor) else value == second[name]
        assert same, f"{name} differs"


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """As the command has it; small steps are also many times faster so beside other work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with drawn scenes and a finished codec."""
    folder = tmp_path_factory.mktemp("drawn")
    run("codec", Settings(steps=2, batch=3, pool=12), folder)
    Pool("judge", SETTINGS.pool, folder)
    return folder


@pytest.fixture
def out(drawn: Path, tmp_path: Path) -> Out:
    """Makes folders to train in, with the drawn scenes and the finished codec."""
    return lambda name: Path(shutil.copytree(drawn, tmp_path / name))


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_run_continues_bit_for_bit(part: str, bfloat16: bool, out: Out) -> None:
    settings = Settings(steps=4, batch=3, pool=12, bfloat16=bfloat16)
    unbroken, stopped = out("unbroken"), out("stopped")
    if part == "codec":
        (unbroken / "codec.pt").unlink()
        (stopped / "codec.pt").unlink()
    run(part, settings, unbroken)
    run(part, settings, stopped, stop=1)
    assert torch.load(stopped / f"{part}.pt", weights_only=True)["step"] == 1
    run(part, settings, stopped, minutes=0)  # one step
    assert torch.load(stopped / f"{part}.pt", weights_only=True)["step"] == 2
    run(part, settings, stopped)
    assert_equal(unbroken / f"{part}.pt", stopped / f"{part}.pt")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_after_its_step(number: signal.Signals, out: Out, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken, stopped = out("unbroken"), out("stopped")
    run("judge", SETTINGS, unbroken)
    make, before = LOSSES["judge"], signal.getsignal(number)

    def interrupted(modules: nn.ModuleDict, pool: Pool) -> LossOf:
        loss_of = make(modules, pool)

        def loss(*arguments: object) -> Tensor:
            signal.raise_signal(number)
            return loss_of(*arguments)  # type: ignore[arg-type]

        return loss

    with monkeypatch.context() as patch:
        patch.setitem(train.LOSSES, "judge", interrupted)
        run("judge", SETTINGS, stopped)
    assert torch.load(stopped / "judge.pt", weights_only=True)["step"] == 1
    assert signal.getsignal(number) is before, "the second signal, and those after the run, must act as ever"
    run("judge", SETTINGS, stopped)
    assert_equal(unbroken / "judge.pt", stopped / "judge.pt")
    assert signal.getsignal(number) is before


def test_only_the_number_of_steps_may_change(out: Out) -> None:
    folder = out("judge")
    run("judge", SETTINGS, folder, stop=2)
    with pytest.raises(SystemExit, match=r"judge\.pt was trained with rate 0\.0015 \(asked for 0\.1\)"):
        run("judge", Settings(steps=4, batch=3, pool=12, rate=0.1), folder)
    run("judge", SETTINGS, folder, stop=3)
    run("judge", Settings(steps=6, batch=3, pool=12), folder)
    state = torch.load(folder / "judge.pt", weights_only=True)
    assert state["step"] == 6
    assert state["runs"] == [(0, 4), (3, 6)], "one cannot tell which learning rates it had"


def test_other_pairs_are_another_training(out: Out) -> None:
    folder = out("ssr")
    run("ssr", SETTINGS, folder, stop=1)
    with pytest.raises(SystemExit, match=r"ssr\.pt was trained with pairs other \(asked for same\)"):
        run("ssr", replace(SETTINGS, pairs="same"), folder)


def test_an_encoder_continues_on_its_own_world_alone(out: Out, tmp_path: Path) -> None:
    folder, weights = out("ssr"), tmp_path / "weights"
    shutil.copytree(WEIGHTS, weights, ignore=shutil.ignore_patterns(SSR_FILE))
    run("ssr", SETTINGS, folder, stop=1, weights=weights)
    tensors = load_file(weights / "codec.safetensors")
    name = next(name for name, tensor in tensors.items() if tensor.ndim == 4)
    save_file({**tensors, name: tensors[name] * 1.1}, weights / "codec.safetensors", {"made": "{}"})
    with pytest.raises(SystemExit, match=r"ssr\.pt was trained with world [0-9a-f]{64} \(asked for [0-9a-f]{64}\)"):
        run("ssr", SETTINGS, folder, weights=weights)


def test_only_the_encoders_state_has_pairs(out: Out) -> None:
    """States of before there were any continue."""
    folder = out("judge")
    run("judge", replace(SETTINGS, pairs="same"), folder, stop=1)
    run("judge", SETTINGS, folder)
    assert "pairs" not in torch.load(folder / "judge.pt", weights_only=True)["settings"]


def test_the_base_waits_for_a_finished_codec(out: Out, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="train it first"):
        run("base", SETTINGS, tmp_path)
    folder = out("unfinished")
    (folder / "codec.pt").unlink()
    run("codec", SETTINGS, folder, stop=3)
    with pytest.raises(SystemExit, match="train it first"):
        run("base", SETTINGS, folder)


def test_learning_rate_and_average() -> None:
    assert rate_at(0, 1000) == pytest.approx(0.01)  # a hundredth of the warm-up
    assert rate_at(500, 1000) == pytest.approx((1 + 0.01) / 2)
    assert rate_at(1000, 1000) == pytest.approx(0.01)
    average = {"weight": torch.tensor([2.0]), "count": torch.tensor(1)}
    follow(average, {"weight": torch.tensor([4.0]), "count": torch.tensor(7)}, 0.75)
    assert average["weight"] == 2.5 and average["count"] == 7


def test_fitted_latents_have_unit_deviation_and_known_colours() -> None:
    pictures = torch.stack([picture_of(scene("train", i)) for i in range(40)])
    torch.manual_seed(0)
    codec = Autoencoder()
    codec.fit(pictures)
    with torch.no_grad():
        latents = codec.encode(pictures)
    assert latents.shape == (40, CHANNELS, 12, 12)
    variance, mean = torch.var_mean(latents, (0, 2, 3))
    assert torch.allclose(mean, torch.zeros(CHANNELS), atol=1e-3)
    assert torch.allclose(variance, torch.ones(CHANNELS), atol=0.02)
    # Least squares: what is left of the colours has nothing to do with the latents, nor with a constant.
    colours = pictures.unflatten(1, (12, PATCH)).unflatten(3, (12, PATCH)).mean((2, 4))
    told = latents.movedim(1, -1) @ codec.preview[:-1] + codec.preview[-1]
    rest = (colours - told).flatten(0, 2)
    assert rest.mean(0).abs().max() < 1e-4
    assert (latents.movedim(1, -1).flatten(0, 2).T @ rest / len(rest)).abs().max() < 1e-4
    assert rest.square().mean() < colours.flatten(0, 2).var(0).mean()


def test_a_codec_has_the_shapes_of_its_weights() -> None:
    state = Autoencoder(channels=4, width=16).state_dict()
    again = Autoencoder.from_state_dict(state)
    assert {k: v.shape for k, v in again.state_dict().items()} == {k: v.shape for k, v in state.items()}


def test_products_in_bfloat16_keep_weights_and_gradients_in_float32() -> None:
    torch.manual_seed(0)
    for half, full, shape in (
        (operations.Linear(64, 32), nn.Linear(64, 32), (8, 64)),
        (operations.Conv2d(16, 8, 3, padding=1), nn.Conv2d(16, 8, 3, padding=1), (2, 16, 12, 12)),
    ):
        full.load_state_dict(half.state_dict())
        x, grads = torch.randn(shape), []
        for layer in (half, full):
            layer(x).square().sum().backward()
            grads.append(layer.weight.grad)
        assert half(x).dtype == grads[0].dtype == half.weight.dtype == torch.float32
        # Eight bits of each factor are kept: 2^-9 of it is lost at most, in each product's two factors and result.
        error = half(x) - full(x)
        assert error.abs().max() > 0 and error.square().mean() < (2**-7) ** 2 * full(x).square().mean()
        assert (grads[0] - grads[1]).square().mean() < (2**-6) ** 2 * grads[1].square().mean()


def test_packed_weights_are_the_averages_and_load(out: Out, tmp_path: Path) -> None:
    folder, weights = out("all"), tmp_path / "weights"
    for part in ("base", "clip", "judge", "ssr"):
        run(part, Settings(steps=1, batch=3, pool=12), folder)
    pack(folder, weights)
    world = load_world(weights)
    average = torch.load(folder / "ssr.pt", weights_only=True)["average"]
    assert world.ssr is not None
    assert torch.equal(world.ssr.aligner.to_q.weight, average["ssr.aligner.to_q.weight"])
    assert '"trained_steps": 1' in world.made["ssr"]
    for part in ("codec", "base", "clip", "judge"):
        average = torch.load(folder / f"{part}.pt", weights_only=True)["average"]
        for key, value in average.items():
            module, name = key.split(".", 1)
            given = getattr(world, module).state_dict()[name]
            kept = value.half() if value.is_floating_point() else value
            assert torch.equal(given.float(), kept.float()), key
        assert f'"trained_steps": {2 if part == "codec" else 1}' in world.made[part]
    assert world.start([5, 6]).shape == (2, CHANNELS, 12, 12)
    assert torch.equal(world.start([5, 6])[1], world.start([6])[0])
    assert world.sample(prompt("dog"), [5], steps=2).shape == (1, 48, 48, 3)
    latents = world.codec.encode(picture_of(scene("heldout", 0))[None])
    assert latents.shape == (1, CHANNELS, 12, 12)


def test_the_stored_weights_fill_every_model() -> None:
    """The loader takes what it is not told otherwise from the names and shapes in the files."""
    world = load_world(WEIGHTS)
    assert world.start([0]).shape[1] == world.codec.encode(picture_of(scene("test", 0))[None]).shape[1]
