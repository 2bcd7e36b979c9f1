"""Training an SSR-Encoder on captioned pictures: what a step draws, repeating, continuing, keeping, sharing."""

from __future__ import annotations

import json
import math
import os
import sys
from pathlib import Path
from subprocess import run as run_command
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from ssr_runs import STEPS, frozen_models, latent_of, same, text_of, trained, trainer_on, write_pictures
from torch import Tensor

from p3s.errors import MissingPackageError, P3SError, TrainingError
from p3s.ssr import processes
from p3s.ssr.dataset import read_sample, seeded
from p3s.ssr.processes import Alone
from p3s.ssr.state_file import Keeper, State, load_state
from p3s.ssr.trainer import Report, RunSettings, Trainer
from p3s.ssr.training import SSRTrainSettings, step_loss


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


# a step


def test_a_batch_is_what_its_samples_say(file: Path) -> None:
    trainer = trainer_on(file, settings=SSRTrainSettings(prompt_dropout=0), batch_size=4)
    models, numbers = trainer.models, trainer.reader.numbers(20)
    with trainer.reader:
        samples = trainer.reader.read(20)
    batch = trainer.batch(samples, numbers)
    texts = text_of([sample.caption for sample in samples])
    assert torch.equal(batch.query, texts) and torch.equal(batch.context, texts) and batch.bias is None
    assert torch.equal(batch.states, torch.cat([models.vision.states(sample.seen[None]) for sample in samples]))
    latents = torch.stack([latent_of(sample.target) for sample in samples])
    torch.testing.assert_close(models.noise.add_noise(latents, batch.target, batch.timesteps), batch.x)
    assert len(set(batch.timesteps.tolist())) > 1 and not torch.equal(batch.target[0], batch.target[1])
    for row, number in enumerate(numbers):
        drawn = trainer.reader.data[trainer.reader.row(number)]
        assert samples[row].caption in drawn.captions
        assert torch.equal(trainer.batch([samples[row]], [number]).target[0], batch.target[row])


def test_prompts_are_dropped_as_published_and_queries_never(file: Path) -> None:
    trainer = trainer_on(file)
    sample = read_sample(trainer.reader.data[0], 32, 32, seeded(0))
    batch = trainer.batch([sample] * 400, range(400))
    empty, text = text_of(["", sample.caption])
    dropped = (batch.context == empty).flatten(1).all(1)
    assert dropped.float().mean().item() == pytest.approx(0.8, abs=0.06)
    assert torch.equal(batch.context[~dropped], text.expand(int((~dropped).sum()), -1, -1))
    assert torch.equal(batch.query, text.expand(400, -1, -1))
    half = trainer_on(file, settings=SSRTrainSettings(image_dropout=1)).batch([sample], [0])
    assert torch.equal(half.states[0], trainer.models.vision.zeros()[0]) and torch.equal(half.query[0], empty)


def test_checkpointing_changes_no_number(file: Path) -> None:
    plain, sparing = trainer_on(file), trainer_on(file, checkpointing=True)
    assert trained(plain) == trained(sparing) and same(plain.state(), sparing.state())


def test_the_loss_falls_on_a_few_pictures(tmp_path: Path) -> None:
    file = write_pictures(tmp_path, 2)
    settings = SSRTrainSettings(learning_rate=3e-3, prompt_dropout=0, consistency=0.1)
    trainer = trainer_on(file, settings=settings, batch_size=4, steps=40)
    held_out = range(10**6, 10**6 + 24)  # samples that no step has seen: other noise and timesteps
    samples = [trainer.reader._sample(trainer.reader.row(number), number) for number in held_out]
    batch = trainer.batch(samples, held_out)

    def losses() -> list[float]:
        with torch.no_grad():
            return [part.item() for part in step_loss(trainer.trainee, trainer.models.base, batch, settings)]

    before = losses()
    trained(trainer)
    assert all(now < 0.95 * was for was, now in zip(before, losses(), strict=True)), (before, losses())


# repeating and continuing


def test_equal_seeds_repeat_bit_for_bit_and_others_do_not(file: Path) -> None:
    before = torch.get_rng_state()
    one, again, other = trainer_on(file), trainer_on(file, workers=1), trainer_on(file, seed=1)
    assert trained(one) == trained(again) and same(one.state(), again.state())
    trained(other)
    assert not same(one.state(), other.state())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("stopped", [1, 2])
