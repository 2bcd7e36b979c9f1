"""POST /p3s/masks: what the points of a Point Picker select, while they are being placed.

Request, JSON:
  picture   an object, see picker_pictures.source_of
  points    PointSet's text
  origin    where the vision model that is compared comes from, see origin.py; null where nothing is linked
  source    the editor that asks; of its waiting requests only the newest is answered
  settings  optional: some of value_range, blur, fill_region, grow, features, tiles and refine of the RNGR Mask node,
            and whether a model is linked to its mask_vision

Answer, JSON: ``state``, which is one of
  ready       with the content of p3s.mask_preview
  problem     no sensible mask follows from these points; ``message`` says why, ``grid`` is that of CLIP's patches
  unread      that model has not read this picture: run RNGR Mask
  superseded  a newer request of the same source came
and for a request that is refused a 4xx status with ``error``. No model is ever loaded for a request.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web

from ...p3s.errors import MaskError, P3SError, PointError
from ...p3s.reference.mask_preview import mask_preview
from ...p3s.reference.masks import MaskSettings
from ...p3s.reference.points import PointSet
from ...p3s.reference.vision import UnknownFeaturesError
from .clip_patches import patches_of
from .clip_token_cache import Choice
from .origin import origin_text
from .picker_pictures import source_of
from .routes import Refused, add_route, unreadable

PATH = "/p3s/masks"
MOST_BYTES = 32 * 1024  # in a request; 128 points need less than 4 KiB
MOST_WAITING = 16
SETTINGS = ("value_range", "blur", "fill_region", "grow", "features", "tiles", "refine")
MASK_VISION = "mask_vision"
LONGEST_SOURCE = 100


class Superseded(Exception):
    """A newer job of the same source has come."""


class Newest:
    """Runs jobs in a thread, one at a time; of those of one source that wait, only the newest."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "p3s-masks")
        self._turn = asyncio.Lock()
        self._waiting: dict[str, object] = {}

    async def run(self, source: str, job: Callable[[], Any]) -> Any:
        """The job's result. Raises Superseded, or Refused when too many sources wait."""
        if source not in self._waiting and len(self._waiting) >= MOST_WAITING:
            raise Refused(429, "Too many requests are waiting; try again.")
        ticket = self._waiting[source] = object()
        try:
            async with self._turn:
                if self._waiting.get(source) is not ticket:
                    raise Superseded
                del self._waiting[source]
                return await asyncio.get_running_loop().run_in_executor(self._thread, job)
        finally:
            if self._waiting.get(source) is ticket:
                del self._waiting[source]


newest = Newest()


def register() -> None:
    """Add the route to the host's server."""
    add_route("POST", PATH, answer)


async def answer(request: web.Request) -> web.Response:
    """The route's handler."""
    try:
        asked = parse(await read(request))
        text = await newest.run(asked["source"], lambda: json.dumps(preview(asked)))
    except Refused as refused:
        return refused.response()
    except Superseded:
        return web.json_response({"state": "superseded"})
    return web.Response(text=text, content_type="application/json")


async def read(request: web.Request) -> bytes:
    """The body, as JSON: pages of other origins cannot send that without being asked first."""
    if request.content_type != "application/json":
        raise Refused(415, "Expected the content type application/json.")
    body = b""
    while chunk := await request.content.read(MOST_BYTES + 1 - len(body)):
        body += chunk
        if len(body) > MOST_BYTES:
            raise Refused(413, f"A request may have {MOST_BYTES} bytes.")
    return body


def parse(body: bytes) -> dict[str, Any]:
    """picture: a Source; points: PointSet; origin: text, None; settings: MaskSettings; mask_vision: bool; source: text.

    Raises Refused, naming the mistake.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise Refused(400, "The body is not valid JSON.") from None
    if not isinstance(content, dict):
        raise Refused(400, "Expected a JSON object.")
    settings = content.pop("settings", {})
    if set(content) != {"picture", "points", "origin", "source"}:
        raise Refused(
            400,
            "Expected picture, points, origin, source and, optionally, settings; got other keys, or not all of these.",
        )
    if not isinstance(content["source"], str) or not 0 < len(content["source"]) <= LONGEST_SOURCE:
        raise Refused(400, f"source must be text of 1 to {LONGEST_SOURCE} characters.")
    if not isinstance(settings, dict) or not set(settings) <= {*SETTINGS, MASK_VISION}:
        raise Refused(400, f"settings must be an object with some of {', '.join((*SETTINGS, MASK_VISION))}.")
    if not isinstance(mask_vision := settings.pop(MASK_VISION, False), bool):
        raise Refused(400, f"{MASK_VISION} must be true or false.")
    if content["origin"] is not None and not isinstance(content["origin"], dict):
        raise Refused(400, "origin must be an object or null.")
    if not isinstance(content["points"], str):
        raise Refused(400, "points must be JSON text.")
    try:
        points = PointSet.parse(content["points"])
        mask_settings = MaskSettings(**settings)
    except P3SError as error:
        raise Refused(400, str(error)) from None
    picture = source_of(content["picture"])
    return {
        "picture": picture,
        "points": points,
        "origin": None if content["origin"] is None else origin_text(content["origin"]),
        "settings": mask_settings,
        MASK_VISION: mask_vision,
        "source": content["source"],
    }


def preview(asked: Mapping[str, Any]) -> dict[str, Any]:
    """The answer to a request that ``parse`` has read. Raises Refused for pictures that cannot be read."""
    settings: MaskSettings = asked["settings"]
    if asked["origin"] is None:
        return {"state": "unread"}
    choice = Choice(asked[MASK_VISION], settings.features, settings.tiles)
    try:
        read = patches_of(asked["picture"], asked["origin"], choice)
    except UnknownFeaturesError as error:
        return {"state": "problem", "message": str(error)}
    except (MaskError, OSError) as error:
        raise unreadable(error) from None
    if read is None:
        return {"state": "unread"}
    try:
        return {"state": "ready", **mask_preview(read.patches, asked["points"], settings, read.picture)}
    except (PointError, MaskError) as error:
        return {"state": "problem", "message": str(error), "grid": read.patches.grid}
