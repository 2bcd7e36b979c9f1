"""The paper's protocol on small random models: its numbers, and that a killed run goes on. SSR-Encoder's rows have a
file of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from counted_runs import Watch, counted
from dreambench_files import LIVE_PROMPTS, PROMPTS, options_of, write_data
from PIL import Image
from real_models import SIDE

from benchmarks.dreambench import protocol
from benchmarks.dreambench.__main__ import _parser, main
from benchmarks.dreambench.data import CENTRE, LIST, Case, read_cases, read_points
from benchmarks.dreambench.metrics import Embeddings, Scores, score, summary
from benchmarks.dreambench.options import COPY_NAMES
from benchmarks.dreambench.report import COLUMNS, PAPER, QUOTED, USO, table
from p3s.commands.generate import chosen_schedule
from p3s.commands.options import chosen
from p3s.errors import MaskError, P3SError, PointError
from p3s.image_files import read_picture
from p3s.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from p3s.network.copy_settings import CopySettings
from p3s.reference.points import PointSet
from p3s.reference.rngr import image_hash
from p3s.subject.file import load_subject
from p3s.training.settings import TrainSettings

pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return options_of(tmp_path_factory.mktemp("dreambench"))


@pytest.fixture(scope="module")
def finished(given: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "run"
    assert main([*given, f"--out={out}"]) == 0
    return out


# the numbers


def test_scores_by_hand() -> None:
    """Unit vectors at known angles: cosines 0.6, 0.8, 0 and 1."""
    pictures = Embeddings(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[0.0, 3.0], [1.0, 0.0]]))
    photos = Embeddings(torch.tensor([[0.6, 0.8], [5.0, 0.0]]), torch.tensor([[0.8, 0.6]]))
    prompts = torch.tensor([[0.8, 0.6], [0.0, 0.1]])
    found = score(pictures, photos, prompts)
    assert found.clip_i == pytest.approx(((0.6 + 1) / 2, (0.8 + 0) / 2))
    assert found.clip_t == pytest.approx((0.8, 1.0))
    assert found.dino == pytest.approx((0.6, 0.8))


def test_summary_by_hand() -> None:
    first = Scores((0.5, 0.7), (0.2, 0.2), (0.1, 0.3))
    second = Scores((0.9, 0.9), (0.4, 0.2), (0.5, 0.5))
    row = summary([first, second])
    assert row["CLIP-I"] == pytest.approx(0.75) and row["CLIP-T"] == pytest.approx(0.25)
    assert row["DINOv2"] == pytest.approx(0.35)
    assert row["CLIP-Iv"] == pytest.approx((0.25**2 + 0.05**2 + 0.15**2 + 0.15**2) / 4)
    assert row["DINO-v"] == pytest.approx((0.25**2 + 0.05**2 + 0.15**2 + 0.15**2) / 4)


def test_a_run_scores_its_pictures(finished: Path, given: list[str]) -> None:
    """Against the whole CLIP and DINOv2 of transformers, their processors, and cosines in numpy."""
    data, _, clip_folder, dino_folder = (Path(option.split("=")[1]) for option in given[:4])
    clip, dino = (
        transformers.CLIPModel.from_pretrained(clip_folder),
        transformers.AutoModel.from_pretrained(dino_folder),
    )
    clip_pixels = transformers.CLIPImageProcessor.from_pretrained(clip_folder)
    dino_pixels = transformers.AutoImageProcessor.from_pretrained(dino_folder)
    tokenizer = transformers.CLIPTokenizer.from_pretrained(clip_folder)

    def unit(vector: Any) -> np.ndarray:
        vector = getattr(vector, "pooler_output", vector)[0].detach().double().numpy()
        return vector / np.linalg.norm(vector)

    def seen(path: Path) -> tuple[np.ndarray, np.ndarray]:
        picture = np.asarray(Image.open(path).convert("RGB"))
        in_clip = clip.get_image_features(**clip_pixels(images=picture, return_tensors="pt"))
        return unit(in_clip), unit(dino(**dino_pixels(images=picture, return_tensors="pt")))

    photos = [seen(path) for path in sorted((data / "teapot").iterdir())]
    scores = json.loads((finished / "teapot" / "scores.json").read_text())
    assert [len(scores[name]) for name in ("clip_i", "clip_t", "dino")] == [4, 4, 4]
    texts = ["a teapot in the snow", "a teapot on top of pink fabric"]
    for i, (prompt, image) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        ours = seen(finished / "teapot" / f"{prompt:02}-{image}.png")
        text = unit(clip.get_text_features(**tokenizer(texts[prompt], return_tensors="pt")))
        assert scores["clip_i"][i] == pytest.approx(np.mean([ours[0] @ photo[0] for photo in photos]), abs=1e-4)
        assert scores["clip_t"][i] == pytest.approx(ours[0] @ text, abs=1e-4)
        assert scores["dino"][i] == pytest.approx(np.mean([ours[1] @ photo[1] for photo in photos]), abs=1e-4)


def test_a_run_writes_its_table(finished: Path) -> None:
    text = (finished / "table.md").read_text()
    row = re.search(r"^\| \*\*P3S, this repository\*\* \(2 subjects, 8 pictures\) \| (.*) \|$", text, re.MULTILINE)
    assert row is not None
    read = [protocol.read_scores(finished / name / "scores.json", 4) for name in ("dog", "teapot")]
    assert [float(cell) for cell in row[1].split(" | ")] == pytest.approx(list(summary(read).values()), abs=5e-5)
    assert "2 subjects (of 3 in the list), 2 prompts, 2 pictures each; DDIM, 1 steps" in text
    assert "the middle of every photo" in text and "other than the paper's settings: steps = 2\n" in text
    assert re.search(r"^\| dog \| p3s \|", text, re.MULTILINE) and not re.search(r"^\| bear", text, re.MULTILINE)
    assert "ssr is left out: no --ssr" in text and "Table I has" not in text
    sheet = read_picture(finished / "sheet.png")
    assert sheet.shape[0] > 2 * 224 and sheet.shape[1] > 3 * 224


def test_a_subject_is_trained_on_all_its_photos_as_they_are(finished: Path, given: list[str]) -> None:
    subject = load_subject(finished / "dog" / "subject.safetensors")
    assert subject.info.prompt == "a photo of a sks dog" and subject.info.steps == 2
    assert subject.info.points == (CENTRE.to_json(),) * 2
    assert len(set(subject.info.image_hashes)) == 2
    settings = subject.info.train_settings
    assert (settings["epochs"], settings["learning_rate"], settings["gamma"]) == (60, 1e-5, 0.1)
    assert (settings["zero_init"], settings["views"], settings["removed"]) == ("zero", "whole", "learned")


def test_settings_that_came_later_are_named_in_a_folder_only_where_they_are_not_as_before(finished: Path) -> None:
    """So that a run of an earlier version is continued."""
    known = json.loads((finished / "run.json").read_text())
    assert "train seed" in known and "copy lam" in known
    added = {f"train {name}" for name in TrainSettings.ADDED} | {f"copy {name}" for name in CopySettings.ADDED}
    assert known.keys().isdisjoint(added)


def test_the_alpha_of_low_rank_changes_is_not_that_of_the_schedule(given: list[str]) -> None:
    options = _parser().parse_args([*given, "--out=x", "--kind=lora", "--lora-alpha=8", "--alpha=0.25"])
    copy = chosen(options, CopySettings(), COPY_NAMES)
    assert copy == CopySettings(kind="lora", alpha=8.0)
    assert chosen_schedule(options, copy).alpha == 0.25


# going on


def run(given: list[str], out: Path, stop_after: int = 10**9) -> Watch:
    return counted(main, given, out, stop_after)


def test_a_killed_run_goes_on_where_it_was(given: list[str], finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(given, out, stop_after=6)
    assert (first.trained, first.sampled) == (2, 6)
    assert first.prompts == ["a sks dog in the snow", "a sks dog wearing a red hat", "a sks teapot in the snow"]
    second = run(given, out)
    assert (second.trained, second.sampled) == (0, 2)
    third = run(given, out)
    assert (third.trained, third.sampled) == (0, 0)
    for name in ("dog/scores.json", "teapot/scores.json"):
        found, expected = (json.loads((folder / name).read_text()) for folder in (out, finished))
        for kind, values in expected.items():
            assert found[kind] == pytest.approx(values, abs=1e-3)


def damage(file: Path) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])


def without_scores(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    (folder / "scores.json").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("change", "trained", "sampled"),
    [
        (lambda folder: damage(folder / "scores.json"), 0, 0),
        (lambda folder: (folder / "scores.json").write_text('{"clip_i": [1], "clip_t": [1], "dino": [1]}'), 0, 0),
        (lambda folder: without_scores(folder, lambda f: damage(f / "01-1.png")), 0, 1),
        (lambda folder: without_scores(folder, lambda f: (f / "00-0.png").write_bytes(b"")), 0, 1),
        (lambda folder: without_scores(folder, lambda f: damage(f / "subject.safetensors")), 1, 0),
    ],
    ids=["half of the scores", "scores of another count", "half a picture", "an empty picture", "half a subject"],
)
def test_half_written_files_are_made_again(given, finished: Path, tmp_path: Path, change, trained, sampled) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    change(out / "dog")
    watch = run(given, out)
    assert (watch.trained, watch.sampled) == (trained, sampled)
    text, expected = ((folder / "table.md").read_text() for folder in (out, finished))
    numbers = [[float(n) for n in re.findall(r"\d\.\d{4}", t)] for t in (text, expected)]
    assert numbers[0] == pytest.approx(numbers[1], abs=2e-3)


def test_more_prompts_add_to_what_is_there(given: list[str], finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    watch = run([*given, "--prompts=3", "--subjects", "teapot"], out)
    assert (watch.trained, watch.prompts) == (0, ["a red sks teapot"])


@pytest.mark.parametrize(
    ("option", "named"),
    [
        ("--learning-rate=1e-4", "train learning_rate"),
        ("--schedule=fixed", "weight"),
        ("--guidance=3", "guidance"),
        ("--resolution=128", "resolution"),
    ],
)
def test_a_folder_of_another_run_is_refused(given: list[str], finished: Path, option, named, capsys) -> None:
    before = {path: path.read_bytes() for path in finished.rglob("*.*")}
    assert main([*given, option, f"--out={finished}"]) == 1
    said = capsys.readouterr().err
    assert f"holds the results of another run, which differs in {named}" in said
    assert {path: path.read_bytes() for path in finished.rglob("*.*")} == before


# data


def test_live_subjects_have_prompts_of_their_own(tmp_path: Path) -> None:
    cases, missing = read_cases(write_data(tmp_path / "data"))
    assert [(case.name, case.kind, len(case.photos)) for case in cases] == [("dog", "dog", 2), ("teapot", "teapot", 2)]
    assert (cases[0].prompts, cases[1].prompts) == (tuple(LIVE_PROMPTS), tuple(PROMPTS))
    assert missing == ["bear_plushie"]
    assert cases[0].prompt(1, "sks") == "a sks dog wearing a red hat" and cases[0].prompt(2, "") == "a wet dog"
    only, _ = read_cases(tmp_path / "data", ["teapot"], prompts=1)
    assert [(case.name, case.prompts) for case in only] == [("teapot", (PROMPTS[0],))]


@pytest.mark.skipif("DREAMBENCH_PATH" not in os.environ, reason="DREAMBENCH_PATH names no DreamBench")
def test_the_data_sets_own_list() -> None:
    cases, missing = read_cases(Path(os.environ["DREAMBENCH_PATH"]))
    assert len(cases) + len(missing) == 30
    assert {len(case.prompts) for case in cases} == {25}
    assert "a {0} {1} wearing a santa hat" in next(case for case in cases if case.kind == "dog").prompts


def test_points_are_read_by_photo(tmp_path: Path) -> None:
    cases, _ = read_cases(write_data(tmp_path / "data"))
    dog = cases[0]
    file = tmp_path / "points.json"
    name = dog.photos[1].name
    file.write_text(json.dumps({"dog": {name: {"positive": [[0.25, 0.5]], "negative": [[0.75, 0.5]]}}, "other": {}}))
    points = read_points(file, cases)
    assert points[dog.photos[1]] == PointSet(((0.25, 0.5),), ((0.75, 0.5),))
    assert all(points[photo] == CENTRE for case in cases for photo in case.photos if photo != dog.photos[1])
    assert set(read_points(None, cases).values()) == {CENTRE}

    for value, error, message in (
        ("[]", P3SError, "expected JSON such as"),
        ('{"dog": {"00.gif": {}}}', P3SError, "dog has no photo 00.gif"),
        (json.dumps({"dog": {name: {"negative": [[0.5, 0.5]]}}}), PointError, f"dog/{name}: There is no positive"),
        (json.dumps({"dog": {name: {"positive": [[2, 0.5]]}}}), PointError, f"dog/{name}: .*outside"),
        (json.dumps({"dog": {name: [[0.5, 0.5]]}}), P3SError, "expected JSON such as"),
    ):
        file.write_text(value)
        with pytest.raises(error, match=message):
            read_points(file, cases)


def test_negative_points_remove_before_training(given: list[str], tmp_path: Path, monkeypatch) -> None:
    monkeypatch.delenv("DREAMBENCH_PATH", raising=False)  # a random CLIP can tell drawn parts apart, but not real ones
    data = write_data(tmp_path / "data")
    photo = sorted((data / "teapot").iterdir())[0].name
    file = tmp_path / "points.json"
    file.write_text(json.dumps({"teapot": {photo: {"positive": [[0.1, 0.5]], "negative": [[0.9, 0.5]]}}}))
    out = tmp_path / "run"
    options = [f"--data={data}", f"--points={file}", "--subjects", "teapot", "--prompts=1", "--images=1"]
    watch = run([*given, *options], out)
    assert watch.trained == 1
    info = load_subject(out / "teapot" / "subject.safetensors").info
    assert json.loads(info.points[0])["negative"] == [[0.9, 0.5]] and info.points[1] == CENTRE.to_json()
    assert "points: points.json" in (out / "table.md").read_text()


@pytest.mark.parametrize("negative", [[], [[0.9, 0.5]]])
def test_points_without_a_mask_stop_a_run_only_where_something_is_to_go(
    given: list[str], tmp_path: Path, capsys, monkeypatch, negative: list[list[float]]
) -> None:
    def no_mask(*_: Any) -> None:
        raise MaskError("the whole picture looks the same")

    monkeypatch.setattr(StableDiffusion, "reference", no_mask)
    monkeypatch.delenv("DREAMBENCH_PATH", raising=False)
    data = write_data(tmp_path / "data")
    photo = sorted((data / "teapot").iterdir())[1]
    file = tmp_path / "points.json"
    file.write_text(json.dumps({"teapot": {photo.name: {"positive": [[0.1, 0.5]], "negative": negative}}}))
    options = [f"--data={data}", f"--points={file}", "--subjects", "teapot", "--prompts=1", "--images=1"]
    status = main([*given, *options, f"--out={tmp_path / 'run'}"])
    said = capsys.readouterr()
    if negative:
        assert status == 1 and f"{photo}: the whole picture looks the same" in said.err
        assert not (tmp_path / "run" / "teapot").exists()
    else:
        assert status == 0 and f"{photo}: no mask follows from its points" in said.out
        subject = load_subject(tmp_path / "run" / "teapot" / "subject.safetensors")
        assert subject.info.image_hashes[1] == image_hash(read_picture(photo))
        world = load_stable_diffusion(given[1].split("=")[1], given[2].split("=")[1], resolution=SIDE)
        monkeypatch.undo()
        tokens = world.reference(read_picture(photo), PointSet(((0.1, 0.5),))).tokens
        torch.testing.assert_close(subject.references[1].tokens, tokens)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--subjects", "dog9"], "has no subject dog9; it has dog, bear_plushie, teapot"),
        (["--data=/nowhere"], LIST),
        (["--model=/nowhere"], "nowhere"),
        (["--dino=/nowhere"], "--dino /nowhere: there is no such folder"),
        (["--score-clip=/nowhere"], "--score-clip /nowhere: there is no such folder"),
        (["--device=warp"], "--device warp cannot be used"),
        (["--zero-init=one"], "zero_init must be one of"),
    ],
)
def test_mistakes_are_one_line(given: list[str], change: list[str], message: str, tmp_path: Path, capsys) -> None:
    assert main([*given, *change, f"--out={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("dreambench: ") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


NAMES = {"p3s": "ours", "ssr": "theirs"}


def test_a_table_leaves_out_variances_that_the_paper_does_not_give() -> None:
    text = table("ours", NAMES, {"p3s": {"dog": Scores((1.0,), (1.0,), (1.0,))}}, ["a note"])
    assert "| P3S, without RNGR | 0.7117 | 0.2602 | 0.4632 |  |  |" in text
    assert "| **ours** (1 subjects, 1 pictures) | 1.0000 | 1.0000 | 1.0000 | 0.0000 | 0.0000 |" in text
    assert "- a note" in text


def test_sources_are_never_in_one_table() -> None:
    """Nor are quoted numbers among our own: every table has the rows of one source, and the columns that it has."""
    one = {"dog": Scores((1.0,), (1.0,), (1.0,))}
    text = table("ours", NAMES, {"p3s": one, "ssr": one}, [])
    own, *quoted = text.split("\n### ")
    assert len(quoted) == len(QUOTED) and "| DreamBooth |" not in own
    for part, (source, (columns, rows)) in zip(quoted, QUOTED.items(), strict=True):
        title, *lines = part.splitlines()
        cells = [line.strip("| ").split(" | ") for line in lines if line.startswith("|") and "---" not in line]
        assert title == source and cells[0] == ["method", *columns]
        assert [row[0] for row in cells[1:]] == list(rows)
    assert QUOTED[next(iter(QUOTED))] == (COLUMNS, PAPER) and "DINOv2" not in QUOTED[list(QUOTED)[1]][0]
    assert "| SSR-Encoder | 0.7793 | 0.2355 | 0.5323 | 0.0032 | 0.0140 |" in quoted[0]
    assert "| SSR-Encoder | 0.821 | 0.308 | 0.612 |" in quoted[1] and list(USO)[-1] == "SSR-Encoder"
    assert "| photos against themselves | 0.885 |  | 0.774 |" in quoted[1]


def test_intervals_span_the_subjects_means() -> None:
    subjects = {name: Scores((value,) * 4, (0.25,) * 4, (value,) * 4) for name, value in (("dog", 0.5), ("cat", 0.75))}
    row = "| 95 % intervals, subjects redrawn | 0.5000 to 0.7500 | 0.2500 to 0.2500 | 0.5000 to 0.7500 |  |  |"
    assert row in table("ours", NAMES, {"p3s": subjects}, [])


def test_a_case_of_two_words() -> None:
    case = Case("bear_plushie", "stuffed animal", (), ("a shiny {0} {1}",))
    assert case.prompt(0, "sks") == "a shiny sks stuffed animal" and case.prompt(0, "") == "a shiny stuffed animal"
