"""Strengths of single layers, written as text: "input: 0.5, middle: 0, output 9: 1.5, output 0.7: 0"."""

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
#: What to add to that where models may have several layers in a row.
IN_A_ROW = 'In SDXL, a block has up to 10 layers in a row: "output 0.3: 0" names layer 3 of output 0, counted from 0.'

#: (side, block or None for the whole side, depth or None for the whole block, factor)
Entry = tuple[str, int | None, int | None, float]


def parse_layer_strengths(text: str) -> tuple[Entry, ...]:
    """Entries "side: factor", "side block: factor" or "side block.depth: factor", separated by commas, semicolons or
    lines.

    The side is input, middle or output, block and depth the numbers of a layer in the U-Net that the subject is applied
    to, the factor a number in 0..10. Raises P3SError, naming the entry, for anything else and for one that is given
    twice.
    """
    found: dict[tuple[str, int | None, int | None], float] = {}
    for entry in filter(None, (part.strip() for part in re.split(r"[,;\n]", text))):
        match = re.fullmatch(r"(\w+)(?:\s+(\d+)(?:\.(\d+))?)?\s*:\s*(\S+)", entry)
        if match is None or match[1] not in SIDES:
            raise P3SError(
                f'layer_strengths: {entry!r} is not "side: factor", "side block: factor" or "side block.depth: '
                'factor", as in "output 9: 0.5"; '
                f"the sides are {', '.join(SIDES)}"
            )
        block, depth = (None if number is None else int(number) for number in match.group(2, 3))
        place = match[1], block, depth
        try:
            factor = float(match[4])
        except ValueError:
            factor = math.nan
        if not 0 <= factor <= LARGEST:
            raise P3SError(f"layer_strengths: the factor of {entry!r} must be a number in 0..{LARGEST:g}")
        if place in found:
            raise P3SError(f"layer_strengths: {shown_place(*place)} is given twice")
        found[place] = factor
    return tuple((side, block, depth, factor) for (side, block, depth), factor in found.items())


def layer_strengths(entries: tuple[Entry, ...], config: UNetConfig) -> dict[Layer, float]:
    """Factors of the layers of a U-Net; an entry for a layer overrides one for its block, and that one for its side.

    Raises P3SError, listing what has attention, for a block or layer without.
    """
    factors: dict[Layer, float] = {}
    for side, block, depth, factor in sorted(entries, key=lambda entry: (entry[1] is not None, entry[2] is not None)):
        of_side = [layer for layer in config.layers() if layer.side == side]
        of_block = [layer for layer in of_side if block in (None, layer.block)]
        if not of_block and block is not None:
            there = ", ".join(dict.fromkeys(str(layer.block) for layer in of_side))
            raise P3SError(f"layer_strengths: {side} {block} has no attention; {side} has it in {there}")
        chosen = [layer for layer in of_block if depth in (None, layer.depth)]
        if not chosen and depth is not None:
            raise P3SError(
                f"layer_strengths: {side} {block} has {len(of_block)} attention layer(s), numbered from 0; "
                f"there is no {shown_place(side, block, depth)}"
            )
        factors |= dict.fromkeys(chosen, factor)
    return factors


def shown_place(side: str, block: int | None, depth: int | None) -> str:
    """As a user writes it."""
    return side + ("" if block is None else f" {block}") + ("" if depth is None else f".{depth}")
