"""The protocol of twins on small random models: its numbers, its folder of pairs, and that a killed run resumes.
DREAMBENCH_PATH names a folder of DreamBench, whose pairs are then looked at as well."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from counted_runs import Watch, counted
from PIL import Image
from real_models import SIDE, UNET
from ssr_models import random_model
from twins_files import METHODS, PAIRS, options_of, read_scores, write_files

from benchmarks.dreambench.data import Case
from benchmarks.dreambench.twins import pairs as pairs_of
from benchmarks.dreambench.twins.__main__ import main
from benchmarks.dreambench.twins.pairs import read_pairs
from benchmarks.dreambench.twins.report import table
from benchmarks.dreambench.twins.run import PHOTOS, Likeness, to_others
from benchmarks.toyworld_metrics import interval
from p3s.image_files import read_picture
from p3s.models.stable_diffusion import load_stable_diffusion
from p3s.reference.points import PointSet
from p3s.sampling.ddim import generate
from p3s.ssr.attend import AppliedSSR, SubjectRun, over_sampling
from p3s.ssr.embeds import encode
from p3s.ssr.file import load_ssr, save_ssr
from p3s.ssr.layers import SubjectLayers
from p3s.ssr.vision import clip_vision
from p3s.subject.file import load_subject

pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def given(files: dict[str, Path]) -> list[str]:
    return options_of(files)


@pytest.fixture(scope="module")
def finished(given: list[str], files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("results") / "run"
    assert main([f"--data={files['data']}", *given, f"--out={out}"]) == 0
    return out


# the numbers


class Independent:
    """transformers' own models and processors, and cosines in numpy."""

    def __init__(self, files: dict[str, Path]) -> None:
        self.clip = transformers.CLIPModel.from_pretrained(files["clip"])
        self.dino = transformers.Dinov2Model.from_pretrained(files["dino"])
        self.pixels = [transformers.AutoImageProcessor.from_pretrained(files[name]) for name in ("clip", "dino")]

    def seen(self, path: Path) -> list[np.ndarray]:
        picture = np.asarray(Image.open(path).convert("RGB"))
        inputs = [processor(images=picture, return_tensors="pt") for processor in self.pixels]
        vectors = self.clip.get_image_features(**inputs[0]), self.dino(**inputs[1])
        unit = []
        for vector in vectors:
            vector = getattr(vector, "pooler_output", vector)[0].detach().double().numpy()
            unit.append(vector / np.linalg.norm(vector))
        return unit


def truth_of(files: dict[str, Path], folder: Path, photo: str) -> list[list[Path]]:
    """The photos of each subject of a pair that are not in the picture, by comparing pixels."""
    whole = np.asarray(Image.open(folder / "pairs" / photo))
    found = []
    for half, name in zip(np.split(whole, 2, axis=1), photo.removesuffix(".png").split("-"), strict=True):
        photos = sorted((files["data"] / name).iterdir())
        found.append([path for path in photos if not np.array_equal(np.asarray(Image.open(path)), half)])
        assert len(found[-1]) == 2
    return found


def test_the_scores_are_cosines_to_the_other_photos_of_both(finished: Path, files: dict[str, Path]) -> None:
    measure, photo = Independent(files), PAIRS[0]
    truth = [[measure.seen(path) for path in paths] for paths in truth_of(files, finished, photo)]
    sketch = next((finished / "plain").iterdir())
    for row, folders in {
        "p3s": [finished / photo / "p3s" / side for side in "ab"],
        "p3s-no-rngr": [finished / photo / "p3s-no-rngr"] * 2,
        "plain": [sketch] * 2,
        "ssr": [finished / photo / "ssr" / side for side in "ab"],
    }.items():
        for wanted, scores in enumerate(read_scores(finished, photo, row)):
            pictures = [measure.seen(folders[wanted] / f"{number:02}-{k}.png") for number in (0, 1) for k in (0, 1)]
            for encoder, likeness in enumerate(scores.values()):
                for values, of in ((likeness.clicked, truth[wanted]), (likeness.other, truth[1 - wanted])):
                    expected = [np.mean([p[encoder] @ t[encoder] for t in of]) for p in pictures]
                    assert values == pytest.approx(expected, abs=1e-4)
    for wanted, scores in enumerate(read_scores(finished, photo, PHOTOS)):
        for encoder, likeness in enumerate(scores.values()):
            own, other = ([t[encoder] for t in truth[k]] for k in (wanted, 1 - wanted))
            assert likeness.clicked == pytest.approx([own[0] @ own[1]] * 2, abs=1e-4)
            assert likeness.other == pytest.approx([np.mean([p @ q for q in other]) for p in own], abs=1e-4)