def test_stopped_and_continued_is_unbroken_bit_for_bit(file: Path, tmp_path: Path, stopped: int) -> None:
    unbroken, broken = trainer_on(file), trainer_on(file, steps=5)
    reports = trained(unbroken)
    begun = trained(broken, stopped)
    assert (len(begun), broken.done) == (stopped, stopped)
    keeper = Keeper(tmp_path / "ssr.safetensors", pytest.fail)
    keeper.save(broken.state(), broken.model(), {})
    continued = trainer_on(file)  # the number of steps may be another
    state = keeper.load()
    assert state is not None and same(state, broken.state())
    continued.restore(state)
    rest = trained(continued)
    assert [report[2:] for report in begun + rest] == [report[2:] for report in reports]
    assert same(continued.state(), unbroken.state())


def test_another_training_is_refused_and_what_differs_is_named(file: Path) -> None:
    state = trainer_on(file, facts={"seed": "0", "the U-Net": "ab", "gone": "1"}).state()
    other = trainer_on(file, facts={"seed": "1", "the U-Net": "ab", "new": "2"})
    message = "seed was 0, and is 1 now; new was absent, and is 2 now; gone was 1, and is absent now. Use the same ones"
    with pytest.raises(TrainingError, match=message):
        other.restore(state)
    assert other.done == 0


def test_a_changed_batch_continues_with_the_next_sample(file: Path, monkeypatch) -> None:
    """None is repeated and none left out, also by another number of processes."""
    seen: list[int] = []

    def batch(self: Trainer, samples: Any, numbers: Any) -> Any:
        seen.extend(numbers)
        return plain(self, samples, numbers)

    class Second(Alone):
        rank, count = 1, 2

    plain = Trainer.batch
    monkeypatch.setattr(Trainer, "batch", batch)
    first, larger = trainer_on(file), trainer_on(file, batch_size=3)
    trained(first, 2)
    larger.restore(first.state())
    trained(larger)
    assert seen == [0, 1, 2, 3, 4, 5, 6] and larger.state().samples == 7
    assert first.state().changed(larger.adjustable) == ["batch_size 3 (was 2)"]
    shared = trainer_on(file, Second(), batch_size=2, steps=4)
    shared.restore(larger.state())
    trained(shared)
    assert seen[7:] == [9, 10] and shared.state().samples == 11
    assert larger.state().changed(shared.adjustable) == ["batch_size 2 (was 3)", "processes 2 (was 1)"]


def test_a_changed_rate_counts_from_the_next_step(file: Path) -> None:
    rates = {"learning_rate": 1e-3, "weight_decay": 0.5}
    begun, changed = trainer_on(file), trainer_on(file, settings=SSRTrainSettings(**rates))
    trained(begun, 2)
    changed.restore(begun.state())
    assert begun.state().changed(changed.adjustable) == [
        "learning_rate 0.001 (was 5e-05)",
        "weight_decay 0.5 (was 0.01)",
    ]
    trained(changed)
    by_hand = trainer_on(file)
    with by_hand.reader:
        for report in by_hand.steps():
            if report.step == 2:
                by_hand.optimizer.inner.param_groups[0].update(lr=1e-3, weight_decay=0.5)
    found, expected = changed.state().weights, by_hand.state().weights
    assert all(torch.equal(found[name], weight) for name, weight in expected.items())


# what goes wrong


def test_an_unreadable_picture_ends_with_what_is_trained(tmp_path: Path) -> None:
    trainer = trainer_on(write_pictures(tmp_path, 6))
    row = trainer.reader.data[trainer.reader.row(trainer.reader.numbers(4)[1])]
    row.picture.write_bytes(b"no picture")
    with pytest.raises(TrainingError, match=rf"line {row.line}: .*{row.picture.name} is not in a picture format"):
        trained(trainer)
    assert trainer.done == 2 and trainer.whole
    short = trainer_on(write_pictures(tmp_path, 6))
    trained(short, 2)
    assert same(trainer.state(), short.state())


def test_a_loss_that_is_not_finite_changes_nothing(file: Path) -> None:
    def broken(picture: Tensor) -> Tensor:
        return latent_of(picture) * (math.nan if trainer.done else 1)

    trainer, short = trainer_on(file, models=frozen_models(latent=broken)), trainer_on(file, steps=1)
    with pytest.raises(TrainingError, match=r"the loss is nan: lower the learning rate$"):
        trained(trainer)
    trained(short)
    assert trainer.done == 1 and trainer.whole and same(trainer.state(), short.state())


