"""GET /p3s/subjects: the subject files in their order, each with the family of models that it fits.

The answer is a list of objects with ``file``, the name as Load P3S Subject takes it, and ``family``, its title; empty
for a file that is no subject of a known version.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from aiohttp import web

from ...p3s.errors import SubjectFileError
from ...p3s.network.unet_config import family_title
from ...p3s.subject.file import load_info
from . import subject_folders
from .routes import add_route

PATH = "/p3s/subjects"

_thread = ThreadPoolExecutor(1, "p3s-subjects")  # a folder may lie on a slow disk


def register() -> None:
    """Add the route to the host's server."""
    add_route("GET", PATH, answer)


async def answer(request: web.Request) -> web.Response:
    """The route's handler."""
    subjects = await asyncio.get_running_loop().run_in_executor(_thread, listed)
    return web.json_response(subjects, headers={"Cache-Control": "no-store"})


def listed() -> list[dict[str, str]]:
    """The answer."""
    return [{"file": name, "family": _family_of(name)} for name in subject_folders.list_subjects()]


def _family_of(name: str) -> str:
    path = subject_folders.find_subject(name)
    try:
        return "" if path is None else _read(path, subject_folders.SUBJECTS.state(name))
    except (OSError, SubjectFileError):  # not a subject, or not to be read now: which is not kept
        return ""


@lru_cache(maxsize=4096)
def _read(path: str, state: str) -> str:
    """The family of the file in this ``state``."""
    return family_title(load_info(path).family)