def test_the_table_is_of_these_scores(finished: Path) -> None:
    text = (finished / "table.md").read_text()
    _, by_clip, by_dino, by_photo = re.split(r"\n## .*\n", text)
    for encoder, part in enumerate((by_clip, by_dino)):
        shares: dict[str, list[list[float]]] = {}
        for row in (PHOTOS, *METHODS):
            title = "real photos (3 pairs)" if row == PHOTOS else row
            cells = re.search(rf"^\| {re.escape(title)} \| (.*) \|$", part, re.MULTILINE)
            assert cells is not None
            nearer, less, own, other = cells[1].split(" | ")
            both = [[list(s.values())[encoder] for s in read_scores(finished, photo, row)] for photo in PAIRS]
            shares[row] = [[float(a > b) for s in clicks for a, b in zip(*s, strict=True)] for clicks in both]
            low, high = interval(np.ravel(shares[row]), [i for i, v in enumerate(shares[row]) for _ in v])
            assert nearer == f"{np.mean(shares[row]):.2f} [{low:.2f}, {high:.2f}]"
            assert float(own.split()[0]) == pytest.approx(np.mean([s.clicked for c in both for s in c]), abs=6e-4)
            assert float(other.split()[0]) == pytest.approx(np.mean([s.other for c in both for s in c]), abs=6e-4)
            if row in (PHOTOS, "p3s"):
                assert not less.strip()
            else:
                assert less.startswith(f"{np.mean(shares['p3s']) - np.mean(shares[row]):.2f} [")
    assert "| dog-dog2.png | dog | dog | dog2 | 2, 2 | " in by_photo
    assert text.count("3 of 3 photos so far") == 1 and "2 prompts, 2 pictures each; DDIM, 2 steps" in text
    assert "clicks change nothing in p3s-no-rngr and plain" in text and "other than the defaults: steps = 1\n" in text
    sheet = read_picture(finished / "sheet.png")
    assert sheet.shape[0] > 6 * 200 and sheet.shape[1] > 5 * 200


def test_what_clicks_do_not_change_is_right_for_one_of_the_two(finished: Path) -> None:
    for photo in PAIRS:
        for row in ("plain", "p3s-no-rngr"):
            a, b = read_scores(finished, photo, row)
            for key in a:
                assert a[key] == Likeness(b[key].other, b[key].clicked)
                assert np.add(a[key].nearer, b[key].nearer).tolist() == [1.0] * 4
    for row in ("p3s", "reference-only", "ssr"):
        a, b = (finished / PAIRS[0] / row / side / "00-0.png" for side in "ab")
        assert a.read_bytes() != b.read_bytes()


def test_nearer_and_leave_one_out_by_hand() -> None:
    assert Likeness((0.5, 0.5, 0.5), (0.4, 0.5, 0.6)).nearer == [1.0, 0.5, 0.0]
    unit = torch.tensor([[1.0, 0.0], [0.0, 2.0], [0.6, 0.8]])
    torch.testing.assert_close(to_others(unit), torch.tensor([0.3, 0.4, 0.7]))


