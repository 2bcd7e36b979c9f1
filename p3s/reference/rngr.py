"""RNGR: from a photo and points to a clean reference without the negative subject (Eq. 1-3).

photo, points -> CLIP patches -> cosine maps (Eq. 1) -> rough masks (Eq. 2) -> fill (Eq. 3) -> Reference
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..errors import MaskError
from ..image_files import in_range
from .fill import fill
from .framing import Frame
from .given_masks import GivenMasks, binary, given_masks
from .masks import MaskSettings, Patches, resized_mask
from .points import PointSet
from .refine import refining_picture
from .rough_masks import RoughMasks, compares_patches, rough_masks
from .vision import Encode, PatchVision

HASHED_ROWS = 256


@dataclass(frozen=True, eq=False)
class Reference:
    """A clean reference: what training needs of one photo. All tensors are float32 on the CPU, free of autograd.

    Attributes:
        image: I' (Eq. 3), [H, W, 3], 0..1.
        tokens: c_s, CLIP's last hidden state of I', [1 + g*g, D], the class token first.
        subject_mask: [H, W], 0 or 1 (Eq. 2, or the one given).
        negative_mask: [H, W], 0 or 1, the region that was removed; all 0 when nothing was.
        similarity: the map that the subject was cut from, [H, W], 0..1: the blurred one of Eq. 2 around the positive
            points, or the levels of the subject mask given.
        points: the points it was made from; none where a subject mask was given without any.
        image_hash: see ``image_hash``, of the original photo.
        warnings: things that the user should know, each a sentence or two.
        given_masks: which of "subject_mask" and "negative_mask" were given and used, not made from the points.
    """

    image: Tensor
    tokens: Tensor
    subject_mask: Tensor
    negative_mask: Tensor
    similarity: Tensor
    points: PointSet
    image_hash: str
    warnings: tuple[str, ...] = ()
    given_masks: tuple[str, ...] = ()


def make_reference(
    image: Tensor,
    points: PointSet | None,
    encode: Encode | PatchVision,
    settings: MaskSettings | None = None,
    inpainted: Tensor | None = None,
    image_size: int = 224,
    tokens: Tensor | None = None,
    subject_mask: Tensor | None = None,
    negative_mask: Tensor | None = None,
    mask_vision: PatchVision | None = None,
    patches: Patches | None = None,
) -> Reference:
    """Make a clean reference from a photo and the points on it (Eq. 1-3).

    Args:
        image: the photo I, [H, W, 3], floating point, values 0..1.
        points: at least one positive point, or, with ``subject_mask``, any or None; without a negative point or
            ``negative_mask`` nothing is removed (docs/method.md, row i).
        encode: CLIP's vision tower, [1, S, S, 3] in 0..1 -> last hidden state [1, 1 + g*g, D], class token first; or as
            a PatchVision, which ``settings.features`` other than the last hidden state need.
        settings: MaskSettings() by default.
        inpainted: the photo with the negative subject already removed by other means, used as I'; [H, W, 3] or
            the same aspect ratio, then resized.
        image_size: S, side of the picture that ``encode`` takes; a PatchVision has its own.
        tokens: what ``clip_tokens`` gives for this photo, if that is known already.
        subject_mask: where the subject is, used instead of Eq. 2 (row u): [h, w] or [masks, h, w] (united), 0..1, a
            pixel from 0.5 on; of the photo's size or proportions.
        negative_mask: the region to remove, likewise; the subject keeps what both claim, ``settings.grow`` widens it,
            and one of zeros removes nothing. Not used where ``settings.fill_region`` is "background".
        mask_vision: another vision model for Eq. 1-2; c_s stays ``encode``'s.
        patches: those of this photo that Eq. 1 compares (``PatchVision.patches``), if they are known already.

    Raises:
        PointError: no positive point and no subject mask, or points of opposite sign in the same patch.
        MaskError: pictures, masks or tokens of a wrong shape or with non-finite values; points or masks from which no
            sensible mask follows.
    """
    settings = settings or MaskSettings()
    clip = PatchVision.of(encode, image_size)
    points = points or PointSet()
    if subject_mask is None:
        points.require_positive()
    image = _check_image(image, "The picture")
    frame = Frame(image.shape[1], image.shape[0])
    given = given_masks(frame, subject_mask, None if settings.fill_region == "background" else negative_mask)
    if inpainted is not None:
        inpainted = _fit_inpainted(_check_image(inpainted, "The inpainted picture"), frame)

    others = mask_vision is not None or settings.features != "last" or settings.tiles > 1
    if patches is None and others and compares_patches(points, settings, given.names):
        patches = (mask_vision or clip).patches(image, settings.features, settings.tiles)
    if patches is None:
        tokens = _encode(image, frame, clip) if tokens is None else tokens
        patches = Patches(tokens, frame)
    picture = refining_picture(image) if settings.refine != "off" else None
    masks = rough_masks(patches, points, settings, inpainted is None, given, picture)
    warnings = list(masks.warnings)
    subject = (
        resized_mask(masks.subject, (frame.height, frame.width)) if given.subject is None else binary(given.subject)
    )
    removed = _removed(masks, given, settings, frame) & ~subject  # rounding could make both claim a pixel

    if inpainted is not None:
        clean = inpainted
    elif removed.any():
        clean, warning = fill(image, removed, masks.removed, masks.subject, settings.fill)
        warnings += [warning] if warning else []
    else:
        clean = image
    if clean is not image or tokens is None:
        tokens = _encode(clean, frame, clip)

    similarity = given.subject
    if similarity is None:
        similarity = frame.to_image(torch.from_numpy(masks.similarity).float())
    return Reference(
        image=_own(clean),
        tokens=_own(tokens[0]),
        subject_mask=_own(torch.from_numpy(subject)),
        negative_mask=_own(torch.from_numpy(removed)),
        similarity=_own(similarity.clamp(0, 1)),
        points=points,
        image_hash=image_hash(image),
        warnings=tuple(warnings),
        given_masks=given.names,
    )


def clip_tokens(image: Tensor, encode: Encode | PatchVision, image_size: int = 224) -> Tensor:
    """CLIP's last hidden state of a photo [H, W, 3], 0..1: [1, 1 + g*g, D], float32 on the CPU, class token first.

    Raises MaskError: a picture or tokens of a wrong shape or with non-finite values.
    """
    image = _check_image(image, "The picture")
    return _encode(image, Frame(image.shape[1], image.shape[0]), PatchVision.of(encode, image_size))


def image_hash(image: Tensor) -> str:
    """SHA-256, as 64 hex digits, of a picture's size and 8-bit pixels. ``image``: [H, W, 3], values 0..1, or uint8."""
    height, width = image.shape[:2]
    digest = hashlib.sha256(f"{width}x{height}:".encode())
    for rows in image.detach().split(HASHED_ROWS):  # a few at a time: all in floating point would take four copies
        whole = rows.cpu() if rows.dtype == torch.uint8 else rows.float().cpu().clamp(0, 1).mul(255).round().byte()
        digest.update(whole.contiguous().numpy())
    return digest.hexdigest()


