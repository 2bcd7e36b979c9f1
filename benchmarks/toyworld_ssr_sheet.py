"""A picture sheet of the toy world: what SSR-Encoder and P3S draw of the same clicked animals.

    python -m benchmarks.toyworld_ssr_sheet --out benchmarks/results/toyworld_ssr.png

The first references of the tables, whatever they look like, and for each the table's first picture of every method.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from p3s.demo.chain import POINT, enlarge, enlarged
from p3s.demo.contact_sheet import Panel, Row, draw_sheet
from p3s.image_files import write_png
from p3s.reference.overlay import overlay
from p3s.toyworld.scenes import IDENTIFIER, prompt, scene
from p3s.toyworld.world import ToyWorld, load_world, picture_of

from .toyworld import Budget, prompts, reference_of, run_one

METHODS = {
    "plain": "plain model",
    "ssr-word": "SSR, the word alone",
    "ssr-clean-mask": "SSR, by the clicks",
    "p3s": "P3S, trained",
}


def row(world: ToyWorld, number: int) -> Row | None:
    """Photo with clicks, and a picture of every method; None where the clicks give no mask."""
    s = scene("heldout", number, "different")
    reference = reference_of(world, s, number % 2, True)
    if reference is None:
        return None
    nothing = torch.zeros_like(reference.subject_mask)
    clicked = enlarged(replace(reference, subject_mask=nothing, negative_mask=nothing))
    panels = [Panel("photo and points", overlay(clicked, enlarge(picture_of(s)), radius=POINT))]
    for name, told in METHODS.items():
        pictures: list[Tensor] = run_one(world, name, number, Budget(), {})[1]
        panels.append(Panel(told, pictures[2]))  # after photo and reference
    background = prompts(s, number, Budget.backgrounds)[0]
    return Row(f'generated for "{prompt(s.animal, background)}"', panels)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toyworld_ssr_sheet", description=__doc__)
    parser.add_argument("--references", type=int, default=5, help="default: %(default)s")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    world = load_world()
    rows = [made for number in range(args.references) if (made := row(world, number)) is not None]
    notes = (
        "A toy world: drawn animals of 48 x 48 pixels, and small models of the real architectures that were trained on "
        "such drawings; they do not show how either method does on photos. The animals were never seen in training. "
        "The same noise starts every picture of a row. SSR-Encoder trains nothing on the photo; P3S trains "
        f"{Budget.steps} steps, and its prompt has the word {IDENTIFIER} before the animal.",
    )
    write_png(draw_sheet("One photo, two clicks: without training and with it", notes, rows), args.out)


if __name__ == "__main__":
    main()
