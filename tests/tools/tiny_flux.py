"""Small random Flux and FLUX.2 models, and tiny autoencoders for their latents, that a ComfyUI accepts which reads
all widths from the weights (0.33 does, 0.3.64 does not).

Their text is CLIP-L's of SD 1.5, whose width and pooled output the projections are made for: no large text encoder is
needed. Both have one attention head, the least that the positional encoding allows.
"""

from __future__ import annotations

from pathlib import Path

import torch
from tools.tiny_parts import Maker, TensorDict, taesd, write_safetensors

WIDTH, TEXT, HEAD = 128, 768, 128
SHARP = 2.0  # of queries and keys: else each token sees the mean of thousands, which is the same for every picture


def _attention(m: Maker, key: str, bias: bool) -> None:
    layer = m.layer if bias else m.weight
    layer(key + "qkv", 3 * WIDTH, WIDTH)
    layer(key + "proj", WIDTH, WIDTH)
    for name in ("query_norm", "key_norm"):
        m.put(f"{key}norm.{name}.scale", torch.full((HEAD,), SHARP))


def flux(seed: int = 20) -> TensorDict:
    """Of FLUX.1's kind, with the embedding of guidance: one double and one single block."""
    m = Maker(seed)
    m.layer("img_in", WIDTH, 64)
    m.layer("txt_in", WIDTH, TEXT)
    for name, width in (("time_in", 256), ("guidance_in", 256), ("vector_in", TEXT)):
        m.layer(f"{name}.in_layer", WIDTH, width)
        m.layer(f"{name}.out_layer", WIDTH, WIDTH)
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}_"
        m.layer(block + "mod.lin", 6 * WIDTH, WIDTH)
        _attention(m, block + "attn.", bias=True)
        m.layer(block + "mlp.0", 4 * WIDTH, WIDTH)
        m.layer(block + "mlp.2", WIDTH, 4 * WIDTH)
    m.layer("single_blocks.0.linear1", 7 * WIDTH, WIDTH)
    m.layer("single_blocks.0.linear2", WIDTH, 5 * WIDTH)
    m.layer("single_blocks.0.modulation.lin", 3 * WIDTH, WIDTH)
    for name in ("query_norm", "key_norm"):
        m.put(f"single_blocks.0.norm.{name}.scale", torch.full((HEAD,), SHARP))
    m.layer("final_layer.linear", 64, WIDTH)
    m.layer("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    return m.tensors


def flux2(seed: int = 21) -> TensorDict:
    """Of FLUX.2 klein's kind: modulation shared by all blocks, no embedding of guidance."""
    m = Maker(seed)
    m.weight("img_in", WIDTH, 128)
    m.weight("txt_in", WIDTH, TEXT)
    m.weight("time_in.in_layer", WIDTH, 256)
    m.weight("time_in.out_layer", WIDTH, WIDTH)
    for name, parts in (("double_stream_modulation_img", 6), ("double_stream_modulation_txt", 6)):
        m.weight(f"{name}.lin", parts * WIDTH, WIDTH)
    m.weight("single_stream_modulation.lin", 3 * WIDTH, WIDTH)
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}_"
        _attention(m, block + "attn.", bias=False)
        m.weight(block + "mlp.0", 6 * WIDTH, WIDTH)
        m.weight(block + "mlp.2", WIDTH, 3 * WIDTH)
    m.weight("single_blocks.0.linear1", 9 * WIDTH, WIDTH)
    m.weight("single_blocks.0.linear2", WIDTH, 4 * WIDTH)
    for name in ("query_norm", "key_norm"):
        m.put(f"single_blocks.0.norm.{name}.scale", torch.full((HEAD,), SHARP))
    m.weight("final_layer.linear", 128, WIDTH)
    m.weight("final_layer.adaLN_modulation.1", 2 * WIDTH, WIDTH)
    return m.tensors


def tiny_autoencoder(latent: int, pooled: bool, seed: int = 22) -> dict[str, TensorDict]:
    """ "encoder" and "decoder" as the host's folder vae_approx holds them. ``pooled``: of FLUX.2's kind."""
    m = Maker(seed)
    taesd(m, "")
    m.layer("taesd_encoder.14", latent, 64, 3, 3, gain=0.3)
    m.layer("taesd_decoder.1", 64, latent, 3, 3)
    for block in ("taesd_encoder.11", "taesd_encoder.12", "taesd_encoder.13") if pooled else ():
        _pool(m, block)
    for block in ("taesd_decoder.3", "taesd_decoder.4", "taesd_decoder.5") if pooled else ():
        _pool(m, block)
    return {
        half: {
            key.removeprefix(f"taesd_{half}."): value
            for key, value in m.tensors.items()
            if key.startswith(f"taesd_{half}.")
        }
        for half in ("encoder", "decoder")
    }


def _pool(m: Maker, block: str) -> None:
    m.weight(f"{block}.pool.0", 256, 64, 1, 1)
    m.norm(f"{block}.pool.1", 256)
    m.weight(f"{block}.pool.3", 64, 256, 1, 1, gain=0.3)


def write(models: Path) -> None:
    """All of them into a ComfyUI's folder of models: tiny_flux and tiny_flux2, and the VAEs taef1 and taef2."""
    files = {"diffusion_models/tiny_flux": flux(), "diffusion_models/tiny_flux2": flux2()}
    for name, parts in (("taef1", tiny_autoencoder(16, False)), ("taef2", tiny_autoencoder(32, True))):
        files |= {f"vae_approx/{name}_{half}": tensors for half, tensors in parts.items()}
    for name, tensors in files.items():
        path = models / f"{name}.safetensors"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_safetensors(tensors, path)
