"""Weight Schedule: how strongly the subject acts over the course of denoising."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..p3s.errors import P3SError, shown
from ..p3s.sampling.diffusion import NoiseSchedule
from ..p3s.sampling.schedule import Schedule as WeightCurve
from ..p3s.sampling.schedule import parse_keyframes
from ..p3s.sampling.schedule_plot import plot_schedule
from ..p3s.settings import settings_of
from .input_checks import checked
from .wire_types import Schedule, build, input_of

SETTINGS = settings_of(WeightCurve)


class WeightSchedule(io.ComfyNode):
    """Settings in, a schedule and a picture of it out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return build(
            io.Schema,
            node_id="P3S_WeightSchedule",
            display_name="Weight Schedule",
            category="P3S",
            description="How strongly the subject acts, from the first sampling step (noise) to the last (image).",
            search_aliases=["p3s", "schedule", "keyframes", "strength", "curve"],
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                *(input_of(name, SETTINGS[name]) for name in ("kind", "alpha", "beta", "k", "value")),
                # A text; the schedule holds its pairs.
                input_of("keyframes", SETTINGS["keyframes"], default="0:0.7, 0.5:1, 1:1.2", multiline=True),
                io.Sigmas.Input(
                    "sigmas",
                    optional=True,
                    tooltip="From BasicScheduler or another scheduler node: marks the sampler's steps on the plot. "
                    "They do not change the schedule.",
                ),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                Schedule.Output(display_name="schedule", tooltip="For Apply P3S."),
                io.Image.Output(display_name="plot", tooltip="The curve: weight over the course of denoising."),
            ],
        )

    @classmethod
    def validate_inputs(cls, kind=None, keyframes=None) -> bool | str:
        # The host shows this message beside every input named here: only these two, either of which may be wrong.
        if kind is not None and not SETTINGS["kind"].allows(kind):
            return f"kind must be {SETTINGS['kind'].expected}; got {shown(kind)}"
        if kind == "keyframes" and isinstance(keyframes, str):  # None: comes from another node
            try:
                WeightCurve(kind, keyframes=parse_keyframes(keyframes))
            except P3SError as error:
                return str(error)
        return True

    @classmethod
    @checked
    def execute(
        cls,
        kind: str,
        alpha: float,
        beta: float,
        k: float,
        value: float,
        keyframes: str,
        sigmas: Tensor | None = None,
    ) -> io.NodeOutput:
        # Settings of other kinds are not read: an unfinished list of keyframes must not stop "paper".
        pairs = parse_keyframes(keyframes) if kind == "keyframes" else ()
        schedule = WeightCurve(kind, alpha, beta, k, value, pairs)
        steps = None if sigmas is None else timesteps(sigmas)
        plot = plot_schedule(schedule, steps=steps)[None]
        shown = ui.PreviewImage(plot, cls=cls).as_dict()
        if steps is not None:
            shown["p3s_timesteps"] = [round(step, 2) for step in steps]  # the node's curve marks them
        return io.NodeOutput(schedule, plot, ui=shown)


def timesteps(sigmas: Tensor) -> list[float]:
    """The timesteps of a sampler's sigmas on SD 1.x; the last sigma, 0, is where it arrives and no step."""
    return NoiseSchedule.stable_diffusion().timesteps(sigmas[sigmas > 0]).tolist()
