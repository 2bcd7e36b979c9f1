"""Floating-point work of a training step: what the method needs, and what is computed. Shapes alone, no numbers."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from benchmarks.attention_flops import counter
from p3s.network.copy_settings import CopySettings
from p3s.network.subject_copy import SubjectCopy
from p3s.network.subject_tokens import SubjectTokens
from p3s.network.unet import UNet
from p3s.network.unet_config import UNetConfig
from p3s.training.losses import total_loss
from p3s.training.settings import TrainSettings
from p3s.training.step import Batch, batch_losses

TOKENS, TEXT, TOKEN_DIM = 257, 77, 1024


class Step:
    """A training step of one picture on a U-Net of ``config``, as shapes. ``size`` is the picture's side in pixels.
    ``subject``: of a copy that runs once."""

    def __init__(
        self,
        config: UNetConfig,
        size: int,
        kind: str,
        checkpointing: bool,
        depth_stride: int = 1,
        subject: SubjectTokens | None = None,
    ) -> None:
        self.settings = TrainSettings(checkpointing=checkpointing)
        self.base = UNet(config, device="meta").requires_grad_(kind == "dreambooth")
        self.base.checkpointing = checkpointing
        self.copy: SubjectCopy | None = None
        if kind != "dreambooth":
            sees = "cached" if subject else "noisy"
            copied = CopySettings(kind=kind, depth_stride=depth_stride, copy_input=sees)
            self.copy = SubjectCopy(config, copied, TOKEN_DIM, device="meta")
            self.copy.unet.checkpointing = checkpointing

        def empty(*shape: int) -> Tensor:
            return torch.empty(shape, device="meta")

        x = empty(1, config.in_channels, size // 8, size // 8)
        source = (empty(*x.shape[1:]), empty(TOKENS, TOKEN_DIM))
        label = empty(1, config.label_dim) if config.label_dim else None
        text, everywhere = empty(1, TEXT, config.context_dim), torch.ones_like(x[:, :1])
        self.batch = Batch(x, empty(1), x, text, (source,), everywhere, label=label, subjects=(subject,))

    def loss(self) -> Tensor:
        if self.copy is not None:
            return total_loss(*batch_losses(self.base, self.copy, self.batch, self.settings), self.settings.gamma)
        return F.mse_loss(self.predicted(), self.batch.target)

    def predicted(self) -> Tensor:
        """By the base alone."""
        prediction = self.base(self.batch.x, self.batch.timesteps, self.batch.context, label=self.batch.label)
        assert prediction is not None
        return prediction

    def plain(self) -> float:
        """TFLOP of a forward pass of the base."""
        with counter() as count, torch.no_grad():
            self.predicted()
        return count.get_total_flops() / 1e12

    def stored(self) -> int:
        """Bytes of the trained weights in 16 bits."""
        return 2 * sum(p.numel() for p in (self.copy or self.base).parameters())

    def computed(self) -> float:
        """TFLOP of the forward and backward pass."""
        with counter() as count:
            self.loss().backward()
        return count.get_total_flops() / 1e12

    def needed(self) -> float:
        """The least TFLOP that yield the losses and the gradients of the trained weights.

        Of every layer: the product itself; one like it for the gradient of its input, if anything before it is
        trained; one for that of its weight, if it is trained. Of every attention: two products, and one for each of the
        four gradients (of the probabilities, of Q, K and V) that is wanted.
        """
        with _Needed() as needed:
            self.loss()
        return needed.flops / 1e12


class _Needed(TorchFunctionMode):
    """Adds up the work while a loss is computed."""

    flops = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in (F.linear, F.conv2d):
            x, weight = args[0], args[1]
            product = 2 * result.numel() * math.prod(weight.shape[1:])
            self.flops += product * (1 + x.requires_grad + weight.requires_grad)
        elif function is F.scaled_dot_product_attention:
            q, k, v = args[:3]
            one = 2 * q.shape[:-1].numel() * k.shape[-2] * q.shape[-1]
            scores = q.requires_grad or k.requires_grad
            self.flops += one * (2 + scores + q.requires_grad + k.requires_grad + v.requires_grad)
        elif function in (Tensor.matmul, Tensor.__matmul__, torch.matmul):
            a, b = args[:2]
            self.flops += 2 * result.numel() * a.shape[-1] * (1 + a.requires_grad + b.requires_grad)
        return result
