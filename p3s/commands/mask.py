"""Make the rough masks and the clean reference from a photo and points, as the node RNGR Mask does."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..image_files import read_picture, write_png
from ..reference.cutout import PictureSettings, reference_picture
from ..reference.masks import MaskSettings
from ..reference.overlay import heat_map, overlay
from ..reference.rngr import Encode, make_reference
from .options import NamesPhoto, add_mask_settings, add_points, add_settings, chosen


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", action=NamesPhoto)
    add_points(parser)
    parser.add_argument(
        "--clip",
        metavar="FOLDER",
        help="a CLIP vision model for transformers, such as openai/clip-vit-large-patch14; without it a stand-in that "
        "only compares colours is used",
    )
    parser.add_argument("--inpainted", type=Path, metavar="PHOTO", help="use this picture as the clean reference")
    parser.add_argument("--out", type=Path, default=Path("mask-output"), metavar="FOLDER", help="default: %(default)s")
    add_mask_settings(parser)
    parser.add_argument(
        "--picture",
        type=Path,
        metavar="FILE",
        help="also write a picture of the subject (PNG), as the node Reference Picture makes it",
    )
    add_settings(parser, "picture", PictureSettings(), description="how --picture is made")


def run(options: argparse.Namespace) -> None:
    settings, cut = chosen(options, MaskSettings()), chosen(options, PictureSettings())
    photo, points, masks = options.photos[0].read(options.pixels)
    inpainted = None if options.inpainted is None else read_picture(options.inpainted)
    encode, size = _encoder(options.clip)
    reference = make_reference(photo, points, encode, settings, inpainted, size, **masks)
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
    if options.picture is not None:
        made = reference_picture(reference, cut)
        options.picture.parent.mkdir(parents=True, exist_ok=True)
        write_png(made.image, options.picture)
        height, width = made.mask.shape
        print(f"wrote the subject's picture, {width} x {height} pixels, to {options.picture}")


def _encoder(clip: str | None) -> tuple[Encode, int]:
    """The patch encoder, and the side of the picture that it reads in pixels."""
    if clip is None:
        from ..demo import stand_ins

        print("without --clip: the masks come from a stand-in that only compares colours, not from CLIP")
        return stand_ins.encode_patches, stand_ins.IMAGE_SIZE
    from ..reference.clip import clip_encoder, load_clip_vision

    model = load_clip_vision(clip)
    return clip_encoder(model), model.config.image_size
