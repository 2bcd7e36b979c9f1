"""What CLIP has said of the pictures seen last, so that points can be tried without a run."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from server import PromptServer
from torch import Tensor

from ...p3s.framing import Frame
from ...p3s.masks import Patches
from ...p3s.rngr import clip_tokens, image_hash
from .conditions import clip_encoder, clip_image_size
from .pictures import load_picture

MOST_PICTURES = 16  # a megabyte each with CLIP ViT-L/14
MOST_FILES = 256
MOST_PIXELS = 50_000_000  # of a file that is read outside a run; a hundred bytes each while that lasts

Stamp = tuple[int, int]  # a file's modification time and size


class _Reading(NamedTuple):
    tokens: Tensor
    frame: Frame
    model: weakref.ref[Any]


class SeenPictures:
    """Tokens by a picture's content, for the last few pictures. Used by runs and by the route at once, from threads.

    The CLIP vision model is only borrowed: it goes when the host lets go of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: OrderedDict[str, _Reading] = OrderedDict()  # image_hash ->
        self._files: OrderedDict[str, tuple[Stamp, str]] = OrderedDict()  # path -> image_hash of the content
        self._model: weakref.ref[Any] | None = None

    def tokens(self, photo: Tensor, clip_vision: Any) -> Tensor:
        """For a run: what this model says of a photo [H, W, 3]; the model is asked only if it has not been yet."""
        encode = clip_encoder(clip_vision)
        key = image_hash(photo)
        with self._lock:
            self._model = weakref.ref(clip_vision)
            known = self._readings.get(key)
        if known is not None and known.model() is clip_vision:
            return known.tokens
        return self._keep(key, photo, clip_tokens(photo, encode, clip_image_size(clip_vision)), clip_vision)

    def know_file(self, path: str, photo: Tensor) -> None:
        """A file shows this photo [H, W, 3], though perhaps smaller."""
        self._know(path, image_hash(photo))

    def patches(self, path: str) -> Patches | None:
        """The patches of a picture file, or None if they are not known and CLIP cannot be asked now.

        It can be asked while a model that a run has used is alive and nothing is running. Raises as load_picture does.
        """
        key = self._hash_of(path)
        if key is None:
            if not self._readings:
                return None  # nothing to find, so the file is not worth reading
            key = self._know(path, image_hash(load_picture(path, MOST_PIXELS)[0]))
        reading = self._readings.get(key) or self._read_between_runs(key, path)
        return reading and Patches(reading.tokens, reading.frame)

    def _read_between_runs(self, key: str, path: str) -> _Reading | None:
        model = self._model() if self._model else None
        if model is None or PromptServer.instance.prompt_queue.get_tasks_remaining():
            return None
        photo = load_picture(path, MOST_PIXELS)[0]
        with no_run() as free:
            if not free:
                return None
            tokens = clip_tokens(photo, clip_encoder(model), clip_image_size(model))
        self._keep(key, photo, tokens, model)
        return self._readings.get(key)

    def _keep(self, key: str, photo: Tensor, tokens: Tensor, model: Any) -> Tensor:
        with self._lock:
            self._readings[key] = _Reading(tokens, Frame(photo.shape[1], photo.shape[0]), weakref.ref(model))
            self._readings.move_to_end(key)
            while len(self._readings) > MOST_PICTURES:
                self._readings.popitem(last=False)
        return tokens

    def _know(self, path: str, key: str) -> str:
        with self._lock:
            self._files[path] = (_stamp(path), key)
            self._files.move_to_end(path)
            while len(self._files) > MOST_FILES:
                self._files.popitem(last=False)
        return key

    def _hash_of(self, path: str) -> str | None:
        stamp, key = self._files.get(path, (None, None))
        return key if stamp == _stamp(path) else None


@contextmanager
def no_run() -> Iterator[bool]:
    """Whether nothing is running or queued; if so, nothing starts inside. Models are moved about by one thread only."""
    queue = PromptServer.instance.prompt_queue
    if not queue.mutex.acquire(blocking=False):
        yield False
        return
    try:
        yield queue.get_tasks_remaining() == 0
    finally:
        queue.mutex.release()


def _stamp(path: str) -> Stamp:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


seen = SeenPictures()
