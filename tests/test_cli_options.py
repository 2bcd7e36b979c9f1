"""The options of ``python -m p3s``, and what it says of wrong ones."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import pytest

from p3s.__main__ import COMMANDS, main
from p3s.commands import generate as generate_command
from p3s.commands.options import NamesPhoto, add_points, add_settings, chosen
from p3s.network.copy_settings import CopySettings
from p3s.reference.points import PointSet
from p3s.reference.selection import Selection
from p3s.sampling.schedule import Schedule
from p3s.toyworld.scenes import IDENTIFIER, prompt

TEXT = prompt("dog", "beach", IDENTIFIER)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_reads_well(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    said = capsys.readouterr().out
    assert "==SUPPRESS==" not in said and "()" not in said
    if command == "train":
        assert "--learning-rate X" in said and "default: 1e-05; toy world:" in " ".join(said.split())
        assert "{zero,identity}" in said and "--no-cross-attention" in said
    if command == "generate":
        assert "{paper,fixed,increasing,decreasing,keyframes" in said


def test_options_become_settings() -> None:
    parser = argparse.ArgumentParser()
    generate_command.add_schedule(parser)
    renamed = {"alpha": "lora_alpha"}  # a schedule has an alpha, too
    add_settings(parser, "t", CopySettings(), renamed)
    assert generate_command.chosen_schedule(parser.parse_args([]), CopySettings(weight="learned")).kind == "learned"
    line = ["--schedule", "keyframes", "--keyframes", "1:0.5, 0:0.25", "--end", "0.75", "--kind", "lora", "--rank", "3"]
    line += ["--alpha", "0.25", "--lora-alpha", "6"]
    given = parser.parse_args(line)
    schedule = Schedule("keyframes", keyframes=((0.0, 0.25), (1.0, 0.5)), end=0.75, alpha=0.25)
    assert generate_command.chosen_schedule(given, CopySettings()) == schedule
    assert chosen(given, CopySettings(lam=0.3), renamed) == CopySettings(lam=0.3, kind="lora", rank=3, alpha=6.0)


@pytest.mark.parametrize("command", ["train", "generate"])
def test_the_older_name_of_model_means_the_same(command: str) -> None:
    parser = argparse.ArgumentParser()
    import_module(f"p3s.commands.{command}").add_options(parser)
    needed = ["--image", "dog.png", "--prompt", TEXT] if command == "train" else ["a.safetensors", "--prompt", TEXT]
    old, new = (parser.parse_args([*needed, name, "sd15.safetensors"]) for name in ("--world", "--model"))
    assert vars(old).keys() == vars(new).keys()
    assert old.model == new.model == "sd15.safetensors"
    assert parser.parse_args(needed).model == "toy"


def test_points_belong_to_the_photo_before_them() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--image", action=NamesPhoto)
    add_points(parser)
    line = "--positive 0,0 --image a --negative 1,1 --positive 0.5,0.5 --image b --points {} --image c --positive 1,0"
    first, second, third = parser.parse_args(line.split()).photos
    assert (str(first.path), first.positive, first.negative) == ("a", [(0, 0), (0.5, 0.5)], [(1, 1)])
    assert (str(second.path), second.text, second.positive) == ("b", "{}", [])
    assert (str(third.path), third.positive) == ("c", [(1, 0)])


TWO = '{"v":2,"subjects":[{"positive":[[0.25,0.5]]},{"positive":[[0.75,0.5],[0.8,0.6]],"boxes":[[0.5,0,1,1]]}]}'


def test_one_subject_of_several_has_the_points_that_the_picker_gives_it() -> None:
    photo = str(Path(__file__).parent / "data" / "dog.jpg")

    def points(text: str, *options: str) -> PointSet:
        parser = argparse.ArgumentParser()
        parser.add_argument("--image", action=NamesPhoto)
        add_points(parser)
        (named,) = parser.parse_args(["--image", photo, "--points", text, *options]).photos
        return named.read(False)[1]

    for number in (1, 2):
        given = points(TWO, "--subject", str(number))
        assert given == Selection.parse(TWO).points_of(number - 1) and given.negative
    assert points('{"v":2,"subjects":[{},{"positive":[[0.75,0.5]]}]}').positive == ((0.75, 0.5),), "the one clicked"


def mistakes() -> list[tuple[list[str], str]]:
    photo = str(Path(__file__).parent / "data" / "dog.jpg")
    train = ["train", "--image", photo, "--prompt", "a dog"]
    clicked = [*train, "--positive", "0.5,0.5"]
    return [
        (train, "dog.jpg: There is no positive point. Give --positive X,Y"),
        (
            ["mask", photo, "--positive", "0.5,0.5", "--compare", "--subject-mask", photo],
            "--compare shows what is made",
        ),
        ([*clicked, "--prompt", "a horse"], "prompt 'a horse': the toy world does not know 'horse'"),
        ([*clicked, "--zero-init", "one"], "zero_init must be one of zero, identity; got 'one'"),
        ([*clicked, "--fill", "magic"], "fill must be one of"),
        ([*clicked, "--image", "nowhere.jpg", "--positive", "0.5,0.5"], "--image nowhere.jpg: there is no such file; "),
        (["mask", "nowhere.jpg", "--positive", "0.5,0.5"], "photo nowhere.jpg: there is no such file; expected a pic"),
        (["mask", ".", "--positive", "0.5,0.5"], "photo .: this is a folder; expected a picture"),
        *(
            (["mask", photo, "--positive", "0.5,0.5", name, "no.png"], f"{name} no.png: there is no such file; expect")
            for name in ("--subject-mask", "--negative-mask", "--inpainted")
        ),
        (["mask", photo, "--points", "no.json"], "--points no.json: there is no such file; expected JSON text"),
        (["mask", photo, "--points", photo], "is not a text file; expected JSON"),
        ([*clicked, "--model", "no.ckpt"], "--model no.ckpt: there is no such file or folder; expected Stable"),
        (["info", "no.safetensors"], "file no.safetensors: there is no such file; expected a subject file"),
        (["ssr", "convert", "no.bin", photo, "out"], "aligner no.bin: there is no such file; expected a file of an"),
        (["mask", photo, "--positive", "0.5,0.5", "--out", f"{photo}/out"], f"{photo}/out: Not a directory"),
        (["mask", photo, "--points", TWO], "--points holds 2 subjects. Say which one is meant: --subject 1 or --subj"),
        (["mask", photo, "--points", TWO, "--subject", "3"], "--subject must lie in 1..2, the subjects of --points; "),
        (["mask", photo, "--positive", "0.5,0.5", "--subject", "1"], "--subject says which subject of --points is"),
        ([*clicked, "--image", __file__, "--positive", "0.5,0.5"], "test_cli_options.py is not in a picture format"),
        ([*clicked, "--negative", "0.51,0.51"], "dog.jpg: "),
        (
            ["generate", "nowhere.safetensors", "--prompt", "a dog"],
            "subject nowhere.safetensors: there is no such file",
        ),
    ]


@pytest.mark.parametrize(("arguments", "message"), mistakes())
def test_mistakes_are_one_line(arguments, message, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith(f"p3s {arguments[0]}: ") and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
