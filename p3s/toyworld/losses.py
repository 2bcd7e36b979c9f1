"""What each of the toy world's models learns: the loss of a batch of drawn scenes."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..file_writing import write_atomic
from .codec import Autoencoder
from .models import CLIP_PATCH, QUESTIONS, noise_schedule, tokenize
from .scenes import IDENTIFIER, Scene, render, scenes

IDENTIFIER_SHARE = 0.05  # of the base's captions: a rare word that means nothing yet
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
            pictures, owners = (np.stack(kind) for kind in zip(*drawn, strict=True))
            write_atomic(file, lambda out: np.savez(out, pictures=pictures, owners=owners))
        with np.load(file) as stored:
            self.pictures = torch.from_numpy(stored["pictures"]).to(device)
            self.owners = torch.from_numpy(stored["owners"]).to(device)

    def rows(self, rng: random.Random, size: int) -> list[int]:
        """Numbers of random scenes."""
        return [rng.randrange(len(self.scenes)) for _ in range(size)]

    def batch(self, rng: random.Random, size: int) -> tuple[list[Scene], Tensor, Tensor]:
        """Random scenes with pictures [size, 48, 48, 3] in 0..1 and owners [size, 48, 48]."""
        rows = self.rows(rng, size)
        return [self.scenes[i] for i in rows], self.pictures[rows].float() / 255, self.owners[rows].long()


def codec_loss(modules: Any, pool: Pool) -> LossOf:
    def loss(rng: random.Random, size: int) -> Tensor:
        return modules["codec"].loss(pool.pictures[pool.rows(rng, size)].float() / 255)

    return loss


def base_loss(modules: Any, pool: Pool, codec: Autoencoder) -> LossOf:
    """The denoising loss (Eq. 14) of U-Net and text encoder together; one caption in ten is empty. The pool's latents
    are made once."""
    noise = noise_schedule()
    with torch.no_grad():
        latents = torch.cat([codec.encode(pictures.float() / 255) for pictures in pool.pictures.split(256)])

    def loss(rng: random.Random, size: int) -> Tensor:
        rows = pool.rows(rng, size)
        texts = [pool.scenes[i].caption(IDENTIFIER if rng.random() < IDENTIFIER_SHARE else "") for i in rows]
        texts = ["" if rng.random() < 0.1 else text for text in texts]
        x0 = latents[rows]
        # One timestep in each of ``size`` equal parts: less noise in the gradient than independent draws.
        t = ((torch.arange(size) + torch.rand(size)) / size * len(noise)).long().to(pool.device)
        eps = torch.randn(x0.shape).to(pool.device)
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
