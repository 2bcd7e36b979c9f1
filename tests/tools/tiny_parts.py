"""What small random models are made of: seeded tensors, U-Nets, a tiny VAE, text encoders, and their file."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import torch

TensorDict = dict[str, torch.Tensor]

# preset: (channel multipliers, res blocks per level, transformers in a row on that level)
PRESETS: dict[str, tuple[tuple[int, ...], int, tuple[int, ...]]] = {
    "micro": ((1,), 1, (True,)),
    "wide": ((1, 2), 1, (True, True)),
    "slim": ((1, 1, 1, 1), 1, (True, True, True, False)),
    "topo": ((1, 1, 1, 1), 2, (True, True, True, False)),
    "full": ((1, 2, 4, 4), 2, (True, True, True, False)),
    "animate": ((1, 2, 4, 4), 2, (True, False, False, False)),  # the widths and blocks that motion modules are made for
    "xl-slim": ((1, 1, 1), 1, (0, 2, 5)),  # what ComfyUI takes for a distilled SDXL (KOALA 700M)
    "xl-wide": ((1, 2, 1), 1, (0, 2, 5)),
    "xl-topo": ((1, 1, 1), 2, (0, 2, 10)),
    "xl-refiner": ((1, 1, 1, 1), 2, (0, 4, 4, 0)),
}
SAFETENSORS_NAMES = {
    torch.float16: "F16",
    torch.float32: "F32",
    torch.int64: "I64",
    torch.uint8: "U8",
    torch.float8_e4m3fn: "F8_E4M3",
}


class Maker:
    """Collects tensors by key; weights are scaled by their fan-in, so that activations keep their size."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float16) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype
        self.tensors: TensorDict = {}

    def normal(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator)

    def put(self, key: str, value: torch.Tensor) -> None:
        self.tensors[key] = value.to(self.dtype)

    def zeros(self, key: str, *shape: int) -> None:
        self.tensors[key] = torch.zeros((), dtype=self.dtype).expand(shape)  # no memory, however large

    def weight(self, key: str, *shape: int, gain: float = 1.0) -> None:
        self.put(key + ".weight", self.normal(*shape) * (gain / math.prod(shape[1:]) ** 0.5))

    def layer(self, key: str, *shape: int, gain: float = 1.0) -> None:
        self.weight(key, *shape, gain=gain)
        self.zeros(key + ".bias", shape[0])

    def zero_layer(self, key: str, *shape: int) -> None:
        self.zeros(key + ".weight", *shape)
        self.zeros(key + ".bias", shape[0])

    def norm(self, key: str, channels: int) -> None:
        self.put(key + ".weight", torch.ones(channels))
        self.zeros(key + ".bias", channels)


def _res_block(m: Maker, key: str, channels_in: int, channels: int, time_channels: int) -> None:
    m.norm(key + "in_layers.0", channels_in)
    m.layer(key + "in_layers.2", channels, channels_in, 3, 3)
    m.layer(key + "emb_layers.1", channels, time_channels)
    m.norm(key + "out_layers.0", channels)
    m.layer(key + "out_layers.3", channels, channels, 3, 3, gain=0.5)
    if channels_in != channels:
        m.layer(key + "skip_connection", channels, channels_in, 1, 1)


def _transformer(m: Maker, key: str, channels: int, context: int, linear: bool, depth: int = 1) -> None:
    kernel = () if linear else (1, 1)
    m.norm(key + "norm", channels)
    m.layer(key + "proj_in", channels, channels, *kernel)
    for block in (key + f"transformer_blocks.{i}." for i in range(depth)):
        for name, width in (("attn1", channels), ("attn2", context)):
            m.weight(block + name + ".to_q", channels, channels)
            m.weight(block + name + ".to_k", channels, width)
            m.weight(block + name + ".to_v", channels, width)
            m.layer(block + name + ".to_out.0", channels, channels, gain=depth**-0.5)
        m.layer(block + "ff.net.0.proj", 8 * channels, channels)
        m.layer(block + "ff.net.2", channels, 4 * channels, gain=depth**-0.5)
        for i in (1, 2, 3):
            m.norm(block + f"norm{i}", channels)
    m.layer(key + "proj_out", channels, channels, *kernel, gain=0.5)


def unet_down(
    m: Maker,
    prefix: str,
    preset: str,
    *,
    base: int = 320,
    context: int = 768,
    latent: int = 4,
    linear: bool = False,
    label: int = 0,
) -> list[int]:
    """Time embedding, input blocks and middle block; returns the channels of every skip connection."""
    multipliers, res_blocks, attention = PRESETS[preset]
    m.layer(prefix + "time_embed.0", 4 * base, base)
    m.layer(prefix + "time_embed.2", 4 * base, 4 * base)
    if label:
        m.layer(prefix + "label_emb.0.0", 4 * base, label)
        m.layer(prefix + "label_emb.0.2", 4 * base, 4 * base)
    m.layer(prefix + "input_blocks.0.0", base, latent, 3, 3)
    skips, channels, n = [base], base, 1
    for level, multiplier in enumerate(multipliers):
        for _ in range(res_blocks):
            _res_block(m, prefix + f"input_blocks.{n}.0.", channels, multiplier * base, 4 * base)
            channels = multiplier * base
            if attention[level]:
                _transformer(m, prefix + f"input_blocks.{n}.1.", channels, context, linear, attention[level])
            skips.append(channels)
            n += 1
        if level != len(multipliers) - 1:
            m.layer(prefix + f"input_blocks.{n}.0.op", channels, channels, 3, 3)
            skips.append(channels)
            n += 1
    _res_block(m, prefix + "middle_block.0.", channels, channels, 4 * base)
    _transformer(m, prefix + "middle_block.1.", channels, context, linear, next(d for d in reversed(attention) if d))
    _res_block(m, prefix + "middle_block.2.", channels, channels, 4 * base)
    return skips