def _removed(masks: RoughMasks, given: GivenMasks, settings: MaskSettings, frame: Frame) -> np.ndarray:
    """The removed region at the photo's size, bool: a given mask keeps its own pixels, which may be finer."""
    found = resized_mask(masks.removed, (frame.height, frame.width))
    if settings.fill_region == "background":
        return found if given.subject is None else ~binary(given.subject)
    if given.negative is None or not masks.removed.any():
        return found
    return binary(given.negative) | (found if settings.grow else False)


def _check_image(image: Any, name: str) -> Tensor:
    """The picture on the CPU, float32, clamped to 0..1."""
    if not isinstance(image, Tensor) or image.ndim != 3 or image.shape[-1] != 3:
        came = f"{list(image.shape)} of {image.dtype}" if isinstance(image, Tensor) else type(image).__name__
        raise MaskError(f"{name} must be a floating point tensor [height, width, 3], got {came}.")
    return in_range(image, name)


def _fit_inpainted(inpainted: Tensor, frame: Frame) -> Tensor:
    height, width = inpainted.shape[:2]
    if (width, height) == (frame.width, frame.height):
        return inpainted
    if not frame.has_proportions_of(width, height):
        raise MaskError(
            f"The inpainted picture is {width} x {height} pixels, the photo {frame.width} x {frame.height}: "
            "their shapes differ. Give an inpainted picture of the photo's size, or of the same aspect ratio."
        )
    batch = inpainted.permute(2, 0, 1).unsqueeze(0)
    size = (frame.height, frame.width)
    return functional.interpolate(batch, size, mode="bicubic", antialias=True)[0].permute(1, 2, 0).clamp(0, 1)


def _encode(image: Tensor, frame: Frame, clip: PatchVision) -> Tensor:
    """CLIP's last hidden state of a picture in its frame, [1, 1 + g*g, D], float32 on the CPU."""
    with torch.no_grad():
        tokens = clip.last(frame.clip_input(image, clip.image_size))
    count = tokens.shape[1] if isinstance(tokens, Tensor) and tokens.ndim == 3 and tokens.shape[0] == 1 else 0
    if count < 5 or math.isqrt(count - 1) ** 2 != count - 1:
        came = list(tokens.shape) if isinstance(tokens, Tensor) else type(tokens).__name__
        raise MaskError(
            "A CLIP vision model with a class token and a square grid of patches is expected, such as ViT-L/14, whose "
            f"last hidden state is [1, 257, 1024] (1 + 16 x 16 tokens), but this one gave {came}."
        )
    tokens = tokens.detach().to("cpu", torch.float32)
    if not tokens.isfinite().all():
        raise MaskError(
            "The CLIP vision model gave values that are not finite (NaN or infinity). Load it in float32 or check "
            "its file."
        )
    return tokens


def _own(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU that training may use, even when made under the host's inference mode."""
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", torch.float32, copy=True).contiguous()
