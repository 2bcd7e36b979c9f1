"""Building API-format graphs in a few lines.

g = Graphs()
base = g.add("CheckpointLoaderSimple", ckpt_name="sd15-slim.safetensors")
image = sample(g, base[0], base[1], base[2], size=128)      # KSampler and what it needs, decoded
g.add("SaveImage", images=image, filename_prefix="x")       # a node stands for its first output
client.run_ok(g.graph)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from host.client import Graph

Link = list[Any]


@dataclass(frozen=True)
class Node:
    """A node of a graph; ``node[1]`` is the link to its second output."""

    id: str

    def __getitem__(self, slot: int) -> Link:
        return [self.id, slot]


class Graphs:
    """A graph under construction; ``graph`` is what POST /prompt takes."""

    def __init__(self) -> None:
        self.graph: Graph = {}

    def add(self, class_type: str, /, **inputs: Any) -> Node:
        """Add a node; an input is a value, ``node[i]``, or a node for its first output."""
        node = Node(str(len(self.graph) + 1))
        values = {key: value[0] if isinstance(value, Node) else value for key, value in inputs.items()}
        self.graph[node.id] = {"class_type": class_type, "inputs": values}
        return node


def sample(
    g: Graphs,
    model: Node | Link,
    clip: Node | Link,
    vae: Node | Link,
    *,
    prompt: str = "a photo of a thing",
    negative: str = "",
    size: int = 128,
    steps: int = 2,
    cfg: float = 7.0,
    seed: int = 1,
    sampler: str = "euler",
    positive: Node | Link | None = None,
) -> Node:
    """Prompts, an empty latent, KSampler and VAEDecode; returns the decoding node. ``positive`` replaces the prompt."""
    if positive is None:
        positive = g.add("CLIPTextEncode", clip=clip, text=prompt)
    latent = g.add("EmptyLatentImage", width=size, height=size, batch_size=1)
    sampled = g.add(
        "KSampler",
        model=model,
        positive=positive,
        negative=g.add("CLIPTextEncode", clip=clip, text=negative),
        latent_image=latent,
        seed=seed,
        steps=steps,
        cfg=cfg,
        sampler_name=sampler,
        scheduler="normal",
        denoise=1.0,
    )
    return g.add("VAEDecode", samples=sampled, vae=vae)
