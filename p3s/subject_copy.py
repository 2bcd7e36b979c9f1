"""The trainable copy of the U-Net and its zero convolutions: (x_t, t, c) -> features for the frozen U-Net (Eq. 6)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from .errors import P3SError
from .image_latent import ImageLatent, fit_condition
from .injection import Features
from .unet import AttentionHooks, Stage, UNet, load
from .unet_config import BlockConfig, Layer, UNetConfig

LARGEST_LAMBDA = 10.0
LARGEST_IMAGE_DIM = 1024


def is_number(value: Any, low: float, high: float) -> bool:
    """Whether ``value`` is a real number (not a bool, not NaN) in low..high."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and low <= value <= high


@dataclass(frozen=True)
class CopySettings:
    """What must be the same in training and in sampling; stored in the subject file.

    The letters are the rows of docs/method.md.
    """

    #: (a) what F_i is: "norm1", what the copy's self-attention reads, or "attn1", what it gives.
    feature: str = "norm1"
    #: (b) "level": every base layer reads a feature of its level and side; "one_to_one": only the base layers from
    #: which the copy's layers were initialised.
    pairing: str = "level"
    #: (c) the copy's latent input: "noisy", x_t + I'', or "reference", I'' alone.
    copy_input: str = "noisy"
    #: (l) whether the frozen U-Net's cross-attention queries get z + eps_t Z'(copy's norm2 output).
    cross_attention: bool = True
    #: lambda of Eq. 7.
    lam: float = 0.2
    #: (k) inner size d of Eq. 4.
    image_dim: int = 64

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "feature": ("norm1", "attn1"),
        "pairing": ("level", "one_to_one"),
        "copy_input": ("noisy", "reference"),
    }

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise P3SError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if not isinstance(self.cross_attention, bool):
            raise P3SError(f"cross_attention must be true or false; got {self.cross_attention!r}")
        if not is_number(self.lam, -LARGEST_LAMBDA, LARGEST_LAMBDA):
            raise P3SError(f"lam must be a number within +-{LARGEST_LAMBDA:g}; got {self.lam!r}")
        if not is_number(self.image_dim, 1, LARGEST_IMAGE_DIM) or not isinstance(self.image_dim, int):
            raise P3SError(f"image_dim must be a whole number in 1..{LARGEST_IMAGE_DIM}; got {self.image_dim!r}")

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CopySettings:
        """From a subject file's metadata. Unknown and missing names are refused: ignoring one would silently change
        the image."""
        names = {f.name for f in fields(cls)}
        if set(values) != names:
            wrong = ", ".join(sorted(set(values) ^ names))
            raise P3SError(f"the settings of the copy do not fit this version of P3S; unknown or missing: {wrong}")
        return cls(**values)


class LayerMap(NamedTuple):
    """The one place that says how the copy relates to its base (the table in docs/method.md)."""

    #: The copy's configuration: one ResBlock per level on the way in, two on the way out (as one-ResBlock U-Nets have).
    config: UNetConfig
    #: Number of the base block that each copy block was initialised from, by side.
    origin: Mapping[str, tuple[int, ...]]
    #: For each base layer that reads a feature: the copy layer that gives it.
    reads: Mapping[Layer, Layer]

    @classmethod
    def of(cls, base: UNetConfig, pairing: str = "level") -> LayerMap:
        """Derive the map from a base's configuration."""
        inputs, input_reader = _first_of_each_level(base.input_blocks)
        outputs, output_reader = _first_and_last_of_each_level(base.output_blocks)
        latent = base.out_channels  # an inpainting base reads more channels than it predicts; the copy does not
        first = replace(base.input_blocks[0], in_channels=latent)
        copy = replace(
            base,
            in_channels=latent,
            input_blocks=(first, *(base.input_blocks[i] for i in inputs[1:])),
            output_blocks=tuple(base.output_blocks[i] for i in outputs),
        )
        origin = {"input": tuple(inputs), "middle": (0,), "output": tuple(outputs)}
        reader = {"input": input_reader, "middle": {0: 0}, "output": output_reader}
        reads = {}
        for layer in base.layers():
            source = layer._replace(block=reader[layer.side][layer.block])
            if pairing == "level" or origin[layer.side][source.block] == layer.block:
                reads[layer] = source
        return cls(copy, origin, reads)

    def twin(self, layer: Layer) -> Layer:
        """The base layer that a copy layer was initialised from."""
        return layer._replace(block=self.origin[layer.side][layer.block])

    def base_key(self, key: str) -> str:
        """The base's key for a key of the copy's U-Net ("input_blocks.3.0..." -> "input_blocks.4.0...")."""
        for side in ("input", "output"):
            prefix = f"{side}_blocks."
            if key.startswith(prefix):
                number, rest = key[len(prefix) :].split(".", 1)
                return f"{prefix}{self.origin[side][int(number)]}.{rest}"
        return key


