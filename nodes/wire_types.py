"""The pack's own wire and widget types, inputs made from settings, and one helper for schemas that must load on older
and newer hosts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from comfy_api.latest import io

from ..p3s.reference.cutout import Box
from ..p3s.settings import Setting

T = TypeVar("T")

Points = io.Custom("P3S_POINTS")  # p3s.reference.points.PointSet
Reference = io.Custom("P3S_REFERENCE")  # tuple of p3s.reference.rngr.Reference
Subject = io.Custom("P3S_SUBJECT")  # p3s.subject.file.Subject
Schedule = io.Custom("P3S_SCHEDULE")  # p3s.sampling.schedule.Schedule
SSRModel = io.Custom("P3S_SSR_MODEL")  # p3s.ssr.file.SSRModel
SSREmbeds = io.Custom("P3S_SSR_EMBEDS")  # p3s.ssr.embeds.SubjectEmbeds
# {"x", "y", "width", "height"} in pixels: the host's own type where it has one (not yet in 0.3.64), see core_boxes.
# Named by us, so that a node has the same inputs and outputs on every host.
BoundingBox = io.Custom("BOUNDING_BOX")

# Not the wire type's name: every input of that type would else get the editor.
POINT_EDITOR = "P3S_POINT_EDITOR"


@io.comfytype(io_type=POINT_EDITOR)
class PointEditor(io.ComfyTypeIO):
    """The widget in which points are clicked; its value is the versioned JSON text of PointSet."""

    Type = str

    class Input(io.WidgetInput):
        """Give ``socketless=True``: the value is clicked, not wired."""


def core_boxes(pictures: Iterable[Iterable[Box]]) -> dict[str, int] | list[list[dict[str, int]]]:
    """The boxes of each picture of a batch as a BOUNDING_BOX: a single one by itself, as all of the host's nodes read
    it (Crop Image reads nothing else); else a list for each picture, and none at all where there is no box."""
    found = [
        [{"x": box.left, "y": box.top, "width": box.width, "height": box.height} for box in boxes] for boxes in pictures
    ]
    if sum(map(len, found)) == 0:
        return []
    return found[0][0] if len(found) == len(found[0]) == 1 else found


def build(constructor: Callable[..., T], *args: Any, **keywords: Any) -> T:
    """Call a schema constructor without the keywords that the running host does not know yet.

    One unknown keyword would keep the whole pack from loading. Use it for keywords newer than ComfyUI 0.3.64, such as
    ``search_aliases``, ``advanced`` or ``has_intermediate_output``, none of which a node may need to work.

    An unknown ``advanced`` still reaches the frontend, in the input's ``extra_dict``.
    """
    parameters = inspect.signature(constructor).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return constructor(*args, **keywords)
    made = constructor(*args, **{name: value for name, value in keywords.items() if name in parameters})
    if "advanced" in keywords and "advanced" not in parameters:
        cast(io.WidgetInput, made).extra_dict["advanced"] = keywords["advanced"]
    return made


def input_of(name: str, setting: Setting, **keywords: Any) -> Any:
    """The input of a node that holds a setting, with its default, range or choices, and help. ``keywords`` are further
    ones of the input, or other values for these."""
    given: dict[str, Any] = {"default": setting.default, "tooltip": setting.help}
    kind: Callable[..., Any] = io.String.Input
    if setting.choices:
        kind, given["options"] = io.Combo.Input, list(setting.choices)
    elif isinstance(setting.default, bool):
        kind = io.Boolean.Input
    elif isinstance(setting.default, (int, float)):
        kind = io.Int.Input if isinstance(setting.default, int) else io.Float.Input
        given |= {"min": setting.low, "max": setting.high}
        if setting.step is not None:
            given["step"] = setting.step
    return build(kind, name, **given | keywords)
