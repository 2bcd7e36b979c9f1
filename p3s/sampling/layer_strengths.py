"""Strengths of single layers, written as text: "input: 0.5, middle: 0, output 9: 1.5"."""

from __future__ import annotations

import math
import re

from ..errors import P3SError
from ..network.unet_config import Layer, UNetConfig
from ..settings import Setting

SIDES = ("input", "middle", "output")
LARGEST = 10.0
LAYER_STRENGTHS = Setting(
    "",
    'Per-layer multipliers, e.g. "input: 0.5, output 9: 0". Layers not listed use 1; 0 leaves a layer to the plain '
    "model.",
)

#: (side, block or None for the whole side, factor)
Entry = tuple[str, int | None, float]


def parse_layer_strengths(text: str) -> tuple[Entry, ...]:
    """Entries "side: factor" or "side block: factor", separated by commas, semicolons or lines.

    The side is input, middle or output, the block its number in the U-Net that the subject is applied to, the factor a
    number in 0..10. Raises P3SError, naming the entry, for anything else and for an entry that is given twice.
    """
    found: dict[tuple[str, int | None], float] = {}
    for entry in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
        match = re.fullmatch(r"(\w+)(?:\s+(\d+))?\s*:\s*(\S+)", entry)
        if match is None or match[1] not in SIDES:
            raise P3SError(
                f'layer_strengths: {entry!r} is not "side: factor" or "side block: factor", as in "output 9: 0.5"; '
                f"the sides are {', '.join(SIDES)}"
            )
        place = match[1], None if match[2] is None else int(match[2])
        try:
            factor = float(match[3])
        except ValueError:
            factor = math.nan
        if not 0 <= factor <= LARGEST:
            raise P3SError(f"layer_strengths: the factor of {entry!r} must be a number in 0..{LARGEST:g}")
        if place in found:
            raise P3SError(f"layer_strengths: {' '.join(str(p) for p in place if p is not None)} is given twice")
        found[place] = factor
    return tuple((side, block, factor) for (side, block), factor in found.items())


def layer_strengths(entries: tuple[Entry, ...], config: UNetConfig) -> dict[Layer, float]:
    """Factors of the layers of a U-Net; an entry for a block overrides one for its side.

    Raises P3SError, listing the blocks that have self-attention, for one without.
    """
    layers = config.layers()
    factors = {layer: f for side, block, f in entries if block is None for layer in layers if layer.side == side}
    for side, block, factor in entries:
        chosen = [layer for layer in layers if (layer.side, layer.block) == (side, block)]
        if block is not None and not chosen:
            there = ", ".join(dict.fromkeys(str(layer.block) for layer in layers if layer.side == side))
            raise P3SError(f"layer_strengths: {side} {block} has no self-attention; {side} has it in {there}")
        factors |= dict.fromkeys(chosen, factor)
    return factors
