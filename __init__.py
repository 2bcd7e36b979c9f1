"""ComfyUI-P3S: the entry point that ComfyUI looks for. Kept cheap: nodes are imported when ComfyUI asks for them."""

from __future__ import annotations

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():  # the host names the type: comfy_api.latest.ComfyExtension
    """Called once by ComfyUI when it loads the pack."""
    from .nodes import P3SExtension

    return P3SExtension()


__all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]
