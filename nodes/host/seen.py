"""What CLIP has said of the pictures seen last, so that points can be tried without a run."""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict
from typing import Any, NamedTuple

from server import PromptServer
from torch import Tensor

from ...p3s.errors import MaskError
from ...p3s.framing import Frame
from ...p3s.masks import Patches
from ...p3s.rngr import clip_tokens, image_hash
from .conditions import clip_encoder, clip_encoder_in_place, clip_image_size
from .pictures import load_picture

MOST_PICTURES = 16  # a megabyte each with CLIP ViT-L/14
MOST_FILES = 256
MOST_PIXELS = 50_000_000  # of a file that is read outside a run; a hundred bytes each while that lasts

Stamp = tuple[int, int]  # a file's modification time and size


class _Reading(NamedTuple):
    tokens: Tensor
    frame: Frame
    model: weakref.ref[Any]
    by_run: bool  # otherwise by the route, perhaps from a smaller picture of the same


class SeenPictures:
    """Tokens by a picture's content, for the last few pictures. Used by runs and by the route at once, from threads.

    Runs use what runs have read, so their results do not depend on whether somebody has looked at a picture. The CLIP
    vision model is only borrowed: it goes when the host lets go of it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: OrderedDict[str, _Reading] = OrderedDict()  # image_hash ->
        self._files: OrderedDict[str, tuple[Stamp, str]] = OrderedDict()  # path -> image_hash of the content
        self._model: weakref.ref[Any] | None = None

    def tokens(self, photo: Tensor, clip_vision: Any) -> Tensor:
        """For a run: what this model says of a photo [H, W, 3]; it is asked only if no run has done so yet."""
        encode = clip_encoder(clip_vision)
        key = image_hash(photo)
        with self._lock:
            self._model = weakref.ref(clip_vision)
            known = self._readings.get(key)
        if known is not None and known.by_run and known.model() is clip_vision:
            return known.tokens
        tokens = clip_tokens(photo, encode, clip_image_size(clip_vision))
        self._keep(key, photo, tokens, clip_vision, by_run=True)
        return tokens

    def know_file(self, path: str, photo: Tensor) -> None:
        """A file shows this photo [H, W, 3], though perhaps smaller."""
        self._know(path, image_hash(photo))

    def patches(self, path: str) -> Patches | None:
        """The patches of a picture file, or None if they are not known and CLIP cannot be asked now.

        It can be asked while a model that a run has used is alive and lies where it computes, and nothing is running.
        Raises as load_picture does.
        """
        key = self._hash_of(path)
        if key is None:
            if not self._readings:
                return None  # nothing to find, so the file is not worth reading
            key = self._know(path, image_hash(load_picture(path, MOST_PIXELS)[0]))
        reading = self._readings.get(key) or self._read_between_runs(key, path)
        return reading and Patches(reading.tokens, reading.frame)

    def _read_between_runs(self, key: str, path: str) -> _Reading | None:
        """Without a lock: the host may start a run meanwhile, or move the model. What came out then is dropped."""
        model, before = self._model() if self._model else None, _next_run()
        encode = None if model is None or before is None else clip_encoder_in_place(model)
        if encode is None:
            return None
        photo = load_picture(path, MOST_PIXELS)[0]
        tokens: Tensor | Exception
        try:
            tokens = clip_tokens(photo, encode, clip_image_size(model))
        except (MaskError, RuntimeError) as error:  # such as weights on two devices
            tokens = error
        if _next_run() != before or clip_encoder_in_place(model) is None:
            return None
        if isinstance(tokens, Exception):
            raise tokens
        self._keep(key, photo, tokens, model, by_run=False)
        return self._readings.get(key)

    def _keep(self, key: str, photo: Tensor, tokens: Tensor, model: Any, by_run: bool) -> None:
        reading = _Reading(tokens, Frame(photo.shape[1], photo.shape[0]), weakref.ref(model), by_run)
        with self._lock:
            if by_run:
                self._readings[key] = reading
            self._readings.setdefault(key, reading)
            self._readings.move_to_end(key)
            while len(self._readings) > MOST_PICTURES:
                self._readings.popitem(last=False)

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


def _next_run() -> int | None:
    """The number of the next run, if none is under way or waiting; None otherwise."""
    queue = PromptServer.instance.prompt_queue
    with queue.mutex:  # which requests to the server wait for: never for long
        return None if queue.get_tasks_remaining() else int(queue.task_counter)


def _stamp(path: str) -> Stamp:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


seen = SeenPictures()
