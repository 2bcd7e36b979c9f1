"""CLIP's tokens of the last few pictures, found by the pictures' content."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from ...p3s.reference.framing import Frame
from ...p3s.reference.rngr import clip_tokens, image_hash
from .encoders import clip_encoder, clip_image_size

MOST_PICTURES = 16  # a megabyte each with CLIP ViT-L/14


class CachedTokens(NamedTuple):
    tokens: Tensor
    frame: Frame
    model: Callable[[], Any]  # a weak reference
    by_run: bool  # otherwise between runs, from a smaller picture of the same


class ClipTokenCache:
    """Tokens of the last few pictures, by ``image_hash``. Used by runs and by routes at once, from threads.

    Runs use only what runs have read, so their results do not depend on what was previewed. The CLIP vision model is
    only borrowed: it is freed when the host frees it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: OrderedDict[str, CachedTokens] = OrderedDict()
        self._model: Callable[[], Any] = _nothing

    def __bool__(self) -> bool:
        return bool(self._readings)

    def tokens(self, photo: Tensor, clip_vision: Any) -> Tensor:
        """For a run: this model's tokens of a photo [H, W, 3]; it is run only if no run has read the photo yet."""
        encode = clip_encoder(clip_vision)
        key = image_hash(photo)
        with self._lock:
            self._model = _weak(clip_vision)
            known = self._readings.get(key)
        if known is not None and known.by_run and known.model() is clip_vision:
            return known.tokens
        tokens = clip_tokens(photo, encode, clip_image_size(clip_vision))
        frame = Frame(photo.shape[1], photo.shape[0])
        self.keep(key, CachedTokens(tokens, frame, _weak(clip_vision), by_run=True))
        return tokens

    def find(self, key: str) -> CachedTokens | None:
        return self._readings.get(key)

    def keep(self, key: str, reading: CachedTokens) -> None:
        """Remember a reading; one between runs never replaces a run's."""
        with self._lock:
            if reading.by_run:
                self._readings[key] = reading
            self._readings.setdefault(key, reading)
            self._readings.move_to_end(key)
            while len(self._readings) > MOST_PICTURES:
                self._readings.popitem(last=False)

    def model(self) -> Any:
        """The CLIP vision model of the last run, or None if the host has let go of it."""
        return self._model()


def _weak(model: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(model)
    except TypeError:  # a model of another pack may be of a class without
        return _nothing


def _nothing() -> None:
    return None


token_cache = ClipTokenCache()
