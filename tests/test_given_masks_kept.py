"""Masks from elsewhere on the way through training, subject files and the command line."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from subjects import make_subject, same

from p3s.__main__ import main
from p3s.demo.chain import TRAINING
from p3s.errors import SubjectFileError
from p3s.image_files import read_picture, write_png
from p3s.models.pipeline import train_subject
from p3s.network.copy_settings import CopySettings
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference
from p3s.subject.describe import describe_in_full
from p3s.subject.file import load_subject, save_subject
from p3s.subject.info import info_from_json, info_to_json
from p3s.toyworld.scenes import IDENTIFIER, prompt, scene
from p3s.toyworld.world import MASKS, ToyWorld, click, load_world, picture_of
from p3s.training.driver import info_of, prepare
from p3s.training.key import TrainingInputs
from p3s.training.key import same as same_sketches

SCENE = scene("heldout", 4, "different", "dog")
TEXT = prompt("dog", "beach", IDENTIFIER)
AS_GIVEN = replace(MASKS, grow=0)
QUICK = ["--steps", "2", "--batch-size", "1"]


@pytest.fixture(scope="module")
def world() -> ToyWorld:
    return load_world()


@pytest.fixture(scope="module")
def clicked(world: ToyWorld) -> Reference:
    return world.reference(picture_of(SCENE), click(SCENE, 1))


def masks_of(reference: Reference) -> dict[str, torch.Tensor]:
    return {name: getattr(reference, name) for name in ("subject_mask", "negative_mask")}


# The subject file


def test_a_subject_of_points_alone_is_written_as_before(tmp_path: Path) -> None:
    """Not a byte of the metadata speaks of given masks, so its checksum is the old one, too."""
    subject = make_subject(references=2)
    assert "given_masks" not in json.loads(info_to_json(subject.info))
    assert "made elsewhere" not in describe_in_full(load_subject(save_subject(subject, tmp_path / "a.safetensors")))


def test_a_file_says_which_masks_were_given_and_is_still_of_version_1(tmp_path: Path) -> None:
    given = (("subject_mask", "negative_mask"), ())
    subject = make_subject(references=2, given_masks=given, points=(PointSet().to_json(),) * 2)
    path = save_subject(subject, tmp_path / "a.safetensors")
    with safe_open(path, "pt") as file:
        assert file.metadata()["format_version"] == "1"
    read = load_subject(path)
    assert same(read, subject) and read.info.given_masks == given
    told = describe_in_full(read)
    assert (
        told.count("made elsewhere: ") == 1 and "    made elsewhere: subject_mask, negative_mask\nReference 1" in told
    )


@pytest.mark.parametrize("wrong", [[["subject_mask"]], [[], [1]], ["ab", "cd"], [[], [], []], {}])
def test_given_masks_of_another_kind_are_refused(wrong: object) -> None:
    text = json.dumps(json.loads(info_to_json(make_subject(references=2).info)) | {"given_masks": wrong})
    with pytest.raises(SubjectFileError, match="given_masks"):
        info_from_json(text)


# Training


def inputs_of(world: ToyWorld, reference: Reference, **settings: object) -> TrainingInputs:
    return prepare(
        world.unet.config,
        [reference],
        [world.encode_text(TEXT)],
        world.encode_text(""),
        world.encode_latent,
        world.resolution,
        world.noise,
        lambda: "ab" * 32,
        CopySettings(),
        replace(TRAINING, **settings),
    )


def found_again(one: TrainingInputs, other: TrainingInputs) -> bool:
    return one.key() == other.key() and same_sketches(one.sketches(), other.sketches())


def test_a_training_with_another_mask_is_another_training(world: ToyWorld, clicked: Reference) -> None:
    """With all else alike: photo, points, settings, and but for the negative one also the clean reference."""
    photo, masks = picture_of(SCENE), masks_of(clicked)
    before = world.reference(photo, None, **masks)
    for name, dim in (("subject_mask", 0), ("subject_mask", 1), ("negative_mask", 0)):
        moved = torch.roll(masks[name], 4, dim)
        other = world.reference(photo, None, **{**masks, name: moved})
        assert (other.image_hash, other.points) == (before.image_hash, before.points)
        assert not found_again(inputs_of(world, before), inputs_of(world, other)), (name, dim)


def test_a_training_on_the_same_masks_from_elsewhere_is_the_same_training(world: ToyWorld, clicked: Reference) -> None:
    given = world.reference(picture_of(SCENE), None, AS_GIVEN, **masks_of(clicked))
    points, masks = inputs_of(world, clicked), inputs_of(world, given)
    assert found_again(points, masks) and points.state_key() == masks.state_key()
    told = info_of(masks, [given], "toy")
    assert told.given_masks == (("subject_mask", "negative_mask"),)
    assert told.points == (PointSet().to_json(),)
    assert info_of(points, [clicked], "toy").given_masks == ()


def test_a_subject_is_trained_on_a_mask_without_points(world: ToyWorld, clicked: Reference, tmp_path: Path) -> None:
    """The same weights, to the last bit, as of the points that give these masks."""
    given = world.reference(picture_of(SCENE), None, AS_GIVEN, **masks_of(clicked))
    quick = replace(TRAINING, steps=2, batch_size=1)
    one, other = (train_subject(world, [each], TEXT, quick, CopySettings())[0] for each in (clicked, given))
    assert all(torch.equal(weight, other.weights[key]) for key, weight in one.weights.items())
    read = load_subject(save_subject(other, tmp_path / "dog.safetensors"))
    assert read.info.given_masks == (("subject_mask", "negative_mask"),)


# The command line


@pytest.fixture(scope="module")
def files(clicked: Reference, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A drawn scene, larger than the toy world's and in other proportions, and its masks, at the scene's size."""
    folder = tmp_path_factory.mktemp("files")

    def enlarged(picture: torch.Tensor) -> torch.Tensor:
        return picture.repeat_interleave(4, 0).repeat_interleave(6, 1)

    write_png(enlarged(picture_of(SCENE)), folder / "photo.png")
    for name, mask in masks_of(clicked).items():
        write_png(enlarged(mask), folder / f"{name}.png")
    Image.open(folder / "subject_mask.png").convert("RGBA").save(folder / "opaque.png")
    cut = Image.open(folder / "photo.png").convert("RGBA")
    cut.putalpha(Image.open(folder / "subject_mask.png"))
    cut.save(folder / "cut_out.png")
    write_png(torch.zeros(30, 40), folder / "black.png")
    write_png(torch.eye(40)[:30], folder / "other.png")
    return {path.stem: str(path) for path in folder.iterdir()}


