"""The users' alternatives on the toy world: DreamBooth (the whole U-Net is tuned) and LoRA (low-rank changes of its
attention), trained on the same examples with the same noise schedule and batch."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from typing import cast

import torch
from torch import nn

from p3s.network.unet import UNet
from p3s.toyworld.world import ToyWorld
from p3s.training.examples import Example
from p3s.training.losses import denoising_loss
from p3s.training.settings import TrainSettings
from p3s.training.step import Batch, draw_batch

RANK = 8


class LowRank(nn.Module):
    """A linear layer plus a trainable change of rank RANK that starts at zero."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer
        self.down = nn.Linear(layer.in_features, RANK, bias=False)
        self.up = nn.Linear(RANK, layer.out_features, bias=False)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x) + self.up(self.down(x))


def rival(world: ToyWorld, kind: str) -> UNet:
    """A copy of the world's U-Net, ready to be tuned; ``kind`` is "dreambooth" or "lora"."""
    unet = deepcopy(world.unet).requires_grad_(kind == "dreambooth")
    if kind == "lora":
        for layer in unet.config.layers():
            block = unet.block(layer)
            for attention in (block.attn1, block.attn2):
                for name in ("to_q", "to_k", "to_v"):
                    setattr(attention, name, LowRank(getattr(attention, name)))
                attention.to_out[0] = LowRank(cast(nn.Linear, attention.to_out[0]))
    return unet


def rival_loss(unet: UNet, batch: Batch) -> torch.Tensor:
    prediction = unet(batch.x, batch.timesteps, batch.context)
    return denoising_loss(prediction, batch.target, batch.loss_mask, batch.row_weights)


def rival_work(world: ToyWorld, kind: str, batch: Batch) -> int:
    """Floating-point operations of a training step."""
    from torch.utils.flop_counter import FlopCounterMode

    unet = rival(world, kind)
    with FlopCounterMode(display=False) as counter:
        rival_loss(unet, batch).backward()
    return counter.get_total_flops()


def tune(world: ToyWorld, kind: str, examples: Sequence[Example], settings: TrainSettings) -> UNet:
    """A tuned U-Net; in each step ``batch_size`` random examples."""
    torch.manual_seed(settings.seed)
    unet = rival(world, kind)
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    empty = world.encode_text("")
    for step in range(settings.steps):
        rows = torch.randint(len(examples), (settings.batch_size,), generator=generator).tolist()
        batch = draw_batch(examples, rows, empty, world.noise, settings, generator, step)
        loss = rival_loss(unet, batch)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return unet.requires_grad_(False).eval()
