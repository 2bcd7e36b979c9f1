"""The protocol of twins: pairs made of DreamBench, the folder of pairs, mistakes, and the encoders.
DREAMBENCH_PATH names a folder of DreamBench, whose pairs are then looked at as well."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from counted_runs import Watch, counted
from real_models import SIDE
from twins_files import LIVE, PAIRS, drawn, options_of, read_scores, write_files, write_nearid

from benchmarks.dreambench.data import LIST, Case, read_cases
from benchmarks.dreambench.metrics import ImageEncoder
from benchmarks.dreambench.twins.__main__ import main
from benchmarks.dreambench.twins.pairs import MISSED, PROMPTS, read_pairs, side_by_side, twosomes, write_twosomes
from benchmarks.dreambench.twins.run import box_of
from p3s.errors import MaskError, P3SError, PointError
from p3s.image_files import read_picture, write_png
from p3s.models.stable_diffusion import StableDiffusion, load_stable_diffusion
from p3s.reference.points import PointSet

pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("twins"))


@pytest.fixture(scope="module")
def given(files: dict[str, Path]) -> list[str]:
    return options_of(files)


def run(given: list[str], out: Path, stop_after: int = 10**9) -> Watch:
    return counted(main, given, out, stop_after)


# pairs of DreamBench


def test_two_photos_side_by_side() -> None:
    left, right = torch.rand(30, 40, 3), torch.rand(30, 20, 3)
    whole, points = side_by_side(left, right)
    assert torch.equal(whole, torch.cat([left, right], 1))
    assert points == ((20 / 60, 0.5), (50 / 60, 0.5))
    taller = torch.tensor([0.2, 0.4, 0.6]).expand(60, 40, 3)
    whole, points = side_by_side(taller, right)
    torch.testing.assert_close(whole[:, :20], taller[:30, :20])
    assert torch.equal(whole[:, 20:], right) and points == ((10 / 40, 0.5), (30 / 40, 0.5))


def test_pairs_are_of_one_class_and_do_not_depend_on_what_else_is_there(files: dict[str, Path], tmp_path: Path) -> None:
    found = twosomes(read_cases(files["data"])[0])
    assert tuple(two.name for two in found) == PAIRS
    few = twosomes(read_cases(files["data"], ["dog", "dog6"])[0])
    assert [(two.name, two.photos) for two in few] == [(found[1].name, found[1].photos)]
    with pytest.raises(P3SError, match="no two of the subjects dog, teapot are of one class"):
        twosomes(read_cases(files["data"], ["dog", "teapot"])[0])
    write_twosomes(found, tmp_path / "pairs")
    for pair, two in zip(read_pairs(tmp_path / "pairs"), found, strict=True):
        whole = read_picture(pair.photo)
        for half, case, number, twin in zip(
            whole.split(45, 1), (two.left, two.right), two.photos, pair.twins, strict=True
        ):
            assert torch.equal(half, read_picture(case.photos[number])) and twin.name == case.name
            assert set(twin.truth) == {photo.resolve() for photo in case.photos} - {case.photos[number].resolve()}
        assert pair.clicks(0) == PointSet(((0.25, 0.5),), ((0.75, 0.5),))
        assert pair.clicks(1) == PointSet(((0.75, 0.5),), ((0.25, 0.5),))
        assert (pair.case.kind, pair.case.prompts) == ("dog", tuple(LIVE))


def test_photos_without_the_subject_in_the_middle_are_not_taken() -> None:
    cases = [Case(name, "k", tuple(Path(f"{n:02}.jpg") for n in range(6)), ()) for name in MISSED]
    for two in twosomes(cases):
        for case, number in zip((two.left, two.right), two.photos, strict=True):
            assert case.photos[number].stem not in MISSED[case.name]


@pytest.mark.skipif("DREAMBENCH_PATH" not in os.environ, reason="DREAMBENCH_PATH names no DreamBench")
def test_the_data_sets_own_pairs() -> None:
    cases, _ = read_cases(Path(os.environ["DREAMBENCH_PATH"]))
    found = {frozenset((two.left.name, two.right.name)) for two in twosomes(cases)}
    assert {frozenset(("dog", "dog2")), frozenset(("cat", "cat2")), frozenset(("backpack", "backpack_dog"))} <= found
    assert frozenset(("cat", "dog")) not in found


# the folder of pairs


def write_pairs(folder: Path, **changes: Any) -> Path:
    """A folder with a photo of two halves, and what ``changes`` makes of its list's entry."""
    folder.mkdir(exist_ok=True)
    write_png(torch.cat([drawn(0, 0), drawn(2, 0)], 1), folder / "park.png")
    write_png(drawn(0, 1), folder / "rex.png")
    entry = {"class": "dog", "a": {"points": [[0.25, 0.5]]}, "b": {"points": [[0.75, 0.5]]}} | changes
    (folder / "pairs.json").write_text(json.dumps({"photos": {"park.png": entry}}))
    return folder


