"""Interrupted and resumed is uninterrupted: states of a training, and their files."""

import os
from dataclasses import replace
from functools import cache

import pytest
import torch
from small import TOKEN_DIM, random_examples, random_unet, train

from p3s.errors import TrainingError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.unet_config import UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training import gradients
from p3s.training.settings import TrainSettings
from p3s.training.state import Checkpoints, Divergence
from p3s.training.state_file import load_head, load_state

NOISE = NoiseSchedule.stable_diffusion()
TINY = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=24)
EMPTY = torch.randn(7, TINY.context_dim, generator=torch.Generator().manual_seed(99))
EXAMPLES = random_examples(5, size=8, config=TINY)


@pytest.fixture(scope="module")
def base():
    return random_unet(TINY)


def fresh(base, **settings):
    return start_copy(base.state_dict(), CopySettings(**settings), TOKEN_DIM)


def run(base, copy, stop=None, examples=EXAMPLES, noise=NOISE, empty=EMPTY, checkpoints=None, resume=None, **settings):
    callback = settings.pop("callback", None if stop is None else lambda report: report.step < stop)
    settings = TrainSettings(**{"steps": 9, "batch_size": 2, "learning_rate": 1e-3, **settings})
    return train(base, copy, examples, empty, noise, settings, callback, checkpoints, resume)


@cache
def _uninterrupted(copy_settings, settings):
    base = random_unet(TINY)
    copy = fresh(base, **dict(copy_settings))
    return copy, run(base, copy, **dict(settings))


def uninterrupted(copy_settings=(), **settings):
    """The copy after a training that nothing interrupts, and what became of it; trained once for all tests."""
    return _uninterrupted(tuple(dict(copy_settings).items()), tuple(settings.items()))


@pytest.fixture
def kept(tmp_path):
    return Checkpoints(tmp_path / "state.p3s")


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize(
    ("copy_settings", "settings"),
    [
        ({}, {}),
        ({"kind": "lora", "rank": 4, "weight": "learned"}, {}),
        ({"kind": "lora", "rank": 4}, {"precision": "fp16"}),
        ({"kind": "lora", "rank": 4}, {"precision": "bf16"}),
        (
            {"kind": "lora", "rank": 4, "alpha": 8.0, "weight": "learned"},
            {"timesteps": "stratified", "loss_weighting": "min_snr", "warmup_steps": 6},
        ),
    ],
    ids=["full", "lora with a learned weight", "fp16", "bf16", "stratified, min_snr, warm-up, alpha"],
)
@pytest.mark.parametrize("stop", [1, 5])
def test_interrupted_and_resumed_is_uninterrupted(base, kept, copy_settings, settings, stop):
    """Five examples in batches of two: the stops lie within an epoch, whose rest must not be drawn anew."""
    first, second = (fresh(base, **copy_settings) for _ in range(2))
    whole, expected = uninterrupted(copy_settings, **settings)
    interrupted = run(base, first, stop, checkpoints=kept, **settings)
    assert not interrupted.completed and len(interrupted.reports) == stop
    resumed = run(base, second, resume=load_state(kept.path), checkpoints=kept, **settings)
    assert resumed.completed
    assert resumed.reports == expected.reports
    assert same(whole, second)
    assert not same(whole, first)


def test_the_scale_of_the_gradients_is_resumed(base, kept):
    run(base, fresh(base), 2, checkpoints=kept, precision="fp16")
    state = load_state(kept.path)
    assert state.scaler["scale"] > 1
    state = replace(state, scaler={**state.scaler, "scale": 4.0})
    run(base, fresh(base), 3, checkpoints=kept, resume=state, precision="fp16")
    assert load_state(kept.path).scaler["scale"] == 4.0


def test_a_state_is_kept_on_the_way(base, tmp_path):
    kept, seen = Checkpoints(tmp_path / "a" / "state.p3s", every=2), []

    def look(report):
        seen.append(len(load_state(kept.path).reports) if kept.path.exists() else 0)

    train(base, fresh(base), EXAMPLES, EMPTY, NOISE, TrainSettings(steps=6), look, kept)
    assert seen == [0, 2, 2, 4, 4, 4]  # the state after the last step is the result
    kept.discard()
    kept.discard()
    assert os.listdir(kept.path.parent) == []


