"""Run the whole chain on a drawn scene with two dogs and on small models that were trained on such drawings
(p3s/toyworld). Writes sheet.png, subject.safetensors, and the scene with its points for the other commands."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ..demo.chain import TRAINING, run_demo


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", type=Path, default=Path("demo-output"), metavar="FOLDER", help="default: %(default)s")
    parser.add_argument(
        "--steps",
        type=_positive,
        default=TRAINING.steps,
        metavar="N",
        help="training steps, default: %(default)s",
    )
    parser.add_argument("--seed", type=int, default=TRAINING.seed, metavar="N", help="default: %(default)s")


def run(options: argparse.Namespace) -> None:
    run_demo(options.out, replace(TRAINING, steps=options.steps, seed=options.seed))


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)
