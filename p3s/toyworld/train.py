"""Train the toy world's models from nothing: ``python -m p3s.toyworld.train base|clip|judge --out DIR``, then ``pack``.

Every command is seeded; pictures come from the "train" stream of scenes alone, the judge's from a stream of its own.
A run continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..network.unet import UNet
from .models import CLIP_PATCH, QUESTIONS, Clip, Codec, Judge, TextEncoder, noise_schedule, tokenize, unet_config
from .scenes import IDENTIFIER, Scene, render, scenes

IDENTIFIER_SHARE = 0.05  # of the base's captions: a rare word that means nothing yet
EMA = 0.998
LIKENESS = 0.3  # cosine between patches of different individuals of a class: CLIP sees the class first
PATCH_SHARE = 10.0  # of the patches' errors in CLIP's loss

#: The loss of a batch: its random choices' source and its size to a scalar.
LossOf = Callable[[random.Random, int], Tensor]


class Pool:
    """``count`` drawn training scenes in the memory of ``device``; drawn once and kept in ``cache``."""

    def __init__(self, stream: str, count: int, cache: Path, device: str = "cpu") -> None:
        self.device = device
        self.scenes = list(scenes(stream, count))
        file = cache / f"{stream}-{count}.npz"
        if not file.exists():
            drawn = [render(s) for s in self.scenes]
            np.savez(file, pictures=np.stack([d[0] for d in drawn]), owners=np.stack([d[1] for d in drawn]))
        with np.load(file) as stored:
            self.pictures = torch.from_numpy(stored["pictures"]).to(device)
            self.owners = torch.from_numpy(stored["owners"]).to(device)

    def batch(self, rng: random.Random, size: int) -> tuple[list[Scene], Tensor, Tensor]:
        """Random scenes with pictures [size, 48, 48, 3] in 0..1 and owners [size, 48, 48]."""
        rows = [rng.randrange(len(self.scenes)) for _ in range(size)]
        return [self.scenes[i] for i in rows], self.pictures[rows].float() / 255, self.owners[rows].long()


def base_loss(modules: Any, pool: Pool) -> LossOf:
    """The denoising loss (Eq. 14) of U-Net and text encoder together; one caption in ten is empty."""
    codec, noise = modules["codec"], noise_schedule()
    codec.fit(pool.pictures[:1500].float() / 255)

    def loss(rng: random.Random, size: int) -> Tensor:
        batch, pictures, _ = pool.batch(rng, size)
        texts = [s.caption(IDENTIFIER if rng.random() < IDENTIFIER_SHARE else "") for s in batch]
        texts = ["" if rng.random() < 0.1 else text for text in texts]
        x0 = codec.encode(pictures)
        # One timestep in each of ``size`` equal parts: less noise in the gradient than independent draws.
        t = ((torch.arange(size) + torch.rand(size)) / size * len(noise)).long().to(pool.device)
        eps = torch.randn_like(x0)
        predicted = modules["unet"](noise.add_noise(x0, eps, t), t, modules["text"](tokenize(texts).to(pool.device)))
        return F.mse_loss(predicted, noise.target(x0, eps, t))

    return loss


def clip_loss(modules: Any, pool: Pool) -> LossOf:
    """Contrast of pictures and captions, and the errors of the patches' cosines."""
    clip = modules["clip"]

    def loss(rng: random.Random, size: int) -> Tensor:
        batch, pictures, owners = pool.batch(rng, size)
        texts = [s.caption(looks=rng.random() < 0.7) for s in batch]
        hidden = clip.hidden(pictures)
        scores = clip.image_embedding(hidden) @ clip.text_embedding(texts).T * clip.temperature.exp().clamp(max=50)
        # Pictures whose captions agree are equally right answers.
        same = torch.tensor([[a == b for b in texts] for a in texts]).float().to(pool.device)
        target = same / same.sum(1, keepdim=True)
        contrast = -((target * scores.log_softmax(1)).sum(1) + (target * scores.log_softmax(0).T).sum(1)).mean() / 2
        return contrast + PATCH_SHARE * patch_errors(hidden[:, 1:], individuals(batch, owners))

    return loss


