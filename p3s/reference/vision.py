"""The vision model whose patches Eq. 1 compares: CLIP itself, one of its inner states, or another model.

c_s, which training sees, is CLIP's last hidden state whatever is chosen here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import MaskError
from .framing import CLIP_MEAN, Frame
from .masks import FEATURES, Patches
from .tiling import Tiling

Encode = Callable[[Tensor], Tensor]

MOST_REGISTERS = 32  # tokens before the patches; more are those of another picture size


class UnknownFeaturesError(MaskError):
    """A vision model does not have the features that were chosen."""


@dataclass(frozen=True, eq=False)
class PatchVision:
    """A vision model as Eq. 1 reads it.

    Attributes:
        encode: pictures [B, S, S, 3], 0..1, and names of FEATURES -> {name: [B, n + g*g, D]}, for each name: n tokens
            that are no patches (class token, registers), then the patches row by row.
        image_size: S.
        patch: side of a patch in pixels, of which g = S // patch fit; None: they cover the picture, n is 1 or 0.
        mean: the colour that the model subtracts, which padding has.
        features: those of FEATURES that it has.
        name: what to call it in messages.
    """

    encode: Callable[[Tensor, tuple[str, ...]], dict[str, Tensor]]
    image_size: int = 224
    patch: int | None = None
    mean: tuple[float, ...] = CLIP_MEAN
    features: tuple[str, ...] = FEATURES
    name: str = "CLIP vision model"

    @staticmethod
    def of(encode: Encode | PatchVision, image_size: int = 224) -> PatchVision:
        """An ``encode`` that gives the last hidden state alone, as a PatchVision; one of these as it is."""
        if isinstance(encode, PatchVision):
            return encode
        return PatchVision(lambda picture, _: {"last": encode(picture)}, image_size, features=("last",))

    def last(self, pictures: Tensor) -> Any:
        """What the model calls its last hidden state."""
        return self.encode(pictures, ("last",))["last"]

    def check_has(self, features: str) -> None:
        """Raise UnknownFeaturesError for features that this model does not have."""
        if features not in self.features:
            raise UnknownFeaturesError(
                f"features: the {self.name} has no {features}; it has {', '.join(self.features)}. Choose one that it "
                "has, or another vision model."
            )

    @torch.no_grad()
    def read(
        self, image: Tensor, names: tuple[str, ...] = ("last",), tiles: int = 1, frame: Frame | None = None
    ) -> dict[str, Tensor]:
        """The patches of a photo, [tiles, g*g, D] for each name, float32 on the CPU; tiles in the order of
        ``Tiling.places``.

        Args:
            image: the photo, [H, W, 3], 0..1.
            tiles: n, for n x n tiles.
            frame: of the photo that ``image`` is a smaller copy of; by default its own.

        Raises:
            MaskError: features that the model lacks; a grid of patches that is not square; values that are not finite.
        """
        for name in names:
            self.check_has(name)
        own = Frame(image.shape[1], image.shape[0])
        if tiles == 1:
            return self._patches(self._padded(own.clip_input(image, self._covered(), self.mean)), names)
        grid = self._grid(own, image)
        patch, tiling = self.image_size // grid, Tiling(frame or own, grid, tiles)
        square, side = own.clip_input(image, tiling.grid * patch, self.mean), grid * patch
        read = []
        for top, left in tiling.places:  # one at a time: nine pictures of DINOv2 at once take gigabytes
            crop = square[:, top * patch : top * patch + side, left * patch : left * patch + side]
            read.append(self._patches(self._padded(crop.contiguous()), names))
        return {name: torch.cat([each[name] for each in read]) for name in names}

    def patches(self, image: Tensor, features: str = "last", tiles: int = 1) -> Patches:
        """A photo's patches for Eq. 1. Arguments and errors as for :meth:`read`."""
        tokens = self.read(image, (features,), tiles)[features]
        return Patches(tokens, Frame(image.shape[1], image.shape[0]), prefix=0, tiles=tiles)

    def _covered(self) -> int:
        """Pixels of the picture's side that patches show: 378 of SigLIP's 384."""
        return self.image_size if self.patch is None else self.image_size // self.patch * self.patch

    def _grid(self, frame: Frame, image: Tensor) -> int:
        if self.patch is not None:
            return self.image_size // self.patch
        return math.isqrt(
            self._patches(frame.clip_input(image, self.image_size, self.mean), ("last",))["last"].shape[1]
        )

    def _padded(self, picture: Tensor) -> Tensor:
        """With what no patch shows, at the right and at the bottom."""
        side = picture.shape[1]
        if side == self.image_size:
            return picture
        whole = torch.tensor(self.mean, dtype=picture.dtype).expand(1, self.image_size, self.image_size, 3).clone()
        whole[:, :side, :side] = picture
        return whole

    def _patches(self, picture: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        states = self.encode(picture, names)
        return {name: self.checked(states[name]) for name in names}

    def checked(self, tokens: Any) -> Tensor:
        """The patches among tokens [1, n + g*g, D]: [1, g*g, D], float32 on the CPU. Raises MaskError as ``read``."""
        shaped = isinstance(tokens, Tensor) and tokens.ndim == 3 and tokens.shape[0] == 1
        before = self._before(tokens.shape[1]) if shaped else None
        if before is None:
            came = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
            side = None if self.patch is None else self.image_size // self.patch
            grid = "a square grid of patches" if side is None else f"{side} x {side} patches"
            raise MaskError(
                f"This {self.name} was expected to give {grid} for a picture of {self.image_size} x {self.image_size} "
                f"pixels, after a class token or none, but gave {came}."
            )
        tokens = tokens[:, before:].detach().to("cpu", torch.float32)
        if not tokens.isfinite().all():
            raise MaskError(
                f"The {self.name} gave values that are not finite (NaN or infinity). Load it in float32 or check its "
                "file."
            )
        return tokens

    def _before(self, count: int) -> int | None:
        """How many of ``count`` tokens come before the patches; None where they are not a square grid of patches."""
        if self.patch is not None:
            before = count - (self.image_size // self.patch) ** 2
            return before if 0 <= before <= MOST_REGISTERS else None
        return next((n for n in (1, 0) if count - n >= 4 and math.isqrt(count - n) ** 2 == count - n), None)
