"""``python -m p3s train`` and ``generate`` on the toy world, and the options that they share with ``mask``."""

from __future__ import annotations

import signal
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from p3s import file_writing
from p3s.__main__ import main
from p3s.commands import train as train_command
from p3s.demo.chain import TRAINING
from p3s.image_files import write_png
from p3s.models.pipeline import apply_subject
from p3s.network.copy_settings import CopySettings
from p3s.network.injection import EffectMask
from p3s.sampling.application import Application
from p3s.sampling.settings import FAST, STANDARD, SamplingSettings
from p3s.subject.file import Subject, load_subject, save_subject
from p3s.toyworld.scenes import IDENTIFIER, prompt, scene
from p3s.toyworld.world import click, load_world, picture_of
from p3s.training.settings import TrainSettings

TEXT = prompt("dog", "beach", IDENTIFIER)
QUICK = ["--steps", "2", "--batch-size", "1"]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[list[str]]:
    """Options that name two drawn scenes, larger than the toy world's, and the points on them."""
    folder, given = tmp_path_factory.mktemp("photos"), []
    for number in (4, 5):
        drawn = scene("heldout", number, "different", "dog")
        path = folder / f"{number}.png"
        write_png(picture_of(drawn).repeat_interleave(2, 0).repeat_interleave(3, 1), path)
        given.append(["--image", str(path), "--points", click(drawn, 1).to_json()])
    return given


