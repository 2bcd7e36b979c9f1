"""How long RNGR Mask takes for a large photo, and what its previews would take at the photo's own size.

    python -m benchmarks.large_photo                     a drawn scene with grain, 24 megapixels
    python -m benchmarks.large_photo --photo photo.jpg   yours; the points are a quarter of its width from either side

Vision models are left out: they take the photo at 224 x 224 pixels, whatever its size. The encoder is one of colours.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from p3s.demo import stand_ins
from p3s.image_files import read_picture
from p3s.reference.overlay import PREVIEW_SIDE, overlay, reduced
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference, make_reference
from p3s.toyworld.scenes import scene
from p3s.toyworld.world import picture_of

SIZE = (4000, 6000)


def drawn() -> Tensor:
    """A scene of two animals, enlarged, with the grain that keeps photos from being compressed well."""
    small = picture_of(scene("heldout", 0, "different")).movedim(-1, 0)[None]
    large = F.interpolate(small, SIZE, mode="bicubic")[0].movedim(0, -1)
    grain = torch.randn(large.shape, generator=torch.Generator().manual_seed(0))
    return (large + 0.02 * grain).clamp(0, 1)


def preview(reference: Reference, photo: Tensor, side: int | None) -> int:
    """Draw and save both of the node's previews as the host does; how many bytes they have."""
    from PIL import Image

    size = 0
    for picture in (overlay(reference, photo, side), reduced(reference.image, side)):
        file = io.BytesIO()
        Image.fromarray((255 * picture).byte().numpy()).save(file, "PNG", compress_level=1)
        size += file.tell()
    return size


def timed(run: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    started = time.process_time()
    result = run(*given)
    return time.process_time() - started, result


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_photo", description=str(__doc__).splitlines()[0])
    parser.add_argument("--photo", type=Path, help="default: a drawn scene of 6000 x 4000 pixels")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    photo = read_picture(args.photo) if args.photo else drawn()
    points = PointSet(((0.25, 0.6),), ((0.75, 0.6),))
    found: dict[str, list[float]] = {}
    for _ in range(args.rounds):
        seconds, reference = timed(make_reference, photo, points, stand_ins.patch_vision())
        found.setdefault("masks, fill and the clean reference", []).append(seconds)
        for title, side in ((f"previews, at most {PREVIEW_SIDE} pixels", PREVIEW_SIDE), ("at the photo's size", None)):
            seconds, size = timed(preview, reference, photo, side)
            found.setdefault(f"{title} ({size / 2**20:.0f} MiB)", []).append(seconds)
    print(f"{photo.shape[1]} x {photo.shape[0]} pixels, processor seconds, median of {args.rounds}\n")
    for title, values in found.items():
        print(f"| {title} | {median(values):.2f} |")


if __name__ == "__main__":
    main()
