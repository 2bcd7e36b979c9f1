"""CLIP's patches of what a Point Picker shows, so that points can be tried without a run. No model is ever loaded."""

from __future__ import annotations

import logging
import threading
import weakref
from collections import OrderedDict

import numpy as np
import torch
from PIL import Image
from server import PromptServer
from torch import Tensor

from ...p3s.errors import MaskError
from ...p3s.reference.framing import Frame
from ...p3s.reference.masks import Patches
from ...p3s.reference.rngr import clip_tokens, image_hash
from .clip_token_cache import CachedTokens, token_cache
from .encoders import clip_encoder_in_place, clip_image_size
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


def patches_of(source: Source) -> Patches | None:
    """The patches of a source, or None if they are not known and CLIP cannot be asked now.

    It can be asked while a model that a run has used is alive and lies where it computes, and nothing is running.
    Raises MaskError for a picture that cannot be read, OSError for a file that is gone.
    """
    key, pixels = contents.find(source), None
    if key is None:
        if not token_cache:
            return None  # nothing to find, so the file is not worth reading
        pixels = torch.from_numpy(source.pixels())
        key = contents.know(source, image_hash(pixels))
    reading = token_cache.find(key) or _read_between_runs(key, source, pixels)
    return reading and Patches(reading.tokens, reading.frame)


def _read_between_runs(key: str, source: Source, pixels: Tensor | None) -> CachedTokens | None:
    """Without a lock: if the host starts a run meanwhile, or moves the model, the result is dropped."""
    model, before = token_cache.model(), _next_run()
    encode = None if model is None or before is None else clip_encoder_in_place(model)
    if encode is None:
        return None
    pixels = torch.from_numpy(source.pixels()) if pixels is None else pixels
    frame = Frame(pixels.shape[1], pixels.shape[0])
    tokens: Tensor | MaskError | None = None
    try:
        tokens = clip_tokens(_reduced(pixels), encode, clip_image_size(model))
    except MaskError as error:  # a model of another kind
        tokens = error
    except Exception:  # such as weights on two devices, in the middle of a move
        log.info("CLIP could not be asked between runs", exc_info=True)
    if _next_run() != before or clip_encoder_in_place(model) is None:
        return None
    if isinstance(tokens, MaskError):
        raise tokens
    if tokens is not None:
        token_cache.keep(key, CachedTokens(tokens, frame, weakref.ref(model), by_run=False))
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
