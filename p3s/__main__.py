"""The command line: ``python -m p3s --help``. Heavy imports wait until a command needs them."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .errors import MaskError, P3SError, PointError
from .points import PointSet

if TYPE_CHECKING:
    from torch import Tensor

    from .rngr import Encode

ABOUT = """\
P3S-Diffusion without ComfyUI: select a subject in a photo by points, train it, generate it.

  demo   the whole chain on a drawn scene and small trained models, in about two minutes
  mask   look at the masks that points give on your own photo
  info   what a subject file holds
"""
EXAMPLES = """\
examples:
  python -m p3s demo
  python -m p3s mask dogs.jpg --positive 0.25,0.6 --negative 0.74,0.6 --clip models/clip-vit-large-patch14
  python -m p3s info ComfyUI/models/p3s/subject.safetensors
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. Errors that a user can mend are one line, without a traceback."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (P3SError, OSError, ImportError) as error:
        print(f"p3s {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m p3s", description=ABOUT, epilog=EXAMPLES, formatter_class=plain)
    parser.add_argument("--version", action="version", version=f"p3s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="{demo,mask,info}")

    demo = commands.add_parser(
        "demo",
        description="Run the whole chain on a drawn scene with two dogs and on small models that were trained on such "
        "drawings (p3s/toyworld). Writes sheet.png and subject.safetensors.",
    )
    demo.add_argument("--out", type=Path, default=Path("demo-output"), metavar="FOLDER", help="default: %(default)s")
    demo.add_argument("--steps", type=_positive, default=250, metavar="N", help="training steps, default: %(default)s")
    demo.add_argument("--seed", type=int, default=0, metavar="N", help="default: %(default)s")
    demo.set_defaults(run=_demo)

    mask = commands.add_parser(
        "mask",
        description="Make the rough masks and the clean reference from a photo and points, as the node RNGR Mask does.",
        epilog="Points are X,Y in 0..1 of the photo's width and height, from the top left; with --pixels in pixels.",
    )
    mask.add_argument("photo", type=Path)
    mask.add_argument("--positive", type=_point, action="append", default=[], metavar="X,Y", help="on the subject")
    mask.add_argument("--negative", type=_point, action="append", default=[], metavar="X,Y", help="on what shall go")
    mask.add_argument("--pixels", action="store_true", help="the points are in pixels")
    mask.add_argument("--points", metavar="JSON", help="all points at once, as Point Picker keeps them")
    mask.add_argument(
        "--clip",
        metavar="FOLDER",
        help="a CLIP vision model for transformers, such as openai/clip-vit-large-patch14; without it a stand-in that "
        "only compares colours is used",
    )
    mask.add_argument("--inpainted", type=Path, metavar="PHOTO", help="use this picture as the clean reference")
    mask.add_argument("--fill", default="telea", metavar="NAME", help="telea (default) or navier-stokes")
    mask.add_argument("--fill-region", default="negative", metavar="NAME", help="negative (default) or background")
    mask.add_argument("--value-range", default="clip", metavar="NAME", help="clip (default) or minmax")
    mask.add_argument("--blur", type=float, default=1.0, metavar="PATCHES", help="default: %(default)s")
    mask.add_argument("--grow", type=float, default=0.0, metavar="PATCHES", help="default: %(default)s")
    mask.add_argument("--out", type=Path, default=Path("mask-output"), metavar="FOLDER", help="default: %(default)s")
    mask.set_defaults(run=_mask)

    info = commands.add_parser("info", description="Check a subject file and say what it holds.")
    info.add_argument("file", type=Path)
    info.set_defaults(run=_info)
    return parser


def _demo(options: argparse.Namespace) -> None:
    # Before torch is loaded: threads that sleep while they wait. Spinning ones slow small models down severalfold.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from .demo.chain import DemoSettings, run_demo

    run_demo(options.out, DemoSettings(train_steps=options.steps, seed=options.seed))


def _mask(options: argparse.Namespace) -> None:
    from .demo.chain import write_png
    from .drawing import heat_map, overlay
    from .masks import MaskSettings
    from .rngr import make_reference

    settings = MaskSettings(options.value_range, options.blur, options.fill_region, options.grow, options.fill)
    photo = _read_photo(options.photo)
    points = _points(options, (photo.shape[1], photo.shape[0]))
    inpainted = None if options.inpainted is None else _read_photo(options.inpainted)
    encode, size = _encoder(options.clip)
    reference = make_reference(photo, points, encode, settings, inpainted, size)
    for warning in reference.warnings:
        print(f"warning: {warning}")
    options.out.mkdir(parents=True, exist_ok=True)
    pictures = {
        "overlay": overlay(reference, photo),
        "similarity": heat_map(reference),
        "subject_mask": reference.subject_mask,
        "negative_mask": reference.negative_mask,
        "inpainted": reference.image,
    }
    for name, picture in pictures.items():
        write_png(picture, options.out / f"{name}.png")
    print(f"subject {reference.subject_mask.mean():.1%} of the photo, removed {reference.negative_mask.mean():.1%}")
    print(f"wrote {', '.join(f'{name}.png' for name in pictures)} to {options.out}")


def _info(options: argparse.Namespace) -> None:
    from .describe import describe_in_full
    from .subject import load_subject

    print(describe_in_full(load_subject(options.file)))


def _points(options: argparse.Namespace, size: tuple[int, int]) -> PointSet:
    if options.points is not None:
        if options.positive or options.negative:
            raise PointError("Give either --points, or --positive and --negative.")
        return PointSet.parse(options.points, size)
    lists = {"positive": options.positive, "negative": options.negative}
    if options.pixels:
        return PointSet.parse({sign: [{"x": x, "y": y} for x, y in given] for sign, given in lists.items()}, size)
    return PointSet(**lists)


def _encoder(clip: str | None) -> tuple[Encode, int]:
    """The patch encoder, and the side of the picture that it reads in pixels."""
    if clip is None:
        from .demo import stand_ins

        print("without --clip: the masks come from a stand-in that only compares colours, not from CLIP")
        return stand_ins.encode_patches, stand_ins.IMAGE_SIZE
    from .clip import clip_encoder, load_clip_vision

    model = load_clip_vision(clip)
    return clip_encoder(model), model.config.image_size


def _read_photo(path: Path) -> Tensor:
    """A picture file, upright, as [H, W, 3] float32 in 0..1."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as file:
            upright = ImageOps.exif_transpose(file).convert("RGB")
    except UnidentifiedImageError:
        raise MaskError(f"{path} is not a picture that can be read") from None
    return torch.from_numpy(np.asarray(upright, dtype=np.float32) / 255)


def _point(text: str) -> tuple[float, float]:
    try:
        x, y = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not X,Y, as in 0.25,0.6") from None
    return x, y


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
