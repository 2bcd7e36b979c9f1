"""Small random model files that a real ComfyUI accepts, made once per machine into a cache folder.

    python tests/tools/tiny_models.py                      list the models
    python tests/tools/tiny_models.py sd15-slim clip-vision
    python tests/tools/tiny_models.py --out DIR sd15-full

The cache is $P3S_TEST_CACHE, else ~/.cache/p3s-tests. Every tensor is seeded, so a model is the same on every machine
with the same torch. Runs of zeros become holes of a sparse file: the 610 MB CLIP vision model takes 2 MB of disk.

Checkpoints (what ComfyUI's detection needs is kept: 320 channels first, context 768, convolutions as proj_in):
  micro  1 level,  1 res block, 1 + 1 + 2 transformers: the smallest that still samples
  slim   4 levels, 1 res block, 3 + 1 + 6 transformers: the topology of the subject copy, all widths 320
  topo   4 levels, 2 res blocks, 6 + 1 + 9 transformers: every block index of SD 1.5, all widths 320
  full   exact SD 1.5 shapes, 860 M parameters
and of SDXL (context 2048, label 2816, linear projections), all widths 320
  slim   3 levels, 1 res block, 2 and 5 transformers in a row: what ComfyUI takes for a distilled SDXL
  topo   every block index of SDXL
Their VAE is a random TAESD (the full KL autoencoder has fixed widths, too big for tests); their text encoder has the
fixed CLIP-L shapes, with random embeddings and layers that pass their input on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from filelock import FileLock

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
    "xl-topo": ((1, 1, 1), 2, (0, 2, 10)),
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


def _unet_down(
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
    _transformer(m, prefix + "middle_block.1.", channels, context, linear, max(1, attention[-1]))
    _res_block(m, prefix + "middle_block.2.", channels, channels, 4 * base)
    return skips


def _unet(m: Maker, preset: str, *, base: int = 320, context: int = 768, linear: bool = False, **sizes: int) -> None:
    prefix = "model.diffusion_model."
    skips = _unet_down(m, prefix, preset, base=base, context=context, linear=linear, **sizes)
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


def _taesd(m: Maker, prefix: str = "first_stage_model.") -> None:
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


def _clip_layer(m: Maker, key: str, width: int) -> None:
    """One CLIP encoder layer that adds exactly zero to its input."""
    m.norm(key + "layer_norm1", width)
    m.norm(key + "layer_norm2", width)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        m.zero_layer(key + f"self_attn.{name}", width, width)
    m.zero_layer(key + "mlp.fc1", 4 * width, width)
    m.zero_layer(key + "mlp.fc2", width, 4 * width)


def _clip_text(m: Maker, prefix: str = "cond_stage_model.transformer.text_model.", width: int = 768) -> None:
    m.put(prefix + "embeddings.token_embedding.weight", m.normal(49408, width) * 0.02)
    m.put(prefix + "embeddings.position_embedding.weight", m.normal(77, width) * 0.01)
    for i in range(12):
        _clip_layer(m, prefix + f"encoder.layers.{i}.", width)
    m.norm(prefix + "final_layer_norm", width)


def checkpoint(preset: str, *, text: bool = True, latent: int = 4, seed: int = 0) -> TensorDict:
    """An SD 1.5 checkpoint of a preset; ``latent=9`` is an inpainting model."""
    m = Maker(seed)
    _unet(m, preset, latent=latent)
    _taesd(m)
    if text:
        _clip_text(m)
    return m.tensors


def scaled_fp8(tensors: TensorDict, layout: str) -> TensorDict:
    """A checkpoint whose U-Net's linear weights are 8 bits times a scale each, in the layout of files that call
    themselves fp8 scaled ("scaled", which ComfyUI 0.3.64 reads) or in the later one that names a format for each layer
    ("quantised", which came after it)."""
    prefix, found = "model.diffusion_model.", dict(tensors)
    names = {"scaled": "scale_weight", "quantised": "weight_scale"}
    for key, value in tensors.items():
        if key.startswith(prefix) and key.endswith(".weight") and value.ndim == 2:
            scale = value.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
            found[key] = (value.float() / scale).to(torch.float8_e4m3fn)
            found[key.removesuffix("weight") + names[layout]] = scale
            if layout == "quantised":
                text = json.dumps({"format": "float8_e4m3fn"}).encode()
                found[key.removesuffix("weight") + "comfy_quant"] = torch.tensor(list(text), dtype=torch.uint8)
    if layout == "scaled":
        found[prefix + "scaled_fp8"] = torch.empty(0, dtype=torch.float8_e4m3fn)
    return found


def _clip_g(m: Maker, prefix: str = "conditioner.embedders.1.model.", width: int = 1280) -> None:
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


def sdxl_checkpoint(preset: str, *, text: bool = False, seed: int = 0) -> TensorDict:
    """An SDXL checkpoint of a preset, with both text encoders or none."""
    m = Maker(seed)
    _unet(m, preset, context=2048, linear=True, label=2816)
    _taesd(m)
    if text:
        _clip_text(m, "conditioner.embedders.0.transformer.text_model.")
        _clip_g(m)
    return m.tensors


def sd2_checkpoint(seed: int = 0) -> TensorDict:
    """A base of SD 2 (context 1024, linear proj_in), without a text encoder."""
    m = Maker(seed)
    _unet(m, "micro", context=1024, linear=True)
    _taesd(m)
    return m.tensors


def clip_vision(seed: int = 0) -> TensorDict:
    """CLIP ViT-L/14 in its full, fixed size, as a plain encoder of each patch's colour and coarse shading.

    A token is the layer norm of a random projection of the patch's mean colour (in opponent axes, chroma above
    brightness) and, weaker, of its lowest cosine coefficients, plus a small constant; the layers add nothing. So the
    cosine similarity of two patch tokens is high for patches of like colour, whatever their place.
    """
    width, patch, layers = 1024, 14, 24
    m, p = Maker(seed), "vision_model."
    opponent = torch.tensor([[0.2, 0.2, 0.2], [1.0, -1.0, 0.0], [1.0, 1.0, -2.0]])
    wave = torch.cos(math.pi * (torch.arange(patch) + 0.5) / patch)
    flat = torch.ones(patch)
    kernel = torch.zeros(width, 3, patch, patch)
    for amount, rows, columns in ((1.0, flat, flat), (0.3, wave, flat), (0.3, flat, wave)):
        mixed = m.normal(width, 3) @ opponent
        kernel += amount * mixed[:, :, None, None] * torch.outer(rows, columns) / patch**2
    m.put(p + "embeddings.patch_embedding.weight", kernel)
    m.put(p + "embeddings.class_embedding", m.normal(width))
    m.put(
        p + "embeddings.position_embedding.weight",
        0.3 * m.normal(1, width) + 0.01 * m.normal((224 // patch) ** 2 + 1, width),
    )
    m.norm(p + "pre_layrnorm", width)  # the original's spelling
    for i in range(layers):
        _clip_layer(m, p + f"encoder.layers.{i}.", width)
    m.norm(p + "post_layernorm", width)
    m.weight("visual_projection", 768, width)
    return m.tensors


def controlnet(preset: str, seed: int = 1) -> TensorDict:
    """A ControlNet for the checkpoint of the same preset, whose residuals are not zero."""
    m = Maker(seed)
    skips = _unet_down(m, "control_model.", preset)
    for i, channels in enumerate(skips):
        m.layer(f"control_model.zero_convs.{i}.0", channels, channels, 1, 1, gain=0.5)
    m.layer("control_model.middle_block_out.0", skips[-1], skips[-1], 1, 1, gain=0.5)
    widths = (3, 16, 16, 32, 32, 96, 96, 256, 320)
    for i in range(len(widths) - 1):
        m.layer(f"control_model.input_hint_block.{2 * i}", widths[i + 1], widths[i], 3, 3, gain=1.5)
    return m.tensors


def lora(preset: str, rank: int = 4, seed: int = 2) -> TensorDict:
    """A LoRA on every attention projection of a preset's U-Net (no text encoder part)."""
    shapes = Maker(0)
    _unet(shapes, preset)
    m = Maker(seed)
    for key, value in shapes.tensors.items():
        name = key.removeprefix("model.diffusion_model.").removesuffix(".weight")
        if ".attn" not in name or value.ndim != 2:
            continue
        key = "lora_unet_" + name.replace(".", "_")
        m.weight(key + ".lora_down", rank, value.shape[1])
        m.weight(key + ".lora_up", value.shape[0], rank, gain=0.3)
        m.put(key + ".alpha", torch.tensor(float(rank)))
    return m.tensors


