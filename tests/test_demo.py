"""The demo's chain end to end, its stand-ins, its sheet, and the command line."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn_dogs import POINTS, draw_scene
from PIL import Image
from subjects import make_subject

from p3s.__main__ import main
from p3s.demo import stand_ins
from p3s.demo.chain import ABOUT, COLUMNS, TRAINING, generate_row, run_demo
from p3s.demo.contact_sheet import Panel, Row, draw_sheet, loss_curve
from p3s.models.pipeline import apply_subject
from p3s.reference.rngr import make_reference
from p3s.sampling.application import Application
from p3s.sampling.settings import EXACT, FAST, STANDARD
from p3s.subject.file import load_subject, save_subject
from p3s.toyworld.world import load_world

QUICK = replace(TRAINING, steps=3, batch_size=1)
DATA = Path(__file__).parent / "data"


def picture(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"), dtype=float)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    folder, said = tmp_path_factory.mktemp("demo") / "out", []
    run_demo(folder, QUICK, 2, said.append)
    return folder, "\n".join(said)


def test_the_chain_writes_a_sheet_and_a_subject_and_says_what_it_is(ran: tuple[Path, str]) -> None:
    folder, said = ran
    names = ["photo.png", "points.json", "sheet.png", "subject.safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert said.startswith(f"P3S demo\n{ABOUT}")
    assert "at strength 0 the picture is the plain model's: yes, bit for bit" in said
    info = load_subject(folder / "subject.safetensors").info
    assert (info.steps, info.completed, info.identifier) == (3, True, "sks")
    sheet = picture(folder / "sheet.png")
    assert sheet.shape[0] > 600 and sheet.shape[1] > 1000


def test_the_columns_differ_in_what_they_name(ran: tuple[Path, str]) -> None:
    folder, _ = ran
    world = load_world()
    applied, _ = apply_subject(world, load_subject(folder / "subject.safetensors"))
    text = "a photo of a sks dog"
    row = generate_row(world, applied, text, seed=3, steps=2)
    assert list(row) == list(COLUMNS)
    (plain,) = world.sample(text, [3], steps=2)
    assert torch.equal(row["plain model"], plain)
    for name, seed, settings in (
        ("with the subject", 3, STANDARD),
        ("another seed", 4, STANDARD),
        ("mode fast", 3, FAST),
        ("mode exact", 3, EXACT),
    ):
        how = replace(applied, application=Application(settings=settings))
        assert torch.equal(row[name], world.sample(text, [seed], [how], steps=2)[0]), name
        assert not torch.equal(row[name], plain), name


def test_the_scene_has_the_clicked_dog_kept_and_the_other_removed() -> None:
    photo = draw_scene()
    reference = make_reference(photo, POINTS, stand_ins.encode_patches, image_size=stand_ins.IMAGE_SIZE)
    assert reference.warnings == ()
    height, width = reference.subject_mask.shape
    brown = (photo - torch.tensor([176, 112, 54]) / 255).abs().amax(-1) < 0.1
    blue = (photo - torch.tensor([92, 112, 190]) / 255).abs().amax(-1) < 0.1
    assert brown[:, : width // 2].sum() > 0.05 * height * width
    assert reference.subject_mask[brown].mean() > 0.7
    assert reference.subject_mask[blue].mean() < 0.1
    assert reference.negative_mask[blue].mean() > 0.7
    assert torch.equal(photo, draw_scene())
    assert not torch.equal(photo, draw_scene(seed=1))


def test_a_sheet_holds_its_pictures_unchanged() -> None:
    red, small = torch.zeros(50, 80, 3), torch.rand(5, 8, 3)
    red[..., 0] = 1
    sheet = draw_sheet("title", ["note"], [Row("heading", [Panel("a", red), Panel("b", small)], height=50)], "careful")
    assert sheet.shape[1] == 24 + 80 + 16 + 80 + 24
    where = (sheet - torch.tensor([1.0, 0, 0])).abs().amax(-1) == 0
    rows, columns = where.nonzero(as_tuple=True)
    assert where.sum() == 50 * 80
    assert (columns.min(), columns.max()) == (24, 103)
    enlarged = sheet[rows.min() : rows.max() + 1, 120:200]
    torch.testing.assert_close(enlarged[5::10, 5::10], small, atol=1 / 255, rtol=0)


def test_a_long_note_is_wrapped_within_the_sheet() -> None:
    black = torch.zeros(50, 200, 3)
    short = draw_sheet("t", ["word"], [Row("", [Panel("", black)], 50)])
    long = draw_sheet("t", ["word " * 60], [Row("", [Panel("", black)], 50)])
    assert long.shape[1] == short.shape[1]
    assert long.shape[0] > short.shape[0] + 100
    assert (long[:, -24:] == long[0, 0]).all(), "letters reach into the margin"


def test_a_loss_curve_falls_where_the_loss_does() -> None:
    falling = loss_curve(np.linspace(2, 1, 50), (300, 200))
    strong = ((falling - torch.tensor([30, 100, 200]) / 255).abs().amax(-1) < 0.02).nonzero()
    left, right = (strong[strong[:, 1] == column][:, 0].float().mean() for column in (100, 250))
    assert right > left + 20
    assert loss_curve([0.0]).isfinite().all()


# the command line


def test_help_names_every_command_without_loading_torch() -> None:
    code = "import sys; from p3s.__main__ import main\ntry: main(['--help'])\nfinally: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[1])
    for word in ("demo", "mask", "info", "examples:"):
        assert word in done.stdout
    assert done.stdout.rstrip().endswith("False"), done.stdout + done.stderr


def test_mask_writes_what_the_node_shows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = draw_scene()
    Image.fromarray((photo.numpy() * 255).round().astype(np.uint8)).save(tmp_path / "dogs.png")
    fractions = ["--positive", "0.25,0.6", "--negative", "0.74,0.6"]
    out = tmp_path / "a"
    assert main(["mask", str(tmp_path / "dogs.png"), *fractions, "--out", str(out)]) == 0
    said = capsys.readouterr().out
    assert "stand-in that only compares colours" in said
    names = ["inpainted", "negative_mask", "overlay", "similarity", "subject_mask"]
    assert sorted(path.stem for path in out.iterdir()) == names
    subject, removed = picture(out / "subject_mask.png"), picture(out / "negative_mask.png")
    assert subject[192, 120].min() == 255 and subject[192, 355].max() == 0
    assert removed[192, 355].min() == 255 and removed[192, 120].max() == 0
    changed = np.abs(picture(out / "inpainted.png") - picture(tmp_path / "dogs.png")).max(-1) > 0
    assert changed[192, 355] and not changed[192, 120]

    pixels = ["--positive", "120,192", "--negative", "355.2,192", "--pixels", "--out", str(tmp_path / "b")]
    assert main(["mask", str(tmp_path / "dogs.png"), *pixels]) == 0
    points = ["--points", POINTS.to_json(), "--out", str(tmp_path / "c")]
    assert main(["mask", str(tmp_path / "dogs.png"), *points]) == 0
    for name in names:
        assert (tmp_path / "a" / f"{name}.png").read_bytes() == (tmp_path / "b" / f"{name}.png").read_bytes()
        assert (tmp_path / "a" / f"{name}.png").read_bytes() == (tmp_path / "c" / f"{name}.png").read_bytes()


def test_mask_writes_a_picture_of_the_subject(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the files that it writes beside it: the cleaned photo where the mask is, the colour elsewhere."""
    photo, out = tmp_path / "dogs.png", tmp_path / "masks"
    Image.fromarray((draw_scene().numpy() * 255).round().astype(np.uint8)).save(photo)
    made = ["--picture", str(tmp_path / "new" / "dog.png"), "--background", "plain", "--colour", "#0a141e"]
    exact = ["--view", "whole", "--multiple", "1", "--feather", "0"]
    points = ["--points", POINTS.to_json()]
    assert main(["mask", str(photo), *points, "--out", str(out), *made, *exact]) == 0
    size = " x ".join(map(str, Image.open(photo).size))
    assert f"wrote the subject's picture, {size} pixels, to {made[1]}" in capsys.readouterr().out
    subject = picture(out / "subject_mask.png") > 0
    expected = np.where(subject, picture(out / "inpainted.png"), np.array([10, 20, 30]))
    np.testing.assert_array_equal(picture(Path(made[1])), expected)