def test_after_an_error_it_goes_on_from_the_last_good_step(base, kept, monkeypatch):
    (whole, _), copy, again = uninterrupted(), fresh(base), fresh(base)
    calls = []

    def fail(*arguments):
        calls.append(0)
        if len(calls) == 4:
            raise RuntimeError("a cable was pulled")
        return read(*arguments)

    read = gradients.read
    monkeypatch.setattr(gradients, "read", fail)
    failed = run(base, copy, checkpoints=kept)
    assert "cable" in str(failed.error)
    assert len(failed.reports) == 3
    monkeypatch.undo()
    assert run(base, again, resume=load_state(kept.path)).completed
    assert same(again, whole)


def test_an_optimiser_that_fails_half_way_leaves_the_state_before(base, tmp_path, monkeypatch):
    kept, copy = Checkpoints(tmp_path / "state.p3s", every=2), fresh(base)
    step, calls = torch.optim.AdamW.step, []

    def fail(self, *arguments):
        calls.append(0)
        if len(calls) == 4:
            next(copy.parameters()).data.add_(1)
            raise RuntimeError("half way")
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.AdamW, "step", fail)
    failed = run(base, copy, checkpoints=kept)
    assert "half way" in str(failed.error)
    assert len(load_state(kept.path).reports) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 2e-3}, r"learning_rate \(was 0.001, is 0.002\)"),
        ({"seed": 1}, "seed"),
        ({"precision": "bf16"}, "precision"),
        ({"timesteps": "stratified"}, r"timesteps \(was 'uniform', is 'stratified'\)"),
        ({"warmup_steps": 3}, r"warmup_steps \(was 0, is 3\)"),
        ({"examples": EXAMPLES[::-1]}, "references or their prompts"),
        ({"examples": EXAMPLES[:4]}, "references or their prompts"),
        (
            {"examples": [*EXAMPLES[:4], replace(EXAMPLES[4], loss_mask=torch.ones(8, 8))]},
            "references or their prompts",
        ),
        ({"empty": EMPTY + 1}, "the empty prompt"),
        ({"noise": NoiseSchedule(NOISE.alphas_cumprod, "v")}, r"prediction \(was eps, is v\)"),
        ({"noise": NoiseSchedule(NOISE.alphas_cumprod**2)}, "the noise schedule"),
    ],
)
def test_other_inputs_are_refused(base, kept, change, message):
    run(base, fresh(base), 2, checkpoints=kept)
    with pytest.raises(TrainingError, match=message):
        run(base, fresh(base), resume=load_state(kept.path), **change)


def test_another_base_or_copy_is_refused(base, kept):
    run(base, fresh(base), 2, checkpoints=kept)
    other = random_unet(TINY, seed=1)
    with pytest.raises(TrainingError, match="the base model"):
        run(other, fresh(other), resume=load_state(kept.path))
    with pytest.raises(TrainingError, match=r"kind \(was 'full', is 'lora'\)"):
        run(base, fresh(base, kind="lora"), resume=load_state(kept.path))
    with pytest.raises(TrainingError, match=r"alpha \(was 0\.0, is 8\.0\)"):
        run(base, fresh(base, alpha=8.0), resume=load_state(kept.path))


def test_tensors_that_a_gpu_gave_a_second_time_are_the_same_references(base, kept):
    """Their last bits may differ; those of the interrupted training are used."""
    (whole, _), copy = uninterrupted(), fresh(base)
    run(base, fresh(base), 2, checkpoints=kept)
    again = [replace(e, latent=e.latent * 1.0001, prompt=e.prompt * 0.9999) for e in EXAMPLES]
    assert load_head(kept.path).same_references(again, EMPTY * 1.0001)
    assert not load_state(kept.path).same_references(again, EMPTY * 1.01)
    assert not load_state(kept.path).same_references([replace(e, prompt=e.prompt * 1.01) for e in EXAMPLES], EMPTY)
    assert run(base, copy, examples=again, resume=load_state(kept.path)).completed
    assert same(copy, whole)