def test_without_photos_of_their_own_the_truth_is_cut_out(given: list[str], tmp_path: Path) -> None:
    folder, out = write_pairs(tmp_path / "mine"), tmp_path / "run"
    (pair,) = read_pairs(folder)
    assert pair.case.prompts == PROMPTS and pair.clicks(1) == PointSet(((0.75, 0.5),), ((0.25, 0.5),))
    watch = run([*given, f"--twins={folder}", "--methods", "plain"], out)
    assert (watch.trained, watch.sampled) == (0, 4)
    text = (out / "table.md").read_text()
    assert "the truth is a crop of the very photo" in text and "real photos" not in text
    assert "| park.png | dog | a | b | 0, 0 | " in text
    clip = Path(given[1].split("=")[1])
    models = load_stable_diffusion(given[0].split("=")[1], clip, resolution=SIDE)
    photo, encoder = read_picture(folder / "park.png"), ImageEncoder(clip, "cpu")
    (sketch,) = (out / "plain").iterdir()
    picture = encoder([read_picture(sketch / "00-0.png")])
    for wanted, scores in enumerate(read_scores(out, "park.png", "plain")):
        crop = photo[box_of(models.reference(photo, pair.clicks(wanted)).subject_mask)]
        expected = torch.cosine_similarity(picture, encoder([crop])).item()
        assert scores[encoder.fingerprint].clicked[0] == pytest.approx(expected, abs=1e-5)


def test_a_crop_is_the_mask_with_a_margin() -> None:
    mask = torch.zeros(60, 90)
    mask[20:40, 5:25] = 1
    assert box_of(mask) == (slice(18, 42), slice(3, 27))
    mask[2:58, 1:88] = 1
    with pytest.raises(MaskError, match="most of the photo"):
        box_of(mask)


A, B = {"points": [[0.25, 0.5]]}, {"points": [[0.75, 0.5]]}


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"class": 3}, P3SError, "park.png: class must be a word"),
        ({"c": A}, P3SError, "park.png: expected class, a and b"),
        ({"a": [[0.2, 0.5]]}, P3SError, "park.png, a: expected points"),
        ({"a": {"points": []}}, PointError, "park.png, a: There is no positive point"),
        ({"b": {"points": [[75, 50]]}}, PointError, "park.png, b: .*outside"),
        ({"b": B | {"thruth": []}}, P3SError, "park.png, b: expected points, and perhaps truth and name"),
        ({"b": B | {"truth": ["max.png"]}}, P3SError, "park.png, b: truth: there is no file .*max.png"),
        ({"b": B | {"truth": "rex.png"}}, P3SError, "truth a list of files"),
        ({"a": A | {"truth": ["rex.png"]}}, P3SError, "only one subject has photos of its own"),
    ],
)
def test_a_wrong_entry_is_named(tmp_path: Path, changes: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        read_pairs(write_pairs(tmp_path / "mine", **changes))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "expected JSON such as"),
        ("{", "expected JSON such as"),
        ('{"photos": {}}', "expected JSON such as"),
        ('{"photos": {"park.png": {}}, "x": 1}', "expected JSON such as"),
        ('{"photos": {"town.png": {}}}', "town.png: there is no such photo"),
        ('{"photos": {"../park.png": {}}}', "expected the name of a"),
        ('{"photos": {"pairs.json": {}}}', "expected the name of a"),
        ('{"photos": {"park.png": {}}, "prompts": {"dog": ["a dog"]}}', "prompts of dog: expected a list"),
        ('{"photos": {"park.png": {}}, "prompts": {"dog": ["a {0} {1} {2}"]}}', "prompts of dog: expected a list"),
        ('{"photos": {"park.png": {}}, "prompts": {"dog": "a {0} {1}"}}', "prompts of dog: expected a list"),
    ],
)
def test_a_wrong_list_is_named(tmp_path: Path, text: str, message: str) -> None:
    folder = write_pairs(tmp_path / "mine")
    (folder / "pairs.json").write_text(text)
    with pytest.raises(P3SError, match=message) as raised:
        read_pairs(folder)
    assert "pairs.json" in str(raised.value)


