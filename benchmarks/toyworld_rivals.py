"""The users' alternatives on the toy world: DreamBooth (the whole U-Net is tuned) and LoRA (low-rank changes of its
attention), trained on the same example with the same noise schedule, batch and number of steps."""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn

from p3s.losses import denoising_loss
from p3s.toyworld.world import ToyWorld
from p3s.training import Example, TrainSettings, draw
from p3s.unet import UNet

RANK = 8
#: DreamBooth moves every weight of the base and needs a lower rate than newly added layers.
DREAMBOOTH_RATE = 0.2


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


def tune(world: ToyWorld, kind: str, example: Example, settings: TrainSettings) -> UNet:
    """A tuned copy of the world's U-Net; ``kind`` is "dreambooth" or "lora"."""
    torch.manual_seed(settings.seed)
    unet = deepcopy(world.unet).requires_grad_(kind == "dreambooth")
    rate = settings.learning_rate
    if kind == "dreambooth":
        rate *= DREAMBOOTH_RATE
    else:
        for layer in unet.config.layers():
            block = unet.block(layer)
            for attention in (block.attn1, block.attn2):
                for name in ("to_q", "to_k", "to_v"):
                    setattr(attention, name, LowRank(getattr(attention, name)))
                attention.to_out[0] = LowRank(attention.to_out[0])
    trained = [p for p in unet.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    empty, rows = world.encode_text(""), [0] * settings.batch_size
    for _ in range(settings.steps):
        batch = draw([example], rows, empty, world.noise, settings, generator, torch.device("cpu"))
        loss = denoising_loss(unet(batch.x, batch.timesteps, batch.context), batch.target)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
    return unet.requires_grad_(False).eval()