def test_more_steps_and_checkpointing_may_be_asked_for(base, kept):
    (whole, _), copy = uninterrupted(), fresh(base)
    run(base, fresh(base), checkpoints=kept, stop=4, steps=5)
    resumed = run(base, copy, resume=load_state(kept.path), checkpointing=True)
    assert resumed.completed and all(r.total == 9 for r in resumed.reports)
    assert same(copy, whole)
    assert run(base, fresh(base), resume=load_state(kept.path), steps=4).completed


def test_a_warm_up_does_not_depend_on_the_number_of_steps(base, kept):
    whole, copy = fresh(base), fresh(base)
    expected = run(base, whole, warmup_steps=6)
    run(base, fresh(base), checkpoints=kept, stop=4, steps=5, warmup_steps=6)
    assert run(base, copy, resume=load_state(kept.path), warmup_steps=6).reports == expected.reports
    assert same(copy, whole)


# Weight decay: earlier versions had one group of parameters for all but the learned weight


def with_one_group(copy, settings):
    """The optimiser of earlier versions."""
    known = {id(p) for p in copy.learned_weight.parameters()} if copy.learned_weight else set()
    groups = [{"params": [p for p in copy.parameters() if id(p) not in known]}]
    if known:
        fresh = {"params": list(copy.learned_weight.parameters())}
        groups.append(fresh | {"lr": settings.weight_learning_rate, "weight_decay": 0.0})
    return torch.optim.AdamW(groups, lr=settings.learning_rate, weight_decay=settings.weight_decay)


@pytest.mark.parametrize("copy_settings", [{}, {"kind": "lora", "rank": 4, "weight": "learned"}], ids=["full", "lora"])
def test_a_training_in_which_all_decays_is_continued_as_it_was_started(base, kept, monkeypatch, copy_settings):
    whole, other, copy = (fresh(base, **copy_settings) for _ in range(3))
    with monkeypatch.context() as before:
        before.setattr("p3s.training.loop.make_optimizer", with_one_group)
        expected = run(base, whole, weight_decay=1.0)
        run(base, fresh(base, **copy_settings), 3, checkpoints=kept, weight_decay=1.0)
    first = load_state(kept.path)
    assert len(first.optimizer["param_groups"]) == (2 if "weight" in copy_settings else 1)
    run(base, fresh(base, **copy_settings), 6, resume=first, checkpoints=kept, weight_decay=1.0)
    second = load_state(kept.path)
    assert [g["weight_decay"] for g in second.optimizer["param_groups"]][:2] == [1.0, 1.0]
    assert run(base, copy, resume=second, weight_decay=1.0).reports == expected.reports
    assert same(copy, whole)
    run(base, other, weight_decay=1.0)
    assert not same(other, whole)


def test_fewer_steps_than_were_trained_are_refused(base, kept):
    run(base, fresh(base), checkpoints=kept, stop=4)
    with pytest.raises(TrainingError, match="already has 4 steps, and 3 are asked for: ask for at least 4"):
        run(base, fresh(base), resume=load_state(kept.path), steps=3)


# A loss that is no longer finite


def diverged(base, kept, monkeypatch, at=4, resume=None, **settings):
    """A training that ends because the gradients of a step are not finite."""
    read, calls = gradients.read, []

    def explode(*arguments):
        calls.append(0)
        numbers, finite = read(*arguments)
        return numbers, finite and len(calls) != at

    monkeypatch.setattr(gradients, "read", explode)
    result = run(base, fresh(base), checkpoints=kept, resume=resume, **settings)
    monkeypatch.undo()
    assert result.diverged and not result.completed
    return result


@pytest.mark.parametrize(("every", "step"), [(1, 3), (2, 2), (0, 0)])
def test_the_last_state_before_it_is_left(base, kept, monkeypatch, every, step):
    """Not the weights of the step before, which are spoiled, and without another state the untrained ones."""
    result = diverged(base, replace(kept, every=every), monkeypatch)
    state, copy = load_state(kept.path), fresh(base)
    assert (len(result.reports), result.kept, len(state.reports)) == (3, step, step)
    assert state.diverged == Divergence(4, {"learning_rate": "0.001", "precision": "'fp32'"})
    if step:
        run(base, copy, stop=step)
        assert all(torch.equal(weight, state.weights[key]) for key, weight in copy.state_dict().items())
    else:
        assert not state.weights


