"""What fixes the shapes of a U-Net, read from the tensors of a checkpoint: the only place that interprets its keys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from ..errors import FamilyError

#: Prefixes under which a U-Net's tensors are found: in a full checkpoint, in ComfyUI's model, alone.
PREFIXES = ("model.diffusion_model.", "diffusion_model.", "")
#: The families that P3S knows: their titles, and a model of each in words.
FAMILIES = {
    "SD1.x": ("SD 1.x", "an SD 1.x model"),
    "SD2.x": ("SD 2.x", "an SD 2.x model"),
    "SDXL": ("SDXL", "an SDXL model"),
    "U-Net 32x64": ("Toy World", "the Toy World's model"),
}
REFINER_CHANNELS = 384  # of SDXL's refiner, at the finest level; its base has 320
UNCLIP_CONTEXT = 1024  # beside a label
SDXL_LAYERS = 70  # transformer blocks; distilled models of its widths have fewer


class Layer(NamedTuple):
    """Address of one transformer block: ``side`` is "input", "middle" or "output", ``block`` the number in the
    checkpoint's key (always 0 in the middle), ``depth`` the position inside its spatial transformer (0 in SD 1.x, 0..1
    or 0..9 in SDXL)."""

    side: str
    block: int
    depth: int = 0

    def __str__(self) -> str:
        return f"{self.side}_{self.block}_{self.depth}"


@dataclass(frozen=True)
class BlockConfig:
    """One entry of ``input_blocks`` or ``output_blocks``: its kind ("conv", "res" or "down"), channels in and out,
    number of transformer blocks, whether it ends with an upsampling, and its resolution level (0 = finest)."""

    kind: str
    in_channels: int
    out_channels: int
    depth: int
    level: int
    upsample: bool = False


@dataclass(frozen=True)
class UNetConfig:
    """Everything that fixes the shapes of a U-Net.

    ``label_dim``: width of the vector from which ``label_emb`` makes what is added to the timestep's embedding (SDXL:
    pooled text and sizes); 0 where there is none.
    """

    in_channels: int
    out_channels: int
    model_channels: int
    context_dim: int
    input_blocks: tuple[BlockConfig, ...]
    middle_channels: int
    middle_depth: int
    output_blocks: tuple[BlockConfig, ...]
    linear_projection: bool
    label_dim: int = 0

    @classmethod
    def build(
        cls,
        model_channels: int = 320,
        channel_mult: tuple[int, ...] = (1, 2, 4, 4),
        res_blocks: int = 2,
        transformer_depth: tuple[int, ...] = (1, 1, 1, 0),
        context_dim: int = 768,
        in_channels: int = 4,
        out_channels: int = 4,
        linear_projection: bool = False,
        label_dim: int = 0,
    ) -> UNetConfig:
        """Lay out a U-Net from the usual few numbers; the defaults are SD 1.5, ``SDXL`` has those of SDXL.
        ``transformer_depth`` is per level, finest first; the middle has as many transformer blocks as the deepest level
        that has any."""
        widths = [model_channels * m for m in channel_mult]
        inputs, ch = [BlockConfig("conv", in_channels, model_channels, 0, 0)], model_channels
        for level, width in enumerate(widths):
            if level:
                inputs.append(BlockConfig("down", ch, ch, 0, level))
            for _ in range(res_blocks):
                inputs.append(BlockConfig("res", ch, width, transformer_depth[level], level))
                ch = width
        middle, outputs, skips = ch, [], [b.out_channels for b in inputs]
        for level, width in reversed(list(enumerate(widths))):
            for i in range(res_blocks + 1):
                upsample = level > 0 and i == res_blocks
                outputs.append(BlockConfig("res", ch + skips.pop(), width, transformer_depth[level], level, upsample))
                ch = width
        depth = next(d for d in reversed(transformer_depth) if d)
        return cls(
            in_channels,
            out_channels,
            model_channels,
            context_dim,
            tuple(inputs),
            middle,
            depth,
            tuple(outputs),
            linear_projection,
            label_dim,
        )

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> UNetConfig:
        """Read the configuration from the shapes of ``state`` (keys as in the original checkpoint, no prefix).

        Raises :class:`FamilyError` when the tensors are not those of an SD 1.x, 2.x or SDXL U-Net.
        """
        if "input_blocks.0.0.weight" not in state or "out.2.weight" not in state:
            found = ", ".join(list(state)[:3]) or "nothing"
            raise FamilyError(
                f"expected the U-Net of an SD 1.x, SD 2.x or SDXL model (input_blocks...), but found {found}"
            )
        if any("time_stack" in k for k in state):
            raise FamilyError("this is a video U-Net (time_stack); expected an SD 1.x, SD 2.x or SDXL model")
        if "middle_block.2.in_layers.2.weight" not in state and "middle_block.0.in_layers.2.weight" in state:
            raise FamilyError(
                "this U-Net has no attention in its middle, like some distilled from SDXL (SSD-1B, Segmind Vega); that "
                "is not supported. Expected an SD 1.x, SD 2.x or SDXL model"
            )
        try:
            config = cls._read({k: tuple(v.shape) for k, v in state.items()})
        except (KeyError, IndexError) as missing:
            raise FamilyError(
                f"not a complete U-Net of an SD 1.x, SD 2.x or SDXL model: {missing} is missing"
            ) from missing
        if config.label_dim and config.model_channels == REFINER_CHANNELS:
            raise FamilyError("this is SDXL's refiner, which only finishes pictures; expected the SDXL base model")
        if config.label_dim and config.context_dim == UNCLIP_CONTEXT:
            raise FamilyError("this is an SD 2.x unCLIP model; expected an SD 1.x, SD 2.x or SDXL model")
        return config

    @classmethod
    def _read(cls, shape: Mapping[str, tuple[int, ...]]) -> UNetConfig:
        def depth(block: str) -> int:
            return _count(shape, f"{block}.1.transformer_blocks.")

        def res(block: str, level: int, upsample: bool = False) -> BlockConfig:
            out, inp = shape[f"{block}.0.in_layers.2.weight"][:2]
            return BlockConfig("res", inp, out, depth(block), level, upsample)

        first = shape["input_blocks.0.0.weight"]
        inputs, level = [BlockConfig("conv", first[1], first[0], 0, 0)], 0
        for i in range(1, _count(shape, "input_blocks.")):
            block = f"input_blocks.{i}"
            if f"{block}.0.op.weight" in shape:
                level += 1
                out, inp = shape[f"{block}.0.op.weight"][:2]
                inputs.append(BlockConfig("down", inp, out, 0, level))
            else:
                inputs.append(res(block, level))
        outputs = []
        for i in range(_count(shape, "output_blocks.")):
            block = f"output_blocks.{i}"
            upsample = any(f"{block}.{j}.conv.weight" in shape for j in (1, 2))
            outputs.append(res(block, level, upsample))
            level -= upsample
        if level:
            raise KeyError("an upsampling")
        keys = [k for k in shape if k.endswith(".proj_in.weight")]
        context = [shape[k][1] for k in shape if k.endswith("attn2.to_k.weight")]
        if not keys or not context:
            raise KeyError("a spatial transformer")
        return cls(
            in_channels=first[1],
            out_channels=shape["out.2.weight"][0],
            model_channels=first[0],
            context_dim=context[0],
            input_blocks=tuple(inputs),
            middle_channels=shape["middle_block.0.in_layers.2.weight"][0],
            middle_depth=depth("middle_block"),
            output_blocks=tuple(outputs),
            linear_projection=len(shape[keys[0]]) == 2,
            label_dim=shape["label_emb.0.0.weight"][1] if "label_emb.0.0.weight" in shape else 0,
        )

    @property
    def family(self) -> str:
        """Short name of the model family, for metadata; :func:`family_name` and :func:`family_title` are for people."""
        if self.model_channels == 320 and self.context_dim == 768 and not self.linear_projection:
            return "SD1.x"
        if self.model_channels == 320 and self.context_dim == 1024 and self.linear_projection:
            return "SD2.x"
        if self.model_channels == 320 and self.context_dim == 2048 and self.label_dim == 2816:
            count = len(self.layers())
            return "SDXL" if count == SDXL_LAYERS else f"SDXL of {count} blocks"
        return f"U-Net {self.model_channels}x{self.context_dim}"

    def heads(self, channels: int) -> int:
        """Number of attention heads; not stored in any weight. SD 1.x (convolutional projections) has 8 heads
        everywhere, SD 2.x and SDXL (linear projections) heads of width 64."""
        return channels // 64 if self.linear_projection else 8

    def layers(self) -> tuple[Layer, ...]:
        """All transformer blocks, in the order in which a pass meets them."""
        found = [Layer("input", i, d) for i, b in enumerate(self.input_blocks) for d in range(b.depth)]
        found += [Layer("middle", 0, d) for d in range(self.middle_depth)]
        found += [Layer("output", i, d) for i, b in enumerate(self.output_blocks) for d in range(b.depth)]
        return tuple(found)

    def level(self, layer: Layer) -> int:
        """Resolution level of a layer's tokens, 0 = finest."""
        if layer.side == "middle":
            return self.output_blocks[0].level
        blocks = self.input_blocks if layer.side == "input" else self.output_blocks
        return blocks[layer.block].level

    def channels(self, layer: Layer) -> int:
        """Width of a layer's tokens."""
        if layer.side == "middle":
            return self.middle_channels
        blocks = self.input_blocks if layer.side == "input" else self.output_blocks
        return blocks[layer.block].out_channels


