"""Weight Schedule: how strongly the subject acts over the course of denoising."""

from __future__ import annotations

from comfy_api.latest import io, ui
from torch import Tensor

from ..p3s.errors import P3SError
from ..p3s.sampling.diffusion import NoiseSchedule
from ..p3s.sampling.plot import plot_schedule
from ..p3s.sampling.schedule import KINDS, parse_keyframes
from ..p3s.sampling.schedule import Schedule as WeightCurve
from .types import Schedule, build
from .values import checked


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
                io.Combo.Input(
                    "kind",
                    options=list(KINDS),
                    default="paper",
                    tooltip="paper: 1 - alpha (t/T)^k + beta, with t/T falling from 1 to 0. fixed: value. "
                    "increasing: value (1 - t/T)^k, grows as the image emerges. decreasing: value (t/T)^k. "
                    "keyframes: your own curve. learned: the curve learned with the subject, if there is one. "
                    "ease: alpha and beta as in paper, but level at both ends.",
                ),
                io.Float.Input(
                    "alpha",
                    default=0.5,
                    min=-5.0,
                    max=5.0,
                    step=0.01,
                    tooltip="paper, ease: how much weaker the subject is at the first step than at the last.",
                ),
                io.Float.Input(
                    "beta",
                    default=0.2,
                    min=-5.0,
                    max=5.0,
                    step=0.01,
                    tooltip="paper, ease: added at every step.",
                ),
                io.Float.Input(
                    "k",
                    default=2.0,
                    min=0.0,
                    max=10.0,
                    step=0.1,
                    tooltip="paper, increasing, decreasing: the exponent; higher bends the curve more.",
                ),
                io.Float.Input(
                    "value",
                    default=1.0,
                    min=0.0,
                    max=10.0,
                    step=0.01,
                    tooltip="fixed: the weight. increasing, decreasing: the highest weight. At 0 the subject is off.",
                ),
                io.String.Input(
                    "keyframes",
                    default="0:0.7, 0.5:1, 1:1.2",
                    multiline=True,
                    tooltip='keyframes: pairs "percent:weight", joined by straight lines; percent 0 is the first '
                    "step, 1 the last. A JSON list [[0, 0.7], [1, 1.2]] works too.",
                ),
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
        if kind is not None and kind not in KINDS:
            return f"There is no kind {kind!r} of weight schedule. Kinds: {', '.join(KINDS)}."
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
