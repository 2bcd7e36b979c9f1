"""What vision models have read of the last few pictures, found by the pictures' content."""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ...p3s.errors import MaskError
from ...p3s.reference.framing import Frame
from ...p3s.reference.masks import Patches
from ...p3s.reference.refine import refining_picture
from ...p3s.reference.rngr import clip_tokens, image_hash
from .encoders import clip_encoder, clip_image_size
from .patch_vision import patch_vision

MOST_BYTES = 256 * 2**20  # of tokens; a megabyte for each state of CLIP ViT-L/14, fifty for DINOv2 in 3 x 3 tiles
MOST_READINGS = 64


class Choice(NamedTuple):
    """What Eq. 1 compares: of the model at mask_vision, or of clip_vision; which state, in how many tiles."""

    mask_vision: bool = False
    features: str = "last"
    tiles: int = 1


PAPER = Choice()


@dataclass(frozen=True, eq=False)
class Reading:
    """``tokens`` [tiles, prefix + g*g, D] of a picture; ``picture``: see ``refining_picture``; ``model``: a weak
    reference; ``by_run``: otherwise between runs, from a smaller picture of the same."""

    tokens: Tensor
    frame: Frame
    prefix: int
    tiles: int
    picture: np.ndarray
    model: Callable[[], Any]
    by_run: bool

    def patches(self) -> Patches:
        return Patches(self.tokens, self.frame, self.prefix, self.tiles)


class Key(NamedTuple):
    """Which reading: of the picture with this ``image_hash``, by a model that comes from ``origin`` (see origin.py)."""

    picture: str
    origin: str | None
    choice: Choice = PAPER


class ClipTokenCache:
    """Readings of the last few pictures. Used by runs and routes at once, from threads.

    Runs use only what runs have read, so their results do not depend on what was previewed. The vision models are only
    borrowed: they are freed when the host frees them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._readings: OrderedDict[Key, Reading] = OrderedDict()
        self._models: dict[str | None, Callable[[], Any]] = {}  # by their origin

    def __bool__(self) -> bool:
        return bool(self._readings)

    def tokens(self, photo: Tensor, clip_vision: Any, origin: str | None = None) -> Tensor:
        """For a run: this model's tokens of a photo [H, W, 3]; it is run only if no run has read the photo yet.

        Its other states of the photo come in the same pass and are kept too, so that an editor can compare them.
        """
        key = Key(image_hash(photo), origin)
        if (known := self._of_run(key, clip_vision)) is not None:
            return known.tokens
        encode, states = clip_encoder(clip_vision), dict[str, Tensor]()
        vision = patch_vision(clip_vision, encode)

        def read(picture: Tensor) -> Tensor:
            states.update(vision.encode(picture, vision.features))
            return states["last"]

        tokens = clip_tokens(photo, read, clip_image_size(clip_vision))
        found = {PAPER: tokens}
        for name in vision.features:
            if name != "last":
                # Nobody has asked for it yet: what is wrong with it is said when somebody does.
                with contextlib.suppress(MaskError):
                    found[Choice(False, name)] = vision.checked(states[name])
        self._keep_all(key, photo, clip_vision, found)
        return tokens

    def patches(self, photo: Tensor, model: Any, choice: Choice, origin: str | None = None) -> Patches:
        """For a run: the patches of a photo [H, W, 3] that Eq. 1 compares, other than PAPER's, which are ``tokens``.

        Raises MaskError as ``PatchVision.read``.
        """
        key = Key(image_hash(photo), origin, choice)
        if (known := self._of_run(key, model)) is None:
            vision = patch_vision(model)
            vision.check_has(choice.features)
            names = vision.features if choice.tiles == 1 else (choice.features,)  # tiles take much memory
            read = vision.read(photo, names, choice.tiles)
            found = {choice._replace(features=name): tokens for name, tokens in read.items()}
            kept = {each: tokens for each, tokens in found.items() if each != PAPER}  # has a class token, unlike these
            known = self._keep_all(key, photo, model, kept)[choice]
        return known.patches()

    def find(self, key: Key) -> Reading | None:
        return self._readings.get(key)

    def keep(self, key: Key, reading: Reading) -> None:
        """Remember a reading; one between runs never replaces a run's."""
        with self._lock:
            if reading.by_run:
                self._readings[key] = reading
            self._readings.setdefault(key, reading)
            self._readings.move_to_end(key)
            while len(self._readings) > 1 and (len(self._readings) > MOST_READINGS or self._bytes() > MOST_BYTES):
                self._readings.popitem(last=False)

    def model(self, origin: str | None) -> Any:
        """The model that the last run had from there; None if there was none, or the host has let go of it."""
        return self._models.get(origin, _nothing)()

    def _of_run(self, key: Key, model: Any) -> Reading | None:
        with self._lock:
            alive = {origin: known for origin, known in self._models.items() if known() is not None}
            self._models = {**alive, key.origin: _weak(model)}
            known = self._readings.get(key)
        return known if known is not None and known.by_run and known.model() is model else None

    def _keep_all(self, key: Key, photo: Tensor, model: Any, tokens: dict[Choice, Tensor]) -> dict[Choice, Reading]:
        frame, picture = Frame(photo.shape[1], photo.shape[0]), refining_picture(photo)
        readings = {
            choice: Reading(each, frame, int(choice == PAPER), choice.tiles, picture, _weak(model), by_run=True)
            for choice, each in tokens.items()
        }
        for choice, reading in readings.items():
            self.keep(key._replace(choice=choice), reading)
        return readings

    def _bytes(self) -> int:
        return sum(reading.tokens.nbytes for reading in self._readings.values())


def _weak(model: Any) -> Callable[[], Any]:
    try:
        return weakref.ref(model)
    except TypeError:  # a model of another pack may be of a class without
        return _nothing


def _nothing() -> None:
    return None


token_cache = ClipTokenCache()
