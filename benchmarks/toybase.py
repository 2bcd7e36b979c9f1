"""How good is the toy world's base? Plain samples of all classes and backgrounds beside drawn held-out scenes.

    python -m benchmarks.toybase --out benchmarks/results/toybase.jsonl --sheet sheet.png

Every row is one source of 500 single animals; the figures' definitions are in benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from p3s.image_files import write_png
from p3s.toyworld.models import PATCH, QUESTIONS
from p3s.toyworld.scenes import BACKGROUNDS, CLASSES, PALETTE, all_looks, background_of, prompt, scene
from p3s.toyworld.world import GUIDANCE, STEPS, WEIGHTS, ToyWorld, load_world, picture_of

SURE = 0.9  # the judge's probability from which an answer is one
SEEN = 0.16  # a pixel that differs from the background by more, of 1, in some channel is not background


def blockiness(pictures: Tensor, patch: int = PATCH) -> float:
    """Mean absolute difference of neighbouring pixels across the borders of latent pixels over that inside them.

    ``pictures`` [batch, h, w, 3]; both directions count. 1 means that no border can be seen; drawings have more, since
    their horizon and window frames lie on borders.
    """
    across, inside = [], []
    for dim in (1, 2):
        steps = pictures.diff(dim=dim).abs().movedim(dim, 0)
        border = torch.arange(1, pictures.shape[dim]) % patch == 0
        across.append(steps[border].flatten())
        inside.append(steps[~border].flatten())
    return float(torch.cat(across).mean() / torch.cat(inside).mean())


def frechet(a: Tensor, b: Tensor) -> float:
    """Squared Frechet distance of the Gaussians with the moments of ``a`` and ``b`` [count, features]:
    |m_a - m_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2))."""
    a, b = a.double(), b.double()
    s_a, s_b = torch.cov(a.T), torch.cov(b.T)
    # tr (S_a S_b)^(1/2) by the symmetric S_a^(1/2) S_b S_a^(1/2), which has the same eigenvalues.
    values, vectors = torch.linalg.eigh(s_a)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    cross = torch.linalg.eigvalsh(root @ s_b @ root).clamp(min=0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + s_a.trace() + s_b.trace() - 2 * cross)


@torch.no_grad()
def features(world: ToyWorld, pictures: Tensor) -> Tensor:
    """The judge's last hidden features [batch, 128]."""
    judge = world.judge
    return torch.cat(
        [judge.head(judge.net(part.permute(0, 3, 1, 2) * 2 - 1).flatten(1)) for part in pictures.split(100)]
    )


def two_colours(picture: Tensor, background: str) -> float:
    """Of the coloured pixels of the animal in ``picture`` [48, 48, 3], the share of its two commonest colours of the
    palette; black, the outline's, is left out. 1 for an animal in two even colours, 0 if there is no animal."""
    plain = torch.from_numpy(background_of(background)).float() / 255
    animal = picture[(picture - plain).abs().amax(-1) > SEEN]
    colours = torch.tensor(list(PALETTE.values())).float() / 255
    named = torch.cdist(animal, colours).argmin(1).bincount(minlength=len(PALETTE)).tolist()
    counts = sorted((count for name, count in zip(PALETTE, named, strict=True) if name != "black"), reverse=True)
    return sum(counts[:2]) / max(1, sum(counts))


