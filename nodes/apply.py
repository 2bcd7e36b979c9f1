"""Apply P3S: a MODEL that generates the trained subject."""

from __future__ import annotations

import logging
from typing import Any

from comfy_api.latest import io

from ..p3s.schedule import Schedule as WeightCurve
from ..p3s.subject import Subject as TrainedSubject
from .host.patch import Application, apply_subject
from .types import Schedule, Subject, build

log = logging.getLogger("p3s")

GUIDANCE = ("both", "conditional")


class Apply(io.ComfyNode):
    """Patch a clone of the MODEL; the one given is not changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return build(
            io.Schema,
            node_id="P3S_Apply",
            display_name="Apply P3S",
            category="P3S",
            description="Let the model generate a trained subject.",
            search_aliases=["p3s", "apply subject", "use subject"],
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.Model.Input("model", tooltip="The model the subject was trained on, or one of its family."),
                Subject.Input("subject", tooltip="From Train P3S or Load P3S Subject."),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Multiplies the schedule's weight. 0 is the plain model. A tiny strength is not almost 0: "
                    "the subject's tokens still draw attention.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The subject is off before this share of the denoising. A later start frees the layout.",
                ),
                io.Float.Input(
                    "end_percent",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.001,
                    tooltip="The subject is off after this share of the denoising.",
                ),
                io.Combo.Input(
                    "guidance",
                    options=list(GUIDANCE),
                    default=GUIDANCE[0],
                    tooltip="Which half of the guidance sees the subject: both, or only the prompt (cheaper).",
                ),
                Schedule.Input(
                    "schedule",
                    optional=True,
                    tooltip="From Weight Schedule. Without it the paper's: 0.7 at the start, 1.2 at the end.",
                ),
                build(
                    io.Int.Input,
                    "reference_index",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    advanced=True,
                    tooltip="Of a subject trained on several photos: which one is shown to the copy, from 0.",
                ),
            ],
            # The output has no id: it must differ from the inputs' ids.
            outputs=[io.Model.Output(display_name="model", tooltip="For KSampler and every other user of a model.")],
        )

    @classmethod
    def validate_inputs(cls, start_percent=None, end_percent=None, guidance=None) -> bool | str:
        if guidance is not None and guidance not in GUIDANCE:
            return f"guidance must be one of {', '.join(GUIDANCE)}; got {guidance!r}."
        for name, value in (("start_percent", start_percent), ("end_percent", end_percent)):
            if value is not None and not 0 <= value <= 1:
                return f"{name} must lie in 0..1; got {value}."
        if start_percent is not None and end_percent is not None and start_percent > end_percent:
            return f"start_percent ({start_percent}) must not be greater than end_percent ({end_percent})."
        return True

    @classmethod
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
    ) -> io.NodeOutput:
        curve = (schedule or WeightCurve()).within(start_percent, end_percent)
        patched, warnings = apply_subject(
            model, subject, reference_index, Application(curve, strength, guidance == "conditional")
        )
        for warning in warnings:
            log.warning("Apply P3S: %s", warning)
        return io.NodeOutput(patched)
