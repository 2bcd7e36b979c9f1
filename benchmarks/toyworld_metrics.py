"""What a generated picture shows, by the toy world's judge: numbers that a tint of the whole picture does not move."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from p3s.toyworld.models import QUESTIONS
from p3s.toyworld.scenes import BACKGROUNDS, SIDE, Appearance, Scene, scene
from p3s.toyworld.world import ToyWorld, picture_of


def answers(world: ToyWorld, pictures: Tensor) -> list[dict[str, object]]:
    """The most probable answer to every question, for each of the pictures [batch, 48, 48, 3]."""
    with torch.no_grad():
        told = world.judge(pictures)
    return [{name: QUESTIONS[name][int(p[i].argmax())] for name, p in told.items()} for i in range(len(pictures))]


def preference(world: ToyWorld, pictures: Tensor, look: Appearance) -> Tensor:
    """Log-probability [batch] of an appearance: body colour, pattern and mark."""
    with torch.no_grad():
        told = world.judge(pictures)
    return sum(
        told[q][:, QUESTIONS[q].index(name)] for q, name in zip(("body", "pattern", "mark"), look.names, strict=True)
    )


def carries(answer: dict[str, object], look: Appearance) -> bool:
    """Whether both colours that the judge saw are the individual's own (in stripes either may be called the body)."""
    return {answer["body"], answer["mark"]} <= {look.body, look.mark}


def score(
    world: ToyWorld, pictures: Tensor, wanted: Appearance, other: Appearance | None, animal: str, background: str
) -> list[dict[str, float]]:
    """Per picture, 0 or 1 each:

    selection  the colours are those of the wanted individual (the other one shares none of them)
    look       body, pattern and mark are all as the judge would say of the wanted individual
    preferred  the wanted individual's appearance is more probable than the other's (0.5 by chance)
    leaked     the colours are those of the other one
    prompt     class and background are those of the prompt
    one        a single animal is seen
    """
    rows = []
    towards = preference(world, pictures, wanted) - (preference(world, pictures, other) if other else 0.0)
    for answer, difference in zip(answers(world, pictures), towards.tolist(), strict=True):
        rows.append(
            {
                "selection": float(carries(answer, wanted)),
                "look": float((answer["body"], answer["pattern"], answer["mark"]) == wanted.names),
                "preferred": float(difference > 0),
                "leaked": float(other is not None and carries(answer, other)),
                "prompt": float(answer["animal"] == animal and answer["background"] == background),
                "one": float(answer["count"] == 1),
            }
        )
    return rows


def portraits(s: Scene, wanted: int) -> Tensor:
    """The wanted individual alone on every background, as drawn, [backgrounds, 48, 48, 3], for CLIP-I."""
    placed = replace(s.subjects[wanted], x=SIDE / 2, y=SIDE * 0.58, size=15.0)
    return torch.stack(
        [picture_of(replace(s, kind="single", background=name, subjects=(placed,))) for name in BACKGROUNDS]
    )


@torch.no_grad()
def clip_scores(world: ToyWorld, pictures: Tensor, truth: Tensor, text: str) -> list[dict[str, float]]:
    """CLIP-I, the mean cosine to ``truth``, and CLIP-T, the cosine to the prompt, of each of the pictures."""
    seen, real = (world.clip.image_embedding(world.clip.hidden(p)) for p in (pictures, truth))
    image, told = (seen @ real.T).mean(1), (seen @ world.clip.text_embedding([text]).T)[:, 0]
    return [{"clip_i": a, "clip_t": b} for a, b in zip(image.tolist(), told.tolist(), strict=True)]


def validate(world: ToyWorld, count: int = 300, stream: str = "heldout") -> dict[str, float]:
    """The judge's accuracies on real single scenes that no model has seen."""
    drawn = [scene(stream, i, "single") for i in range(count)]
    pictures = torch.stack([picture_of(s) for s in drawn])
    given = answers(world, pictures)
    result = {
        q: sum(a[q] == getattr(s, q, None) for a, s in zip(given, drawn, strict=True)) / count
        for q in ("animal", "background")
    }
    for q in ("body", "pattern", "mark"):
        result[q] = sum(a[q] == getattr(s.subjects[0].look, q) for a, s in zip(given, drawn, strict=True)) / count
    result["one"] = sum(a["count"] == 1 for a in given) / count
    result["selection"] = sum(carries(a, s.subjects[0].look) for a, s in zip(given, drawn, strict=True)) / count
    result["look"] = (
        sum((a["body"], a["pattern"], a["mark"]) == s.subjects[0].look.names for a, s in zip(given, drawn, strict=True))
        / count
    )
    return result


def interval(values: Sequence[float], groups: Sequence[int], draws: int = 2000, seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap interval of a mean over values that belong to references (``groups``), which are redrawn whole."""
    import numpy as np

    members: dict[int, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(value)
    means = np.array([np.mean(v) for v in members.values()])
    picked = np.random.default_rng(seed).integers(0, len(means), (draws, len(means)))
    low, high = np.percentile(means[picked].mean(1), [2.5, 97.5])
    return float(low), float(high)
