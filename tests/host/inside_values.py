"""Run by test_values.py inside a host: what every node says of values that no widget could hold."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import comfyui_p3s
import numpy as np
from comfy_api.latest import io
from comfyui_p3s.nodes import input_checks
from comfyui_p3s.nodes.wire_types import PointEditor
from comfyui_p3s.p3s.errors import P3SError, shown

HALF = "sks \ud83d"  # of a surrogate pair


def wrong_values(entry: Any) -> list[Any]:
    if isinstance(entry, (io.Int.Input, io.Float.Input)):
        whole = isinstance(entry, io.Int.Input)
        outside = [entry.min - 1, entry.max + 1, 1e30, -math.inf, math.inf, math.nan]
        return [None, "1", True, [1], 1j, *outside, *([entry.min + 0.5] if whole else [])]
    if isinstance(entry, io.Combo.Input):
        return [None, 7, "No such choice", ["paper"]]
    if isinstance(entry, io.Boolean.Input):
        return [None, "yes", 1.5]
    assert isinstance(entry, (io.String.Input, PointEditor.Input)), entry
    return [None, 7, HALF, ["a"]]


def limits(entry: Any) -> list[Any]:
    """Values that are just right, as nodes that compute give them, too."""
    if isinstance(entry, io.Int.Input):
        return [entry.min, entry.max, np.int64(entry.min), float(entry.min)]
    if isinstance(entry, io.Float.Input):
        return [entry.min, entry.max, int(entry.max), np.float32(entry.max)]
    if isinstance(entry, io.Combo.Input):
        return list(entry.options)
    return [True, False] if isinstance(entry, io.Boolean.Input) else ["", "größer 🐕"]


def said(node: Any, name: str, value: Any) -> str:
    """The error of a node that is run with a value for one input, its widgets' defaults, and no wires: those are missed
    only after the values are looked at."""
    schema = node.define_schema()
    given = {e.id: e.default for e in schema.inputs if getattr(e, "default", None) is not None}
    given |= {e.id: "no file" for e in schema.inputs if isinstance(e, io.Combo.Input) and e.default is None}
    given[name] = value
    try:
        node.EXECUTE_NORMALIZED(**{name: [value] if schema.is_input_list else value for name, value in given.items()})
    except P3SError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    nodes = asyncio.run(asyncio.run(comfyui_p3s.comfy_entrypoint()).get_node_list())
    wrong, right, wires = [], [], []
    for node in nodes:
        schema = node.define_schema()
        for entry in schema.inputs:
            where = f"{schema.node_id}.{entry.id}"
            if isinstance(entry, io.WidgetInput) and not entry.force_input:
                wrong += [(where, entry.id, shown(value), said(node, entry.id, value)) for value in wrong_values(entry)]
                if entry.id not in ("image", "subject_file", "aligner_file", "layers_file"):  # their choices are files
                    right += [(where, shown(v)) for v in limits(entry) if input_checks.widget_value(entry, v) != v]
            elif not entry.optional:
                wires += [(where, entry.id, shown(value), said(node, entry.id, value)) for value in (None, 7)]
    return {"wrong": wrong, "right": right, "wires": wires}
