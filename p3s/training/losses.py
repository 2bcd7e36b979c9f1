"""The losses of training (Eq. 11-15)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..errors import P3SError


# Eq. 14:  L_LDM = E |eps - eps_theta(x_t, t, c, f)|^2
def denoising_loss(prediction: Tensor, target: Tensor, loss_mask: Tensor | None = None) -> Tensor:
    """Mean squared error of the prediction, a scalar; ``target`` is the noise, or v for a v model.

    ``loss_mask`` [batch, 1, h, w], 0..1, weights the pixels; the mean is taken over what counts (0 where nothing does).
    """
    if loss_mask is None:
        return F.mse_loss(prediction.float(), target.float())
    errors = (prediction.float() - target.float()).square().mean(1, keepdim=True)
    return (errors * loss_mask).sum() / loss_mask.sum().clamp(min=1e-6)


# Eq. 11-12:  L_ac = mean((M_c - M_o)^2) / avg,  avg = (mean(M_c) + mean(M_o)) / 2
def attention_consistency(copy_map: Tensor, base_map: Tensor, norm: str = "mean") -> Tensor:
    """How far the copy's maps M_c are from the base's M_o, a scalar, averaged over the batch.

    The maps are softmax cross-attention maps [batch, heads, image tokens, text tokens] (Eq. 13). ``norm`` chooses
    avg: "mean", the mean attention (sum / number of entries, in both maps), or "sum", the half sum of both maps as
    printed, with which the loss all but vanishes, because every row of a map sums to 1.
    """
    if norm not in ("mean", "sum"):
        raise P3SError(f"the norm of the attention loss must be mean or sum; got {norm!r}")
    reduce = (copy_map + base_map).mean if norm == "mean" else (copy_map + base_map).sum
    average = reduce(dim=(1, 2, 3)) / 2
    return ((copy_map - base_map).square().mean(dim=(1, 2, 3)) / average).mean()


# Eq. 15:  L = L_LDM + gamma L_ac
def total_loss(denoising: Tensor, consistency: Tensor, gamma: float) -> Tensor:
    """The loss that is minimised, a scalar."""
    return denoising + gamma * consistency