def test_mask_takes_masks_as_pictures(files: dict[str, str], tmp_path: Path) -> None:
    given = ["--subject-mask", files["opaque"], "--negative-mask", files["negative_mask"]]
    assert main(["mask", files["photo"], *given, "--out", str(tmp_path)]) == 0
    for name in ("subject_mask", "negative_mask"):
        written = np.asarray(Image.open(tmp_path / f"{name}.png"))
        np.testing.assert_array_equal(written, np.asarray(Image.open(files[name])))
    changed = (read_picture(tmp_path / "inpainted.png") != read_picture(files["photo"])).any(-1).numpy()
    assert not changed[written == 0].any() and changed[written == 255].mean() > 0.8


def test_train_takes_masks_that_belong_to_the_photo_before_them(files: dict[str, str], tmp_path: Path) -> None:
    out = tmp_path / "dog.safetensors"
    masks = ["--subject-mask", files["subject_mask"], "--negative-mask", files["negative_mask"]]
    second = ["--image", files["photo"], "--points", click(SCENE, 1).to_json()]
    line = ["train", "--image", files["photo"], *masks, *second, "--prompt", TEXT, *QUICK, "--out", str(out)]
    assert main(line) == 0
    info = load_subject(out).info
    assert info.given_masks == (("subject_mask", "negative_mask"), ())
    assert info.points == (PointSet().to_json(), click(SCENE, 1).to_json())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"subject-mask": "cut_out"},
            "cut_out.png: it has transparent parts, which could mean either side of the mask",
        ),
        ({"subject-mask": "black"}, "subject_mask marks nothing"),
        (
            {"subject-mask": "other"},
            "photo.png: subject_mask is 40 x 30 pixels, the photo 288 x 192: their shapes differ",
        ),
        ({"negative-mask": "negative_mask"}, "There is no positive point"),
        ({"subject-mask": "nowhere"}, "nowhere"),
    ],
)
def test_masks_that_cannot_be_used_are_named_in_one_line(
    files: dict[str, str], options: dict[str, str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = [part for name, file in options.items() for part in (f"--{name}", files.get(file, file))]
    for command in (["mask", files["photo"]], ["train", "--prompt", TEXT, "--image", files["photo"]]):
        assert main([*command, *given, "--out", str(tmp_path / "out")]) == 1
        said = capsys.readouterr().err
        assert message in said and said.count("\n") == 1
    assert not list(tmp_path.iterdir())
