"""Is the world fair? Reference-only injection on the frozen base, nothing trained: does an appearance move over?

    python -m benchmarks.toyworld_fairness --references 24

For held-out single scenes, the base runs on the reference at each timestep's noise level; the hidden states that its
self-attentions read enter the sampling of another picture by Eq. 7 (lambda 0.2). Plain sampling from the same seeds is
the comparison.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from p3s.toyworld.scenes import BACKGROUNDS, prompt, scene
from p3s.toyworld.world import WEIGHTS, load_world, picture_of

from .reference_only import reference_only
from .toyworld_metrics import interval, preference, score, validate


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--references", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--sheet", type=Path)
    args = parser.parse_args()
    world = load_world(args.weights)
    print("judge on real held-out scenes:", {k: round(v, 3) for k, v in validate(world).items()})
    rows: dict[str, list[dict[str, float]]] = {}
    groups, sheet = [], []
    for i in range(args.references):
        s, unlike = scene("heldout", i, "single"), scene("heldout", 10_000 + i, "different")
        look, picture = s.subjects[0].look, picture_of(s)
        background = [b for b in BACKGROUNDS if b != s.background][i % 7]
        text, seeds = prompt(s.animal, background), [100 * i + k for k in range(args.seeds)]
        shown = [picture]
        for name, lam in (("plain", None), ("lambda 0.2", 0.2), ("lambda 0", 0.0)):
            with_it: dict[str, Any] = {} if lam is None else {"over": reference_only(world, picture, s.caption(), lam)}
            pictures = world.sample(text, seeds, **with_it)
            scored = score(world, pictures, look, unlike.subjects[0].look, s.animal, background)
            for row, likeness in zip(scored, preference(world, pictures, look).tolist(), strict=True):
                rows.setdefault(name, []).append(row | {"likeness": likeness})
            shown += list(pictures[:2])
        groups += [i] * args.seeds
        sheet.append(torch.cat(shown, 1))
    for name, scored in rows.items():
        values = {k: [r[k] for r in scored] for k in ("likeness", "selection", "look", "prompt", "one")}
        told = (
            f"{k} {sum(v) / len(v):.3f} [{low:.2f}, {high:.2f}]"
            for k, v in values.items()
            for low, high in [interval(v, groups)]
        )
        print(f"{name:12}", "  ".join(told))
    # Seeds are paired, so the shift is the sharper number.
    for name in ("lambda 0.2", "lambda 0"):
        shifts = [a["likeness"] - b["likeness"] for a, b in zip(rows[name], rows["plain"], strict=True)]
        low, high = interval(shifts, groups)
        mean = sum(shifts) / len(shifts)
        print(f"{name}: log-probability of the reference's look {mean:+.2f} [{low:+.2f}, {high:+.2f}]")
    if args.sheet:
        from PIL import Image

        pixels = (torch.cat(sheet[:12]) * 255).byte().numpy()
        larger = pixels.shape[1] * 3, pixels.shape[0] * 3
        Image.fromarray(pixels).resize(larger, Image.Resampling.NEAREST).save(args.sheet)


if __name__ == "__main__":
    main()
