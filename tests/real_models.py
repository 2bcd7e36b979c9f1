"""Small random models in the file layouts of the real ones: Stable Diffusion 1.5, CLIP, DINOv2 and SSR-Encoder. No
downloads."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from small import random_unet
from ssr_models import random_aligner, random_layers
from torch import Tensor

from p3s.network.label import SIZE_DIM
from p3s.network.unet import UNet
from p3s.network.unet_config import UNetConfig
from p3s.ssr.file import SSRModel, save_ssr

#: Two levels, one of them without a transformer, two ResBlocks each, as at the two ends of SD 1.5.
UNET = UNetConfig.build(model_channels=32, channel_mult=(1, 2), transformer_depth=(1, 0), context_dim=64)
SIDE = 64  # of pictures, four pixels a latent
CLIP_SIDE, DINO_SIDE = 32, 28


def diffusers_twin(net: UNet) -> Any:
    """diffusers' U-Net with the same weights, converted by diffusers' own converter."""
    diffusers = pytest.importorskip("diffusers")
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    config = net.config
    levels = [b.level for b in config.output_blocks]
    count = max(levels) + 1
    widths = [next(b.out_channels for b in config.output_blocks if b.level == i) for i in range(count)]
    depth = [next(b.depth for b in config.output_blocks if b.level == i) for i in range(count)]
    label: dict[str, Any] = {}
    if config.label_dim:
        label = {
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": SIZE_DIM,
            "projection_class_embeddings_input_dim": config.label_dim,
        }
    twin = diffusers.UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=widths,
        layers_per_block=levels.count(0) - 1,
        down_block_types=["CrossAttnDownBlock2D" if d else "DownBlock2D" for d in depth],
        up_block_types=["CrossAttnUpBlock2D" if d else "UpBlock2D" for d in reversed(depth)],
        cross_attention_dim=config.context_dim,
        attention_head_dim=[config.heads(w) for w in widths],
        transformer_layers_per_block=[max(1, d) for d in depth],
        use_linear_projection=config.linear_projection,
        **label,
    )
    state = convert_ldm_unet_checkpoint(
        {f"model.diffusion_model.{k}": v for k, v in net.state_dict().items()}, dict(twin.config)
    )
    twin.load_state_dict(state)
    return twin.eval()


def write_real_models(folder: Path) -> dict[str, Path]:
    """Write ``sd`` (a folder for diffusers), ``checkpoint`` (the same weights in one file), ``clip`` and ``dino``."""
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    paths = {name: folder / name for name in ("sd", "clip", "dino")} | {"checkpoint": folder / "sd.safetensors"}
    unet = random_unet(UNET)
    vae = diffusers.AutoencoderKL(
        block_out_channels=[32, 32, 64],
        down_block_types=["DownEncoderBlock2D"] * 3,
        up_block_types=["UpDecoderBlock2D"] * 3,
        latent_channels=4,
        layers_per_block=2,
    )
    small = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 1}
    small["projection_dim"] = 16
    words = len(vocabulary())
    ends = {"bos_token_id": words - 2, "eos_token_id": words - 1, "pad_token_id": words - 1}
    text = transformers.CLIPTextConfig(**small, **ends, vocab_size=words)
    text_encoder = transformers.CLIPTextModel(text)

    diffusers_twin(unet).save_pretrained(paths["sd"] / "unet")
    vae.save_pretrained(paths["sd"] / "vae")
    text_encoder.save_pretrained(paths["sd"] / "text_encoder")
    write_tokenizer(paths["sd"] / "tokenizer")
    scheduler = paths["sd"] / "scheduler"
    diffusers.DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(scheduler)
    write_checkpoint(paths["checkpoint"], unet, vae, text_encoder)

    vision = {**small, "image_size": CLIP_SIDE, "patch_size": 8}
    clip = transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text.to_dict(), vision_config=vision, projection_dim=16)
    )
    clip.save_pretrained(paths["clip"])
    write_tokenizer(paths["clip"])
    write_preprocessor(paths["clip"], "CLIPImageProcessor", CLIP_SIDE, CLIP_SIDE)
    dino = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=DINO_SIDE, patch_size=14
    )
    transformers.Dinov2Model(dino).save_pretrained(paths["dino"])
    write_preprocessor(paths["dino"], "BitImageProcessor", 32, DINO_SIDE)
    return paths


def write_ssr(file: Path) -> Path:
    """An SSR-Encoder for the small models."""
    aligner = random_aligner(query=64, vision=64, scales=2)
    return save_ssr(SSRModel(aligner, random_layers(UNET).state_dict(), ""), file)


def write_checkpoint(path: Path, unet: UNet, vae: Any, text_encoder: Any) -> None:
    """All parts in one file, under the names of the original checkpoint."""
    from safetensors.torch import save_file

    state = {f"model.diffusion_model.{key}": value for key, value in unet.state_dict().items()}
    levels = len(vae.config.block_out_channels)
    state |= {f"first_stage_model.{ldm_vae_key(k, levels)}": ldm_vae_value(k, v) for k, v in vae.state_dict().items()}
    text = {key.removeprefix("text_model."): value for key, value in text_encoder.state_dict().items()}
    state |= {f"cond_stage_model.transformer.text_model.{key}": value for key, value in text.items()}
    save_file({key: value.contiguous() for key, value in state.items()}, path)


def ldm_vae_key(key: str, levels: int) -> str:
    """The original checkpoint's name of a tensor of diffusers' AutoencoderKL."""
    key = re.sub(r"up_blocks\.(\d+)", lambda m: f"up.{levels - 1 - int(m[1])}", key)
    key = re.sub(r"mid_block\.resnets\.(\d+)", lambda m: f"mid.block_{int(m[1]) + 1}", key)
    for theirs, original in (
        (r"down_blocks\.", "down."),
        (r"\.resnets\.", ".block."),
        (r"\.(down|up)samplers\.0", r".\1sample"),
        (r"mid_block\.attentions\.0", "mid.attn_1"),
        (r"group_norm", "norm"),
        (r"to_([qkv])", r"\1"),
        (r"to_out\.0", "proj_out"),
        (r"conv_shortcut", "nin_shortcut"),
        (r"conv_norm_out", "norm_out"),
    ):
        key = re.sub(theirs, original, key)
    return key


def ldm_vae_value(key: str, value: Tensor) -> Tensor:
    """Attention is made of 1x1 convolutions there."""
    return value[:, :, None, None] if "attentions" in key and value.ndim == 2 else value


def vocabulary() -> list[str]:
    letters = [chr(i) for i in range(33, 127)]
    return [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]


def write_tokenizer(folder: Path) -> None:
    """CLIP's tokenizer without any merges: every letter is a token."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary())}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    start, end = vocabulary()[-2:]
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "bos_token": start}
    settings |= {f"{name}_token": end for name in ("eos", "unk", "pad")}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def write_preprocessor(folder: Path, kind: str, shortest: int, crop: int) -> None:
    sizes = {"size": {"shortest_edge": shortest}, "crop_size": {"height": crop, "width": crop}}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": kind, **sizes}))
