"""GET /p3s/picture: what a Point Picker shows, as the run will read it: upright, as the colours that are trained on.

A browser shows some files otherwise than they are read (turned WebP, transparent parts, 16 bits), and others not at all
(TIFF). The query names the picture, see picker_pictures.source_of. The answer is a JPEG picture of PREVIEW_SIDE pixels
at most, whose header X-P3S-Picture holds, as JSON, the true ``width`` and ``height`` and whether parts are
``transparent``; for a request that is refused it is a 4xx status with ``error``.
"""

from __future__ import annotations

import asyncio
import io
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

from ...p3s.errors import MaskError
from ...p3s.reference.overlay import PREVIEW_SIDE
from .picker_pictures import Source, source_of
from .routes import Refused, add_route, unreadable

PATH = "/p3s/picture"
HEADER = "X-P3S-Picture"

_thread = ThreadPoolExecutor(1, "p3s-picture")  # one at a time: a large picture takes a few hundred megabytes


def register() -> None:
    """Add the route to the host's server."""
    add_route("GET", PATH, answer)


async def answer(request: web.Request) -> web.Response:
    """The route's handler."""
    try:
        source = source_of(_inputs(request.query))
        body, facts = await asyncio.get_running_loop().run_in_executor(_thread, lambda: picture(source))
    except Refused as refused:
        return refused.response()
    headers = {HEADER: json.dumps(facts), "Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
    return web.Response(body=body, content_type="image/jpeg", headers=headers)


def picture(source: Source) -> tuple[bytes, dict[str, Any]]:
    """The JPEG file and the header's content. Raises Refused for pictures that cannot be read."""
    try:
        shown = source.shown(PREVIEW_SIDE)
    except (MaskError, OSError) as error:
        raise unreadable(error) from None
    file = io.BytesIO()
    shown.image.save(file, "JPEG", quality=92, subsampling=0)
    return file.getvalue(), {"width": shown.width, "height": shown.height, "transparent": shown.transparent}


def _inputs(query: Any) -> dict[str, Any]:
    """A query's texts; ``scene`` is a whole number."""
    inputs: dict[str, Any] = dict(query)
    try:
        return {**inputs, "scene": int(inputs["scene"])} if "scene" in inputs else inputs
    except ValueError:
        raise Refused(400, "picture: scene must be a whole number.") from None
