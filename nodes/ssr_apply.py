"""Apply SSR: a MODEL that draws the subjects of SSR Encode."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..p3s.errors import P3SError
from ..p3s.sampling.application import EFFECT_MASK
from ..p3s.sampling.layer_strengths import LAYER_STRENGTHS, parse_layer_strengths
from ..p3s.sampling.layer_strengths import layer_strengths as factors_of
from ..p3s.settings import settings_of
from ..p3s.ssr.attend import AppliedSSR
from ..p3s.ssr.embeds import SubjectEmbeds
from .host.base_model import unet_config
from .host.ssr import apply_ssr
from .input_checks import checked, layer_strengths_fit
from .masks import effect_mask
from .wire_types import SSREmbeds, build, input_of


class ApplySSR(io.ComfyNode):
    """Patch a clone of the MODEL; the one given is not changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        how = settings_of(AppliedSSR)
        return build(
            io.Schema,
            node_id="P3S_ApplySSR",
            display_name="Apply SSR",
            category="P3S",
            description="Make the model draw a subject that SSR Encode has encoded, without any training.",
            search_aliases=["p3s", "ssr", "encoder", "subject", "ipadapter"],
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.Model.Input("model", tooltip="SD 1.5 or a fine-tune of it."),
                SSREmbeds.Input("embeds", tooltip="From SSR Encode: one subject, or several that are chained."),
                input_of("strength", how["strength"]),
                input_of("start_percent", how["start"]),
                input_of("end_percent", how["end"]),
                input_of("guidance", how["guidance"]),
                io.Mask.Input("mask", optional=True, tooltip=EFFECT_MASK.help),
                input_of("layer_strengths", LAYER_STRENGTHS, optional=True, advanced=True),
            ],
            # The output has no id: it must differ from the inputs' ids.
            outputs=[
                io.Model.Output(display_name="model", tooltip="For KSampler, or any other node that takes a model.")
            ],
        )

    @classmethod
    def validate_inputs(cls, layer_strengths=None) -> bool | str:
        # The host shows this message beside every input named here, so only one is; execute checks the rest.
        return layer_strengths_fit(layer_strengths)

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        embeds: SubjectEmbeds,
        strength: float,
        start_percent: float,
        end_percent: float,
        guidance: str,
        mask: Tensor | None = None,
        layer_strengths: str = "",
    ) -> io.NodeOutput:
        if start_percent > end_percent:
            raise P3SError(
                f"start_percent ({start_percent:g}) must not be greater than end_percent ({end_percent:g}): swap them"
            )
        config, where = unet_config(model), effect_mask(mask, "Apply SSR")
        layers = factors_of(parse_layer_strengths(layer_strengths), config)
        applied = AppliedSSR(embeds, strength, guidance, start_percent, end_percent, where, layers)
        return io.NodeOutput(apply_ssr(model, config, applied))
