"""Where training starts: a copy initialised from the frozen U-Net."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import P3SError
from .copy_settings import CopySettings
from .low_rank import reset_changes
from .subject_copy import SubjectCopy
from .unet import load
from .unet_config import UNetConfig


def start_copy(
    base: Mapping[str, Tensor],
    settings: CopySettings,
    token_dim: int,
    zero_init: str = "zero",
    seed: int = 0,
) -> SubjectCopy:
    """A copy ready for training, in float32, initialised by the layer map from the base's state dict.

    ``zero_init`` (d): "zero" starts Z at zero (Eq. 6 as written); "identity" starts the self-attention's Z as the
    identity, so that f is close to z and the duplicated tokens leave the softmax almost unchanged.
    ``seed`` fixes the random start of W_Q and W_K of Eq. 4, of low-rank changes and of the learned weight. A
    low-rank copy takes nothing but the shapes from ``base``; it borrows the weights when it is used. Raises P3SError
    for another ``zero_init``.
    """
    if zero_init not in ("zero", "identity"):
        raise P3SError(f"zero_init must be zero or identity; got {zero_init!r}")
    copy = SubjectCopy(UNetConfig.from_state_dict(base), settings, token_dim, device="meta")
    if settings.kind == "lora":
        copy.unet.to_empty(device="cpu")
    else:
        weights = {k: base[copy.map.base_key(k)].detach().float().clone() for k in copy.unet.state_dict()}
        first = "input_blocks.0.0.weight"
        weights[first] = weights[first][:, : copy.map.config.in_channels].clone()
        load(copy.unet, weights)

    generator = torch.Generator().manual_seed(seed)
    for part in (copy.image_latent, copy.zero_self, copy.zero_cross):
        part.to_empty(device="cpu")
    with torch.no_grad():
        for part in (copy.image_latent, copy.zero_self, copy.zero_cross):
            for p in part.parameters():
                p.zero_()
        for projection in (copy.image_latent.to_q, copy.image_latent.to_k):
            projection.weight.normal_(std=projection.in_features**-0.5, generator=generator)
        if zero_init == "identity":
            _start_as_identity(copy.zero_self)
    reset_changes(copy, generator)
    if copy.learned_weight is not None:
        copy.learned_weight.to_empty(device="cpu").reset(generator)
    return copy


def _start_as_identity(zero_convolutions: nn.ModuleDict) -> None:
    for name, weight in zero_convolutions.named_parameters():
        if name.endswith("diagonal.weight"):
            weight.fill_(1)
        elif name.endswith("weight"):
            nn.init.eye_(weight)