def test_mask_reads_a_clip_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8
    )
    transformers.CLIPVisionModel(config).save_pretrained(tmp_path / "clip")
    points = ["--positive", "0.5,0.5", "--value-range", "minmax", "--blur", "0", "--out", str(tmp_path / "out")]
    assert main(["mask", str(DATA / "dog.jpg"), *points, "--clip", str(tmp_path / "clip")]) == 0
    assert "stand-in" not in capsys.readouterr().out
    assert (tmp_path / "out" / "overlay.png").exists()


def test_info_describes_a_subject(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = save_subject(make_subject(references=2), tmp_path / "dog.safetensors")
    assert main(["info", str(path)]) == 0
    said = capsys.readouterr().out
    for words in ("an SD 1.x model", "Größe ½", "Steps: 300", "CC BY 4.0", "3 tensors, 17 parameters", "lam = 0.2"):
        assert words in said
    assert said.count("latent 4x2x3, CLIP tokens 5x6") == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mask", str(DATA / "dog.jpg")], "no positive point"),
        (["mask", str(DATA / "dog.jpg"), "--positive", "3,0.5"], "positive point 1: x = 3.0 lies outside"),
        (["mask", str(DATA / "ATTRIBUTION.md"), "--positive", "0.5,0.5"], "is not in a picture format"),
        (["mask", "nowhere.jpg", "--positive", "0.5,0.5"], "nowhere.jpg"),
        (["mask", str(DATA / "dog.jpg"), "--positive", "0.5,0.5", "--fill", "magic"], "fill must be one of"),
        (["mask", str(DATA / "dog.jpg"), "--positive", "0.5,0.5", "--points", "{}"], "either --points, or"),
        (["mask", str(DATA / "dog.jpg"), "--positive", "0.5,0.5", "--colour", "blank"], "colour must be an opaque"),
        (["info", str(DATA / "dog.jpg")], "dog.jpg"),
        (["info", "nowhere.safetensors"], "no such file"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith(f"p3s {arguments[0]}: ") and said.count("\n") == 1


@pytest.mark.parametrize("arguments", [[], ["fly"], ["demo", "--steps", "0"], ["mask", "a.jpg", "--positive", "left"]])
def test_a_wrong_command_line_is_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err
