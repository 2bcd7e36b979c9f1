"""Pictures whose pixels tell where they are, and one photo."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

PHOTOS = Path(__file__).parents[1] / "data"
SIZES = {"square.png": (640, 640), "wide.png": (900, 300), "tall.png": (240, 720), "tiny.png": (32, 32)}


def gradient(width: int, height: int) -> np.ndarray:
    """uint8 [height, width, 3]: red grows to the right, green downwards, blue is a checker of eighths."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    cells = (np.arange(width) * 8 // width)[None, :] + (np.arange(height) * 8 // height)[:, None]
    return np.stack([x, y, cells % 2 * 120.0], axis=2).astype(np.uint8)


def write_pictures(folder: Path) -> dict[str, tuple[int, int]]:
    """Write the pictures; returns their sizes (width, height) by name."""
    for name, size in SIZES.items():
        Image.fromarray(gradient(*size)).save(folder / name)
    sizes = dict(SIZES)
    for photo in sorted(PHOTOS.rglob("*.jpg"))[:1]:
        shutil.copy(photo, folder / "photo.jpg")
        with Image.open(photo) as image:
            sizes["photo.jpg"] = image.size
    return sizes