#: What :meth:`UNetConfig.build` takes for SDXL: no transformers at the finest of three levels, 2 and 10 in a row below.
SDXL: dict[str, Any] = {
    "channel_mult": (1, 2, 4),
    "transformer_depth": (0, 2, 10),
    "context_dim": 2048,
    "linear_projection": True,
    "label_dim": 2816,
}


def family_name(family: str) -> str:
    """A model of a family (``UNetConfig.family``) in words."""
    return FAMILIES[family][1] if family in FAMILIES else f"a model of another kind ({family})"


def family_title(family: str) -> str:
    """A family (``UNetConfig.family``) as lists show it; what a file says of others may be anything."""
    return FAMILIES[family][0] if family in FAMILIES else "another kind"


def _count(keys: Mapping[str, Any], prefix: str) -> int:
    """How many consecutive numbers, from 0, follow ``prefix`` in ``keys``."""
    numbers = {k[len(prefix) :].split(".", 1)[0] for k in keys if k.startswith(prefix)}
    n = 0
    while str(n) in numbers:
        n += 1
    return n


def unet_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The U-Net's part of a checkpoint's state dict, with the prefix removed (empty when there is none)."""
    for prefix in PREFIXES:
        if f"{prefix}input_blocks.0.0.weight" in state:
            return {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
    return {}
