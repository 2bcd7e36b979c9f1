"""Apply P3S: a MODEL that generates the trained subject."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..p3s.errors import P3SError
from ..p3s.network.copy_settings import CopySettings
from ..p3s.sampling.application import EFFECT_MASK, MODE, Application, application
from ..p3s.sampling.layer_strengths import IN_A_ROW, LAYER_STRENGTHS
from ..p3s.sampling.schedule import Schedule as WeightCurve
from ..p3s.sampling.settings import SamplingSettings, default_schedule
from ..p3s.settings import settings_of
from ..p3s.subject.file import REFERENCE_INDEX
from ..p3s.subject.file import Subject as TrainedSubject
from .host.apply_subject import apply_subject
from .host.base_model import unet_config
from .input_checks import checked, layer_strengths_fit
from .masks import effect_mask
from .wire_types import Schedule, Subject, build, input_of

log = logging.getLogger("p3s")

HOW, GUIDANCE = settings_of(Application), settings_of(SamplingSettings)["branches"]
WINDOW = settings_of(WeightCurve)
BY_LAYER = f"{LAYER_STRENGTHS.help} {IN_A_ROW}"


class Apply(io.ComfyNode):
    """Patch a clone of the MODEL; the one given is not changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return build(
            io.Schema,
            node_id="P3S_Apply",
            display_name="Apply P3S",
            category="P3S",
            description="Make the model generate a trained subject.",
            search_aliases=["p3s", "ipadapter", "reference", "dreambooth", "subject"],
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.Model.Input("model", tooltip="The model the subject was trained on, or another of its family."),
                Subject.Input("subject", tooltip="From Train P3S or Load P3S Subject."),
                input_of("strength", HOW["strength"]),
                input_of("start_percent", WINDOW["start"]),
                input_of("end_percent", WINDOW["end"]),
                input_of("guidance", GUIDANCE),
                Schedule.Input(
                    "schedule",
                    optional=True,
                    tooltip="From Weight Schedule. Without it, the weight learned with the subject if there is one, "
                    "else the paper's: 0.7 at the first step, 1.2 at the last.",
                ),
                input_of("reference_index", REFERENCE_INDEX, optional=True, advanced=True),
                io.Mask.Input("mask", optional=True, tooltip=EFFECT_MASK.help),
                input_of("mode", MODE, optional=True),
                input_of("layer_strengths", LAYER_STRENGTHS, optional=True, advanced=True, tooltip=BY_LAYER),
                input_of("weight_on", HOW["weight_on"], optional=True, advanced=True),
                input_of("isolate", HOW["isolate"], optional=True, advanced=True),
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
        subject: TrainedSubject,
        strength: float,
        start_percent: float,
        end_percent: float,
        guidance: str,
        schedule: WeightCurve | None = None,
        reference_index: int = 0,
        mask: Tensor | None = None,
        mode: str = "exact",  # of graphs from before there was a choice
        layer_strengths: str = "",
        weight_on: str = "features",
        isolate: float = 0.0,
    ) -> io.NodeOutput:
        if start_percent > end_percent:
            raise P3SError(
                f"start_percent ({start_percent:g}) must not be greater than end_percent ({end_percent:g}): swap them"
            )
        curve = schedule or default_schedule(CopySettings.from_dict(subject.info.copy_settings))
        curve = curve.within(start_percent, end_percent)
        config, where = unet_config(model), effect_mask(mask, "Apply P3S")
        how = application(config, curve, strength, mode, guidance, where, layer_strengths, weight_on, isolate)
        patched, warnings = apply_subject(model, subject, reference_index, how)
        for warning in warnings:
            log.warning("Apply P3S: %s", warning)
        return io.NodeOutput(patched)