def individuals(batch: list[Scene], owners: Tensor) -> Tensor:
    """Who is seen in a patch: [batch, patches], 0 for the background, -1 where nobody fills two thirds of it; twins
    share a number."""
    tables = torch.zeros(len(batch), 3, dtype=torch.long)
    for row, s in enumerate(batch):
        looks = [subject.look for subject in s.subjects]
        for i, look in enumerate(looks):
            tables[row, i + 1] = looks.index(look) + 1
    named = torch.gather(tables.to(owners.device), 1, owners.flatten(1)).view_as(owners)
    share, who = F.avg_pool2d(F.one_hot(named, 3).permute(0, 3, 1, 2).float(), CLIP_PATCH).flatten(2).max(1)
    return torch.where(share > 2 / 3, who, -1)


def patch_errors(hidden: Tensor, who: Tensor) -> Tensor:
    """Squared errors of the cosines that Eq. 1 takes: 1 within an individual and within the background, LIKENESS
    between two individuals (always of one class), 0 between subject and background; every sort of pair counts alike."""
    unit = F.normalize(hidden, dim=-1)
    cosines, a, b = unit @ unit.transpose(1, 2), who[:, :, None], who[:, None, :]
    known, either, both = (a >= 0) & (b >= 0), (a > 0) | (b > 0), (a > 0) & (b > 0)
    sorts = {
        1.0: (both & (a == b), known & ~either),
        LIKENESS: (both & (a != b),),
        0.0: (known & either & ~both,),
    }
    errors = [
        ((cosines - aim).square() * pairs).sum() / pairs.sum().clamp(min=1) for aim in sorts for pairs in sorts[aim]
    ]
    return torch.stack(errors).mean()


def judge_loss(modules: Any, pool: Pool) -> LossOf:
    """Cross-entropy of every answer; the pictures are tinted, blurred and noisy at random."""
    judge = modules["judge"]

    def loss(rng: random.Random, size: int) -> Tensor:
        batch, pictures, _ = pool.batch(rng, size)
        return judge_errors(judge(spoil(pictures)), batch)

    return loss


def spoil(pictures: Tensor) -> Tensor:
    """Pictures with a random tint, contrast, softness and noise each, as samples of a diffusion model may have."""
    count = len(pictures)
    device = pictures.device
    gain, tint = (
        1 + 0.12 * torch.randn(count, 1, 1, 3, device=device),
        0.06 * torch.randn(count, 1, 1, 3, device=device),
    )
    soft = F.avg_pool2d(pictures.permute(0, 3, 1, 2), 3, 1, 1, count_include_pad=False).permute(0, 2, 3, 1)
    share, noise = (torch.rand(count, 1, 1, 1, device=device) for _ in range(2))
    pictures = pictures * (1 - 0.7 * share) + soft * 0.7 * share
    return (pictures * gain + tint + 0.04 * noise * torch.randn_like(pictures)).clamp(0, 1)


def truth(s: Scene) -> dict[str, int]:
    """Numbers of the right answers; those about the appearance are missing where the subjects differ."""
    look = s.subjects[0].look
    facts: dict[str, object] = {"animal": s.animal, "background": s.background, "count": len(s.subjects)}
    if s.kind != "different":
        facts |= {"body": look.body, "pattern": look.pattern, "mark": look.mark}
    return {name: QUESTIONS[name].index(fact) for name, fact in facts.items()}


def judge_errors(answers: dict[str, Tensor], batch: list[Scene]) -> Tensor:
    facts = [truth(s) for s in batch]
    total = next(iter(answers.values())).new_zeros(())
    for name, given in answers.items():
        rows = [i for i, fact in enumerate(facts) if name in fact]
        total = total + F.nll_loss(given[rows], torch.tensor([facts[i][name] for i in rows], device=given.device))
    return total


PARTS: dict[str, tuple[Callable[[], dict[str, nn.Module]], Callable[[Any, Pool], LossOf]]] = {
    "base": (lambda: {"codec": Codec(), "text": TextEncoder(), "unet": UNet(unet_config())}, base_loss),
    "clip": (lambda: {"clip": Clip()}, clip_loss),
    "judge": (lambda: {"judge": Judge()}, judge_loss),
}


