"""SSR-Encoder on real weights: a subject from one photo, without any training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from p3s.models.stable_diffusion import StableDiffusion
from p3s.sampling.ddim import Over, Solver
from p3s.sampling.diffusion import NoiseSchedule
from p3s.settings import settings_of
from p3s.ssr.attend import AppliedSSR, SubjectRun, over_sampling
from p3s.ssr.embeds import encode
from p3s.ssr.file import SSRModel
from p3s.ssr.layers import SubjectLayers, check_layers
from p3s.ssr.vision import clip_vision

STRENGTH = settings_of(AppliedSSR)["strength"]


def check_ssr(models: StableDiffusion, ssr: SSRModel) -> None:
    """Raise FamilyError unless an SSR-Encoder fits the models, before anything takes time."""
    check_layers(ssr.layers, models.unet.config)
    states = clip_vision(models.clip, ssr.aligner.scales).zeros()
    ssr.aligner.check(states, models.encode_text("")[None])


def subject_of_class(
    models: StableDiffusion,
    ssr: SSRModel,
    kind: str,
    photo: Tensor,
    mask: Tensor | None = None,
    strength: float = STRENGTH.default,
) -> Over:
    """What draws the subject of a ``photo`` [H, W, 3] in ``models.sample``: the query is its class (``kind``), and
    where it is in the photo, if a ``mask`` [H, W] says so."""
    query, empty = (models.encode_text(text)[None] for text in (kind, ""))
    vision = clip_vision(models.clip, ssr.aligner.scales)
    embeds = encode(ssr, query, empty, photo, vision, mask).embeds
    layers = SubjectLayers.from_state_dict(ssr.layers, models.unet.config, dtype=torch.float32)
    return over_sampling([SubjectRun(AppliedSSR(embeds, strength), layers.to(models.device))])


def unipc(
    predict: Callable[[Tensor, int], Tensor], schedule: NoiseSchedule, noise: Tensor, steps: int
) -> Iterator[Tensor]:
    """A ``Solver``: diffusers' UniPC as ``from_config`` makes it from Stable Diffusion's scheduler. Yields x_t after
    every step; the last has no noise."""
    import diffusers

    abar = schedule.alphas_cumprod.double()
    betas = 1 - abar / torch.cat([abar.new_ones(1), abar[:-1]])
    prediction = {"eps": "epsilon", "v": "v_prediction"}[schedule.prediction]
    scheduler: Any = diffusers.UniPCMultistepScheduler(trained_betas=betas.tolist(), prediction_type=prediction)
    scheduler.set_timesteps(steps)
    x = noise
    for t in scheduler.timesteps:
        x = scheduler.step(predict(x, int(t)), t, x).prev_sample
        yield x


class Sampling(NamedTuple):
    """How pictures are sampled."""

    steps: int
    guidance: float
    solver: Solver


#: The authors' infer_text.py, whose negative prompt ("bad quality") is left empty, as in all other rows.
AUTHORS = Sampling(30, 5.0, unipc)


class Way(NamedTuple):
    """A row of the table. ``clean``: the photo is RNGR's clean reference of the clicks, and its subject mask selects
    beside the class. ``authors``: sampled as the authors do, not as the protocol says."""

    clean: bool = False
    authors: bool = False


WAYS = {
    "ssr": Way(),
    "ssr-authors": Way(authors=True),
    "ssr-clean-mask": Way(clean=True),
    "ssr-clean-mask-authors": Way(clean=True, authors=True),
}
#: The row beside them, and all.
P3S = "p3s"
METHODS = (P3S, *WAYS)
