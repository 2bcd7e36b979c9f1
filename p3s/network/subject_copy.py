"""The trainable copy of the U-Net and its zero convolutions: (x_t, t, c) -> features for the frozen U-Net (Eq. 6)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from ..errors import P3SError
from .copy_settings import CopySettings
from .hooks import AttentionHooks
from .image_latent import ImageLatent, fit_condition
from .injection import Features
from .label import LATENT_PIXEL, label_without_text
from .layer_map import LayerMap
from .learned_weight import LearnedWeight
from .low_rank import LowRank, LowRankZero, convolution_channels, lend_layers
from .subject_tokens import SubjectTokens
from .unet import BlockStage, UNet
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
        self.map = LayerMap.of(base, settings.pairing, settings.depth_stride)
        config = self.map.config
        low_rank, scale = settings.kind == "lora", settings.change_scale
        self.unet = UNet(config, LowRank(operations, settings.rank, scale) if low_rank else operations, **factory)
        self.image_latent = ImageLatent(config.in_channels, token_dim, settings.image_dim, operations, **factory)

        def zero_convolutions() -> nn.ModuleDict:
            widths = {str(layer): config.channels(layer) for layer in self.map.gives}
            if low_rank:
                rank = ZERO_RANKS * settings.rank
                return nn.ModuleDict({k: LowRankZero(n, rank, operations, scale, **factory) for k, n in widths.items()})
            return nn.ModuleDict({k: operations.Linear(n, n, **factory) for k, n in widths.items()})

        self.zero_self = zero_convolutions()
        self.zero_cross = zero_convolutions() if settings.cross_attention else nn.ModuleDict()
        self.learned_weight = LearnedWeight(**factory) if settings.weight == "learned" else None
        self._base: tuple[nn.Module, ...] = ()  # in a tuple, or torch would make it a part

    def borrow(self, base: nn.Module, channels: Callable[[Any], int] = convolution_channels) -> None:
        """Let a low-rank copy run on the layers of ``base``: a U-Net of its configuration with the original key names,
        ours or a host's. They stay the base's own: no weight is copied, and what happens to them there (moving,
        casting, LoRA) holds here. A full copy needs no base; for it this does nothing.

        ``channels`` is how many the base's first convolution reads when it is called.
        """
        if self._base == (base,):
            return
        lend_layers(base, self.unet, self.map.base_key, channels)
        self._base = (base,)

    def condition(self, latent: Tensor, tokens: Tensor) -> Tensor:
        """I'' [batch, channels, h, w] from I' and c_s (Eq. 4-5), on the reference's own grid; constant over the steps
        of a run. A step on another grid places it there with :func:`fit_condition`."""
        return self.image_latent(latent, tokens)

    # Eq. 6:  f_i = Z_i(F_i(x_t + I'', c, t))
    def forward(
        self, x: Tensor, timesteps: Tensor, context: Tensor, condition: Tensor, label: Tensor | None = None
    ) -> Features:
        """The features for a step.

        ``x`` is x_t [batch, channels, h, w], ``condition`` is I'' [1 or batch, channels, h', w'], ``label`` as
        :meth:`UNet.forward` takes it. The pass ends at the last place that is read.
        """
        if self.settings.cached:
            raise P3SError("the features of a cached subject network are those of `cached`")
        return self.features(self.read(x, timesteps, context, condition, self.last_read, label))

    # f_i = Z_i(F_i(I'', 0, 0)), where the reference shows the subject
    def cached(self, condition: Tensor, subject: SubjectTokens | None) -> Features:
        """The features of a copy with the ``copy_input`` "cached", which are the same in every step: the copy sees I''
        ``condition`` [1, channels, h, w] alone, at timestep 0 and with a text of nothing. (ReferenceNets see their
        picture so; Hu et al. 2024, Animate Anyone.) ``subject``: which tokens of the reference show it. Raises P3SError
        where that is not known."""
        if subject is None:
            raise P3SError(
                "a cached subject network needs to know where the subject is in its reference: give its mask"
            )
        config, (height, width) = self.map.config, condition.shape[2:]
        timestep, text = condition.new_zeros(1), condition.new_zeros(1, 1, config.context_dim)
        label = None
        if config.label_dim:
            label = label_without_text(config.label_dim, LATENT_PIXEL * height, LATENT_PIXEL * width)
            label = label[None].to(condition)
        reader = CopyReader()
        self.unet(condition, timestep, text, reader, until=self.last_read, label=label)
        return self.features(reader).of_subject(subject)

    def read(
        self,
        x: Tensor,
        timesteps: Tensor,
        context: Tensor,
        condition: Tensor,
        until: tuple[Layer, BlockStage],
        label: Tensor | None = None,
    ) -> CopyReader:
        """Run the copy up to a stage of one of its transformer blocks and return what its layers read and gave."""
        condition = fit_condition(condition, (x.shape[2], x.shape[3])).to(x.dtype)
        x = condition.expand(x.shape) if self.settings.copy_input == "reference" else x + condition
        reader = CopyReader()
        self.unet(x, timesteps, context, reader, until=until, label=label)
        return reader

    @property
    def last_read(self) -> tuple[Layer, BlockStage]:
        """The last block and stage of the copy that a feature needs."""
        stage = BlockStage.NORM1 if self.settings.feature == "norm1" else BlockStage.ATTN1
        return self.map.gives[-1], BlockStage.NORM2 if self.settings.cross_attention else stage

    def features(self, reader: CopyReader) -> Features:
        """Z(F_i) for every copy layer, handed to the base layers that read it."""
        hidden = reader.norm1 if self.settings.feature == "norm1" else reader.attn1
        f = {layer: self.zero_self[str(layer)](hidden[layer]) for layer in self.map.gives}
        g = {
            layer: self.zero_cross[str(layer)](reader.norm2[layer]) for layer in self.map.gives if len(self.zero_cross)
        }
        return Features(
            self_attention={base: f[layer] for base, layer in self.map.reads.items()},
            cross_attention={base: g[layer] for base, layer in self.map.reads.items() if g},
            grids={base: reader.grids[layer] for base, layer in self.map.reads.items()},
        )
