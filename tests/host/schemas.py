"""The pack's node schemas, and what is written from them: the English locale and the snapshot of a version."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from host.inside import Inside


def read_schemas(inside: Inside) -> dict[str, Any]:
    """node id -> its entry of GET /object_info, from a host without a server."""
    return inside.run(Path(__file__).with_name("inside_schemas.py"))


def inputs_of(info: dict[str, Any]) -> Iterator[tuple[str, bool, Any, dict[str, Any]]]:
    """(name, required, type, options) in the order of the node."""
    for kind, names in info["input_order"].items():
        for name in names if kind in ("required", "optional") else ():
            type_, *options = info["input"][kind][name]
            yield name, kind == "required", type_, options[0] if options else {}


def english(schemas: dict[str, Any]) -> dict[str, Any]:
    """locales/en/nodeDefs.json, in the form that ComfyUI's editor reads: outputs by their index."""
    return {
        node: {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": {name: {"name": name, "tooltip": options["tooltip"]} for name, _, _, options in inputs_of(info)},
            "outputs": {
                str(index): {"name": name, "tooltip": tooltip}
                for index, (name, tooltip) in enumerate(zip(info["output_name"], info["output_tooltips"], strict=True))
            },
        }
        for node, info in schemas.items()
    }


def snapshot(schemas: dict[str, Any]) -> dict[str, Any]:
    """What saved workflows depend on: names, types, order and defaults, of optional inputs what it means to leave them
    out. Of file lists, which differ from one machine to another, the choices are left out; such inputs have no
    default."""

    def entry(
        left_out: dict[str, Any], name: str, required: bool, kind: Any, options: dict[str, Any]
    ) -> dict[str, Any]:
        found = {"name": name, "required": required, "type": kind}
        if "default" in options:
            found["default"] = options["default"] if required else left_out.get(name, options["default"])
            if "options" in options:
                found["choices"] = list(options["options"])
        return found

    return {
        node: {
            "inputs": [entry(info["left_out"], *each) for each in inputs_of(info)],
            "outputs": [
                {"name": name, "type": kind} for name, kind in zip(info["output_name"], info["output"], strict=True)
            ],
        }
        for node, info in schemas.items()
    }
