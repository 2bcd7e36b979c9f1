"""Which base block each block of the copy comes from, and which base layers read its features."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import NamedTuple

from .unet_config import BlockConfig, Layer, UNetConfig


class LayerMap(NamedTuple):
    """The one place that says how the copy relates to its base (the table in docs/method.md)."""

    #: The copy's configuration: one ResBlock per level on the way in, two on the way out (as one-ResBlock U-Nets have).
    config: UNetConfig
    #: Number of the base block that each copy block was initialised from, by side.
    origin: Mapping[str, tuple[int, ...]]
    #: For each base layer that reads a feature: the copy layer that gives it.
    reads: Mapping[Layer, Layer]

    @classmethod
    def of(cls, base: UNetConfig, pairing: str = "level", depth_stride: int = 1) -> LayerMap:
        """Derive the map from a base's configuration and :class:`.copy_settings.CopySettings`."""
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
            paired = pairing == "level" or origin[layer.side][source.block] == layer.block
            if paired and layer.depth % depth_stride == 0:
                reads[layer] = source
        return cls(copy, origin, reads)

    @property
    def gives(self) -> tuple[Layer, ...]:
        """The copy layers whose features a base layer reads, in the order in which a pass meets them."""
        read = set(self.reads.values())
        return tuple(layer for layer in self.config.layers() if layer in read)

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