def test_photos_are_redrawn_whole() -> None:
    """Twenty pictures of two photos, all right in one and wrong in the other: the interval is that of two."""
    case = Case("p.png", "dog", (), ())
    twins = (pairs_of.Twin("a", ()), pairs_of.Twin("b", ()))
    right, wrong = Likeness((1.0,) * 10, (0.0,) * 10), Likeness((0.0,) * 10, (1.0,) * 10)
    pairs = [pairs_of.Pair(case, twins), pairs_of.Pair(Case("q.png", "dog", (), ()), twins)]
    scores = {"p.png": {("p3s", "clip"): (right, right)}, "q.png": {("p3s", "clip"): (wrong, wrong)}}
    assert "| p3s | 0.50 [0.00, 1.00] |  | 0.500 [0.000, 1.000] |" in table("x", scores, pairs, ["p3s"], ["clip"], [])


# the methods


def test_a_click_trains_on_its_subject_and_without_rngr_on_the_photo(finished: Path) -> None:
    pair = read_pairs(finished / "pairs")[0]
    photo = read_picture(pair.photo)
    for wanted, side in enumerate("ab"):
        subject = load_subject(finished / pair.name / "p3s" / side / "subject.safetensors")
        assert PointSet.parse(subject.info.points[0]) == pair.clicks(wanted)
        assert subject.info.prompt == "a photo of a sks dog" and subject.info.train_settings["views"] == "whole+subject"
    blind = load_subject(finished / pair.name / "p3s-no-rngr" / "subject.safetensors")
    assert not torch.equal(blind.references[0].tokens, subject.references[0].tokens)
    assert sorted(p.name for p in (finished / pair.name / "p3s-no-rngr").glob("*.safetensors")) == [
        "subject.safetensors"
    ]
    assert photo.shape == (60, 90, 3)


@torch.no_grad()
def test_ssr_reads_the_clean_picture_and_its_mask(finished: Path, files: dict[str, Path]) -> None:
    models = load_stable_diffusion(files["sd"], files["clip"], resolution=SIDE)
    pair = read_pairs(finished / "pairs")[0]
    reference = models.reference(read_picture(pair.photo), pair.clicks(1))
    ssr = load_ssr(files["ssr"])
    query, empty = (models.encode_text(text)[None] for text in ("dog", ""))
    vision = clip_vision(models.clip, 2)
    embeds = encode(ssr, query, empty, reference.image, vision, reference.subject_mask).embeds
    run = SubjectRun(AppliedSSR(embeds), SubjectLayers.from_state_dict(ssr.layers, UNET))
    start = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1001))
    texts = [models.encode_text(text) for text in ("a wet dog", "")]
    *_, last = generate(models.unet, *texts, models.noise, start, (), 2, over=over_sampling([run]))
    picture = models.vae.decode(last / models.vae.config.scaling_factor).sample[0].movedim(0, -1)
    kept = read_picture(finished / pair.name / "ssr" / "b" / "01-1.png")
    torch.testing.assert_close(kept, (picture / 2 + 0.5).clamp(0, 1), atol=0.01, rtol=0)


def test_without_weights_ssr_is_left_out(given: list[str], files: dict[str, Path], tmp_path: Path, capsys) -> None:
    options = [option for option in given if not option.startswith("--ssr")]
    options += [f"--data={files['data']}", "--subjects", "dog", "dog2", f"--out={tmp_path / 'run'}"]
    assert main([*options, "--methods", "plain", "ssr"]) == 0
    text = (tmp_path / "run" / "table.md").read_text()
    assert "ssr is left out: no --ssr" in text and "| plain |" in text and "| ssr |" not in text
    assert main([*options, "--methods", "ssr"]) == 1
    assert "give --ssr FILE" in capsys.readouterr().err


