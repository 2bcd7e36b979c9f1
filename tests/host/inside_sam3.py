"""Run by test_reference_workflows.py inside a host: SAM3 Detect on Point Picker's text, with a model that records."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import comfy.model_management
import torch
from comfyui_p3s.p3s.reference.points import PointSet
from inside_peers import load_nodes, node

import nodes

WIDTH, HEIGHT, SIDE = 90, 60, 1008  # the last is SAM 3's own


def main(arguments: dict[str, Any]) -> dict[str, Any] | None:
    load_nodes()
    if "SAM3_Detect" not in nodes.NODE_CLASS_MAPPINGS:
        return None
    asked: list[dict[str, torch.Tensor]] = []

    def forward_segment(frame: torch.Tensor, point_inputs: Any = None, mask_inputs: Any = None) -> torch.Tensor:
        asked.append(point_inputs) if point_inputs is not None else None
        return torch.ones(1, 1, 8, 8)

    network = SimpleNamespace(forward_segment=forward_segment)
    model = SimpleNamespace(model=SimpleNamespace(diffusion_model=network, get_dtype=lambda: torch.float32))
    comfy.model_management.load_model_gpu = lambda model: None
    points = PointSet([(0.25, 0.5), (0.999, 0.01)], [(0.7, 0.9)])
    positive, negative = points.to_pixels(WIDTH, HEIGHT)
    image = torch.zeros(1, HEIGHT, WIDTH, 3)
    masks, _ = node("SAM3_Detect", model=model, image=image, positive_coords=positive, negative_coords=negative)
    assert masks.shape == (1, HEIGHT, WIDTH)
    pixels = [(int(x * WIDTH), int(y * HEIGHT)) for x, y in (*points.positive, *points.negative)]
    return {
        "coords": asked[0]["point_coords"].tolist(),
        "labels": asked[0]["point_labels"].tolist(),
        "expected": [[[x / WIDTH * SIDE, y / HEIGHT * SIDE] for x, y in pixels]],
    }