def test_all_clicks_without_a_mask_are_named_before_anything_is_done(given, files, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    with pytest.MonkeyPatch.context() as monkeypatch:

        def no_mask(models: Any, picture: Any, points: PointSet, settings: Any) -> None:
            if points.positive[0][0] > 0.5:
                raise MaskError("The whole picture looks the same.")

        monkeypatch.setattr(StableDiffusion, "reference", no_mask)
        assert main([f"--data={files['data']}", *given, f"--out={out}"]) == 1
    said = capsys.readouterr().err
    assert "no mask follows from 3 of the clicks" in said and said.count("\n") == 1
    assert all(f"{photo}, b: The whole picture looks the same." in said for photo in PAIRS)
    assert [path.name for path in out.iterdir()] == ["pairs"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (["--data=/nowhere"], LIST),
        (["--twins=/nowhere"], "pairs.json"),
        (["--encoder=clip"], "--encoder clip: expected NAME=FOLDER"),
        (["--encoder=dino=/tmp"], "with another name for every encoder"),
        (["--encoder=x=/nowhere"], "--encoder x /nowhere: there is no such folder"),
        (["--prompts=0"], "--prompts must be 1 or more"),
        (["--ssr", "a", "b", "c"], "--ssr: expected one file or two"),
        (["--ssr=/nowhere"], "nowhere"),
        (["--model=/nowhere"], "nowhere"),
        (["--zero-init=one"], "zero_init must be one of"),
    ],
)
def test_mistakes_are_one_line(given, files, change: list[str], message: str, tmp_path: Path, capsys) -> None:
    data = [] if any("--data" in option or "--twins" in option for option in change) else [f"--data={files['data']}"]
    assert main([*data, *given, *change, f"--out={tmp_path / 'run'}"]) == 1
    said = capsys.readouterr().err
    assert message in said and said.startswith("twins: ") and said.count("\n") == 1
    assert not (tmp_path / "run").exists()


# encoders


def test_nearid_is_read_without_its_code(tmp_path: Path) -> None:
    torch.manual_seed(1)
    tower = write_nearid(tmp_path / "nearid")
    picture = torch.rand(40, 50, 3)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "nearid")
    pixels = processor(images=(picture * 255).round().byte().numpy(), return_tensors="pt")
    expected = tower(**pixels).pooler_output.detach()
    found = ImageEncoder(tmp_path / "nearid", "cpu")([picture, picture])
    torch.testing.assert_close(found, expected.expand(2, -1))


def test_an_encoder_without_all_of_its_weights_is_refused(files: dict[str, Path], tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "half"
    shutil.copytree(files["dino"], folder)
    weights = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in weights.items() if k != "layernorm.weight"}, folder / "model.safetensors")
    with pytest.raises(P3SError, match=r"half: the weights lack layernorm\.weight"):
        ImageEncoder(folder, "cpu")
    with pytest.raises(P3SError, match="no image encoder can be read there"):
        ImageEncoder(tmp_path, "cpu")
