"""Make the rough masks and the clean reference from a photo and points, as the node RNGR Mask does."""

from __future__ import annotations

import argparse
from pathlib import Path

from torch import Tensor

from ..errors import MaskError
from ..image_files import read_picture, write_png
from ..reference.cutout import PictureSettings, reference_picture
from ..reference.masks import MaskSettings
from ..reference.overlay import heat_map, overlay
from ..reference.points import PointSet
from ..reference.rngr import make_reference
from ..reference.vision import PatchVision
from .models import TOY
from .options import NamesPhoto, add_mask_settings, add_points, add_settings, chosen
from .paths import PICTURE, check_file, check_folder


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("photo", action=NamesPhoto)
    add_points(parser)
    parser.add_argument(
        "--clip",
        metavar="FOLDER",
        help="a CLIP vision model for transformers, such as openai/clip-vit-large-patch14, or toy, that of the toy "
        "world's drawings; without it a stand-in that only compares colours is used",
    )
    parser.add_argument(
        "--mask-vision",
        metavar="FOLDER",
        help="another vision model for transformers to make the masks with (DINOv2, SigLIP or CLIP)",
    )
    parser.add_argument("--inpainted", type=Path, metavar="PHOTO", help="use this picture as the clean reference")
    parser.add_argument(
        "--compare",
        action="store_true",
        help="write one sheet, compare.png, instead: the masks that each of the features gives, on the whole photo and "
        "in 2 x 2 tiles, as they are and refined",
    )
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
    if options.compare and (options.inpainted or options.picture or any(mask is not None for mask in masks.values())):
        raise MaskError(
            "--compare shows what is made of the points: leave out --subject-mask, --negative-mask, --inpainted and "
            "--picture"
        )
    inpainted = None
    if options.inpainted is not None:
        check_file("--inpainted", options.inpainted, PICTURE)
        inpainted = read_picture(options.inpainted)
    clip, mask_vision = _clip(options.clip), _mask_vision(options.mask_vision)
    if options.compare:
        return _compare(photo, points, clip, mask_vision, settings, options.out)
    reference = make_reference(photo, points, clip, settings, inpainted, mask_vision=mask_vision, **masks)
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


def _compare(
    photo: Tensor,
    points: PointSet,
    clip: PatchVision,
    mask_vision: PatchVision | None,
    settings: MaskSettings,
    out: Path,
) -> None:
    from ..demo.contact_sheet import draw_sheet
    from ..demo.mask_sheet import mask_rows, photo_row

    rows = [photo_row(photo, points, "")]
    for vision in (clip, *([] if mask_vision is None else [mask_vision])):
        rows += mask_rows(photo, points, vision, vision.name, settings)
    shared = f"value_range {settings.value_range}, blur {settings.blur:g}, fill_region {settings.fill_region}, grow "
    out.mkdir(parents=True, exist_ok=True)
    write_png(draw_sheet("Mask choices side by side", [f"{shared}{settings.grow:g}"], rows), out / "compare.png")
    print(f"wrote compare.png to {out}")


def _clip(clip: str | None) -> PatchVision:
    """What reads the patches and c_s."""
    if clip is None:
        from ..demo import stand_ins

        print("without --clip: the masks come from a stand-in that only compares colours, not from CLIP")
        return stand_ins.patch_vision()
    if clip == TOY:
        from ..toyworld.world import load_world

        return load_world().patch_vision()
    from ..reference.clip import load_clip_vision
    from ..reference.vision_models import patch_vision

    return patch_vision(load_clip_vision(clip))


def _mask_vision(folder: str | None) -> PatchVision | None:
    if folder is None:
        return None
    check_folder("--mask-vision", folder, "a vision model for transformers, such as facebook/dinov2-large")
    from ..reference.vision_models import patch_vision

    return patch_vision(folder)