def unet(m: Maker, preset: str, *, base: int = 320, context: int = 768, linear: bool = False, **sizes: int) -> None:
    prefix = "model.diffusion_model."
    skips = unet_down(m, prefix, preset, base=base, context=context, linear=linear, **sizes)
    multipliers, res_blocks, attention = PRESETS[preset]
    channels, n = multipliers[-1] * base, 0
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for i in range(res_blocks + 1):
            _res_block(m, prefix + f"output_blocks.{n}.0.", channels + skips.pop(), multiplier * base, 4 * base)
            channels, last = multiplier * base, 1
            if attention[level]:
                _transformer(m, prefix + f"output_blocks.{n}.1.", channels, context, linear, attention[level])
                last = 2
            if level and i == res_blocks:
                m.layer(prefix + f"output_blocks.{n}.{last}.conv", channels, channels, 3, 3)
            n += 1
    m.norm(prefix + "out.0", channels)
    m.layer(prefix + "out.2", 4, base, 3, 3, gain=0.3)


def taesd(m: Maker, prefix: str = "first_stage_model.") -> None:
    def block(key: str) -> None:
        for i in (0, 2, 4):
            m.layer(f"{key}.conv.{i}", 64, 64, 3, 3, gain=0.7)

    encoder, decoder = prefix + "taesd_encoder.", prefix + "taesd_decoder."
    m.layer(encoder + "0", 64, 3, 3, 3)
    block(encoder + "1")
    for first in (2, 6, 10):
        m.weight(encoder + str(first), 64, 64, 3, 3)
        for i in (1, 2, 3):
            block(encoder + str(first + i))
    m.layer(encoder + "14", 4, 64, 3, 3, gain=0.3)
    m.layer(decoder + "1", 64, 4, 3, 3)
    for first in (3, 8, 13):
        for i in (0, 1, 2):
            block(decoder + str(first + i))
        m.weight(decoder + str(first + 4), 64, 64, 3, 3)
    block(decoder + "18")
    m.layer(decoder + "19", 3, 64, 3, 3, gain=0.5)
    m.put(decoder + "19.bias", torch.full((3,), 0.5))  # random latents become visible mid-grey pictures
    m.put(prefix + "vae_scale", torch.tensor(1.0))
    m.put(prefix + "vae_shift", torch.tensor(0.0))


def clip_layer(m: Maker, key: str, width: int) -> None:
    """One CLIP encoder layer that adds exactly zero to its input."""
    m.norm(key + "layer_norm1", width)
    m.norm(key + "layer_norm2", width)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        m.zero_layer(key + f"self_attn.{name}", width, width)
    m.zero_layer(key + "mlp.fc1", 4 * width, width)
    m.zero_layer(key + "mlp.fc2", width, 4 * width)


def clip_text(m: Maker, prefix: str = "cond_stage_model.transformer.text_model.", width: int = 768) -> None:
    m.put(prefix + "embeddings.token_embedding.weight", m.normal(49408, width) * 0.02)
    m.put(prefix + "embeddings.position_embedding.weight", m.normal(77, width) * 0.01)
    for i in range(12):
        clip_layer(m, prefix + f"encoder.layers.{i}.", width)
    m.norm(prefix + "final_layer_norm", width)


def clip_g(m: Maker, prefix: str = "conditioner.embedders.1.model.", width: int = 1280) -> None:
    """OpenCLIP's text tower, as SDXL's checkpoints name it; its layers add exactly zero to their input."""
    m.put(prefix + "token_embedding.weight", m.normal(49408, width) * 0.02)
    m.put(prefix + "positional_embedding", m.normal(77, width) * 0.01)
    for i in range(32):
        block = prefix + f"transformer.resblocks.{i}."
        m.norm(block + "ln_1", width)
        m.norm(block + "ln_2", width)
        m.zeros(block + "attn.in_proj_weight", 3 * width, width)
        m.zeros(block + "attn.in_proj_bias", 3 * width)
        m.zero_layer(block + "attn.out_proj", width, width)
        m.zero_layer(block + "mlp.c_fc", 4 * width, width)
        m.zero_layer(block + "mlp.c_proj", width, 4 * width)
    m.norm(prefix + "ln_final", width)
    m.put(prefix + "text_projection", m.normal(width, width) * width**-0.5)


def write_safetensors(tensors: TensorDict, path: Path) -> None:
    """Write a safetensors file; a tensor of zeros becomes a hole where the file system has sparse files."""
    header: dict[str, object] = {}
    end = 0
    for key, value in tensors.items():
        start, end = end, end + value.numel() * value.element_size()
        header[key] = {
            "dtype": SAFETENSORS_NAMES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for value in tensors.values():
            if value.float().any():
                file.write(value.contiguous().flatten().view(torch.uint8).numpy().data)
            else:
                file.seek(value.numel() * value.element_size(), os.SEEK_CUR)
        file.truncate(8 + len(text) + end)
