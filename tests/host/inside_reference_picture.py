"""Run by test_reference_picture.py inside a host: Reference Picture, and what core nodes make of its outputs."""

from __future__ import annotations

from typing import Any

import torch
from comfyui_p3s.nodes.host import toy_world
from comfyui_p3s.nodes.reference_picture import ReferencePicture
from comfyui_p3s.nodes.rngr_mask import RNGRMask
from comfyui_p3s.nodes.wire_types import core_boxes
from comfyui_p3s.p3s.errors import P3SError
from comfyui_p3s.p3s.reference.cutout import Box, PictureSettings, reference_picture
from comfyui_p3s.p3s.reference.points import PointSet
from comfyui_p3s.p3s.reference.rngr import Reference
from comfyui_p3s.p3s.toyworld.world import MASKS, click, picture_of
from inside_peers import load_nodes, node

import nodes

DEFAULTS = PictureSettings()
REQUIRED = ("view", "margin", "background", "colour", "multiple")


def reference(width: int, height: int, left: int, top: int, across: int, down: int) -> Reference:
    """Noise with the subject in a box."""
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(width))
    mask, nothing = torch.zeros(height, width), torch.zeros(height, width)
    mask[top : top + down, left : left + across] = 1
    return Reference(image, torch.zeros(5, 4), mask, nothing, mask, PointSet(((0.5, 0.5),)), "0" * 64)


WIDE, TALL = reference(80, 60, 10, 20, 30, 16), reference(48, 96, 8, 8, 10, 40)


def run(given: Any, **inputs: Any) -> Any:
    settings = {name: getattr(DEFAULTS, name) for name in REQUIRED}
    return ReferencePicture.EXECUTE_NORMALIZED(reference=given, **{**settings, **inputs})


def said(given: Any, **inputs: Any) -> str:
    try:
        run(given, **inputs)
    except P3SError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def several() -> dict[str, bool]:
    images, masks, boxes = run((WIDE, TALL)).args
    expected = [reference_picture(each) for each in (WIDE, TALL)]
    alone = run((WIDE, TALL), photo=2).args
    return {
        "pictures": all(torch.equal(image[0], e.image) for image, e in zip(images, expected, strict=True)),
        "masks": all(torch.equal(mask[0], e.mask) for mask, e in zip(masks, expected, strict=True)),
        "sizes differ": images[0].shape != images[1].shape,
        "boxes": list(boxes)
        == [{"x": e.box.left, "y": e.box.top, "width": e.box.width, "height": e.box.height} for e in expected],
        "one by its number": len(alone[0]) == 1 and torch.equal(alone[0][0], images[1]),
    }


def chained() -> dict[str, Any]:
    """Core nodes behind it."""
    plain = run((WIDE,), background="plain", colour="#204060", margin=1.0, feather=0).args
    clear = run((WIDE,), background="transparent", colour="#204060", margin=1.0, feather=0).args
    image, mask = plain[0][0], plain[1][0]
    below = torch.zeros_like(image)
    pasted = node("ImageCompositeMasked", destination=below, source=image, mask=mask, x=0, y=0, resize_source=False)[0]
    joined = node("JoinImageWithAlpha", image=image, alpha=node("InvertMask", mask=mask)[0])[0]
    scaled = node("FluxKontextImageScale", image=image)[0]
    subject = mask > 0
    return {
        # Where core's mask is 1, its source is seen.
        "composite": torch.equal(pasted[subject], image[subject]) and bool((pasted[~subject] == 0).all()),
        "alpha": torch.equal(joined, clear[0][0]),
        "kontext": list(scaled.shape),
    }


def boxes_of_picker() -> list[Any]:
    """Of no box, and of two."""
    pair = [[Box(1, 2, 3, 4), Box(5, 6, 7, 8)]]
    return [core_boxes([[]]), core_boxes(pair)]


def boxes() -> dict[str, Any]:
    """RNGR Mask's, of the toy world's photos, and core's drawing of them."""
    scenes = [toy_world.drawn("dog", number) for number in (4, 7)]
    photos, points = [picture_of(scene)[None] for scene in scenes], [click(scene, 1) for scene in scenes]
    settings = {name: [getattr(MASKS, name)] for name in ("fill", "fill_region", "value_range", "blur", "grow")}
    outputs = RNGRMask.EXECUTE_NORMALIZED(
        clip_vision=[toy_world.Vision()], image=photos, points=points, **settings
    ).args
    expected = []
    for mask in outputs[2]:
        rows, columns = mask.any(1).nonzero().flatten().tolist(), mask.any(0).nonzero().flatten().tolist()
        x, y = columns[0], rows[0]
        expected.append([{"x": x, "y": y, "width": columns[-1] - x + 1, "height": rows[-1] - y + 1}])
    alone = RNGRMask.EXECUTE_NORMALIZED(
        clip_vision=[toy_world.Vision()], image=photos[:1], points=points[:1], **settings
    ).args[5]
    found = {
        "boxes": outputs[5] == expected,
        "count": len(outputs[5]),
        "one": alone == expected[0][0],
        "picker": boxes_of_picker(),
    }
    if "DrawBBoxes" in nodes.NODE_CLASS_MAPPINGS:
        black = torch.zeros(2, *outputs[2].shape[1:], 3)
        drawn = node("DrawBBoxes", image=black, bboxes=outputs[5])[0].any(-1)
        inside = []
        for picture, ((box,)) in zip(drawn, outputs[5], strict=True):
            rows, columns = picture.any(1).nonzero().flatten(), picture.any(0).nonzero().flatten()
            inside.append(
                [
                    abs(int(columns[0]) - box["x"]) <= 3,
                    abs(int(rows[0]) - box["y"]) <= 3,
                    abs(int(columns[-1]) - box["x"] - box["width"]) <= 3,
                    abs(int(rows[-1]) - box["y"] - box["height"]) <= 3,
                ]
            )
        found["drawn"] = inside
    return found


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    load_nodes()
    empty = reference(40, 40, 0, 0, 0, 0)
    return {
        "several": several(),
        "chained": chained(),
        "boxes": boxes(),
        "said": {
            "no photo": said(()),
            "too few": said((WIDE, TALL), photo=3),
            "no reference": said(None),
            "an image": said(WIDE.image),
            "empty mask": said((empty,)),
            "colour": said((WIDE,), background="plain", colour="ffffff"),
            "no colour": said((WIDE,), colour=None),
            "background": said((WIDE,), background="blurred"),
            "margin": said((WIDE,), margin=float("nan")),
        },
    }