def _first_of_each_level(blocks: tuple[BlockConfig, ...]) -> tuple[list[int], dict[int, int]]:
    """Kept blocks of the way in (the first convolution, every level's first ResBlock, the downsamplings), and for
    every base block the number of the copy block that serves it."""
    kept: list[int] = []
    reader: dict[int, int] = {}
    for i, block in enumerate(blocks):
        if block.kind != "res" or blocks[i - 1].kind != "res":
            kept.append(i)
        reader[i] = len(kept) - 1
    return kept, reader


def _first_and_last_of_each_level(blocks: tuple[BlockConfig, ...]) -> tuple[list[int], dict[int, int]]:
    """Kept blocks of the way out; a base block that is not its level's last one is served by the level's first."""
    kept: list[int] = []
    reader: dict[int, int] = {}
    for i, block in enumerate(blocks):
        first = i == 0 or blocks[i - 1].level != block.level
        last = i == len(blocks) - 1 or blocks[i + 1].level != block.level
        if first or last:
            kept.append(i)
        reader[i] = len(kept) - 1
    return kept, reader


class CopyReader(AttentionHooks):
    """What the copy's layers read (norm1, norm2) and give (attn1) in one pass, each [batch, tokens, channels]."""

    def __init__(self) -> None:
        self.norm1: dict[Layer, Tensor] = {}
        self.attn1: dict[Layer, Tensor] = {}
        self.norm2: dict[Layer, Tensor] = {}
        self.grids: dict[Layer, tuple[int, int]] = {}

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        self.norm1[layer], self.grids[layer] = z, grid
        return z, z, z

    def self_attention_output(self, layer: Layer, out: Tensor) -> None:
        self.attn1[layer] = out

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        self.norm2[layer] = z
        return z


class SubjectCopy(nn.Module):
    """The copy, its zero convolutions and W_Q, W_K, W_V of the image latent: all that is trained for a subject.

    ``base`` is the configuration of the frozen U-Net, ``token_dim`` the width of the CLIP vision tokens. The 1x1
    convolutions Z act on tokens and are therefore stored as linear layers.
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
        self.unet = UNet(config, operations, **factory)
        self.image_latent = ImageLatent(config.in_channels, token_dim, settings.image_dim, operations, **factory)

        def zero_convolutions() -> nn.ModuleDict:
            widths = {str(layer): config.channels(layer) for layer in config.layers()}
            return nn.ModuleDict({name: operations.Linear(n, n, **factory) for name, n in widths.items()})

        self.zero_self = zero_convolutions()
        self.zero_cross = zero_convolutions() if settings.cross_attention else nn.ModuleDict()

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
        ``seed`` fixes W_Q and W_K of Eq. 4.
        """
        if zero_init not in ("zero", "identity"):
            raise P3SError(f"zero_init must be zero or identity; got {zero_init!r}")
        copy = cls(UNetConfig.from_state_dict(base), settings, token_dim, device="meta")
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
                    if name.endswith("weight"):
                        nn.init.eye_(zero)
        return copy

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
