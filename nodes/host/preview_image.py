"""Small pictures of latents, decoded as quickly as the host's own previews."""

from __future__ import annotations

from typing import Any

import latent_preview
import torch
from torch import Tensor

from .progress import Preview


@torch.inference_mode()  # as the host's own previews: else autograd would keep the activations of TAESD
def preview_image(model: Any, latent: Tensor) -> Preview:
    """A latent [1, channels, h, w], scaled as the MODEL reads it, as a picture for the host's progress bar.

    It is decoded as the user has set it for sampling (``--preview-method``, TAESD if its file is there); by the
    factors that give each latent channel a colour if that says none.
    """
    latent_format = model.get_model_object("latent_format")
    previewer = latent_preview.get_previewer(latent.device, latent_format)
    if previewer is None:
        previewer = latent_preview.Latent2RGBPreviewer(
            latent_format.latent_rgb_factors, latent_format.latent_rgb_factors_bias
        )
    return previewer.decode_latent_to_preview_image("JPEG", latent)
