"""One sheet of the masks that every choice gives on a photo: which states are compared, in how many tiles, refined."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import MaskError, PointError
from ..reference.framing import Frame
from ..reference.masks import MaskSettings, Patches
from ..reference.overlay import heat_over, overlay, reduced
from ..reference.points import PointSet
from ..reference.rngr import Reference, make_reference
from ..reference.vision import PatchVision
from .contact_sheet import Panel, Row

SIDE = 384  # pixels of a panel's picture, before it is scaled to its row
HEIGHT = 190
TILES = (1, 2)
REFINE = ("off", "grabcut")
NAMES = {"last": "last hidden state (the paper's)", "penultimate": "penultimate layer", "value-value": "value-value"}


@dataclass(frozen=True, eq=False)
class Chosen:
    """What one choice gives: the reference (with the photo itself as the clean one), or why there is none."""

    settings: MaskSettings
    reference: Reference | None
    problem: str = ""


def every_choice(
    photo: Tensor,
    points: PointSet,
    vision: PatchVision,
    settings: MaskSettings,
    tiles: Sequence[int] = TILES,
    refine: Sequence[str] = REFINE,
) -> Iterator[Chosen]:
    """The masks of a photo [H, W, 3] with each of the model's features, ``tiles`` and ``refine``, in this order. The
    model reads each tile once."""
    frame = Frame(photo.shape[1], photo.shape[0])
    read = {count: vision.read(photo, vision.features, count) for count in tiles}
    for features in vision.features:
        for count in tiles:
            patches = Patches(read[count][features], frame, prefix=0, tiles=count)
            for refined in refine:
                yield _chosen(photo, points, patches, replace(settings, features=features, tiles=count, refine=refined))


def _chosen(photo: Tensor, points: PointSet, patches: Patches, settings: MaskSettings) -> Chosen:
    try:
        made = make_reference(photo, points, _no_tokens, settings, inpainted=photo, patches=patches)
    except (MaskError, PointError) as error:
        return Chosen(settings, None, str(error))
    return Chosen(settings, made)


def _no_tokens(_: Tensor) -> Tensor:
    """c_s, which a sheet of masks has no use for."""
    return torch.zeros(1, 5, 1)


def mask_rows(photo: Tensor, points: PointSet, vision: PatchVision, name: str, settings: MaskSettings) -> list[Row]:
    """A row for each of the model's features: masks in tiles and refined, then the maps that they were cut from."""
    found = list(every_choice(photo, points, vision, settings))
    rows = []
    for features in vision.features:
        chosen = [each for each in found if each.settings.features == features]
        panels = [_mask_panel(each, photo) for each in chosen]
        panels += [_map_panel(each, photo) for each in chosen if each.settings.refine == "off"]
        rows.append(Row(f"{name}: {NAMES[features]}", panels, HEIGHT))
    return rows


def photo_row(photo: Tensor, points: PointSet, heading: str) -> Row:
    """The photo with its points."""
    nothing = torch.zeros(photo.shape[:2])
    bare = Reference(photo, nothing, nothing, nothing, nothing, points, "")
    return Row(heading, [Panel("the photo and the points", overlay(bare, photo, SIDE, radius=12))], HEIGHT)


def _mask_panel(chosen: Chosen, photo: Tensor) -> Panel:
    settings = chosen.settings
    words = [] if settings.tiles == 1 else [f"{settings.tiles} x {settings.tiles} tiles"]
    words += ["refined"] if settings.refine != "off" else []
    caption = ", ".join(words) or "masks"
    if chosen.reference is None:
        return Panel(f"{caption}: none", reduced(photo, SIDE).mean(-1, keepdim=True).repeat(1, 1, 3))
    return Panel(caption, overlay(chosen.reference, photo, SIDE, radius=12))


def _map_panel(chosen: Chosen, photo: Tensor) -> Panel:
    tiles = chosen.settings.tiles
    caption = "similarity" + ("" if tiles == 1 else f", {tiles} x {tiles} tiles")
    small = reduced(photo, SIDE)
    if chosen.reference is None:
        return Panel(caption, small.mean(-1, keepdim=True).repeat(1, 1, 3))
    return Panel(caption, heat_over(small, reduced(chosen.reference.similarity, SIDE)))
