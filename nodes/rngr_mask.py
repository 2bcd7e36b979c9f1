"""RNGR Mask: from a photo and points to a clean reference without the negative subject."""

from __future__ import annotations

import logging

import torch
from comfy_api.latest import io, ui

from ..p3s.drawing import heat_map, overlay, reduced
from ..p3s.errors import MaskError, PointError
from ..p3s.masks import FILL_REGIONS, FILLS, VALUE_RANGES, MaskSettings
from ..p3s.points import PointSet
from ..p3s.rngr import Reference as CleanReference
from ..p3s.rngr import make_reference
from .host.conditions import clip_encoder, clip_image_size
from .host.pictures import PREVIEW_SIDE
from .host.readings import readings
from .types import Points, Reference, build

log = logging.getLogger("p3s")


class RNGRMask(io.ComfyNode):
    """Photo and points in, reference and masks out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        default = MaskSettings()
        return build(
            io.Schema,
            node_id="P3S_RNGRMask",
            display_name="RNGR Mask",
            category="P3S",
            description="Find the clicked subject by CLIP similarity, and remove the one clicked as negative.",
            search_aliases=["p3s", "rough mask", "points to mask", "select subject", "reference"],
            is_output_node=True,  # so that masks can be looked at without training
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.ClipVision.Input("clip_vision", tooltip="CLIP ViT-L/14, from Load CLIP Vision."),
                io.Image.Input("image", tooltip="The photo, from Point Picker. Of a batch, the first image is used."),
                io.MultiType.Input(
                    "points",
                    [Points, io.String],
                    tooltip="From Point Picker, or positive points in pixels as KJNodes and SAM nodes write them.",
                ),
                io.Combo.Input(
                    "fill",
                    options=list(FILLS),
                    default=default.fill,
                    tooltip="How the removed region is filled when no inpainted image is connected.",
                ),
                io.Combo.Input(
                    "fill_region",
                    options=list(FILL_REGIONS),
                    default=default.fill_region,
                    tooltip="negative: remove the negative subject. background: remove everything but the subject.",
                ),
                io.Combo.Input(
                    "value_range",
                    options=list(VALUE_RANGES),
                    default=default.value_range,
                    tooltip="How similarities are brought into 0..1: clip cuts negative ones off, minmax stretches.",
                ),
                io.Float.Input(
                    "blur",
                    default=default.blur,
                    min=0.0,
                    max=8.0,
                    step=0.1,
                    tooltip="Blur of the similarity map, in CLIP patches (a sixteenth of the longer side).",
                ),
                io.Float.Input(
                    "grow",
                    default=default.grow,
                    min=0.0,
                    max=16.0,
                    step=0.1,
                    tooltip="Enlarges the removed region by this many patches, never into the subject.",
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
                    tooltip="More photos of the subject, from another RNGR Mask: they are trained together.",
                ),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                Reference.Output(display_name="reference", tooltip="For Train P3S, or for another RNGR Mask."),
                io.Image.Output(display_name="inpainted", tooltip="The photo without the negative subject."),
                io.Mask.Output(display_name="subject_mask", tooltip="The rough mask of the wanted subject."),
                io.Mask.Output(display_name="negative_mask", tooltip="The region that was removed."),
                io.Image.Output(display_name="similarity", tooltip="Heat map of the likeness to the clicked subject."),
            ],
        )

    @classmethod
    def validate_inputs(cls, fill=None, fill_region=None, value_range=None) -> bool | str:
        given = {"fill": fill, "fill_region": fill_region, "value_range": value_range}
        try:
            MaskSettings(**{name: value for name, value in given.items() if value is not None})
        except MaskError as error:
            return str(error)
        return True

    @classmethod
    def execute(
        cls,
        clip_vision,
        image: torch.Tensor,
        points: PointSet | str,
        fill: str,
        fill_region: str,
        value_range: str,
        blur: float,
        grow: float,
        inpainted: torch.Tensor | None = None,
        negative_points: str | None = None,
        references: tuple[CleanReference, ...] = (),
    ) -> io.NodeOutput:
        photo = image[0, ..., :3]
        if not isinstance(points, str) and negative_points:
            raise PointError(
                "negative_points goes with positive points given as text; the points of Point Picker hold both signs. "
                "Disconnect one of them."
            )
        if isinstance(points, str):
            points = PointSet.parse(points, size=(photo.shape[1], photo.shape[0]), negative=negative_points)
        # Also when the points are wrong: the Point Picker can then show why, without another run.
        tokens = readings.tokens(photo, clip_vision)
        reference = make_reference(
            photo,
            points,
            clip_encoder(clip_vision),
            MaskSettings(value_range, blur, fill_region, grow, fill),
            inpainted=None if inpainted is None else inpainted[0, ..., :3],
            image_size=clip_image_size(clip_vision),
            tokens=tokens,
        )
        for warning in reference.warnings:
            log.warning("RNGR Mask: %s", warning)
        # What was selected, and what of it will be learned.
        shown = torch.stack([overlay(reference, photo, PREVIEW_SIDE), reduced(reference.image, PREVIEW_SIDE)])
        preview = ui.PreviewImage(shown, cls=cls).as_dict()
        return io.NodeOutput(
            (*references, reference),
            reference.image[None],
            reference.subject_mask[None],
            reference.negative_mask[None],
            heat_map(reference)[None],
            ui={**preview, "text": list(reference.warnings)},
        )