@torch.no_grad()
def figures(
    world: ToyWorld, pictures: Tensor, told: list[tuple[str, str]], real: Mapping[str, Tensor]
) -> dict[str, float]:
    """Of ``pictures`` that ought to show classes on backgrounds (``told``); ``real``: features of drawn scenes, by the
    name of the distance to them."""
    given = world.judge(pictures)
    best = {name: [QUESTIONS[name][i] for i in p.argmax(1).tolist()] for name, p in given.items()}
    sure = torch.stack([given[q].exp().amax(1) > SURE for q in ("body", "pattern", "mark")]).all(0).tolist()
    looks, exist = list(zip(best["body"], best["pattern"], best["mark"], strict=True)), set(all_looks())
    animals, backgrounds = zip(*told, strict=True)
    own = features(world, pictures)
    return {
        "blockiness": blockiness(pictures),
        **{name: frechet(own, of) for name, of in real.items()},
        "animal": share(a == b for a, b in zip(best["animal"], animals, strict=True)),
        "background": share(a == b for a, b in zip(best["background"], backgrounds, strict=True)),
        "one": share(count == 1 for count in best["count"]),
        "look": share(certain and look in exist for certain, look in zip(sure, looks, strict=True)),
        "two colours": float(np.mean([two_colours(p, b) for p, b in zip(pictures, backgrounds, strict=True)])),
    }


def share(facts: Iterator[bool]) -> float:
    return float(np.mean(list(facts)))


def drawn(stream: str, first: int, count: int) -> tuple[Tensor, list[tuple[str, str]]]:
    """Scenes of one animal, and their classes and backgrounds."""
    shown = [scene(stream, first + i, "single") for i in range(count)]
    return torch.stack([picture_of(s) for s in shown]), [(s.animal, s.background) for s in shown]


def sampled(world: ToyWorld, count: int, steps: int, guidance: float) -> tuple[Tensor, list[tuple[str, str]]]:
    """Plain samples, equally many of every class on every background (rounded up)."""
    pairs, told, pictures = list(product(CLASSES, BACKGROUNDS)), [], []
    each = -(-count // len(pairs))
    for number, pair in enumerate(pairs):
        seeds = range(1000 * number, 1000 * number + each)
        pictures.append(world.sample(prompt(*pair), seeds, steps=steps, guidance=guidance))
        told += [pair] * each
    return torch.cat(pictures), told


def sheet(pictures: Tensor, columns: int, path: Path, larger: int = 3) -> None:
    rows = [torch.cat(list(row), 1) for row in pictures.split(columns)]
    write_png(torch.cat(rows).repeat_interleave(larger, 0).repeat_interleave(larger, 1), path)


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--guidance", type=float, default=GUIDANCE)
    parser.add_argument("--out", type=Path, help="append the rows to this file, as JSON lines")
    parser.add_argument("--sheet", type=Path, help="write two samples of every class on every background")
    args = parser.parse_args()
    world = load_world(args.weights)
    kept, seen = drawn("heldout", 0, args.count), drawn("test", 0, args.count)
    real = {"frechet": features(world, kept[0]), "frechet seen": features(world, seen[0])}
    begin = time.monotonic()
    samples = sampled(world, args.count, args.steps, args.guidance)
    seconds = time.monotonic() - begin
    with torch.no_grad():
        decoded = torch.cat([world.codec.decode(world.codec.encode(part)) for part in kept[0].split(100)])
    rows = {
        "samples": samples,
        "held-out looks": kept,
        "held-out looks, other scenes": drawn("heldout", args.count, args.count),
        "held-out looks, by the codec": (decoded, kept[1]),
        "seen looks": seen,
        "seen looks, other scenes": drawn("test", args.count, args.count),
    }
    about: dict[str, Any] = {
        "base": json.loads(world.made["base"]),
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, torch {torch.__version__}, {torch.get_num_threads()} threads",
        "steps": args.steps,
        "guidance": args.guidance,
        "sampling seconds": round(seconds),
    }
    lines = [{"row": "about", **about}]
    for name, (pictures, told) in rows.items():
        lines.append({"row": name, "count": len(told), **figures(world, pictures, told, real)})
        print(f"{name:32}", "  ".join(f"{k} {v:.3f}" for k, v in lines[-1].items() if isinstance(v, float)), flush=True)
    print(about)
    if args.out:
        with args.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    if args.sheet:
        each = len(samples[0]) // (len(CLASSES) * len(BACKGROUNDS))
        picked = [i for i in range(len(samples[0])) if i % each < 2]
        sheet(samples[0][picked], 8, args.sheet)


if __name__ == "__main__":
    main()
