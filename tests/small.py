"""Small random models for the tests of the core."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.label import SIZE_DIM
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet import UNet
from p3s.network.unet_config import UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.subject.base_fingerprint import fingerprint
from p3s.training import loop
from p3s.training.examples import Example
from p3s.training.key import TrainingInputs
from p3s.training.settings import TrainSettings

#: The topology of SD 1.5 (every block number is the same), with few channels.
SMALL = UNetConfig.build(model_channels=32, channel_mult=(1, 2, 2, 2), context_dim=24)
#: The topology of SDXL with few channels and 1 and 2 transformers in a row: heads are 64 wide.
SMALL_SDXL = UNetConfig.build(
    model_channels=64,
    channel_mult=(1, 2, 2),
    transformer_depth=(0, 1, 2),
    context_dim=24,
    linear_projection=True,
    label_dim=20 + 6 * SIZE_DIM,
)
TOKEN_DIM = 20


def random_unet(config: UNetConfig = SMALL, seed: int = 0) -> UNet:
    """A frozen U-Net with seeded weights; normalisations get weights of their own, so that none is a no-op."""
    torch.manual_seed(seed)
    net = UNet(config)
    with torch.no_grad():
        for p in net.parameters():
            if p.ndim == 1:
                p.add_(0.1 * torch.randn_like(p))
    return net.requires_grad_(False).eval()


def random_copy(base: UNet, settings: CopySettings | None = None, seed: int = 1, spread: float = 0.3) -> SubjectCopy:
    """A copy whose zero convolutions are no longer zero, as after some training."""
    copy = start_copy(base.state_dict(), settings or CopySettings(), TOKEN_DIM, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for part in (copy.zero_self, copy.zero_cross, copy.image_latent):
            for p in part.parameters():
                p.add_(torch.randn(p.shape, generator=generator) * spread * p.shape[-1] ** -0.5)
    return copy.requires_grad_(False).eval()


def random_examples(count: int = 1, size: int = 16, seed: int = 0, config: UNetConfig = SMALL) -> list[Example]:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    prompt = draw(7, config.context_dim)
    return [Example(draw(config.out_channels, size, size), draw(17, TOKEN_DIM), prompt) for _ in range(count)]


def inputs_for(
    base: UNet,
    copy: SubjectCopy,
    examples: Sequence[Example],
    empty_prompt: torch.Tensor,
    noise: NoiseSchedule,
    settings: TrainSettings,
) -> TrainingInputs:
    hashes = ["cd" * 32] * len(examples)
    return TrainingInputs(
        fingerprint(base.state_dict()), hashes, examples, empty_prompt, noise, copy.settings, settings
    )


def train(
    base: UNet,
    copy: SubjectCopy,
    examples: Sequence[Example],
    empty_prompt: torch.Tensor,
    noise: NoiseSchedule,
    settings: TrainSettings,
    *options: Any,
    **more: Any,
) -> loop.TrainResult:
    """The training of the project on parts; ``options`` are what its ``train`` takes besides."""
    return loop.train(base, copy, inputs_for(base, copy, examples, empty_prompt, noise, settings), *options, **more)
