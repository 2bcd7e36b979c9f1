"""RNGR Mask: from a photo and points to a clean reference without the negative subject."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io, ui

from ..p3s.errors import MaskError, P3SError, PointError
from ..p3s.image_files import frames
from ..p3s.reference.masks import MaskSettings
from ..p3s.reference.overlay import heat_map, overlay, reduced
from ..p3s.reference.points import PointSet
from ..p3s.reference.rngr import Reference as CleanReference
from ..p3s.reference.rngr import make_reference
from ..p3s.settings import settings_of
from .host.clip_token_cache import PAPER, Choice, token_cache
from .host.encoders import clip_encoder, clip_image_size
from .host.picture_files import PREVIEW_SIDE
from .input_checks import checked, only
from .wire_types import Points, Reference, build, input_of

log = logging.getLogger("p3s")


class RNGRMask(io.ComfyNode):
    """Photo and points in, reference and masks out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        given = settings_of(MaskSettings)
        return build(
            io.Schema,
            node_id="P3S_RNGRMask",
            display_name="RNGR Mask",
            category="P3S",
            description="Find the clicked subject by CLIP similarity, and remove the one clicked as negative.",
            search_aliases=["p3s", "segment", "sam", "mask", "remove"],
            is_output_node=True,  # so that masks can be checked without training
            is_input_list=True,  # so that several photos become one subject, not one each
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="CLIP ViT-L/14, from Load CLIP Vision."),
                io.Image.Input(
                    "image", tooltip="The photo, from Point Picker, or several, each with points of its own."
                ),
                io.MultiType.Input(
                    "points",
                    [Points, io.String],
                    tooltip="From Point Picker, or positive points in pixels as KJNodes and SAM nodes write them.",
                ),
                *(input_of(name, given[name]) for name in ("fill", "fill_region", "value_range", "blur", "grow")),
                io.Image.Input(
                    "inpainted",
                    optional=True,
                    tooltip="The photo with the unwanted subject removed by another node; used instead of the fill.",
                ),
                io.String.Input(
                    "negative_points",
                    optional=True,
                    force_input=True,
                    tooltip="Negative points in pixels, when points is text from KJNodes or SAM nodes.",
                ),
                Reference.Input(
                    "references",
                    optional=True,
                    tooltip="More photos of the subject, from another RNGR Mask; all of them are trained together.",
                ),
                *(input_of(name, given[name], optional=True) for name in ("features", "tiles", "refine")),
                io.ClipVision.Input(
                    "mask_vision",
                    optional=True,
                    tooltip="Another vision model to make the masks with, such as DINOv2; training still sees "
                    "clip_vision.",
                ),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                Reference.Output(display_name="reference", tooltip="For Train P3S, or for another RNGR Mask."),
                io.Image.Output(display_name="inpainted", tooltip="The photo without the negative subject."),
                io.Mask.Output(display_name="subject_mask", tooltip="The rough mask of the wanted subject."),
                io.Mask.Output(display_name="negative_mask", tooltip="The region that was removed."),
                io.Image.Output(
                    display_name="similarity", tooltip="Heat map of the similarity to the clicked subject."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        clip_vision: list[Any],
        image: list[torch.Tensor],
        points: list[PointSet | str],
        fill: str,
        fill_region: str,
        value_range: str,
        blur: float,
        grow: float,
        inpainted: list[torch.Tensor] | None = None,
        negative_points: list[str] | None = None,
        references: Sequence[tuple[CleanReference, ...]] = (),
        features: str = "last",
        tiles: int = 1,
        refine: str = "off",
        mask_vision: list[Any] | None = None,
    ) -> io.NodeOutput:
        clip = only("clip_vision", clip_vision)
        other = only("mask_vision", mask_vision) if mask_vision else None
        settings = MaskSettings(value_range, blur, fill_region, grow, fill, features, tiles, refine)
        photos = all_frames(image, "image")
        clean = all_frames(inpainted, "inpainted") if inpainted else [None] * len(photos)
        chosen = points_of(photos, points, negative_points if negative_points and any(negative_points) else [])
        check_together(photos, chosen, clean)
        found = []
        for number, each in enumerate(zip(photos, chosen, clean, strict=True), start=1):
            try:
                found.append(reference_of(clip, other, *each, settings))
            except P3SError as error:
                raise type(error)(f"photo {number}: {error}" if len(photos) > 1 else str(error)) from None
        warnings = [
            f"photo {number}: {warning}" if len(found) > 1 else warning
            for number, reference in enumerate(found, start=1)
            for warning in reference.warnings
        ]
        for warning in warnings:
            log.warning("RNGR Mask: %s", warning)
        # What was selected, and what of it will be learned.
        shown = [
            picture
            for r, photo in zip(found, photos, strict=True)
            for picture in (overlay(r, photo, PREVIEW_SIDE), reduced(r.image, PREVIEW_SIDE))
        ]
        preview = ui.PreviewImage(torch.stack(shown), cls=cls).as_dict()
        return io.NodeOutput(
            (*(reference for others in references for reference in others), *found),
            torch.stack([reference.image for reference in found]),
            torch.stack([reference.subject_mask for reference in found]),
            torch.stack([reference.negative_mask for reference in found]),
            torch.stack([heat_map(reference) for reference in found]),
            ui={**preview, "text": warnings},
        )


