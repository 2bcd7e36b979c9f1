"""The pack's main job as graphs: a photo with two subjects, points, masks, training, sampling."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from host.graphs import Graphs, Node, sample
from host.server import Server
from PIL import Image

DATA = Path(__file__).parents[1] / "data"
#: The left half's dog (its cheek) is wanted, the right half's subject is not.
POINTS = json.dumps({"v": 1, "positive": [[0.39, 0.5]], "negative": [[0.75, 0.55]]})


def origin(kind: str, slot: int = 0, **inputs: Any) -> dict[str, Any]:
    """Where a model comes from that a node with these inputs loads, as the mask route is asked for it."""
    return {"slot": slot, "nodes": [[kind, inputs]]}


#: The CLIP vision model that the tests' graphs load.
CLIP = origin("CLIPVisionLoader", clip_name="clip-vision.safetensors")
TOY = origin("P3S_ToyWorld", slot=3)


def two_subjects(left: str = "dog", right: str = "backpack", side: int = 256) -> np.ndarray:
    """A photo of two subjects side by side, uint8 [side, 2 side, 3]."""
    halves = [Image.open(DATA / f"{name}.jpg").convert("RGB").resize((side, side)) for name in (left, right)]
    return np.concatenate([np.asarray(half) for half in halves], axis=1)


class Job:
    """A graph under construction on one server, with the small models loaded."""

    def __init__(self, server: Server, checkpoint: str = "sd15-slim") -> None:
        self.g = Graphs()
        self.server = server
        loaded = self.g.add("CheckpointLoaderSimple", ckpt_name=server.model(checkpoint))
        self.model, self.clip, self.vae = loaded[0], loaded[1], loaded[2]

    def reference(
        self, photo: np.ndarray | None = None, points: str = POINTS, name: str = "two.png", **settings: Any
    ) -> Node:
        file = self.server.client.upload_image(two_subjects() if photo is None else photo, name)
        picker = self.g.add("P3S_PointPicker", image=file, points=points)
        vision = self.g.add("CLIPVisionLoader", clip_name=self.server.model("clip-vision"))
        defaults = {"fill": "telea", "fill_region": "negative", "value_range": "clip", "blur": 1.0, "grow": 0.0}
        return self.g.add(
            "P3S_RNGRMask", clip_vision=vision, image=picker, points=picker[1], **{**defaults, **settings}
        )

    def train(self, reference: Node, model: Any = None, **settings: Any) -> Node:
        defaults = {
            "name": "dog",
            "epochs": 60,
            "steps": 3,
            "batch_size": 1,
            "learning_rate": 1e-3,
            "seed": 0,
            "precision": "fp32",
            "resolution": 128,
            "gamma": 0.1,
            "lam": 0.2,
        }
        return self.g.add(
            "P3S_Train",
            model=model or self.model,
            vae=self.vae,
            reference=reference,
            positive=self.g.add("CLIPTextEncode", clip=self.clip, text="a photo of a sks dog"),
            empty=self.g.add("CLIPTextEncode", clip=self.clip, text=""),
            **{**defaults, **settings},
        )

    def apply(self, subject: Any, model: Any = None, **settings: Any) -> Node:
        defaults = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "guidance": "both"}
        return self.g.add("P3S_Apply", model=model or self.model, subject=subject, **{**defaults, **settings})

    def image(self, model: Any, **settings: Any) -> str:
        """Sample, decode and save; the id of the node that holds the pictures."""
        settings = {"prompt": "a photo of a sks dog on the beach", **settings}
        decoded = sample(self.g, model, self.clip, self.vae, **settings)
        return self.g.add("SaveImage", images=decoded, filename_prefix="p3s").id
