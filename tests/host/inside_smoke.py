"""Run by test_smoke.py inside a host: small models through the host's own loaders."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

import comfy.sd
import comfyui_version
import torch
from comfy import clip_vision


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return torch.nn.functional.cosine_similarity(a, b, dim=0).item()


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    model, *_ = comfy.sd.load_checkpoint_guess_config(arguments["checkpoint"])
    unet = model.model.diffusion_model
    blocks = [name for name, _ in unet.named_modules() if name.endswith("transformer_blocks.0")]
    vision = clip_vision.load(arguments["clip_vision"])
    photo = torch.zeros(1, 224, 224, 3)
    photo[:, :, :112, 0] = 0.8
    photo[:, :, 112:, 1] = 0.8
    photo[:, 210:] = torch.tensor([0.0, 0.0, 0.9])
    tokens = vision.encode_image(photo)["last_hidden_state"]
    patch = tokens[0, 1:].reshape(16, 16, -1)
    red, also_red, green, blue = patch[1, 1], patch[12, 5], patch[3, 14], patch[15, 3]
    state = {key for key, value in unet.state_dict().items() if not torch.isfinite(value).all()}
    return {
        "version": comfyui_version.__version__,
        "context_dim": model.model.model_config.unet_config["context_dim"],
        "transformers": len(blocks),
        "missing": sorted(state),
        "tokens": list(tokens.shape),
        "like": cosine(red, also_red),
        "unlike": max(cosine(red, green), cosine(red, blue), cosine(green, blue)),
        "pack": importlib.util.find_spec("comfyui_p3s.p3s") is not None if "comfyui_p3s" in sys.modules else None,
    }
