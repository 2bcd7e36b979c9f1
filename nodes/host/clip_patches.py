"""The patches of what a Point Picker shows, so that points can be tried without a run. No model is ever loaded."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from server import PromptServer
from torch import Tensor

from ...p3s.errors import MaskError
from ...p3s.reference.framing import Frame
from ...p3s.reference.masks import Patches
from ...p3s.reference.refine import refining_picture
from ...p3s.reference.rngr import clip_tokens, image_hash
from .clip_token_cache import PAPER, Choice, Key, Reading, token_cache
from .patch_vision import patch_vision, patch_vision_in_place
from .picker_pictures import Source

MOST_SOURCES = 256
SIDE = 1024  # pixels; CLIP itself looks at 224 or 336

log = logging.getLogger("p3s")


class Contents:
    """The content, as ``image_hash``, of the last few sources. Runs and routes use it from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[Source, tuple[object, str]] = OrderedDict()  # version and content

    def know(self, source: Source, key: str) -> str:
        """Remember the content of a source, and return it."""
        with self._lock:
            self._known[source] = (source.version(), key)
            self._known.move_to_end(source)
            while len(self._known) > MOST_SOURCES:
                self._known.popitem(last=False)
        return key

    def find(self, source: Source) -> str | None:
        """None if it is not known, or was another version."""
        version, key = self._known.get(source, (None, None))
        return key if key is not None and version == source.version() else None


contents = Contents()


def know_photo(source: Source, photo: Tensor) -> None:
    """For a run: this source shows the photo [H, W, 3], though perhaps smaller."""
    contents.know(source, image_hash(photo))


class Read(NamedTuple):
    """What masks are made of: patches, and the picture for ``refine``."""

    patches: Patches
    picture: np.ndarray


def patches_of(source: Source, origin: str, choice: Choice = PAPER) -> Read | None:
    """What the vision model that comes from ``origin`` (see origin.py) has read of a source, or None if it has not and
    cannot be asked now.

    It can be asked while it is alive since a run and lies where it computes, and nothing is running. Raises MaskError
    for a picture that cannot be read and for features that the model lacks, OSError for a file that is gone.
    """
    key, pixels = contents.find(source), None
    if key is None:
        if not token_cache:
            return None  # nothing to find, so the file is not worth reading
        pixels = torch.from_numpy(source.pixels())
        key = contents.know(source, image_hash(pixels))
    wanted = Key(key, origin, choice)
    reading = token_cache.find(wanted) or _read_between_runs(wanted, source, pixels)
    return None if reading is None else Read(_patches(reading), reading.picture)


_newest: list[tuple[Reading, Patches]] = []


def _patches(reading: Reading) -> Patches:
    """Those of the newest reading are kept: while a point is carried, they are asked for many times a second."""
    if not _newest or _newest[0][0] is not reading:
        _newest[:] = [(reading, reading.patches())]
    return _newest[0][1]


def _read_between_runs(key: Key, source: Source, pixels: Tensor | None) -> Reading | None:
    """Without a lock: if the host starts a run meanwhile, or moves the model, the result is dropped."""
    model, before, choice = token_cache.model(key.origin), _next_run(), key.choice
    if model is not None:
        patch_vision(model).check_has(choice.features)  # no run would read them either
    vision = None if model is None or before is None else patch_vision_in_place(model)
    if vision is None:
        return None
    pixels = torch.from_numpy(source.pixels()) if pixels is None else pixels
    frame, photo = Frame(pixels.shape[1], pixels.shape[0]), _reduced(pixels)
    tokens: Tensor | MaskError | None = None
    try:
        if choice == PAPER:
            tokens = clip_tokens(photo, vision)
        else:
            tokens = vision.read(photo, (choice.features,), choice.tiles, frame)[choice.features]
    except MaskError as error:  # a model of another kind
        tokens = error
    except Exception:  # such as weights on two devices, in the middle of a move
        log.info("CLIP could not be asked between runs", exc_info=True)
    if _next_run() != before or patch_vision_in_place(model) is None:
        return None
    if isinstance(tokens, MaskError):
        raise tokens
    if tokens is not None:
        prefix, picture = int(choice == PAPER), refining_picture(photo)
        reading = Reading(tokens, frame, prefix, choice.tiles, picture, weakref.ref(model), by_run=False)
        token_cache.keep(key, reading)
    return token_cache.find(key)


def _reduced(pixels: Tensor) -> Tensor:
    """uint8 [H, W, 3] as a photo of SIDE pixels at most, 0..1."""
    image = Image.fromarray(pixels.numpy())
    image.thumbnail((SIDE, SIDE))
    return torch.from_numpy(np.array(image)).float() / 255


def _next_run() -> int | None:
    """The number of the next run, if none is under way or waiting; None otherwise."""
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:  # which requests to the server wait for: never for long
        return None if queue.get_tasks_remaining() else int(queue.task_counter)
