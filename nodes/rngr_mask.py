"""RNGR Mask: from a photo and points to a clean reference without the negative subject."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from comfy_api.latest import io, ui

from ..p3s.errors import MaskError, P3SError, PointError
from ..p3s.image_files import frames
from ..p3s.reference.cutout import bounding_box
from ..p3s.reference.masks import MaskSettings
from ..p3s.reference.overlay import PREVIEW_SIDE, heat_map, overlay, reduced
from ..p3s.reference.points import PointSet
from ..p3s.reference.rngr import Reference as CleanReference
from ..p3s.reference.rngr import make_reference
from ..p3s.reference.rough_masks import compares_patches
from ..p3s.settings import settings_of
from .host.clip_token_cache import PAPER, Choice, token_cache
from .host.encoders import clip_encoder, clip_image_size
from .host.origin import origin_here
from .input_checks import checked, only
from .masks import planes
from .wire_types import BoundingBox, Points, Reference, build, core_boxes, input_of

log = logging.getLogger("p3s")

MASKS = MaskSettings()
NOTHING_SELECTED = "Nothing says which subject is meant: connect Point Picker to points, or a mask to subject_mask."
_UNLINKED: Any = object()  # stands for "not in the prompt"; a linked input is passed as None before the run


class Vision(NamedTuple):
    """A CLIP_VISION, and where it comes from, so that the Point Picker shows masks of this one alone."""

    model: Any
    origin: str | None


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
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="CLIP ViT-L/14, from Load CLIP Vision."),
                io.Image.Input(
                    "image", tooltip="The photo, from Point Picker, or several, each with points of its own."
                ),
                # Optional since masks can come from elsewhere. Hosts list required inputs first, so those after it are
                # optional too: they stay where they were.
                io.MultiType.Input(
                    "points",
                    [Points, io.String],
                    optional=True,
                    tooltip="From Point Picker, or positive points in pixels as KJNodes and SAM nodes write them. Not "
                    "needed with subject_mask.",
                ),
                *(
                    input_of(name, given[name], optional=True)
                    for name in ("fill", "fill_region", "value_range", "blur", "grow")
                ),
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
                    tooltip="More photos of the subject, from another RNGR Mask; training uses all of them.",
                ),
                io.Mask.Input(
                    "subject_mask",
                    optional=True,
                    tooltip="Where the subject is, from any node, such as SAM's or Load Image; used instead of CLIP's "
                    "mask.",
                ),
                io.Mask.Input(
                    "negative_mask",
                    optional=True,
                    tooltip="The region to remove, likewise; used instead of the negative points' mask.",
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
                BoundingBox.Output(display_name="bounding_box", tooltip="The box around subject_mask, of each photo."),
            ],
        )

    @classmethod
    def validate_inputs(cls, image=None, points=_UNLINKED, subject_mask=_UNLINKED) -> bool | str:
        # The host shows the message beside those of these inputs that are connected: image always is.
        return NOTHING_SELECTED if points is _UNLINKED and subject_mask is _UNLINKED else True

    @classmethod
    @checked
    def execute(
        cls,
        clip_vision: list[Any],
        image: list[torch.Tensor],
        points: list[PointSet | str] | None = None,
        fill: str = MASKS.fill,
        fill_region: str = MASKS.fill_region,
        value_range: str = MASKS.value_range,
        blur: float = MASKS.blur,
        grow: float = MASKS.grow,
        inpainted: list[torch.Tensor] | None = None,
        negative_points: list[str] | None = None,
        references: Sequence[tuple[CleanReference, ...]] = (),
        subject_mask: list[torch.Tensor] | None = None,
        negative_mask: list[torch.Tensor] | None = None,
        features: str = MASKS.features,
        tiles: int = MASKS.tiles,
        refine: str = MASKS.refine,
        mask_vision: list[Any] | None = None,
    ) -> io.NodeOutput:
        clip = Vision(only("clip_vision", clip_vision), origin_here(cls, "clip_vision"))
        other = Vision(only("mask_vision", mask_vision), origin_here(cls, "mask_vision")) if mask_vision else None
        settings = MaskSettings(value_range, blur, fill_region, grow, fill, features, tiles, refine)
        photos = all_frames(image, "image")
        clean = all_frames(inpainted, "inpainted") if inpainted else [None] * len(photos)
        subjects = masks_of(photos, subject_mask, "subject_mask")
        negatives = masks_of(photos, negative_mask, "negative_mask")
        if points is None and subject_mask is None:
            raise PointError(NOTHING_SELECTED)
        chosen = points_of(
            photos, points or [""] * len(photos), negative_points if negative_points and any(negative_points) else []
        )
        check_together(photos, chosen, clean)
        found = []
        for number, each in enumerate(zip(photos, chosen, clean, subjects, negatives, strict=True), start=1):
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
            core_boxes([bounding_box(reference.subject_mask)] for reference in found),
            ui={**preview, "text": warnings},
        )


def all_frames(batches: Sequence[Any], name: str) -> list[torch.Tensor]:
    """The pictures [H, W, 3] of a list of batches. Raises MaskError as :func:`p3s.image_files.frames`."""
    return [frame for batch in batches for frame in frames(batch, name)]


def masks_of(photos: Sequence[torch.Tensor], batches: Sequence[Any] | None, name: str) -> list[torch.Tensor | None]:
    """The masks of each photo, [height, width] or [masks, height, width], from a list of batches; None where the input
    ``name`` is not connected. A single photo has all that come. Of several, each has a batch of a list or a mask of one
    batch.

    Raises MaskError where their numbers differ.
    """
    if batches is None:
        return [None] * len(photos)
    if not all(isinstance(batch, torch.Tensor) for batch in batches):
        raise MaskError(
            f"{name} is empty: the node that it comes from gave no mask. Disconnect it, or check that node."
        )
    masks = [planes(batch) for batch in batches]
    if len(masks) == len(photos):
        return [*masks]
    single = [mask for batch in masks for mask in (batch if batch.ndim > 2 else batch[None])]
    if len(single) == len(photos):
        return [*single]
    if len(photos) == 1 and len({mask.shape for mask in single}) == 1:
        return [torch.stack(single)]
    raise MaskError(
        f"masks in {name}: {len(single)}; photos in image: {len(photos)}. Give one for each, or for one photo several "
        "of one size"
    )


def points_of(photos: Sequence[torch.Tensor], points: Sequence[Any], negative: Sequence[str]) -> list[PointSet]:
    """The points of each photo. Raises PointError where their numbers differ or they cannot be read."""
    if len(points) != len(photos):
        raise PointError(
            f"photos in image: {len(photos)}; with points: {len(points)}. Every photo needs its own. "
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
        raise MaskError(f"pictures in inpainted: {len(clean)}; photos in image: {len(photos)}. Give one for each")
    if len({photo.shape for photo in photos}) > 1:
        sizes = ", ".join(f"{photo.shape[1]} x {photo.shape[0]}" for photo in photos)
        raise MaskError(
            f"image holds photos of several sizes ({sizes}): give each an RNGR Mask, and chain these: reference of one "
            "to references of the next"
        )
    clicked = [each for each in chosen if each.positive or each.negative]  # masks may take the place of points
    if len(set(clicked)) < len(clicked):
        raise PointError(
            "image holds several photos with the very same points, as if all came from one Point Picker. Every photo "
            "needs points of its own: give each a Point Picker"
        )


def reference_of(
    clip: Vision,
    other: Vision | None,
    photo: torch.Tensor,
    points: PointSet,
    clean: torch.Tensor | None,
    subject_mask: torch.Tensor | None,
    negative_mask: torch.Tensor | None,
    settings: MaskSettings,
) -> CleanReference:
    # The models first, also when the points are wrong: the Point Picker can then show why, without another run.
    tokens = token_cache.tokens(photo, clip.model, clip.origin)
    choice = Choice(other is not None, settings.features, settings.tiles)
    chosen = other or clip
    masks = {"subject_mask": subject_mask, "negative_mask": negative_mask}
    given = tuple(name for name, mask in masks.items() if mask is not None)
    compares = choice != PAPER and compares_patches(points, settings, given)
    patches = token_cache.patches(photo, chosen.model, choice, chosen.origin) if compares else None
    return make_reference(
        photo,
        points,
        clip_encoder(clip.model),
        settings,
        inpainted=clean,
        image_size=clip_image_size(clip.model),
        tokens=tokens,
        subject_mask=subject_mask,
        negative_mask=negative_mask,
        patches=patches,
    )