def motion_module(moves: bool, seed: int = 4) -> TensorDict:
    """An AnimateDiff motion module (v2) for the widths of SD 1.5; all zero, so that it changes nothing, unless it
    ``moves``."""
    m, frames = Maker(seed), 32

    def layer(key: str, *shape: int) -> None:
        m.layer(key, *shape) if moves else m.zero_layer(key, *shape)

    def module(key: str, channels: int) -> None:
        p, block = key + ".temporal_transformer.", key + ".temporal_transformer.transformer_blocks.0."
        m.norm(p + "norm", channels)
        layer(p + "proj_in", channels, channels)
        layer(p + "proj_out", channels, channels)
        for i in range(2):
            attention = block + f"attention_blocks.{i}."
            for name in ("to_q", "to_k", "to_v"):
                (m.weight if moves else lambda key, *shape: m.zeros(key + ".weight", *shape))(
                    attention + name, channels, channels
                )
            layer(attention + "to_out.0", channels, channels)
            m.put(attention + "pos_encoder.pe", m.normal(1, frames, channels))
            m.norm(block + f"norms.{i}", channels)
        layer(block + "ff.net.0.proj", 8 * channels, channels)
        layer(block + "ff.net.2", channels, 4 * channels)
        m.norm(block + "ff_norm", channels)

    widths = (320, 640, 1280, 1280)
    for side, each, channels in (("down", 2, widths), ("up", 3, widths[::-1])):
        for i, width in enumerate(channels):
            for j in range(each):
                module(f"{side}_blocks.{i}.motion_modules.{j}", width)
    module("mid_block.motion_modules.0", widths[-1])
    return m.tensors


