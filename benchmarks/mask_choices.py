"""The choices of RNGR Mask beside each other: features, tiles and refine.

    python -m benchmarks.mask_choices table
    python -m benchmarks.mask_choices sheet DREAMBENCH --out sheet.png

``table`` measures them on drawn scenes of two animals, whose true masks are known, with the toy world's CLIP. ``sheet``
shows them on photos of two similar subjects, with the encoders at hand or real ones (--clip, --mask-vision).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.dreambench.data import read_cases
from benchmarks.dreambench.twins.pairs import side_by_side, twosomes
from benchmarks.toyworld_metrics import interval
from p3s.commands.models import check_folder
from p3s.demo import stand_ins
from p3s.demo.contact_sheet import draw_sheet
from p3s.demo.mask_sheet import every_choice, mask_rows, photo_row
from p3s.errors import P3SError
from p3s.image_files import read_picture, write_png
from p3s.reference.masks import MaskSettings
from p3s.reference.points import PointSet
from p3s.reference.vision import PatchVision
from p3s.reference.vision_models import patch_vision
from p3s.toyworld.scenes import render, scene
from p3s.toyworld.world import MASKS, ToyWorld, click, load_world, picture_of

REFERENCES = 60
TILES = (1, 2, 3)
Choice = tuple[str, int, str]


def overlap(mask: Tensor, truth: np.ndarray) -> float:
    """Intersection over union of two masks; 1 where both are empty."""
    one = mask.numpy() > 0
    union = (one | truth).sum()
    return float((one & truth).sum() / union) if union else 1.0


def measure(world: ToyWorld, count: int) -> dict[Choice, list[float]]:
    """The IoU of the wanted animal's mask with the animal as drawn, for every choice and each of ``count`` scenes of
    two animals of one class; 0 where a choice gives no mask."""
    found: dict[Choice, list[float]] = {}
    for number in range(count):
        s, wanted = scene("heldout", number, "different"), number % 2
        truth = render(s)[1] == wanted + 1
        for each in every_choice(picture_of(s), click(s, wanted), world.patch_vision(), MASKS, TILES):
            key = each.settings.features, each.settings.tiles, each.settings.refine
            made = each.reference
            found.setdefault(key, []).append(0.0 if made is None else overlap(made.subject_mask, truth))
    return found


def table(found: dict[Choice, list[float]]) -> str:
    """Means with 95 % intervals, and the difference from the first choice, the paper's, scene by scene."""
    lines = [
        "| features | tiles | refine | IoU | more than the paper's | scenes above 0.5 |",
        "|---|---|---|---|---|---|",
    ]
    paper = next(iter(found.values()))
    for (features, tiles, refine), values in found.items():
        apart = [a - b for a, b in zip(values, paper, strict=True)]
        shares = f"{sum(v > 0.5 for v in values)} of {len(values)}"
        difference = "" if values is paper else f"{np.mean(apart):+.3f} {_interval(apart, '+.3f')}"
        mean = f"{np.mean(values):.3f} {_interval(values, '.3f')}"
        lines.append(f"| {features} | {tiles} | {refine} | {mean} | {difference} | {shares} |")
    return "\n".join(lines)


def _interval(values: Sequence[float], form: str) -> str:
    low, high = interval(values, range(len(values)))
    return f"[{low:{form}}, {high:{form}}]"


def photos_of(folder: Path, count: int) -> list[tuple[str, Tensor, PointSet]]:
    """Photos of two DreamBench subjects of one class side by side, and a point in the middle of each. Raises P3SError
    for a folder that is not DreamBench or has no two subjects of a class."""
    pairs = twosomes(read_cases(folder)[0])
    found = []
    for two in pairs[:: max(1, len(pairs) // count)][:count]:
        pictures = [read_picture(c.photos[n]) for c, n in zip((two.left, two.right), two.photos, strict=True)]
        picture, (left, right) = side_by_side(*pictures)
        found.append((f"{two.left.name} (wanted) and {two.right.name}", picture, PointSet((left,), (right,))))
    return found


def sheet(photos: Sequence[tuple[str, Tensor, PointSet]], visions: Sequence[PatchVision]) -> Tensor:
    """Every choice of every vision model, for each photo."""
    rows = []
    for name, photo, points in photos:
        rows.append(photo_row(photo, points, name))
        for vision in visions:
            settings = MASKS if vision.name == "toy CLIP" else MaskSettings()
            rows += mask_rows(photo, points, vision, vision.name, settings)
    notes = (
        "Blue: the wanted subject's mask; orange: the region to remove; grey: the points give no sensible mask. The "
        "encoder 'colours alone' compares the colours of 16 x 16 patches, and 'toy CLIP' was trained on drawings of 48 "
        "x 48 pixels alone: with neither can it be told how CLIP's or DINOv2's own weights would do on these photos.",
    )
    return draw_sheet("Two similar subjects: the masks of every choice", notes, rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.mask_choices",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    measured = commands.add_parser("table", help="IoU on drawn scenes, as a table for benchmarks/README.md")
    measured.add_argument("--references", type=int, default=REFERENCES, help="scenes (default: %(default)s)")
    shown = commands.add_parser("sheet", help="pictures of photos")
    shown.add_argument("data", type=Path, metavar="DREAMBENCH", help="the folder with prompts_and_classes.txt")
    shown.add_argument("--photos", type=int, default=3, help="default: %(default)s")
    shown.add_argument("--clip", metavar="FOLDER", help="a CLIP for transformers, instead of the encoders at hand")
    shown.add_argument("--mask-vision", metavar="FOLDER", help="DINOv2, SigLIP or another CLIP, beside it")
    shown.add_argument("--out", type=Path, required=True, metavar="FILE")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    try:
        if options.command == "table":
            print(table(measure(load_world(), options.references)))
        else:
            write_png(sheet(photos_of(options.data, options.photos), _visions(options)), options.out)
    except (P3SError, OSError, ImportError) as error:
        print(f"mask_choices: {error}", file=sys.stderr)
        return 1
    return 0


def _visions(options: argparse.Namespace) -> list[PatchVision]:
    given = {"--clip": options.clip, "--mask-vision": options.mask_vision}
    found = []
    for option, folder in given.items():
        if folder is not None:
            check_folder(option, folder, "a vision model for transformers")
            found.append(patch_vision(folder))
    return found if options.clip else [stand_ins.patch_vision(), load_world().patch_vision(), *found]


if __name__ == "__main__":
    sys.exit(main())
