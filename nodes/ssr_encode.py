"""SSR Encode: from a photo and a query to the embedding of the subject that the query selects."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io, ui
from torch import Tensor

from ..p3s.errors import MaskError
from ..p3s.image_files import frames
from ..p3s.reference.overlay import PREVIEW_SIDE, heat_over, reduced
from ..p3s.reference.rngr import Reference as CleanReference
from ..p3s.settings import settings_of
from ..p3s.ssr.embeds import WEIGHT, SubjectEmbeds, check_query, encode
from ..p3s.ssr.file import SSRModel as SSREncoder
from ..p3s.ssr.query import QuerySettings
from .host.ssr_encoders import query as encode_query
from .host.ssr_encoders import vision
from .input_checks import checked
from .masks import planes
from .wire_types import Reference, SSREmbeds, SSRModel, build, input_of

log = logging.getLogger("p3s")


class SSREncode(io.ComfyNode):
    """Photo and query in, the subject's embedding and what the query looks at out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        how = settings_of(QuerySettings)
        return build(
            io.Schema,
            node_id="P3S_SSREncode",
            display_name="SSR Encode",
            category="P3S",
            description="Encode the subject of a photo that words, a mask or clicks select, for Apply SSR.",
            search_aliases=["p3s", "ssr", "encoder", "subject", "reference", "ipadapter"],
            is_output_node=True,  # so that a query can be tried without sampling
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                SSRModel.Input("ssr", tooltip="From Load SSR-Encoder, or from Toy World."),
                io.Clip.Input(
                    "clip", tooltip="The CLIP of the checkpoint that you sample with; clip skip does not matter."
                ),
                io.ClipVision.Input("clip_vision", tooltip="CLIP ViT-L/14, from Load CLIP Vision."),
                io.String.Input(
                    "query",
                    default="",
                    multiline=True,
                    tooltip="The subject in words, such as dog or red dress. May be empty with a mask or a reference.",
                ),
                input_of("weight", WEIGHT),
                io.Image.Input(
                    "image", optional=True, tooltip="The photo; the first of a batch. This or reference, not both."
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where the subject is in the photo, from any node. Goes with image.",
                ),
                Reference.Input(
                    "reference",
                    optional=True,
                    tooltip="From RNGR Mask: the photo without the negative subject, and the mask of the one clicked. "
                    "Of several photos, the last.",
                ),
                input_of("focus", how["focus"], optional=True, advanced=True),
                input_of("mask_mode", how["mask_mode"], optional=True),
                input_of("framing", how["framing"], optional=True, advanced=True),
                SSREmbeds.Input(
                    "embeds",
                    optional=True,
                    tooltip="More subjects, from another SSR Encode; all of them are drawn together.",
                ),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                SSREmbeds.Output(display_name="embeds", tooltip="For Apply SSR, or for another SSR Encode."),
                io.Image.Output(
                    display_name="attention", tooltip="Heat map over the photo of what the query looks at."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        ssr: SSREncoder,
        clip: Any,
        clip_vision: Any,
        query: str,
        weight: float,
        image: Tensor | None = None,
        mask: Tensor | None = None,
        reference: tuple[CleanReference, ...] | None = None,
        focus: float = 1.0,
        mask_mode: str = "soft",
        framing: str = "pad",
        embeds: SubjectEmbeds | None = None,
    ) -> io.NodeOutput:
        photo, where = photo_of(image, mask, reference)
        warnings = check_query(query, where is not None)
        asked, empty = encode_query(clip, query), encode_query(clip, "")
        found = encode(
            ssr,
            asked.tokens,
            empty.tokens,
            photo,
            vision(clip_vision, ssr.aligner.scales),
            where,
            QuerySettings(framing, mask_mode, focus),
            weight,
            asked.words,
        )
        chained = found.embeds if embeds is None else embeds + found.embeds
        heat = heat_over(photo, found.attention)[None]
        warnings = (*warnings, *asked.warnings)
        for warning in warnings:
            log.warning("SSR Encode: %s", warning)
        preview = ui.PreviewImage(reduced(heat[0], PREVIEW_SIDE)[None], cls=cls).as_dict()
        return io.NodeOutput(chained, heat, ui={**preview, "text": list(warnings)})


def photo_of(
    image: Tensor | None, mask: Tensor | None, reference: tuple[CleanReference, ...] | None
) -> tuple[Tensor, Tensor | None]:
    """The photo [height, width, 3] and where in it the subject is. Raises MaskError, which says what to connect."""
    if (image is None) == (not reference):
        came = "neither" if image is None else "both"
        raise MaskError(f"Connect either image or reference; {came} came. Both hold a photo of the subject.")
    if reference:
        if mask is not None:
            raise MaskError("mask goes with image; a reference has a mask of its own. Disconnect one of them.")
        return reference[-1].image, reference[-1].subject_mask
    return frames(image, "image")[0], None if mask is None else planes(mask)