@pytest.mark.parametrize(("every", "how"), [(3, "resume from step 3"), (0, "start over")])
def test_with_the_same_settings_it_is_not_run_into_the_same_again(base, kept, monkeypatch, every, how):
    error = diverged(base, replace(kept, every=every), monkeypatch).error
    assert str(error) == "the loss is no longer finite at step 4 of 9: lower learning_rate (now 0.001)"
    for worse in ({"learning_rate": 2e-3}, {"learning_rate": 5e-4, "precision": "fp16"}):
        with pytest.raises(TrainingError, match=r"only be resumed with the inputs it started with; these differ:"):
            run(base, fresh(base), resume=load_state(kept.path), **worse)
    with pytest.raises(TrainingError, match=rf"step 4, .* To {how}, lower learning_rate \(now 0.001\); .* resume off"):
        run(base, fresh(base), resume=load_state(kept.path))


def test_with_a_lower_rate_it_goes_on_from_the_last_state(base, kept, monkeypatch):
    diverged(base, replace(kept, every=2), monkeypatch)
    state, copy = load_state(kept.path), fresh(base)
    assert state.may_go_on(TrainSettings(learning_rate=1e-4))
    result = run(base, copy, resume=state, checkpoints=kept, learning_rate=1e-4)
    assert result.completed and not result.diverged
    assert result.reports[:2] == tuple(replace(report, total=9) for report in state.reports)
    assert result.changes == ((2, "learning_rate", "0.001", "0.0001"),)
    unchanged = replace(state, diverged=None)
    same_rate = fresh(base)
    run(base, same_rate, resume=unchanged)
    moved = [
        torch.stack([(p - state.weights[k]).abs().max() for k, p in c.state_dict().items()]) for c in (copy, same_rate)
    ]
    assert moved[0].max() < moved[1].max() / 4, "the optimiser took the rate of before"


def test_without_a_state_before_it_begins_anew_with_a_lower_rate(base, kept, monkeypatch):
    diverged(base, kept, monkeypatch)
    anew, copy = fresh(base), fresh(base)
    result = run(base, copy, resume=load_state(kept.path), learning_rate=1e-4)
    assert result == run(base, anew, learning_rate=1e-4), "no word of a change: no step was trained at the other rate"
    assert same(copy, anew)


def test_a_lower_rate_that_is_not_low_enough_comes_back_to_the_same_state(base, kept, monkeypatch):
    diverged(base, replace(kept, every=2), monkeypatch)
    result = diverged(base, kept, monkeypatch, at=2, resume=load_state(kept.path), learning_rate=1e-4)
    state = load_state(kept.path)
    assert (len(result.reports), result.kept, len(state.reports)) == (3, 2, 2)
    assert state.diverged == Divergence(4, {"learning_rate": "0.0001", "precision": "'fp32'"})
    for rate in (1e-3, 1e-4):
        with pytest.raises(TrainingError, match=r"no longer finite|only be resumed with the inputs it started with"):
            run(base, fresh(base), resume=state, learning_rate=rate)
    result = run(base, fresh(base), resume=state, learning_rate=1e-5)
    assert result.completed
    assert result.changes == ((2, "learning_rate", "0.001", "1e-05"),)


def test_what_was_changed_is_remembered_over_a_second_interruption(base, kept, monkeypatch):
    diverged(base, replace(kept, every=3), monkeypatch, precision="bf16")
    better = {"learning_rate": 1e-4, "precision": "fp32"}
    run(base, fresh(base), 6, resume=load_state(kept.path), checkpoints=kept, **better)
    state = load_state(kept.path)
    assert state.diverged is None
    result = run(base, fresh(base), resume=state, **better)
    assert result.completed
    assert result.changes == ((3, "learning_rate", "0.001", "0.0001"), (3, "precision", "bf16", "fp32"))


def test_only_a_training_that_diverged_goes_on_with_another_rate(base, kept, monkeypatch):
    run(base, fresh(base), 2, checkpoints=kept)
    assert not load_state(kept.path).may_go_on(TrainSettings(learning_rate=1e-4))
    diverged(base, kept, monkeypatch)
    assert load_head(kept.path).may_go_on(TrainSettings(learning_rate=1e-4))
    assert not load_state(kept.path).may_go_on(TrainSettings(learning_rate=1e-3))
