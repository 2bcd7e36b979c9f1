"""The trainable copy of the U-Net and its zero convolutions: (x_t, t, c) -> features for the frozen U-Net (Eq. 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import P3SError
from .copy_settings import CopySettings
from .image_latent import ImageLatent, fit_condition
from .injection import Features
from .layer_map import LayerMap
from .learned_weight import LearnedWeight
from .low_rank import Borrowed, LowRank, LowRankZero, reset_changes
from .unet import AttentionHooks, Stage, UNet, load
from .unet_config import Layer, UNetConfig

ZERO_RANKS = 4  # ranks of a low-rank copy's zero convolutions for each of its rank: they learn from nothing


class CopyReader(AttentionHooks):
    """What the copy's layers read (norm1, norm2) and give (attn1) in one pass, each [batch, tokens, channels].

    What a block gives when it is run again (gradient checkpointing) is not kept: it would hold on to all that the block
    computed."""

    def __init__(self) -> None:
        self.norm1: dict[Layer, Tensor] = {}
        self.attn1: dict[Layer, Tensor] = {}
        self.norm2: dict[Layer, Tensor] = {}
        self.grids: dict[Layer, tuple[int, int]] = {}

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        self.norm1.setdefault(layer, z)
        self.grids[layer] = grid
        return z, z, z

    def self_attention_output(self, layer: Layer, out: Tensor) -> None:
        self.attn1.setdefault(layer, out)

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        self.norm2.setdefault(layer, z)
        return z


class SubjectCopy(nn.Module):
    """The copy, its zero convolutions, W_Q, W_K, W_V of the image latent and, if it is learned, the weight eps_t: all
    that is trained for a subject.

    ``base`` is the configuration of the frozen U-Net, ``token_dim`` the width of the CLIP vision tokens. The 1x1
    convolutions Z act on tokens and are therefore stored as linear layers. A copy of the kind "lora" holds the changes
    alone and runs on the layers of a frozen U-Net: see :meth:`borrow`.
    """

    def __init__(
        self,
        base: UNetConfig,
        settings: CopySettings,
        token_dim: int,
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.settings = settings
        self.map = LayerMap.of(base, settings.pairing)
        config = self.map.config
        low_rank = settings.kind == "lora"
        self.unet = UNet(config, LowRank(operations, settings.rank) if low_rank else operations, **factory)
        self.image_latent = ImageLatent(config.in_channels, token_dim, settings.image_dim, operations, **factory)

        def zero_convolutions() -> nn.ModuleDict:
            widths = {str(layer): config.channels(layer) for layer in config.layers()}
            if low_rank:
                rank = ZERO_RANKS * settings.rank
                return nn.ModuleDict({k: LowRankZero(n, rank, operations, **factory) for k, n in widths.items()})
            return nn.ModuleDict({k: operations.Linear(n, n, **factory) for k, n in widths.items()})

        self.zero_self = zero_convolutions()
        self.zero_cross = zero_convolutions() if settings.cross_attention else nn.ModuleDict()
        self.learned_weight = LearnedWeight(**factory) if settings.weight == "learned" else None
        self._base: tuple[nn.Module, ...] = ()  # in a tuple, or torch would make it a part

    @classmethod
    def from_base(
        cls,
        base: Mapping[str, Tensor],
        settings: CopySettings,
        token_dim: int,
        zero_init: str = "zero",
        seed: int = 0,
    ) -> SubjectCopy:
        """A copy ready for training, in float32, initialised by the layer map from the base's state dict.

        ``zero_init`` (d): "zero" starts Z at zero (Eq. 6 as written); "identity" starts the self-attention's Z as the
        identity, so that f is close to z and the duplicated tokens leave the softmax almost unchanged.
        ``seed`` fixes the random start of W_Q and W_K of Eq. 4, of low-rank changes and of the learned weight. A
        low-rank copy takes nothing but the shapes from ``base``; it borrows the weights when it is used.
        """
        if zero_init not in ("zero", "identity"):
            raise P3SError(f"zero_init must be zero or identity; got {zero_init!r}")
        copy = cls(UNetConfig.from_state_dict(base), settings, token_dim, device="meta")
        if settings.kind == "lora":
            copy.unet.to_empty(device="cpu")
        else:
            weights = {k: base[copy.map.base_key(k)].detach().float().clone() for k in copy.unet.state_dict()}
            first = "input_blocks.0.0.weight"
            weights[first] = weights[first][:, : copy.map.config.in_channels].clone()
            load(copy.unet, weights)

        copy.image_latent.to_empty(device="cpu")
        copy.zero_self.to_empty(device="cpu")
        copy.zero_cross.to_empty(device="cpu")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part in (copy.image_latent, copy.zero_self, copy.zero_cross):
                for p in part.parameters():
                    p.zero_()
            for projection in (copy.image_latent.to_q, copy.image_latent.to_k):
                projection.weight.normal_(std=projection.in_features**-0.5, generator=generator)
            if zero_init == "identity":
                for name, zero in copy.zero_self.named_parameters():
                    if name.endswith("diagonal.weight"):
                        zero.fill_(1)
                    elif name.endswith("weight"):
                        nn.init.eye_(zero)
        reset_changes(copy, generator)
        if copy.learned_weight is not None:
            copy.learned_weight.to_empty(device="cpu").reset(generator)
        return copy

    def borrow(self, base: nn.Module, channels: Callable[[Any], int] = lambda layer: layer.weight.shape[1]) -> None:
        """Let a low-rank copy run on the layers of ``base``: a U-Net of its configuration with the original key names,
        ours or a host's. They stay the base's own: no weight is copied, and what happens to them there (moving,
        casting, LoRA) holds here. A full copy needs no base; for it this does nothing.

        ``channels`` is how many the base's first convolution reads when it is called.
        """
        if self._base == (base,):
            return
        for name, layer in self.unet.named_modules():
            if isinstance(layer, Borrowed):
                lent = base.get_submodule(self.map.base_key(name))
                layer.borrow(_padded(lent, channels) if name == "input_blocks.0.0" else lent)
        self._base = (base,)

    def condition(self, latent: Tensor, tokens: Tensor) -> Tensor:
        """I'' [batch, channels, h, w] from I' and c_s (Eq. 4-5), on the reference's own grid; constant over the steps
        of a run. A step on another grid places it there with :func:`fit_condition`."""
        return self.image_latent(latent, tokens)

    def forward(self, x: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor) -> Features:
        """Eq. 6: the features for a step.

        ``x`` is x_t [batch, channels, h, w], ``condition`` is I'' [1 or batch, channels, h', w']. The pass ends at
        the last place that is read.
        """
        return self.features(self.read(x, timesteps, context, condition, self.last_stage))

    def read(self, x: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor, until: Stage) -> CopyReader:
        """Run the copy up to a stage of its last transformer block and return what its layers read and gave."""
        condition = fit_condition(condition, (x.shape[2], x.shape[3])).to(x.dtype)
        x = condition.expand(x.shape) if self.settings.copy_input == "reference" else x + condition
        reader = CopyReader()
        self.unet(x, timesteps, context, reader, until=(self.map.config.layers()[-1], until))
        return reader

    @property
    def last_stage(self) -> Stage:
        """Where in its last transformer block the copy may stop when nothing but its features is wanted."""
        if self.settings.cross_attention:
            return Stage.NORM2
        return Stage.NORM1 if self.settings.feature == "norm1" else Stage.ATTN1

    def features(self, reader: CopyReader) -> Features:
        """Z(F_i) for every copy layer, handed to the base layers that read it."""
        hidden = reader.norm1 if self.settings.feature == "norm1" else reader.attn1
        used = list(dict.fromkeys(self.map.reads.values()))  # a set's order would change from run to run
        f = {layer: self.zero_self[str(layer)](hidden[layer]) for layer in used}
        g = {layer: self.zero_cross[str(layer)](reader.norm2[layer]) for layer in used if len(self.zero_cross)}
        return Features(
            self_attention={base: f[layer] for base, layer in self.map.reads.items()},
            cross_attention={base: g[layer] for base, layer in self.map.reads.items() if g},
            grids={base: reader.grids[layer] for base, layer in self.map.reads.items()},
        )


def _padded(convolution: Any, channels: Callable[[Any], int]) -> Callable[[Tensor], Tensor]:
    """The first convolution of an inpainting base, or one with a patch that pads it, reads more channels than the copy,
    which leaves them at 0."""

    def call(x: Tensor) -> Tensor:
        return convolution(F.pad(x, (0, 0, 0, 0, 0, channels(convolution) - x.shape[1])))

    return call
