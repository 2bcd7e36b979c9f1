"""Checks in ``execute`` what the host checks in widgets only: values that come over a wire, or as null.

Limits and choices are those of the node's own schema, the one place where they are given.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from numbers import Real
from typing import Any

from comfy_api.latest import io

from ..p3s.errors import P3SError, shown
from ..p3s.sampling.layer_strengths import parse_layer_strengths
from ..p3s.sampling.schedule import Schedule as WeightCurve
from ..p3s.ssr.embeds import SubjectEmbeds
from ..p3s.ssr.file import SSRModel as SSREncoder
from ..p3s.subject.file import Subject as TrainedSubject
from .wire_types import PointEditor, Reference, Schedule, SSREmbeds, SSRModel, Subject

#: Why a wire of the host may carry None, and what to do.
EMPTY = {
    "MODEL": "{} is empty: the file it comes from holds no diffusion model. Load an SD 1.x, SD 2.x or SDXL model with "
    "Load Checkpoint",
    "VAE": "{} is empty: the checkpoint it comes from holds no VAE. Load the VAE of that model",
    "CLIP_VISION": "{} is empty: the checkpoint it comes from holds no CLIP vision model. Load CLIP ViT-L/14 with Load "
    "CLIP Vision",
    "CLIP": "{} is empty: the file it comes from holds no text encoder. Load that of the model's own checkpoint with "
    "Load Checkpoint",
    "CONDITIONING": "{} is empty: connect CLIP Text Encode",
}
#: What the pack's own wires carry, and the node that it comes from. (A node with outputs of any type fits every wire.)
OURS: dict[str, tuple[type, str]] = {
    str(Reference.io_type): (tuple, "RNGR Mask"),
    str(Subject.io_type): (TrainedSubject, "Train P3S or Load P3S Subject"),
    str(Schedule.io_type): (WeightCurve, "Weight Schedule"),
    str(SSRModel.io_type): (SSREncoder, "Load SSR-Encoder or Toy World"),
    str(SSREmbeds.io_type): (SubjectEmbeds, "SSR Encode"),
}


def checked(execute: Callable[..., Any]) -> Callable[..., Any]:
    """For a V3 node's ``execute``, below ``@classmethod``: it is called only with values that its widgets could hold,
    and wires that carry something.

    Raises P3SError, which names the input, what was expected and what came. None passes where ``execute`` itself has it
    as the default. To a node that takes lists (``is_input_list``) a widget's list holds one value, and ``execute`` gets
    that; of a wire's list every entry is checked.
    """
    defaults = {name: parameter.default for name, parameter in inspect.signature(execute).parameters.items()}

    @wraps(execute)
    def run(cls: Any, **values: Any) -> Any:
        schema = cls.define_schema()
        for entry in schema.inputs:
            name = entry.id
            if name not in values or (values[name] is None and defaults.get(name, inspect.Parameter.empty) is None):
                continue
            if isinstance(entry, io.WidgetInput) and not entry.force_input:
                value = only(name, values[name]) if schema.is_input_list else values[name]
                values[name] = widget_value(entry, value)
            else:
                for value in values[name] if schema.is_input_list else [values[name]]:
                    check_wire(entry, value)
        return execute(cls, **values)

    return run


def widget_value(entry: Any, value: Any) -> Any:
    """``value``, as the widget of the schema's input ``entry`` could hold it. Raises P3SError for any other."""
    if isinstance(entry, (io.Int.Input, io.Float.Input)):
        return _number(entry, value)
    if isinstance(entry, io.Combo.Input):
        if value not in entry.options:
            raise P3SError(f"{entry.id} must be one of {', '.join(map(str, entry.options))}; got {shown(value)}")
    elif isinstance(entry, io.Boolean.Input):
        if not isinstance(value, bool):
            raise P3SError(f"{entry.id} must be true or false; got {shown(value)}")
    elif isinstance(entry, (io.String.Input, PointEditor.Input)):
        _check_text(entry.id, value)
    return value


def check_wire(entry: Any, value: Any) -> None:
    """Raise P3SError where a wire carries nothing, or what no node of ours gives."""
    wire = str(entry.get_io_type())
    if value is None and wire in EMPTY:
        raise P3SError(EMPTY[wire].format(entry.id))
    if wire in OURS:
        kind, source = OURS[wire]
        if not isinstance(value, kind):
            raise P3SError(f"{entry.id} must come from {source}; got {shown(value)}")


def _number(entry: Any, value: Any) -> int | float:
    whole = isinstance(entry, io.Int.Input)
    # What is not a number of the range compares false, NaN included. Nodes that compute give whole numbers as 3.0, too.
    fits = isinstance(value, Real) and not isinstance(value, bool) and entry.min <= value <= entry.max
    if not fits or (whole and value != int(value)):
        kind, limits = ("a whole number", "{}..{}") if whole else ("a number", "{:g}..{:g}")
        raise P3SError(f"{entry.id} must be {kind} in {limits.format(entry.min, entry.max)}; got {shown(value)}")
    return int(value) if whole else float(value)


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise P3SError(f"{name} must be text; got {shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise P3SError(f"{name} must be text that a file can hold: type it again; got {shown(value)}") from None


def layer_strengths_fit(text: str | None) -> bool | str:
    """For ``validate_inputs``: True, or what is wrong with the text of layer strengths; None comes over a wire."""
    try:
        parse_layer_strengths(text or "")
    except P3SError as error:
        return str(error)
    return True


def only(name: str, values: Any) -> Any:
    """The one value of a list. Raises P3SError, naming the input, for several and for none."""
    if len(values) != 1:
        raise P3SError(f"{name} comes as a list of {len(values)} values; one is expected, for all photos")
    return values[0]
