"""The toy world's benchmark: what it counts, that methods get equal work, and that a run continues."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import toyworld
from benchmarks.toyworld_methods import METHODS, TABLES
from benchmarks.toyworld_metrics import clip_scores, interval, portraits, score
from p3s.errors import MaskError
from p3s.toyworld.scenes import BACKGROUNDS, prompt, render, scene
from p3s.toyworld.world import ToyWorld, load_world, picture_of


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    return load_world()


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["toyworld", *map(str, arguments)])
    toyworld.main()


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_tables_name_methods_that_exist() -> None:
    for names in TABLES.values():
        assert set(names) <= set(METHODS)


def test_low_rank_copies_are_also_trained_at_rates_of_their_own() -> None:
    """At the full copy's rate they learn less in as many steps; all else must be equal for the rows to compare."""
    names = TABLES["kind"]
    settings = [toyworld.settings_of(METHODS[name], toyworld.Budget(), 0) for name in names]
    rates = [each.learning_rate / settings[0].learning_rate for each in settings]
    assert rates == pytest.approx([1, 1, 3, 10])
    assert len({replace(each, learning_rate=1.0) for each in settings}) == 1
    assert len({replace(METHODS[name], rate=1.0) == METHODS["p3s-lora"] for name in names[1:]}) == 1


def test_methods_that_differ_in_sampling_alone_share_a_training(world: ToyWorld) -> None:
    """And their pictures differ."""
    names = TABLES["weight_on"]
    assert len(names) == 8 and len({repr(METHODS[name].trained) for name in names}) == 1
    assert repr(METHODS["p3s-lora"].trained) != repr(METHODS["p3s"].trained)
    kept: dict[str, toyworld.Trained] = {}
    budget = toyworld.Budget(steps=1, batch=1, backgrounds=1, seeds=1, sample_steps=2)
    shown = {name: toyworld.run_one(world, name, 0, budget, kept)[1] for name in ("p3s", "p3s-attention", "fixed")}
    assert len(kept) == 1
    assert not torch.equal(shown["p3s"][-1], shown["p3s-attention"][-1])
    assert not torch.equal(shown["p3s"][-1], shown["fixed"][-1])


@pytest.mark.parametrize(
    ("name", "train", "alpha", "rate"),
    [
        ("stratified", {"timesteps": "stratified"}, None, 1),
        ("min-snr", {"loss_weighting": "min_snr"}, None, 1),
        ("warm-up", {"warmup_steps": 10}, None, 1),
        ("no-dropout", {"prompt_dropout": 0.0}, None, 1),
        ("p3s-lora-alpha2", {}, 32.0, 1),
        ("p3s-lora-alpha4", {}, 64.0, 1),
        ("p3s-lora-alpha2-x3", {}, 32.0, 3),
        ("p3s-lora-alpha4-x3", {}, 64.0, 3),
    ],
)
def test_a_method_differs_from_its_like_in_what_it_names(
    name: str, train: dict[str, Any], alpha: float | None, rate: float
) -> None:
    like, method = METHODS["p3s" if alpha is None else "p3s-lora"], METHODS[name]
    copy = like.copy if alpha is None else replace(like.copy, alpha=alpha)
    assert method == replace(like, train=like.train | train, copy=copy, rate=rate)
    settings = [toyworld.settings_of(each, toyworld.Budget(), 3) for each in (like, method)]
    assert settings[1] == replace(settings[0], **train, learning_rate=rate * settings[0].learning_rate)


def test_real_pictures_of_the_clicked_animal_and_of_the_other_are_told_apart(world: ToyWorld) -> None:
    counts = {"wanted": 0.0, "other": 0.0}
    for number in range(8):
        s = scene("heldout", number, "different")
        looks = s.subjects[0].look, s.subjects[1].look
        pictures = {"wanted": portraits(s, 0), "other": portraits(s, 1)}
        for name, shown in pictures.items():
            for told, background in zip(
                (score(world, p[None], *looks, s.animal, b)[0] for p, b in zip(shown, BACKGROUNDS, strict=True)),
                BACKGROUNDS,
                strict=True,
            ):
                assert told["prompt"] == told["one"] == 1, background
                counts[name] += told["selection"] / (8 * len(BACKGROUNDS))
    assert counts["wanted"] > 0.95 and counts["other"] < 0.05


