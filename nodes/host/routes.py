"""Routes of this pack on the host's server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from aiohttp import web
from server import PromptServer

from ...p3s.errors import MaskError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refused(Exception):
    """A request that is answered with a 4xx status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    def response(self) -> web.Response:
        return web.json_response({"error": str(self)}, status=self.status)


def add_route(method: str, path: str, handler: Handler) -> None:
    """Add a route to the host's server, if there is one and it has none of this path yet.

    Access control is left to the host, as for its own routes.
    """
    server = getattr(PromptServer, "instance", None)
    if server is not None and not any(getattr(route, "path", None) == path for route in server.routes):
        server.routes.route(method, path)(handler)


def unreadable(error: MaskError | OSError) -> Refused:
    """Why a picture cannot be read, without the disk's own words, which name folders."""
    return Refused(422, str(error) if isinstance(error, MaskError) else "The file cannot be read.")
