"""The toy world's own SSR-Encoder: what it learns from drawn scenes, and its file."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..file_writing import write_atomic
from ..network.unet import UNet
from ..ssr.aligner import Aligner
from ..ssr.file import SSRModel, save_ssr
from ..ssr.query import query_bias
from ..ssr.training import Pair, SSRTrainSettings, Trainee, draw, start, step_loss
from .models import CLIP_DIM, CLIP_PATCH
from .scenes import BACKGROUNDS, Scene, alone, look_words, render, scene
from .world import ToyWorld

SIZES = {"inner": 64, "heads": 4, "scales": 3}
#: lambda and the start as published in the paper. The image is dropped as well, so that the embedding of the zero
#: picture, which guidance uses, means something; prompts are dropped by the sort of a pair.
SETTINGS = SSRTrainSettings(consistency=0.01, prompt_dropout=0.0, image_dropout=0.1, start="copy", timesteps="noisy")
#: Sorts of pairs with their shares, and the share of their prompts that are empty.
SORTS = {"same": {"same": (1.0, 0.8)}, "other": {"same": (0.4, 0.8), "one of two": (0.4, 0.5), "class": (0.2, 0.0)}}


@dataclass(frozen=True)
class Couple:
    """A reference, the individual in it that is meant (its number), the query's words, whether a mask selects it as
    well, and the picture to draw, whose prompt is empty in ``dropout`` of the steps."""

    reference: Scene
    who: int
    query: str
    masked: bool
    target: Scene
    dropout: float


def couple(index: int, pairs: str) -> Couple:
    """Couple number ``index``. ``pairs``: "same", as SSR-Encoder was trained, where the target is the reference;
    "other" has, besides, an individual of two alone on another background, by its look or by its mask, and other
    pictures of the individual that the class names. Raises ValueError for another word."""
    if pairs not in SORTS:
        raise ValueError(f"pairs must be one of {', '.join(SORTS)}; got {pairs!r}")
    rng, sorts = random.Random(f"ssr:{pairs}:{index}"), SORTS[pairs]
    sort = rng.choices(list(sorts), [share for share, _ in sorts.values()])[0]
    dropout = sorts[sort][1]
    if sort == "same":
        s = scene("train", index, rng.choice(("single", "twins")))
        return Couple(s, 0, look_words(s.animal, s.subjects[0].look), False, s, dropout)
    s = scene("train", index, "different" if sort == "one of two" else "single")
    who = rng.randrange(len(s.subjects))
    masked = sort == "one of two" and rng.random() < 0.5
    named = sort == "one of two" and not masked
    query = look_words(s.animal, s.subjects[who].look) if named else s.animal
    background = rng.choice([name for name in BACKGROUNDS if name != s.background])
    return Couple(s, who, query, masked, alone(s, who, background, rng), dropout)


class Couples:
    """``count`` couples, drawn once and kept in ``cache``: pictures of references and targets [count, 48, 48, 3] uint8,
    and the biases of the masks."""

    def __init__(self, count: int, cache: Path, pairs: str) -> None:
        self.couples = [couple(index, pairs) for index in range(count)]
        file = cache / f"ssr-{pairs}-{count}.npz"
        if not file.exists():
            drawn = [render(c.reference) for c in self.couples]
            references, owners = (np.stack(kind) for kind in zip(*drawn, strict=True))
            targets = np.stack([render(c.target)[0] for c in self.couples])
            write_atomic(file, lambda out: np.savez(out, references=references, owners=owners, targets=targets))
        with np.load(file) as stored:
            self.references, self.owners, self.targets = (
                torch.from_numpy(stored[name]) for name in ("references", "owners", "targets")
            )

    def bias(self, row: int) -> Tensor | None:
        """The strict bias of a couple's mask, [1 + patches]; None where no mask selects."""
        c = self.couples[row]
        if not c.masked:
            return None
        mask = (self.owners[row] == c.who + 1).float()
        shares = nn.functional.avg_pool2d(mask[None], CLIP_PATCH)[0]
        return query_bias(torch.ones_like(shares, dtype=torch.bool), shares, mode="strict")


def untrained(unet: UNet, seed: int) -> Trainee:
    """The aligner and the subject layers, which start as the U-Net's own for its text."""
    return start(unet, CLIP_DIM, SETTINGS, seed, **SIZES)


def ssr_loss(
    trainee: Trainee, couples: Couples, world: ToyWorld, base: UNet, device: str = "cpu"
) -> Callable[[random.Random, int], Tensor]:
    """The loss of a batch of couples: its random choices' source and its size to a scalar. ``base`` is the world's
    U-Net, perhaps in another arithmetic."""
    with torch.no_grad():
        latents = torch.cat([world.codec.encode(part.float() / 255) for part in couples.targets.split(256)])
    texts: dict[tuple[str, str], Tensor] = {}

    def encoded(what: str, text: str) -> Tensor:
        if (what, text) not in texts:
            encode = world.encode_query if what == "query" else world.encode_text
            texts[what, text] = encode(text)
        return texts[what, text]

    zero = world.vision().zeros()[0]

    def loss(rng: random.Random, size: int) -> Tensor:
        rows = [rng.randrange(len(couples.couples)) for _ in range(size)]
        states = world.encode_clip_layers(couples.references[rows].float() / 255)
        pairs = []
        for row, seen in zip(rows, states, strict=True):
            c = couples.couples[row]
            text = "" if rng.random() < c.dropout else c.target.caption()
            query = encoded("query", c.query)
            pairs.append(Pair(latents[row], encoded("prompt", text), seen, query, couples.bias(row)))
        empty = Pair(latents[rows[0]], encoded("prompt", ""), zero, encoded("query", ""))
        generator = torch.Generator().manual_seed(rng.randrange(2**63))
        batch = draw(pairs, empty, world.noise, SETTINGS, generator).to(torch.device(device))
        return step_loss(trainee, base, batch, SETTINGS)[0]

    return loss


def pack_ssr(average: Mapping[str, Tensor], made: Mapping[str, Any], path: Path) -> None:
    """Write averaged weights as one file of an SSR-Encoder, the subject layers in float16, with how they were made in
    the metadata."""
    aligner = Aligner(query=average["aligner.norm.weight"].shape[0], vision=CLIP_DIM, **SIZES)
    aligner.load_state_dict({key.removeprefix("aligner."): t for key, t in average.items() if key[0] == "a"})
    layers = {key.removeprefix("layers."): t.half() for key, t in average.items() if key[0] == "l"}
    save_ssr(SSRModel(aligner, layers, ""), path, overwrite=True, notes={"made": json.dumps(made, sort_keys=True)})
