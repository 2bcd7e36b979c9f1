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
  slim   3 levels, 1 res block, 2 and 5 transformers in a row: what ComfyUI takes for a distilled SDXL, and the smallest
  wide   the same with a level that is twice as wide
  topo   every block index of SDXL
and of its refiner (context 1280, label 2560), all widths 384.
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
from typing import Any

import torch
from filelock import FileLock

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script it is in no package

from tools import tiny_parts
from tools.tiny_parts import (
    Maker,
    TensorDict,
    clip_g,
    clip_layer,
    clip_text,
    taesd,
    unet,
    unet_down,
    write_safetensors,
)


def checkpoint(preset: str, *, text: bool = True, latent: int = 4, seed: int = 0) -> TensorDict:
    """An SD 1.5 checkpoint of a preset; ``latent=9`` is an inpainting model."""
    m = Maker(seed)
    unet(m, preset, latent=latent)
    taesd(m)
    if text:
        clip_text(m)
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


#: What makes a U-Net or a ControlNet one of SDXL's.
SDXL: dict[str, Any] = {"context": 2048, "linear": True, "label": 2816}


def sdxl_checkpoint(preset: str, *, text: bool = False, latent: int = 4, seed: int = 0) -> TensorDict:
    """An SDXL checkpoint of a preset, with both text encoders or none; ``latent=9`` is an inpainting model."""
    m = Maker(seed)
    unet(m, preset, latent=latent, **SDXL)
    taesd(m)
    if text:
        clip_text(m, "conditioner.embedders.0.transformer.text_model.")
        clip_g(m)
    return m.tensors


def predicts_v(tensors: TensorDict) -> TensorDict:
    """A checkpoint whose file says, as those of fine-tunes do (NoobAI-vpred), that it predicts v down to pure noise."""
    return tensors | {"v_pred": torch.empty(0), "ztsnr": torch.empty(0)}


def sdxl_refiner(seed: int = 0) -> TensorDict:
    """SDXL's refiner, without a text encoder."""
    m = Maker(seed)
    unet(m, "xl-refiner", base=384, context=1280, linear=True, label=2560)
    taesd(m)
    return m.tensors


def sd2_checkpoint(seed: int = 0) -> TensorDict:
    """A base of SD 2 (context 1024, linear proj_in), without a text encoder."""
    m = Maker(seed)
    unet(m, "micro", context=1024, linear=True)
    taesd(m)
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
        clip_layer(m, p + f"encoder.layers.{i}.", width)
    m.norm(p + "post_layernorm", width)
    m.weight("visual_projection", 768, width)
    return m.tensors


def controlnet(preset: str, seed: int = 1, **sizes: Any) -> TensorDict:
    """A ControlNet for the checkpoint of the same preset, whose residuals are not zero."""
    m = Maker(seed)
    skips = unet_down(m, "control_model.", preset, **sizes)
    for i, channels in enumerate(skips):
        m.layer(f"control_model.zero_convs.{i}.0", channels, channels, 1, 1, gain=0.5)
    m.layer("control_model.middle_block_out.0", skips[-1], skips[-1], 1, 1, gain=0.5)
    widths = (3, 16, 16, 32, 32, 96, 96, 256, 320)
    for i in range(len(widths) - 1):
        m.layer(f"control_model.input_hint_block.{2 * i}", widths[i + 1], widths[i], 3, 3, gain=1.5)
    return m.tensors


def lora(preset: str, rank: int = 4, seed: int = 2, **sizes: Any) -> TensorDict:
    """A LoRA on every attention projection of a preset's U-Net (no text encoder part)."""
    shapes = Maker(0)
    unet(shapes, preset, **sizes)
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


DAY = 86400  # seconds

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
    "sdxl-slim-vpred": ("checkpoints", lambda: predicts_v(sdxl_checkpoint("xl-slim"))),
    "sdxl-wide": ("checkpoints", lambda: sdxl_checkpoint("xl-wide")),
    "sdxl-topo": ("checkpoints", lambda: sdxl_checkpoint("xl-topo")),
    "sdxl-slim-scaled-fp8": ("checkpoints", lambda: scaled_fp8(sdxl_checkpoint("xl-slim"), "scaled")),
    "sdxl-inpaint-slim": ("checkpoints", lambda: sdxl_checkpoint("xl-slim", latent=9)),
    "sdxl-refiner": ("checkpoints", sdxl_refiner),
    "clip-vision": ("clip_vision", clip_vision),
    "controlnet-micro": ("controlnet", lambda: controlnet("micro")),
    "controlnet-slim": ("controlnet", lambda: controlnet("slim")),
    "controlnet-topo": ("controlnet", lambda: controlnet("topo")),
    "controlnet-full": ("controlnet", lambda: controlnet("full")),
    "controlnet-sdxl-slim": ("controlnet", lambda: controlnet("xl-slim", **SDXL)),
    "controlnet-sdxl-topo": ("controlnet", lambda: controlnet("xl-topo", **SDXL)),
    "motion-moves": ("animatediff_models", lambda: motion_module(moves=True)),
    "motion-still": ("animatediff_models", lambda: motion_module(moves=False)),
    "lora-micro": ("loras", lambda: lora("micro")),
    "lora-slim": ("loras", lambda: lora("slim")),
    "lora-topo": ("loras", lambda: lora("topo")),
    "lora-sdxl-slim": ("loras", lambda: lora("xl-slim", **SDXL)),
}


def cache_folder() -> Path:
    return Path(os.environ.get("P3S_TEST_CACHE") or Path.home() / ".cache" / "p3s-tests")


def make(name: str, folder: Path | None = None) -> Path:
    """The model's file, made now when the cache does not have it; a change of its sources makes it again."""
    folder = folder or cache_folder()
    sources = (Path(__file__), Path(tiny_parts.__file__))
    recipe = hashlib.sha256(b"".join(source.read_bytes() for source in sources)).hexdigest()[:8]
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
                # Those of another checkout may be in use.
                if old != path and path.stat().st_mtime - old.stat().st_mtime > DAY:
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