def test_what_is_advised_against_nan_is_not_yet_so(file: Path) -> None:
    models = frozen_models(latent=lambda picture: latent_of(picture) * math.nan)
    trainer = trainer_on(file, models=models._replace(base=models.base.to(torch.bfloat16)), precision="bf16")
    trainer.arithmetic = lambda: torch.autocast("cpu", torch.bfloat16)
    with pytest.raises(TrainingError, match=r"the loss is nan: lower the learning rate, or train in fp32$"):
        trained(trainer)


def test_weights_of_a_step_that_failed_halfway_are_not_whole(file: Path, monkeypatch) -> None:
    trainer = trainer_on(file)
    monkeypatch.setattr(trainer.optimizer.inner, "step", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trained(trainer)
    assert not trainer.whole


def test_wrong_settings_are_refused() -> None:
    for options, message in [
        ({"steps": 0}, r"steps must be a whole number in 1\.\."),
        ({"batch_size": 2.5}, "batch_size must be a whole number"),
        ({"precision": "fp16"}, "precision must be one of fp32, bf16; got 'fp16'"),
    ]:
        with pytest.raises(P3SError, match=message):
            RunSettings(**options)  # type: ignore[arg-type]


# several processes


def test_alone_nothing_else_is_needed(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "accelerate", None)
    place, device = processes.launched("cpu")
    assert (type(place), device) == (Alone, "cpu")
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    with pytest.raises(MissingPackageError, match="Several processes need the package accelerate"):
        processes.launched("cpu")


def test_what_several_processes_cannot_do_is_refused(monkeypatch) -> None:
    def launch(kind: str, device: str | None = None) -> tuple[Alone, str | None]:
        accelerator = SimpleNamespace(
            distributed_type=SimpleNamespace(value=kind),
            process_index=1,
            num_processes=2,
            device=torch.device("cuda:1"),
        )
        package = SimpleNamespace(Accelerator=lambda **options: given.update(options) or accelerator)
        monkeypatch.setitem(sys.modules, "accelerate", package)
        return processes.launched(device)

    given: dict[str, object] = {}
    monkeypatch.setattr(torch.distributed, "is_torchelastic_launched", lambda: True)
    place, device = launch("MULTI_GPU")
    assert (place.rank, place.count, device) == (1, 2, "cuda:1") and given["mixed_precision"] == "no"
    launch("MULTI_CPU", "cpu")
    assert given["cpu"] is True
    with pytest.raises(TrainingError, match=r"accelerate is configured for DEEPSPEED; .* with --multi_gpu"):
        launch("DEEPSPEED")
    with pytest.raises(TrainingError, match="--device cuda:1: with several processes each has a device of its own"):
        launch("MULTI_GPU", "cuda:1")


def test_two_processes_train_what_one_does_on_both_their_rows(file: Path) -> None:
    pytest.importorskip("accelerate")
    folder, program = file.parent, Path(__file__).with_name("ssr_runs.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = run_command(
        [*launch, str(program), str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    begun, first = (load_state(folder / f"0 after {step}.state") for step in (1, STEPS))
    assert same(begun, load_state(folder / "1 after 1.state"))
    assert same(first, load_state(folder / f"1 after {STEPS}.state"))
    one, both, half = trainer_on(file, batch_size=4, steps=1), trainer_on(file, batch_size=4), trainer_on(file)
    _, reports, _ = trained(one), trained(both), trained(half)
    for name, (mean, square) in one.state().moments.items():  # of the gradients of one step, and their squares
        for found, expected in zip(begun.moments[name], (mean, square), strict=True):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-3 * expected.abs().max().item())

    def furthest(state: State) -> float:
        return max((state.weights[name] - w).abs().max().item() for name, w in first.weights.items())

    # A step moves a weight by about the learning rate, 5e-5, whatever the size of its gradient.
    assert furthest(both.state()) < 1e-5 < 5e-5 < furthest(half.state())
    told = [[Report(**each) for each in json.loads((folder / f"{rank}.json").read_text())] for rank in range(2)]
    assert told[0] == told[1]
    for found, expected in zip(told[0], reports, strict=True):
        assert found == pytest.approx(expected, rel=1e-5)
    assert (folder / "0.txt").read_text() == "2 steps, TrainingError: another process stopped; its message says why"
    assert (folder / "1.txt").read_text() == "2 steps, ZeroDivisionError: division by zero"