def run(
    part: str,
    steps: int,
    batch: int,
    rate: float,
    seed: int,
    pool_size: int,
    out: Path,
    stop: int = 0,
    device: str = "cpu",
) -> None:
    """Train a part for ``steps`` steps and leave its averaged weights in ``out``/``part``.pt. ``stop``: end early
    after so many steps, with the state kept."""
    out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    build, make_loss = PARTS[part]
    modules = nn.ModuleDict(build()).to(device=device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    pool = Pool("judge" if part == "judge" else "train", pool_size, out, device)
    loss_of = make_loss(modules, pool)
    optimizer = torch.optim.AdamW(modules.parameters(), lr=rate, weight_decay=0.01, betas=(0.9, 0.98))
    average = {k: v.clone() for k, v in modules.state_dict().items()}
    file, first, seconds = out / f"{part}.pt", 0, 0.0
    if file.exists():
        state = torch.load(file, weights_only=True, map_location=device)
        modules.load_state_dict(state["modules"])
        optimizer.load_state_dict(state["optimizer"])
        average, first, seconds = state["average"], state["step"], state["seconds"]

    def save(step: int) -> None:
        torch.save(
            {
                "modules": modules.state_dict(),
                "optimizer": optimizer.state_dict(),
                "average": average,
                "step": step,
                "seconds": seconds + time.time() - started,
                "settings": {
                    "steps": steps,
                    "batch": batch,
                    "rate": rate,
                    "seed": seed,
                    "pool": pool_size,
                    "device": device,
                },
            },
            file,
        )

    started, smooth = time.time(), 0.0
    for step in range(first, stop or steps):
        # Seeded per step, so that a continued run equals an unbroken one.
        torch.manual_seed(seed * 1_000_003 + step)
        rng = random.Random(f"{part}:{seed}:{step}")
        for group in optimizer.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 100) * (0.03 + 0.97 * (1 + math.cos(math.pi * step / steps)) / 2)
        value = loss_of(rng, batch)
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA, (1 + step) / (10 + step))
        with torch.no_grad():
            for k, v in modules.state_dict().items():
                average[k].lerp_(v, 1 - decay) if v.is_floating_point() else average[k].copy_(v)
        smooth = value.item() if step == first else 0.98 * smooth + 0.02 * value.item()
        if (step + 1) % 50 == 0:
            print(f"{part} step {step + 1}/{steps} loss {smooth:.4f} {time.time() - started:.0f} s", flush=True)
        if (step + 1) % 250 == 0:
            save(step + 1)
    save(stop or steps)


def pack(out: Path, weights: Path) -> None:
    """Write the averaged weights of all parts as float16 safetensors, with how they were made in the metadata."""
    from safetensors.torch import save_file

    for part in PARTS:
        state = torch.load(out / f"{part}.pt", weights_only=True, map_location="cpu")
        made = {
            **state["settings"],
            "trained_steps": state["step"],
            "seconds": round(state["seconds"]),
            "torch": torch.__version__,
            "machine": platform.machine(),
        }
        tensors = {k: v.half().contiguous() for k, v in state["average"].items()}
        save_file(tensors, weights / f"{part}.safetensors", {"made": json.dumps(made, sort_keys=True)})


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m p3s.toyworld.train", description=str(__doc__).splitlines()[0])
    parser.add_argument("part", choices=(*PARTS, "pack"))
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pool", type=int, default=8000, help="how many scenes are drawn")
    parser.add_argument("--stop", type=int, default=0, help="stop after this many steps; a later run resumes")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="folder for checkpoints and drawn scenes")
    parser.add_argument("--weights", type=Path, default=Path(__file__).parent / "weights", help="for pack")
    args = parser.parse_args(arguments)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.part == "pack":
        args.weights.mkdir(exist_ok=True)
        pack(args.out, args.weights)
    else:
        run(args.part, args.steps, args.batch, args.rate, args.seed, args.pool, args.out, args.stop, args.device)


if __name__ == "__main__":
    main()
