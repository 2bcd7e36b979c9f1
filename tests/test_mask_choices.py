"""The sheets of every mask choice, of the command and the benchmark, and the benchmark's table."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from dreambench_files import write_data
from rngr_pictures import colour_histograms, photo
from torch import Tensor
from vision_models import small

from benchmarks import mask_choices
from p3s.__main__ import main
from p3s.demo.mask_sheet import every_choice, mask_rows
from p3s.image_files import read_picture, write_png
from p3s.reference.masks import FEATURES, MaskSettings
from p3s.reference.points import PointSet
from p3s.reference.rngr import make_reference
from p3s.reference.vision import PatchVision
from p3s.reference.vision_models import patch_vision
from p3s.toyworld.scenes import render, scene
from p3s.toyworld.world import MASKS, click, load_world, picture_of

POINTS = PointSet([(0.13, 0.62)], [(0.83, 0.55)])


def two() -> Tensor:
    return torch.cat([photo("puppy"), photo("cat")], dim=1)


def test_every_choice_is_what_a_run_gives_and_the_model_reads_each_tile_once() -> None:
    asked = []

    def encode(pictures: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        asked.append(names)
        tokens = colour_histograms(pictures)
        return {name: tokens + 0.1 * number for number, name in enumerate(names)}

    vision = PatchVision(encode, 224, 14, features=("last", "penultimate"))
    found = list(every_choice(two(), POINTS, vision, MaskSettings()))
    assert asked == [("last", "penultimate")] * 5  # the whole photo and 2 x 2 tiles
    assert [(e.settings.features, e.settings.tiles, e.settings.refine) for e in found] == [
        (features, tiles, refine)
        for features in ("last", "penultimate")
        for tiles in (1, 2)
        for refine in ("off", "grabcut")
    ]
    clip = PatchVision.of(colour_histograms)
    for each in found[:4]:
        made = make_reference(two(), POINTS, clip, each.settings)
        assert each.reference is not None
        assert torch.equal(each.reference.subject_mask, made.subject_mask)
        assert torch.equal(each.reference.negative_mask, made.negative_mask)


def test_points_without_a_mask_leave_a_grey_panel() -> None:
    grey = torch.full((40, 60, 3), 0.5)
    (row,) = mask_rows(grey, PointSet([(0.2, 0.5)]), PatchVision.of(colour_histograms), "colours", MaskSettings())
    captions = ["masks: none", "refined: none", "2 x 2 tiles: none", "2 x 2 tiles, refined: none"]
    assert [panel.caption for panel in row.panels] == [*captions, "similarity", "similarity, 2 x 2 tiles"]


def test_compare_writes_one_sheet_of_all_choices_of_both_models(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_png(two(), tmp_path / "two.png")
    for name, kind in (("clip", "clip"), ("dino", "dinov2 with registers")):
        small(kind).save_pretrained(tmp_path / name)
    points = ["--positive", "0.13,0.62", "--negative", "0.83,0.55", "--blur", "0.5"]
    sizes = {}
    for name, more in (
        ("colours", []),
        ("toy", ["--clip", "toy"]),
        ("both", ["--clip", str(tmp_path / "clip"), "--mask-vision", str(tmp_path / "dino")]),
    ):
        out = tmp_path / name
        assert main(["mask", str(tmp_path / "two.png"), *points, *more, "--compare", "--out", str(out)]) == 0
        assert [file.name for file in out.iterdir()] == ["compare.png"]
        sizes[name] = read_picture(out / "compare.png").shape
    rows = {name: size[0] for name, size in sizes.items()}
    each = (rows["both"] - rows["toy"]) / 3
    assert rows["toy"] - rows["colours"] == 2 * each > 300, "a row for each state of each model"
    assert sizes["toy"][1] == sizes["both"][1]


def test_the_command_makes_masks_with_another_model(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_png(two(), tmp_path / "two.png")
    small("dinov2").save_pretrained(tmp_path / "dino")
    line = ["mask", str(tmp_path / "two.png"), "--positive", "0.13,0.62", "--tiles", "2", "--features", "value-value"]
    linked = [*line, "--clip", "toy", "--mask-vision", str(tmp_path / "dino"), "--out", str(tmp_path / "out")]
    assert main(linked) == 0
    settings = MaskSettings(tiles=2, features="value-value")
    clip, dino = load_world().patch_vision(), patch_vision(small("dinov2"))
    made = make_reference(two(), PointSet([(0.13, 0.62)]), clip, settings, mask_vision=dino)
    assert torch.equal(read_picture(tmp_path / "out" / "subject_mask.png")[..., 0], made.subject_mask)
    assert main([*line, "--out", str(tmp_path / "no")]) == 1
    assert "features: the colours alone has no value-value; it has last" in capsys.readouterr().err
    assert main([*line, "--mask-vision", "nowhere"]) == 1
    assert "--mask-vision nowhere: there is no such folder" in capsys.readouterr().err


def test_the_benchmark_measures_the_drawn_animals() -> None:
    world, count = load_world(), 3
    found = mask_choices.measure(world, count)
    assert len(found) == len(FEATURES) * 3 * 2
    for number in range(count):
        s = scene("heldout", number, "different")
        settings = replace(MASKS, features="value-value", tiles=2, refine="grabcut")
        mask = world.reference(picture_of(s), click(s, number % 2), settings).subject_mask.numpy() > 0
        truth = render(s)[1] == number % 2 + 1
        expected = (mask & truth).sum() / (mask | truth).sum()
        assert found["value-value", 2, "grabcut"][number] == pytest.approx(expected)
    lines = mask_choices.table(found).splitlines()
    assert len(lines) == 2 + len(found)
    assert lines[2].startswith(f"| last | 1 | off | {np.mean(found['last', 1, 'off']):.3f} [")


def test_the_tables_differences_are_paired() -> None:
    found = {("last", 1, "off"): [0.2, 0.9, 0.4], ("last", 2, "off"): [0.3, 1.0, 0.5]}
    paper, tiles = mask_choices.table(found).splitlines()[2:]
    assert tiles == "| last | 2 | off | 0.600 [0.300, 1.000] | +0.100 [+0.100, +0.100] | 1 of 3 |"
    assert paper.endswith("|  | 1 of 3 |")


def test_the_benchmarks_sheet_of_pairs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_data(tmp_path / "data")
    out = tmp_path / "sheet.png"
    assert mask_choices.main(["sheet", str(data), "--out", str(out)]) == 1
    assert "no two of the subjects dog, teapot are of one class" in capsys.readouterr().err
    text = (data / "prompts_and_classes.txt").read_text().replace("teapot,teapot", "teapot,dog")
    (data / "prompts_and_classes.txt").write_text(text)
    assert mask_choices.main(["sheet", str(data), "--photos", "1", "--out", str(out)]) == 0
    assert min(read_picture(out).shape[:2]) > 800
