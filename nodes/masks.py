"""MASKs as the method reads them."""

from __future__ import annotations

import logging

from torch import Tensor

from ..p3s.network.injection import EffectMask

log = logging.getLogger("p3s")


def planes(mask: Tensor) -> Tensor:
    """A MASK as [height, width] or [masks, height, width]: some nodes give [masks, 1, height, width]."""
    if mask.ndim == 4 and 1 in (mask.shape[1], mask.shape[3]):
        return mask.squeeze(1 if mask.shape[1] == 1 else 3)
    return mask


def effect_mask(mask: Tensor | None, node: str) -> EffectMask | None:
    """Where a subject acts, from a MASK; ``node`` is the name of the node that it is for.

    Raises MaskError for other shapes than a MASK may have, and for values outside 0..1.
    """
    if mask is None:
        return None
    found = EffectMask(planes(mask))
    if found.nowhere:
        log.warning(
            f"{node}: the mask is empty (0 everywhere), so the subject is off. Load Image gives an empty mask for a "
            "picture without transparency"
        )
    return found
