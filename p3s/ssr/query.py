"""What of a photo a query may select: the part that CLIP sees, and a mask's bias on the aligner's attention."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import MaskError
from ..image_files import in_range
from ..reference.framing import Frame
from ..settings import check, setting

SAME_ASPECT = 0.02  # relative tolerance, as of an inpainted picture: many nodes round sizes to multiples of 8


@dataclass(frozen=True)
class QuerySettings:
    """How a photo is read: ``framing`` of :class:`View`, ``mask_mode`` and ``focus`` of :func:`query_bias`. Raises
    MaskError for other values."""

    framing: str = setting(
        "pad",
        "What CLIP sees of a photo that is not square. pad: all of it. crop: the square in its middle, as the authors "
        "of SSR-Encoder do.",
        ("pad", "crop"),
    )
    mask_mode: str = setting(
        "soft",
        "What a mask does. soft: it draws the query's attention to the subject, by focus, as the authors do. strict: "
        "nothing but the subject is seen, which tells similar subjects apart better.",
        ("soft", "strict"),
    )
    focus: float = setting(
        1.0,
        "How much a soft mask draws the attention: 1 is a hint, 5 hides nearly all else. Not used in strict mode or "
        "without a mask.",
        low=0.0,
        high=10.0,
        step=0.1,
    )

    def __post_init__(self) -> None:
        check(self, MaskError)


@dataclass(frozen=True)
class View:
    """What CLIP sees of a photo of ``width`` x ``height`` pixels.

    ``framing``: "pad" shows all of it in a padded square, as the rest of this package; "crop" its centre square, as the
    authors of SSR-Encoder. Raises MaskError for another framing and for a photo without an area.
    """

    width: int
    height: int
    framing: str = "pad"
    frame: Frame = field(init=False)  # of what is shown

    def __post_init__(self) -> None:
        QuerySettings(framing=self.framing)
        frame = Frame(self.width, self.height)
        side = min(self.width, self.height)
        object.__setattr__(self, "frame", Frame(side, side) if self.framing == "crop" else frame)

    def picture(self, photo: Tensor, size: int) -> Tensor:
        """CLIP's input, [1, S, S, 3] in 0..1, of the photo [height, width, 3] in 0..1; S is ``size``.

        Raises MaskError: the photo's size is not this view's.
        """
        if tuple(photo.shape) != (self.height, self.width, 3):
            raise MaskError(f"Expected a picture [{self.height}, {self.width}, 3], got {list(photo.shape)}.")
        return self.frame.clip_input(self._shown(photo), size)

    def shares(self, mask: Tensor, grid: int) -> Tensor:
        """How much of each patch a mask covers, float32 [g, g] in 0..1, 0 on padding; exactly 1 on every patch of the
        photo where the mask is 1 all over it.

        Args:
            mask: where the subject is in the photo, [height, width], 0..1; also of another size in its proportions.
            grid: g, patches along each side.

        Raises:
            MaskError: another shape or proportions, or values that are not finite or far from 0..1.
        """
        if mask.ndim == 3 and len(mask) == 1:
            mask = mask[0]
        if mask.ndim != 2:
            raise MaskError(
                f"mask: expected one mask for one photo, [height, width], got {list(mask.shape)}. Choose one mask of "
                "the batch."
            )
        height, width = mask.shape
        if not mask.numel() or abs(width * self.height / (height * self.width) - 1) > SAME_ASPECT:
            raise MaskError(
                f"mask: it is {width} x {height} pixels, the photo {self.width} x {self.height}: their proportions "
                "differ. Give the mask of this photo."
            )
        shown = self._shown(in_range(mask, "mask"))
        if (shown == 1).all():  # not by the sums, which round
            rows, columns = self.frame.valid_patches(grid)
            shares = torch.zeros(grid, grid)
            shares[rows, columns] = 1
            return shares
        return self.frame.to_grid(shown, grid)

    def valid(self, grid: int) -> Tensor:
        """Which patches show the photo, bool [g, g]."""
        rows, columns = self.frame.valid_patches(grid)
        valid = torch.zeros(grid, grid, dtype=torch.bool)
        valid[rows, columns] = True
        return valid

    def to_photo(self, grid_map: Tensor, size: tuple[int, int] | None = None) -> Tensor:
        """A map over the patches, [g, g], spread over the photo, [height, width] or ``size``; 0 where CLIP sees
        nothing of it."""
        height, width = size or (self.height, self.width)
        if self.framing == "pad":
            return self.frame.to_image(grid_map, (height, width))
        rows, columns = self._square(height, width)
        photo = grid_map.new_zeros(height, width)
        photo[rows, columns] = self.frame.to_image(grid_map, (rows.stop - rows.start, columns.stop - columns.start))
        return photo

    def _shown(self, picture: Tensor) -> Tensor:
        """The part of a photo or mask, [h, w, ...], that is shown."""
        if self.framing == "pad":
            return picture
        rows, columns = self._square(*picture.shape[:2])
        return picture[rows, columns]

    def _square(self, height: int, width: int) -> tuple[slice, slice]:
        side = min(height, width)
        top, left = (height - side) // 2, (width - side) // 2
        return slice(top, top + side), slice(left, left + side)


# soft:    b = m (w + w^2) - w on the patches, 1 on the class token
# strict:  b = 0 on patches with m > 1/2, -inf elsewhere and on the class token
def query_bias(valid: Tensor, shares: Tensor | None = None, focus: float = 1.0, mode: str = "soft") -> Tensor | None:
    """The bias of the aligner's logits under a mask, [1 + g*g] float32, the class token first; None for none.

    Padding has -inf with and without a mask. A mask of ones is no mask, in both modes and for every focus.

    Args:
        valid: which patches show the photo, bool [g, g] (:meth:`View.valid`).
        shares: m, how much of each patch the mask covers, [g, g] (:meth:`View.shares`).
        focus: w, 0..10: at 1 a hint, at 5 all but a cut. Not used in strict mode.
        mode: "soft", as the authors do it, or "strict", which sees nothing but the subject. The class token, which
            knows the whole photo, is not seen then either. Where no patch is covered by more than half, that with the
            largest share is seen.

    Raises:
        MaskError: an unknown mode, a focus outside its range, or a mask that is 0 all over the photo.
    """
    QuerySettings(mask_mode=mode, focus=focus)
    if shares is not None and (shares[valid] == 1).all():
        shares = None
    if shares is None:
        if valid.all():
            return None
        bias = torch.zeros(1 + valid.numel())
    elif not (shares[valid] > 0).any():
        raise MaskError("mask: it is empty where CLIP sees the photo. Mark the subject, or leave the mask out.")
    elif mode == "soft":
        bias = torch.cat([torch.ones(1), shares.flatten() * (focus + focus**2) - focus])
    else:
        seen = shares > 0.5
        if not seen[valid].any():
            seen = shares == shares[valid].max()
        bias = torch.full((1 + valid.numel(),), -torch.inf)
        bias[1:][seen.flatten()] = 0
    bias[1:][~valid.flatten()] = -torch.inf
    return bias


def focus_map(attention: Tensor, words: slice | None = None) -> Tensor:
    """What a query attends to, [g, g], each patch's mean probability, of the aligner's map [1, heads, L, 1 + g*g].

    ``words``: the query's tokens that mean something, those between the first and the end; all of them by default.
    """
    chosen = attention[0] if words is None else attention[0, :, words]
    patches = chosen.mean((0, 1))[1:]
    side = round(patches.numel() ** 0.5)
    return patches.view(side, side)
