"""The one mapping between a photo, its pixels, its padded square, CLIP's input and CLIP's grid of patches.

A position is 0..1 of the photo's width or height. Pixel k of n, counted from 0, covers the positions k/n to (k+1)/n,
and its number stands for its middle, (k + 1/2)/n, as in SAM.

The photo is centred in a square whose side is its longer side; nothing is cropped (docs/method.md, row j). The
square is scaled to S x S pixels for CLIP, which divides it into g x g patches. Patches of padding
are not valid: no map is read there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import MaskError

# The mean colour that CLIP subtracts and the deviation it divides by: padding in the mean colour becomes 0.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
SAME_ASPECT = 0.02  # relative tolerance: many nodes round sizes to multiples of 8


@dataclass(frozen=True)
class Frame:
    """Where a photo of ``width`` x ``height`` pixels lies in its padded square.

    Raises:
        MaskError: the size is not two whole numbers of at least 1.
    """

    width: int
    height: int

    def __post_init__(self) -> None:
        for value in (self.width, self.height):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise MaskError(f"A picture of {self.width} x {self.height} pixels cannot be used; it has no area.")

    @property
    def side(self) -> int:
        """Side of the padded square, in pixels of the photo."""
        return max(self.width, self.height)

    @property
    def left(self) -> int:
        """Columns of padding left of the photo (with an odd rest, the right side gets one more)."""
        return (self.side - self.width) // 2

    @property
    def top(self) -> int:
        """Rows of padding above the photo (with an odd rest, the bottom gets one more)."""
        return (self.side - self.height) // 2

    def has_proportions_of(self, width: int, height: int) -> bool:
        """Whether a picture of this size can be one of the photo, scaled."""
        return abs(width * self.height / (height * self.width) - 1) <= SAME_ASPECT

    def patch_size(self, grid: int) -> float:
        """Side of one patch of a grid x grid division, in pixels of the photo."""
        return self.side / grid

    def valid_patches(self, grid: int) -> tuple[slice, slice]:
        """Rows and columns of the patches that show the photo: a rectangle of the grid x grid division.

        Along the padded axis these are the patches that lie in the photo at least by half, since a patch that is
        mostly padding says little about its pixels. A photo too thin for that has all patches that it touches.
        """

        def span(start: int, length: int) -> slice:
            # In whole numbers: patch k's middle lies at (2k + 1) * side / (2 * grid), and rounding must not move it.
            end, side = start + length, self.side
            first, last = -((side - 2 * grid * start) // (2 * side)), (2 * grid * end - side) // (2 * side)
            if first <= last:
                return slice(first, last + 1)
            return slice(start * grid // side, -(-end * grid // side))

        return span(self.top, self.height), span(self.left, self.width)

    def patch_at(self, x: float, y: float, grid: int) -> tuple[int, int]:
        """Row and column of the valid patch that holds, or is nearest to, the point x, y in 0..1 of the photo."""

        def index(start: int, length: int, position: float, valid: slice) -> int:
            patch = int((start + position * length) / self.side * grid)
            return min(max(patch, valid.start), valid.stop - 1)

        rows, columns = self.valid_patches(grid)
        return index(self.top, self.height, y, rows), index(self.left, self.width, x, columns)

    def pixel_at(self, x: float, y: float, size: tuple[int, int] | None = None) -> tuple[int, int]:
        """Row and column of the pixel that holds the point x, y in 0..1, of the photo or of a (height, width) copy."""
        height, width = size or (self.height, self.width)
        return pixel_at(y, height), pixel_at(x, width)

    def clip_input(self, image: Tensor, size: int, mean: Sequence[float] = CLIP_MEAN) -> Tensor:
        """Pad a photo to its square and scale it to CLIP's input.

        Args:
            image: the photo, [height, width, 3], values 0..1.
            size: S, side of CLIP's input in pixels.
            mean: the colour of the padding, which another vision model has of its own.

        Returns:
            [1, S, S, 3], values 0..1. Resampled bicubically with antialiasing.

        Raises:
            MaskError: the photo's size is not this frame's.
        """
        if tuple(image.shape) != (self.height, self.width, 3):
            raise MaskError(f"Expected a picture [{self.height}, {self.width}, 3], got {list(image.shape)}.")
        colour = torch.tensor(mean, dtype=image.dtype, device=image.device).view(1, 3, 1, 1)
        # One axis after the other, the longer (unpadded) one first: the same result as resizing the padded square,
        # without ever holding that square, which for a panorama is many times as large as the photo.
        wide = self.width >= self.height
        halfway = (self.height, size) if wide else (size, self.width)
        picture = _resize(image.permute(2, 0, 1).unsqueeze(0), *halfway) - colour  # padding is 0 from here on
        right, bottom = self.side - self.width - self.left, self.side - self.height - self.top
        picture = functional.pad(picture, (0, 0, self.top, bottom) if wide else (self.left, right, 0, 0))
        picture = _resize(picture, size, size) + colour
        return picture.clamp(0, 1).permute(0, 2, 3, 1).contiguous()

    def to_image(self, grid_map: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """Spread a map over the patches to the photo's pixels, bilinearly between the patches' centres.

        Args:
            grid_map: [g, g]; only the valid patches are read, the nearest of them also beyond their centres.
            size: (height, width) of the result; the photo's own by default. Any other size shows the same area.

        Returns:
            [height, width] of the map's dtype.
        """
        grid = grid_map.shape[0]
        height, width = size or (self.height, self.width)
        rows, columns = self.valid_patches(grid)

        def positions(start: int, length: int, count: int, valid: slice) -> Tensor:
            centres = (torch.arange(count, dtype=torch.float64) + 0.5) * (length / count)
            return ((start + centres) / self.side * grid - 0.5).clamp(valid.start, valid.stop - 1)

        spread = between(grid_map, positions(self.top, self.height, height, rows), 0)
        return between(spread, positions(self.left, self.width, width, columns), 1)

    def to_grid(self, mask: Tensor, grid: int) -> Tensor:
        """The mean of a mask over what each patch shows of the photo: the way back from ``to_image``.

        Args:
            mask: [height, width], of the photo or of any copy of it.
            grid: g, patches along each side.

        Returns:
            [g, g], float32 on the CPU; 0 on patches of padding. The strip of the photo that a patch of padding shows
            counts to the valid patch beside it, as with ``patch_at``.
        """
        rows, columns = self.valid_patches(grid)

        def shares(start: int, length: int, count: int, valid: slice) -> Tensor:
            """[g, count]: how much of each patch of an axis, within the photo, each of ``count`` pixels covers."""
            edges = torch.arange(grid + 1, dtype=torch.float64) * self.side / grid
            edges[: valid.start + 1], edges[valid.stop :] = start, start + length
            pixels = start + torch.arange(count + 1, dtype=torch.float64) * length / count
            low, high = edges[:-1, None].clamp(pixels[:-1], pixels[1:]), edges[1:, None].clamp(pixels[:-1], pixels[1:])
            covered = high - low
            return covered / covered.sum(1, keepdim=True).clamp(min=torch.finfo(torch.float64).tiny)

        height, width = mask.shape
        along_y = shares(self.top, self.height, height, rows)
        along_x = shares(self.left, self.width, width, columns)
        return (along_y @ mask.detach().to("cpu", torch.float64) @ along_x.T).float()


def enlarged(picture: Tensor, size: tuple[int, int], part: tuple[slice, slice]) -> Tensor:
    """A picture [h, w, ...] at a ``size`` (height, width) that is not smaller, bilinearly between the centres of its
    pixels; of that only the ``part``, rows and columns, [rows, columns, ...] of the picture's dtype."""
    for axis, (count, wanted) in enumerate(zip(size, part, strict=True)):
        own = picture.shape[axis]
        centres = (torch.arange(count, dtype=torch.float64)[wanted] + 0.5) * (own / count)
        picture = between(picture, (centres - 0.5).clamp(0, own - 1), axis)
    return picture


def between(values: Tensor, positions: Tensor, axis: int) -> Tensor:
    """``values`` [..., n, ...] at ``positions`` [count], float64, 0..n-1, along an axis: linear between its numbers.
    [..., count, ...] of their dtype."""
    low = positions.floor()
    high = (low + 1).clamp(max=values.shape[axis] - 1)
    weight = (positions - low).to(values.device, values.dtype)
    below, above = (values.index_select(axis, each.long().to(values.device)) for each in (low, high))
    return torch.lerp(below, above, weight.view(-1, *[1] * (values.ndim - 1 - axis)))


def pixel_at(position: float, count: int) -> int:
    """The number, 0..count-1, of the pixel that holds a position; the last one at position 1."""
    return min(int(position * count), count - 1)


def middle_of(pixel: float, count: int) -> float:
    """The position that a pixel's number stands for; the edge for numbers behind the last pixel's, such as ``count``,
    which editors give for the far edge of their canvas."""
    return min((pixel + 0.5) / count, 1.0)


def _resize(picture: Tensor, height: int, width: int) -> Tensor:
    if picture.shape[-2:] == (height, width):
        return picture
    return functional.interpolate(picture, (height, width), mode="bicubic", antialias=True, align_corners=False)
