"""Run inside a host: the pack's node schemas as GET /object_info gives them, without a server."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

import comfyui_p3s


async def schemas() -> dict[str, Any]:
    extension = await comfyui_p3s.comfy_entrypoint()
    nodes = await extension.get_node_list()
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() | {"left_out": left_out(node)} for node in nodes}


def left_out(node: Any) -> dict[str, Any]:
    """What the node takes for optional inputs that a graph leaves out, where it says so itself."""
    parameters = inspect.signature(node.execute).parameters
    return {
        name: parameter.default
        for name, parameter in parameters.items()
        if isinstance(parameter.default, (bool, int, float, str))
    }


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    return asyncio.run(schemas())
