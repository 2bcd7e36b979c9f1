"""What a Point Picker shows: the picture that a node would give in a run, read as that node reads it."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import node_helpers
import numpy as np
from PIL import Image, ImageOps

from ...p3s.errors import MaskError
from ...p3s.image_files import alpha_of, readable, to_array
from ...p3s.toyworld.scenes import CLASSES
from .picture_files import find_picture
from .routes import Refused

MOST_PIXELS = 50_000_000  # of a picture that is decoded whole for a request; about ten bytes each while that lasts
LONGEST_NAME = 1000
LAST_SCENE = 9999
UPRIGHT_BY_A_QUARTER = (5, 6, 7, 8)  # EXIF orientations that exchange width and height
ORIENTATION = 0x0112

log = logging.getLogger("p3s")


class Shown(NamedTuple):
    """A picture that may be smaller than the true one, whose size is given, and whether parts of it are transparent."""

    image: Image.Image
    width: int
    height: int
    transparent: bool


@dataclass(frozen=True)
class PickerFile:
    """A file, as Point Picker itself reads it."""

    path: str

    def version(self) -> object:
        """Another one when the content may have changed."""
        return _stamp(self.path)

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]. Raises MaskError for what cannot be read, or has more than MOST_PIXELS."""

        def read(path: str) -> np.ndarray:
            with Image.open(path) as file:
                _check_size(file)
                ImageOps.exif_transpose(file, in_place=True)  # no second copy of a large picture
                return _eight_bits(to_array(file))

        with readable(os.path.basename(self.path)):
            return node_helpers.pillow(read, self.path)

    def shown(self, side: int) -> Shown:
        """The picture with a longer side of ``side`` pixels at most. Raises MaskError for what cannot be read."""

        def read(path: str) -> Shown:
            with Image.open(path) as file:
                width, height = file.size
                if file.format != "TIFF" and file.getexif().get(ORIENTATION) in UPRIGHT_BY_A_QUARTER:
                    width, height = height, width  # Pillow gives the size of a TIFF file upright
                file.draft(None, (side, side))  # a JPEG file is decoded at a fraction of its size
                ImageOps.exif_transpose(file, in_place=True)
                small = _thumbnail(_eight_bits(to_array(file)), side)
                return Shown(small, width, height, alpha_of(file) is not None)

        with readable(os.path.basename(self.path)):
            return node_helpers.pillow(read, self.path)


@dataclass(frozen=True)
class LoadedFile:
    """A file, as the host's Load Image reads it: what is transparent keeps its hidden colours there."""

    path: str
    name: str

    def version(self) -> object:
        """Another one when the content may have changed."""
        return _stamp(self.path)

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]. Raises MaskError for what cannot be read, or has more than MOST_PIXELS."""
        name = os.path.basename(self.path)
        with readable(name):
            first = node_helpers.pillow(self._first_of_many, self.path)
        if first is not None:
            return first
        try:
            loader = import_module("nodes").NODE_CLASS_MAPPINGS["LoadImage"]  # the host's, not this pack's folder
            picture = loader().load_image(image=self.name)[0][0, ..., :3]
        except Exception as error:
            log.info("Load Image cannot read %s: %s", name, error)
            raise MaskError(f"Load Image cannot read {name}.") from None
        return picture.float().cpu().clamp(0, 1).mul(255).round().byte().numpy()

    def shown(self, side: int) -> Shown:
        """The picture with a longer side of ``side`` pixels at most. Raises MaskError for what cannot be read."""
        if _reads_alike(self.path):
            return PickerFile(self.path).shown(side)
        pixels = self.pixels()
        return Shown(_thumbnail(pixels, side), pixels.shape[1], pixels.shape[0], transparent=False)

    @staticmethod
    def _first_of_many(path: str) -> np.ndarray | None:
        """The first picture of an animation, all of which the host would decode; None for a single picture."""
        try:
            file = Image.open(path)
        except Image.UnidentifiedImageError:
            return None  # the host may know it
        with file:
            _check_size(file)
            if not getattr(file, "is_animated", False) or file.format == "MPO":  # a photo with a second one for depth
                return None
            frame = ImageOps.exif_transpose(file).convert("RGB")
            frame.info.pop("transparency", None)
            return to_array(frame)


@dataclass(frozen=True)
class ToyPhoto:
    """The photo of Toy World."""

    animal: str
    scene: int

    def version(self) -> object:
        """Always the same."""
        return None

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3]."""
        from . import toy_world

        return toy_world.photo(self.animal, self.scene)[0].mul(255).round().byte().numpy()

    def shown(self, side: int) -> Shown:
        """The picture with a longer side of ``side`` pixels at most."""
        pixels = self.pixels()
        return Shown(_thumbnail(pixels, side), pixels.shape[1], pixels.shape[0], transparent=False)


Source = PickerFile | LoadedFile | ToyPhoto


def source_of(asked: Any) -> Source:
    """The source that a request names: the id of the node that would give the picture, as ``node``, and its inputs.

    Raises Refused, naming what is wrong.
    """
    if not isinstance(asked, Mapping):
        raise Refused(400, "picture must be an object.")
    inputs = {name: value for name, value in asked.items() if name != "node"}
    if asked.get("node") == "P3S_ToyWorld":
        return _toy_photo(inputs)
    if asked.get("node") not in ("P3S_PointPicker", "LoadImage"):
        raise Refused(400, "picture: node must be P3S_PointPicker, LoadImage or P3S_ToyWorld.")
    name = inputs.get("image")
    if set(inputs) != {"image"} or not isinstance(name, str) or not 0 < len(name) <= LONGEST_NAME:
        raise Refused(400, f"picture: expected node and image, text of 1 to {LONGEST_NAME} characters.")
    path = find_picture(name)
    if path is None:
        raise Refused(404, "There is no such picture in ComfyUI's input, output and temp folders.")
    return PickerFile(path) if asked["node"] == "P3S_PointPicker" else LoadedFile(path, name)


def _toy_photo(inputs: Mapping[str, Any]) -> ToyPhoto:
    animal, scene = inputs.get("animal"), inputs.get("scene")
    if set(inputs) != {"animal", "scene"} or animal not in CLASSES or type(scene) is not int:
        raise Refused(400, f"picture: expected node, animal ({', '.join(CLASSES)}) and scene, a whole number.")
    if not 0 <= scene <= LAST_SCENE:
        raise Refused(400, f"picture: scene must be 0..{LAST_SCENE}.")
    return ToyPhoto(animal, scene)


def _reads_alike(path: str) -> bool:
    """Whether every program shows a file alike, but for rounding: then the quickest way will do for the eye."""
    try:
        with Image.open(path) as file:
            plain = file.format in ("JPEG", "PNG") and file.mode in ("RGB", "L") and "transparency" not in file.info
            return plain and file.getexif().get(ORIENTATION, 1) == 1
    except (OSError, ValueError, SyntaxError):
        return False


def _check_size(file: Image.Image) -> None:
    if file.width * file.height > MOST_PIXELS:
        raise MaskError(f"it has {file.width} x {file.height} pixels; at most {MOST_PIXELS:,} are read here.")


def _eight_bits(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else (pixels * 255).round().astype(np.uint8)


def _thumbnail(pixels: np.ndarray, side: int) -> Image.Image:
    image = Image.fromarray(pixels)
    image.thumbnail((side, side))
    return image


def _stamp(path: str) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size