def all_frames(batches: Sequence[Any], name: str) -> list[torch.Tensor]:
    """The pictures [H, W, 3] of a list of batches. Raises MaskError as :func:`p3s.image_files.frames`."""
    return [frame for batch in batches for frame in frames(batch, name)]


def points_of(photos: Sequence[torch.Tensor], points: Sequence[Any], negative: Sequence[str]) -> list[PointSet]:
    """The points of each photo. Raises PointError where their numbers differ or they cannot be read."""
    if len(points) != len(photos):
        raise PointError(
            f"image holds {len(photos)} photo(s), and there are points for {len(points)}: every photo needs its own. "
            "Give each a Point Picker and an RNGR Mask, and chain these: reference of one to references of the next"
        )
    if negative and not all(isinstance(each, str) for each in points):
        raise PointError(
            "negative_points goes with positive points given as text; the points of Point Picker hold both signs. "
            "Disconnect one of them."
        )
    if negative and len(negative) != len(points):
        raise PointError(
            f"negative_points holds {len(negative)} texts and points {len(points)}: give one for each photo"
        )
    without: list[str | None] = [*negative] or [None] * len(points)
    return [
        PointSet.parse(text, size=(photo.shape[1], photo.shape[0]), negative=other or None)
        for photo, text, other in zip(photos, points, without, strict=True)
    ]


def check_together(photos: Sequence[Any], chosen: Sequence[PointSet], clean: Sequence[Any]) -> None:
    """Raise PointError or MaskError for photos that cannot be taken together."""
    if len(clean) != len(photos):
        raise MaskError(f"inpainted holds {len(clean)} picture(s) for {len(photos)} photo(s): give one for each")
    if len({photo.shape for photo in photos}) > 1:
        sizes = ", ".join(f"{photo.shape[1]} x {photo.shape[0]}" for photo in photos)
        raise MaskError(
            f"image holds photos of several sizes ({sizes}): give each an RNGR Mask, and chain these: reference of one "
            "to references of the next"
        )
    if len(set(chosen)) < len(chosen):
        raise PointError(
            "image holds several photos with the very same points, as if all came from one Point Picker. Every photo "
            "needs points of its own: give each a Point Picker"
        )


def reference_of(
    clip_vision: Any,
    mask_vision: Any,
    photo: torch.Tensor,
    points: PointSet,
    clean: torch.Tensor | None,
    settings: MaskSettings,
) -> CleanReference:
    # The models first, also when the points are wrong: the Point Picker can then show why, without another run.
    tokens = token_cache.tokens(photo, clip_vision)
    choice = Choice(mask_vision is not None, settings.features, settings.tiles)
    chosen = clip_vision if mask_vision is None else mask_vision
    patches = None if choice == PAPER else token_cache.patches(photo, chosen, choice)
    return make_reference(
        photo,
        points,
        clip_encoder(clip_vision),
        settings,
        inpainted=clean,
        image_size=clip_image_size(clip_vision),
        tokens=tokens,
        patches=patches,
    )