# name: (folder below ComfyUI's models, maker)
MODELS: dict[str, tuple[str, Callable[[], TensorDict]]] = {
    "sd15-micro": ("checkpoints", lambda: checkpoint("micro")),
    "sd15-wide": ("checkpoints", lambda: checkpoint("wide")),
    "sd15-slim": ("checkpoints", lambda: checkpoint("slim")),
    "sd15-topo": ("checkpoints", lambda: checkpoint("topo")),
    "sd15-full": ("checkpoints", lambda: checkpoint("full")),
    "sd15-animate": ("checkpoints", lambda: checkpoint("animate")),
    "sd15-slim-other": ("checkpoints", lambda: checkpoint("slim", seed=10)),
    "sd15-slim-scaled-fp8": ("checkpoints", lambda: scaled_fp8(checkpoint("slim"), "scaled")),
    "sd15-slim-quantised": ("checkpoints", lambda: scaled_fp8(checkpoint("slim"), "quantised")),
    "sd15-inpaint-micro": ("checkpoints", lambda: checkpoint("micro", latent=9)),
    "sd15-ic-micro": ("checkpoints", lambda: checkpoint("micro", seed=7, latent=8)),
    "sd2-micro": ("checkpoints", sd2_checkpoint),
    "sdxl-slim": ("checkpoints", lambda: sdxl_checkpoint("xl-slim")),
    "sdxl-slim-text": ("checkpoints", lambda: sdxl_checkpoint("xl-slim", text=True)),
    "sdxl-topo": ("checkpoints", lambda: sdxl_checkpoint("xl-topo")),
    "clip-vision": ("clip_vision", clip_vision),
    "controlnet-micro": ("controlnet", lambda: controlnet("micro")),
    "controlnet-slim": ("controlnet", lambda: controlnet("slim")),
    "controlnet-topo": ("controlnet", lambda: controlnet("topo")),
    "controlnet-full": ("controlnet", lambda: controlnet("full")),
    "motion-moves": ("animatediff_models", lambda: motion_module(moves=True)),
    "motion-still": ("animatediff_models", lambda: motion_module(moves=False)),
    "lora-micro": ("loras", lambda: lora("micro")),
    "lora-slim": ("loras", lambda: lora("slim")),
    "lora-topo": ("loras", lambda: lora("topo")),
}


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


def cache_folder() -> Path:
    return Path(os.environ.get("P3S_TEST_CACHE") or Path.home() / ".cache" / "p3s-tests")


def make(name: str, folder: Path | None = None) -> Path:
    """The model's file, made now when the cache does not have it; a change of this source makes it again."""
    folder = folder or cache_folder()
    recipe = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:8]
    path = folder / f"{name}-{recipe}.safetensors"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with FileLock(path.with_suffix(".lock")):  # another worker may be making it
        if not path.exists():
            try:
                write_safetensors(MODELS[name][1](), partial)
                partial.replace(path)
            finally:
                partial.unlink(missing_ok=True)
            for old in folder.glob(f"{name}-{'[0-9a-f]' * 8}.safetensors"):
                if old != path:
                    old.unlink(missing_ok=True)
    return path


def known(name: str) -> str:
    if name not in MODELS:
        raise argparse.ArgumentTypeError(f"there is no {name}; there are {', '.join(MODELS)}")
    return name


def main() -> None:
    parser = argparse.ArgumentParser(description="Make small random model files for tests; without names, list them.")
    # No choices: before Python 3.12 argparse looks for the empty list among them, too.
    parser.add_argument("names", nargs="*", type=known, metavar="NAME")
    parser.add_argument("--out", type=Path, help="folder (default: the cache)")
    arguments = parser.parse_args()
    if not arguments.names:
        print("\n".join(f"{name:20} models/{folder}" for name, (folder, _) in MODELS.items()))
        sys.exit()
    for name in arguments.names:
        path = make(name, arguments.out)
        print(f"{path}  {path.stat().st_size / 2**20:.0f} MiB")


if __name__ == "__main__":
    main()