def test_an_ssr_encoder_of_another_model_is_refused_before_any_training(given, files, tmp_path: Path, capsys) -> None:
    options = [option for option in given if not option.startswith("--ssr")]
    other, out = save_ssr(random_model(), tmp_path / "other.safetensors"), tmp_path / "run"
    assert main([*options, f"--data={files['data']}", f"--ssr={other}", f"--out={out}"]) == 1
    assert "twins: model: this SSR-Encoder was made for a U-Net with" in capsys.readouterr().err
    assert not list(out.rglob("*.safetensors")) and not (out / "run.json").exists()


# resuming


def run(given: list[str], out: Path, stop_after: int = 10**9) -> Watch:
    return counted(main, given, out, stop_after)


def test_a_killed_run_resumes(given: list[str], files: dict[str, Path], finished: Path, tmp_path: Path) -> None:
    """A photo has 2 + 1 trainings, and 4 pictures of each of them and of each click by the two other methods; the plain
    ones are of the class."""
    options, out = [f"--data={files['data']}", *given], tmp_path / "run"
    first = run(options, out, stop_after=10)
    assert (first.trained, first.sampled) == (3, 10)
    second = run(options, out)
    assert (second.trained, second.sampled) == (6, 3 * (3 * 4 + 4 * 4) + 4 - 10)
    third = run(options, out)
    assert (third.trained, third.sampled) == (0, 0)
    text, expected = ((folder / "table.md").read_text() for folder in (out, finished))
    assert text.replace(str(out), "") == expected.replace(str(finished), "")


def test_a_table_grows_photo_by_photo(given: list[str], files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = [*given, f"--data={files['data']}", "--methods", "reference-only"]
    run(options, out, stop_after=10)
    assert "1 of 3 photos so far" in (out / "table.md").read_text()
    run(options, out)
    assert "3 of 3 photos so far" in (out / "table.md").read_text()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"x": 1}'])
def test_damaged_scores_are_made_again(given, files, finished: Path, tmp_path: Path, content: str) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    file = out / PAIRS[0] / "p3s" / "scores-b.json"
    before = json.loads(file.read_text())
    file.write_text(content)
    watch = run([f"--data={files['data']}", *given], out)
    assert (watch.trained, watch.sampled) == (0, 0)
    after = json.loads(file.read_text())
    assert {key: after[key] for key in before} == before


def test_another_encoder_adds_to_what_is_there(given, files, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    watch = run([f"--data={files['data']}", *given, f"--encoder=nearid={files['nearid']}"], out)
    assert (watch.trained, watch.sampled) == (0, 0)
    text = (out / "table.md").read_text()
    assert "\n## By nearid\n" in text and text.startswith((finished / "table.md").read_text()[:60])
    assert [len(scores) for scores in read_scores(out, PAIRS[1], "ssr")] == [3, 3]


def test_more_prompts_add_to_what_is_there(given, files, finished: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    watch = run([f"--data={files['data']}", *given, "--prompts=3", "--photos=1"], out)
    assert (watch.trained, watch.sampled) == (0, 8 * 2)  # two clicks by three methods, and two that are blind


def test_a_folder_of_other_results_is_refused(given, files, finished: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before = {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()}
    data = f"--data={files['data']}"
    for option, named in (("--guidance=3", "guidance"), ("--blur=0.5", "masks blur"), ("--gamma=0.2", "train gamma")):
        assert main([data, *given, option, f"--out={out}"]) == 1
        assert f"holds the results of another run, which differs in {named}" in capsys.readouterr().err
    pairs = json.loads((finished / "pairs" / "pairs.json").read_text())
    pairs["photos"][PAIRS[1]]["b"]["points"] = [[0.8, 0.5]]
    shutil.copytree(finished / "pairs", tmp_path / "mine")
    (tmp_path / "mine" / "pairs.json").write_text(json.dumps(pairs))
    assert main([f"--twins={tmp_path / 'mine'}", *given, f"--out={out}"]) == 1
    said = capsys.readouterr().err
    assert PAIRS[1] in said and "which differs in points on b" in said
    assert {path: path.read_bytes() for path in out.rglob("*.*") if path.is_file()} == before
