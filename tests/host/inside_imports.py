"""Run inside a host: what loading the pack's nodes costs beyond ComfyUI's own modules, and what it brings in."""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import comfyui_p3s
import server as server  # ComfyUI has loaded this, and with it its own nodes, before any pack

# Missing from this process, as on a machine where they are not installed.
OPTIONAL = ("cv2", "skimage")


async def load() -> list[str]:
    extension = await comfyui_p3s.comfy_entrypoint()
    return [node.GET_SCHEMA().node_id for node in await extension.get_node_list()]


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    if arguments["without"]:
        for name in OPTIONAL:
            sys.modules[name] = None  # type: ignore[assignment]  # what makes an import fail
    sys.pycache_prefix, sys.dont_write_bytecode = arguments["bytecode"], False
    before = set(sys.modules)
    start = time.process_time()  # of this process alone: the machine may be busy with others
    found = asyncio.run(load())
    seconds = time.process_time() - start
    new = {name.split(".")[0] for name in set(sys.modules) - before}
    registered = [f"P3S_{name}" for _, name in comfyui_p3s.nodes.NODES]
    return {"nodes": found, "registered": registered, "seconds": seconds, "new": sorted(new)}
