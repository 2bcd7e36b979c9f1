"""Small random vision models of transformers, of the kinds that masks may be made with."""

from __future__ import annotations

from typing import Any

import torch

KINDS = ("clip", "siglip", "dinov2", "dinov2 with registers")


def small(kind: str, layers: int = 3, seed: int = 0) -> Any:
    """A model of 4 x 4 patches; of SigLIP's 65 pixels the last is on no patch."""
    import transformers as t

    torch.manual_seed(seed)
    shared = {"hidden_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2}
    if kind == "clip":
        config = t.CLIPVisionConfig(**shared, intermediate_size=32, image_size=64, patch_size=16)
        model = t.CLIPVisionModel(config)
    elif kind == "siglip":
        config = t.SiglipVisionConfig(**shared, intermediate_size=32, image_size=65, patch_size=16)
        model = t.SiglipVisionModel(config)
    elif kind == "dinov2":
        model = t.Dinov2Model(t.Dinov2Config(**shared, image_size=56, patch_size=14))
    else:
        model = t.Dinov2WithRegistersModel(
            t.Dinov2WithRegistersConfig(**shared, image_size=56, patch_size=14, num_register_tokens=3)
        )
    with torch.no_grad():
        for name, weight in model.named_parameters():
            # Like trained ones: biases, norms and LayerScale that do something, attention that chooses.
            noise = torch.randn(weight.shape)
            weight.copy_(1 + 0.3 * noise if weight.ndim == 1 and "bias" not in name else 0.3 * noise)
    return model.eval()
