"""A quick look at a subject while it is trained: a few steps of DDIM at a smaller size."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..network.label import LATENT_PIXEL, SIZES_DIM, Sizes, label_of
from ..network.subject_copy import SubjectCopy
from ..network.unet import UNet
from ..sampling.application import Application, AppliedSubject
from ..sampling.ddim import generate
from ..sampling.diffusion import NoiseSchedule
from ..sampling.settings import STANDARD
from .examples import Example
from .precision import autocast

STEPS = 8
EVERY = 100  # training steps between two previews, by default: they then cost less than 5 % (tests/test_cost.py)
SHARE = 0.75  # of the training's height and width
MULTIPLE = 8  # latent pixels: the U-Net halves its grid three times


def preview_size(height: int, width: int) -> tuple[int, int]:
    """The (height, width) of a preview's latent for a training latent of this size."""
    rounded = [max(1, round(side * SHARE / MULTIPLE)) * MULTIPLE for side in (height, width)]
    return rounded[0], rounded[1]


def sample_preview(
    base: UNet,
    copy: SubjectCopy,
    example: Example,
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    precision: str,
    check: Callable[[], object] = lambda: None,
) -> Tensor:
    """The latent [1, channels, h, w] of a picture of the training prompt with ``example`` as the condition.

    The starting noise is always the same, so that pictures differ by the training alone, and no random generator is
    touched. SDXL is asked for a whole picture of the preview's own size. ``check`` is called after every step and may
    raise. Networks and precision as in :func:`train`. The work is that of about 2.6 training steps with a full copy,
    2.9 with a low-rank one (tests/test_cost.py).
    """
    device = next(copy.parameters()).device
    size = preview_size(*example.latent.shape[1:])
    start = torch.randn(1, len(example.latent), *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), autocast(precision, device):
        latent, tokens = (part[None].to(device, torch.float32) for part in (example.latent, example.tokens))
        labels = _labels(example, size, device)
        how = Application(settings=STANDARD)
        subject = AppliedSubject(copy, copy.condition(latent, tokens), how, example.subject_tokens)
        estimates = generate(
            base,
            example.prompt.to(device),
            empty_prompt.to(device),
            noise,
            start.to(device),
            [subject],
            STEPS,
            labels=labels,
        )
        for estimate in estimates:
            result = estimate
            check()
    return result.float()


def _labels(example: Example, size: tuple[int, int], device: torch.device) -> tuple[Tensor, Tensor] | None:
    """What SDXL reads beside the prompt and the empty prompt for a whole picture whose latent has this (h, w)."""
    if example.label is None or example.label_without_prompt is None:
        return None
    whole = Sizes.of(*(LATENT_PIXEL * side for side in size))
    pooled = (label[:-SIZES_DIM] for label in (example.label, example.label_without_prompt))
    with_prompt, without = (label_of(text, whole).to(device) for text in pooled)
    return with_prompt, without
