"""Is the world fair? Reference-only injection on the frozen base, nothing trained: does an appearance move over?

    python -m benchmarks.toyworld_fairness --references 24

For held-out single scenes, the base runs on the reference at each timestep's noise level; the hidden states that its
self-attentions read enter the sampling of another picture by Eq. 7 (lambda 0.2). Plain sampling from the same seeds is
the comparison.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from p3s.network.hooks import PLAIN
from p3s.network.injection import Features, Injection, InjectionHooks
from p3s.network.subject_copy import CopyReader
from p3s.sampling.diffusion import ddim
from p3s.toyworld.scenes import BACKGROUNDS, prompt, scene
from p3s.toyworld.world import GUIDANCE, STEPS, WEIGHTS, ToyWorld, load_world, picture_of

from .toyworld_metrics import interval, preference, score, validate


@torch.no_grad()
def reference_only(
    world: ToyWorld, latent: Tensor, caption: str, text: str, seeds: list[int], lam: float, weight: float = 1.0
) -> Tensor:
    """Sample ``text`` while the self-attentions also see the hidden states of a reference's latent."""
    own, words, empty = (world.encode_text(t)[None] for t in (caption, text, ""))
    noise = torch.randn(latent[None].shape, generator=torch.Generator().manual_seed(1234))

    def predict(x: Tensor, t: int) -> Tensor:
        times = torch.full((1,), t)
        reader = CopyReader()
        world.unet(world.noise.add_noise(latent[None], noise, times), times, own, reader)
        hidden = {layer: z.expand(len(x), -1, -1) for layer, z in reader.norm1.items()}
        features = Features(hidden, {}, reader.grids).with_weight(weight)
        hooks = InjectionHooks(Injection(features, lam)) if weight else PLAIN
        times = times.expand(len(x))
        uncond, cond = (world.unet(x, times, c.expand(len(x), -1, -1), hooks) for c in (empty, words))
        return uncond + GUIDANCE * (cond - uncond)

    for latents in ddim(predict, world.noise, world.start(seeds), STEPS):
        last = latents
    return world.codec.decode(last)


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
        latent = world.codec.encode(picture[None])[0]
        shown = [picture]
        for name, lam, weight in (("plain", 0.0, 0.0), ("lambda 0.2", 0.2, 1.0), ("lambda 0", 0.0, 1.0)):
            pictures = reference_only(world, latent, s.caption(), text, seeds, lam, weight)
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