@pytest.fixture(scope="module")
def subject(photos: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("subject") / "dog.safetensors"
    options = ["--identifier", IDENTIFIER, "--licence", "CC0", "--lam", "0.3", "--no-cross-attention"]
    assert main(["train", *photos[0], *photos[1], "--prompt", TEXT, *QUICK, *options, "--out", str(path)]) == 0
    return path


# train


def test_train_writes_a_subject_of_all_photos(subject: Path) -> None:
    read = load_subject(subject)
    info = read.info
    assert (info.identifier, info.licence, info.prompt, info.completed, info.steps) == (
        IDENTIFIER,
        "CC0",
        TEXT,
        True,
        2,
    )
    assert len(read.references) == len(set(info.points)) == len(set(info.image_hashes)) == 2
    assert info.points[0] == click(scene("heldout", 4, "different", "dog"), 1).to_json()
    assert {weight.dtype for weight in read.weights.values()} == {torch.float16}
    used = TrainSettings(**{f.name: info.train_settings[f.name] for f in fields(TrainSettings)})
    assert used == replace(TRAINING, steps=2, batch_size=1)
    assert CopySettings.from_dict(info.copy_settings) == CopySettings(lam=0.3, cross_attention=False)


def test_train_takes_the_next_free_name(subject: Path, photos: list[list[str]], capsys: pytest.CaptureFixture) -> None:
    before = subject.read_bytes()
    assert main(["train", *photos[0], "--prompt", TEXT, *QUICK, "--out", str(subject)]) == 0
    assert subject.read_bytes() == before
    other = subject.with_name("dog_00002.safetensors")
    assert f"saved to {other}" in capsys.readouterr().out
    assert len(load_subject(other).references) == 1


def test_ctrl_c_keeps_what_is_trained(photos, tmp_path: Path, monkeypatch, capsys) -> None:
    handler = signal.getsignal(signal.SIGINT)

    def press_after_two(bar):
        def show(report):
            if report.step == 2:
                signal.raise_signal(signal.SIGINT)

        return show

    class Bar:
        __enter__ = press_after_two
        __exit__ = lambda *_: None  # noqa: E731

    monkeypatch.setattr(train_command, "progress_bar", Bar)
    arguments = ["train", *photos[0], "--prompt", TEXT, "--steps", "50", "--out", str(tmp_path / "dog.safetensors")]
    assert main(arguments) == 1
    kept = tmp_path / "dog_cancelled.safetensors"
    assert "cancelled; 2 of 50 steps" in (said := capsys.readouterr().err) and f"saved to {kept}" in said
    info = load_subject(kept).info
    assert (info.steps, info.completed) == (2, False)
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_full_disk_does_not_cost_the_training(photos, tmp_path: Path, monkeypatch, capsys) -> None:
    spare = tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(train_command, "gettempdir", lambda: str(spare))
    (tmp_path / "file").write_text("in the way of a folder")
    arguments = ["train", *photos[0], "--prompt", TEXT, *QUICK, "--out", str(tmp_path / "file" / "dog.safetensors")]
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "Could not save in" in said and f"saved to {spare / 'dog.safetensors'}" in said
    assert load_subject(spare / "dog.safetensors").info.completed


def test_a_loss_that_is_no_longer_finite_keeps_the_last_good_step(photos, tmp_path: Path, capsys) -> None:
    out = ["--out", str(tmp_path / "dog.safetensors"), "--learning-rate", "1", "--steps", "30"]
    assert main(["train", *photos[0], "--prompt", TEXT, *out]) == 1
    said = capsys.readouterr().err
    assert "no longer finite" in said and str(tmp_path / "dog_stopped.safetensors") in said
    assert not load_subject(tmp_path / "dog_stopped.safetensors").info.completed


# generate


def test_generate_writes_a_picture_a_prompt_and_seed(subject: Path, tmp_path: Path) -> None:
    other = prompt("dog", "snow", IDENTIFIER)
    arguments = ["generate", str(subject), "--prompt", TEXT, "--prompt", other, "--seeds", "3", "4", "--steps", "2"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    names = {f"{text} {seed}.png" for text in (TEXT, other) for seed in (3, 4)}
    assert {path.name for path in tmp_path.iterdir()} == names
    first = {name: (tmp_path / name).read_bytes() for name in names}
    assert len(set(first.values())) == 4

    assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert {name: (tmp_path / name).read_bytes() for name in names} == first, "a picture was overwritten"
    again = tmp_path / f"{TEXT} 3_00002.png"
    assert again.read_bytes() == first[f"{TEXT} 3.png"], "the same seed gave another picture"
    assert len(list(tmp_path.iterdir())) == 8


def test_a_learned_weight_is_used_unless_another_is_asked_for(photos, tmp_path: Path) -> None:
    file = tmp_path / "learned.safetensors"
    learned = ["--weight", "learned", "--weight-learning-rate", "1", "--out", str(file)]
    assert main(["train", *photos[0], "--prompt", TEXT, *QUICK, *learned]) == 0
    pictures = []
    for number, options in enumerate(([], ["--schedule", "learned"], ["--schedule", "paper"])):
        out = tmp_path / str(number)
        sampling = ["--prompt", TEXT, "--steps", "2", "--out", str(out)]
        assert main(["generate", str(file), *sampling, *options]) == 0
        pictures.append(pixels(out / f"{TEXT} 0.png"))
    assert np.array_equal(pictures[0], pictures[1]) and not np.array_equal(pictures[0], pictures[2])


def test_a_low_rank_subject_is_small_and_generated(subject: Path, photos, tmp_path: Path) -> None:
    file = tmp_path / "small.safetensors"
    options = ["--kind", "lora", "--rank", "2", "--zero-init", "identity", "--out", str(file)]
    assert main(["train", *photos[0], "--prompt", TEXT, *QUICK, *options]) == 0
    assert file.stat().st_size < subject.stat().st_size / 4
    sampling = ["--prompt", TEXT, "--steps", "2"]
    assert main(["generate", str(file), *sampling, "--out", str(tmp_path / "on")]) == 0
    assert main(["generate", str(file), *sampling, "--out", str(tmp_path / "off"), "--end", "0"]) == 0
    shown, plain = (pixels(tmp_path / folder / f"{TEXT} 0.png") for folder in ("on", "off"))
    assert not np.array_equal(shown, plain)


def test_schedule_and_reference_reach_the_picture(subject: Path, tmp_path: Path) -> None:
    def picture(name: str, *options: str) -> np.ndarray:
        out = tmp_path / name
        arguments = ["generate", str(subject), "--prompt", TEXT, "--steps", "2", "--out", str(out)]
        assert main([*arguments, *options]) == 0
        return pixels(out / f"{TEXT} 0.png")

    usual = picture("usual")
    off = picture("off", "--schedule", "fixed", "--value", "0")
    assert usual.shape == (48, 48, 3)
    assert not np.array_equal(usual, off)
    assert np.array_equal(off, picture("window", "--start", "0.5", "--end", "0.5"))
    assert np.array_equal(usual, picture("keyframes", "--schedule", "paper", "--alpha", "0.5"))
    assert not np.array_equal(usual, picture("weaker", "--schedule", "keyframes", "--keyframes", "0:0.2, 1:0.1"))
    assert not np.array_equal(usual, picture("second", "--reference-index", "1"))
    assert not np.array_equal(usual, picture("guided", "--guidance", "9"))


def test_what_is_applied_is_what_the_core_samples(subject: Path, tmp_path: Path, capsys) -> None:
    """Every option against the same thing said to the library; what turns the subject off, to the plain picture."""
    models, read = load_world(), load_subject(subject)
    left = torch.zeros(48, 48)
    left[:, :24] = 1
    for name, mask in (("left", left), ("none", left * 0), ("all", left * 0 + 1)):
        write_png(mask[:, :, None].expand(-1, -1, 3), tmp_path / f"{name}.png")

    def picture(*options: str) -> np.ndarray:
        out = tmp_path / f"out {len(list(tmp_path.iterdir()))}"
        arguments = ["generate", str(subject), "--prompt", TEXT, "--steps", "4", "--out", str(out), *options]
        assert main(arguments) == 0
        return pixels(out / f"{TEXT} 0.png")

    def expected(*applications: Application) -> np.ndarray:
        subjects = [apply_subject(models, read, application=each)[0] for each in applications]
        (made,) = models.sample(TEXT, [0], subjects, steps=4)
        write_png(made, tmp_path / "expected.png")
        return pixels(tmp_path / "expected.png")

    plain, usual = expected(), expected(Application(settings=STANDARD))
    assert np.array_equal(picture(), usual) and not np.array_equal(plain, usual)
    everywhere_off = "input: 0, middle: 0, output: 0"
    none = str(tmp_path / "none.png")
    for off in (["--strength", "0"], ["--mask", none], ["--layer-strengths", everywhere_off]):
        assert np.array_equal(picture(*off), plain), off
    assert "none.png is black everywhere, so its subject is off" in capsys.readouterr().out
    assert np.array_equal(picture("--mask", str(tmp_path / "all.png")), usual)
    twice = picture("--schedule", "fixed", "--value", "2")
    assert np.array_equal(picture("--strength", "2", "--schedule", "fixed"), twice)

    layer = models.unet.config.layers()[0]
    for options, how in (
        (["--mask", str(tmp_path / "left.png")], Application(mask=EffectMask(left))),
        (["--layer-strengths", f"{layer.side} {layer.block}: 0.25"], Application(layers={layer: 0.25})),
        (["--weight-on", "attention"], Application(weight_on="attention")),
        (["--mode", "fast"], Application(settings=FAST)),
        (["--mode", "exact"], Application()),
        (["--mode", "exact", "--branches", "conditional"], Application(settings=SamplingSettings("conditional"))),
    ):
        found = picture(*options)
        how = how if "--mode" in options else replace(how, settings=STANDARD)
        assert np.array_equal(found, expected(how)), options
        assert not np.array_equal(found, usual) and not np.array_equal(found, plain), options


def test_several_subjects_in_one_picture(subject: Path, tmp_path: Path) -> None:
    """Each value belongs to the subject at its place, and one value to all."""

    def picture(*arguments: str) -> np.ndarray:
        out = tmp_path / str(len(list(tmp_path.iterdir())))
        given = ["generate", *arguments, "--prompt", TEXT, "--steps", "2", "--out", str(out)]
        assert main(given) == 0
        return pixels(out / f"{TEXT} 0.png")

    one, both = str(subject), [str(subject), str(subject)]
    second = picture(one, "--reference-index", "1")
    indices = ["--reference-index", "0", "1"]
    assert np.array_equal(picture(*both, *indices, "--strength", "0", "1"), second)
    assert np.array_equal(picture(*both, *indices, "--strength", "1", "0"), picture(one))
    assert np.array_equal(picture(*both, "--strength", "0"), picture(one, "--strength", "0"))
    assert not np.array_equal(picture(*both, *indices), second)

    ramp = (torch.arange(48) < 24).float().expand(48, 48)
    sides = [str(tmp_path / "left.png"), str(tmp_path / "right.png")]
    for side, path in zip((ramp, 1 - ramp), sides, strict=True):
        write_png(side[..., None].expand(-1, -1, 3), Path(path))
    halves = picture(*both, *indices, "--mask", *sides)
    apart = picture(*both, *indices, "--mask", *sides, "--isolate", "1")
    assert not np.array_equal(apart, halves)
    assert np.array_equal(picture(*both, *indices, "--mask", *sides, "--isolate", "0", "1"), apart)


# options


def test_points_are_read_from_a_file(photos, tmp_path: Path) -> None:
    image, points = photos[0][1], tmp_path / "points.json"
    points.write_text(photos[0][3])
    for name, given in (("text", photos[0][3]), ("file", str(points))):
        assert main(["mask", image, "--points", given, "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "text" / "overlay.png").read_bytes() == (tmp_path / "file" / "overlay.png").read_bytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--reference-index", "2"], "reference_index must lie in 0..1: the subject was trained on 2 photos; got 2"),
        (["--schedule", "steep"], "kind must be one of paper, fixed"),
        (["--schedule", "learned"], "trained without a learned weight"),
        (["--start", "2"], "start must be a number in 0..1; got 2.0"),
        (["--prompt", "a horse"], "does not know 'horse'"),
        (["--steps", "0"], "steps must lie in"),
        (["--guidance", "nan"], "guidance must be a finite number; got nan"),
        (["--isolate", "1.5"], "isolate must be a number in 0..1; got 1.5"),
        (["--strength", "-1"], "strength must be a number in 0..10; got -1.0"),
        (
            ["--strength", "1", "0.5"],
            "--strength has 2 values for 1 subject(s): give one for all",
        ),
        (["--layer-strengths", "input 99: 0"], "layer_strengths: input 99 has no attention"),
        (["--mask", "nowhere.png"], "--mask nowhere.png: there is no such file; expected a picture"),
    ],
)
def test_mistakes_in_generate_write_nothing(subject: Path, options, message, tmp_path: Path, capsys) -> None:
    arguments = ["generate", str(subject), "--prompt", TEXT, "--out", str(tmp_path / "out"), *options]
    assert main(arguments) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--keyframes", "0.5"], 'is not "percent:weight"'),
        (["--seeds", "one"], "invalid int value"),
        (["--guidance", "much"], "invalid float value"),
    ],
)
def test_a_wrong_command_line_says_why(subject: Path, options, message, capsys) -> None:
    with pytest.raises(SystemExit):
        main(["generate", str(subject), "--prompt", TEXT, *options])
    assert message in capsys.readouterr().err


def test_a_subject_of_another_model_is_refused_or_warned_about(subject: Path, tmp_path: Path, capsys) -> None:
    read = load_subject(subject)
    for name, changes, status in (("other", {"base_fingerprint": "0"}, 0), ("family", {"family": "SD1.x"}, 1)):
        path = save_subject(Subject(read.weights, read.references, replace(read.info, **changes)), tmp_path / name)
        arguments = ["generate", str(path), "--prompt", TEXT, "--steps", "1", "--out", str(tmp_path / "out")]
        assert main(arguments) == status
    said = capsys.readouterr()
    assert "warning: This subject was trained on other weights" in said.out
    assert "was trained on an SD 1.x model, but this is the Toy World's model" in said.err


def test_a_new_file_name_has_the_suffix_asked_for(tmp_path: Path) -> None:
    first, second = (file_writing.write_new(tmp_path, "a: b", lambda file: file.write(b"x"), ".png") for _ in range(2))
    assert (first.name, second.name) == ("a_ b.png", "a_ b_00002.png")
