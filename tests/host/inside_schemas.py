"""Run inside a host: the pack's node schemas as GET /object_info gives them, without a server."""

from __future__ import annotations

import asyncio
from typing import Any

import comfyui_p3s


async def schemas() -> dict[str, Any]:
    extension = await comfyui_p3s.comfy_entrypoint()
    nodes = await extension.get_node_list()
    return {node.GET_SCHEMA().node_id: node.GET_NODE_INFO_V1() for node in nodes}


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    return asyncio.run(schemas())
