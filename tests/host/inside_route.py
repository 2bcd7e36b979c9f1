"""Run by test_mask_route.py inside a host: the nodes load without a server, and the route joins one only once."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import comfyui_p3s
from aiohttp import web
from comfyui_p3s.nodes.host import mask_route, picture_route
from server import PromptServer


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    async def load() -> int:
        return len(await (await comfyui_p3s.comfy_entrypoint()).get_node_list())

    without = {"nodes": asyncio.run(load()), "server": hasattr(PromptServer, "instance")}
    PromptServer.instance = SimpleNamespace(routes=web.RouteTableDef())
    for _ in range(2):  # a second copy of the pack
        mask_route.register()
        picture_route.register()
    web.Application().add_routes(PromptServer.instance.routes)  # raises for a path that is there twice
    return {**without, "routes": [f"{route.method} {route.path}" for route in PromptServer.instance.routes]}