def test_clip_scores_prefer_the_right_picture_and_prompt(world: ToyWorld) -> None:
    s = scene("heldout", 3, "different")
    truth, text = portraits(s, 0), prompt(s.animal, "beach")
    own, other = (clip_scores(world, portraits(s, i), truth, text) for i in (0, 1))
    mean = [sum(row["clip_i"] for row in told) / len(told) for told in (own, other)]
    assert mean[0] > mean[1] + 0.2
    fits = [row["clip_t"] for row in own]
    assert max(range(len(fits)), key=fits.__getitem__) == list(BACKGROUNDS).index("beach")


def test_the_interval_redraws_references_and_not_pictures() -> None:
    values = [0.0] * 50 + [1.0] * 50
    low, high = interval(values, [0] * 50 + [1] * 50)
    assert (low, high) == (0, 1)  # two references tell next to nothing
    low, high = interval(values, list(range(100)))
    assert 0.35 < low < 0.45 and 0.55 < high < 0.65


def test_methods_get_equal_work(world: ToyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    done: dict[str, int] = {}
    monkeypatch.setattr(toyworld, "train", lambda *_: pytest.skip("not reached"))
    monkeypatch.setattr(toyworld, "tune", lambda world, kind, examples, settings: done.update({kind: settings.steps}))
    s, budget = scene("heldout", 0, "different"), toyworld.Budget(steps=100)
    for name in ("dreambooth", "lora"):
        reference = toyworld.reference_of(world, s, 0, METHODS[name].rngr)
        assert reference is not None
        _, _, figures = toyworld.train_one(world, METHODS[name], 0, budget, s, reference)
        assert figures["steps"] == done[METHODS[name].kind] > 100  # P3S runs a copy besides the model
    example = toyworld.examples_of(
        reference,
        world.encode_text(""),
        world.encode_latent,
        world.resolution,
        toyworld.settings_of(METHODS["lora"], budget, 0),
        torch.Generator(),
    )[0]
    ours = toyworld.work(world, METHODS["p3s"], budget, example)
    theirs = toyworld.work(world, METHODS["lora"], budget, example)
    assert done["lora"] * theirs == pytest.approx(100 * ours, rel=0.01)


def test_a_run_continues_and_makes_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "results.jsonl"
    quick = ("--steps", 1, "--sample-steps", 2, "--seeds", 2, "--backgrounds", 1, "--batch", 1, "--references", 2)
    run(monkeypatch, "run", "--methods", "p3s,fixed", *quick, "--out", out)
    first = rows(out)
    assert [(r["method"], r["reference"]) for r in first] == [("p3s", 0), ("fixed", 0), ("p3s", 1), ("fixed", 1)]
    assert first[0]["train_seconds"] == first[1]["train_seconds"]  # one training for both
    run(monkeypatch, "run", "--methods", "p3s,fixed,no-rngr,plain", *quick, "--out", out, "--sheets", tmp_path / "s")
    assert rows(out)[:4] == first and len(rows(out)) == 8
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["reference-00.png", "reference-01.png"]
    capsys.readouterr()
    run(monkeypatch, "table", out)
    said = capsys.readouterr().out
    assert "2 references" in said
    assert [line.split("|")[1].strip() for line in said.splitlines()[4:]] == ["p3s", "fixed", "no-rngr", "plain"]


def test_points_that_give_no_mask_count_as_failures(world: ToyWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise MaskError("no mask")

    monkeypatch.setattr(ToyWorld, "reference", refuse)
    row, shown = toyworld.run_one(world, "p3s", 0, toyworld.Budget(), {})
    assert not row["masked"] and not shown
    assert row["selection"] == row["prompt"] == [0.0] * 4


def test_without_rngr_the_photo_is_trained_as_it_is(world: ToyWorld) -> None:
    s = scene("heldout", 0, "different")
    reference = toyworld.reference_of(world, s, 0, rngr=False)
    assert reference is not None
    assert torch.equal(reference.image, picture_of(s)) and not reference.negative_mask.any()
    assert reference.image.shape[:2] == render(s)[1].shape
