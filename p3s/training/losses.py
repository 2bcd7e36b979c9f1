"""The losses of training (Eq. 11-15)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from ..errors import P3SError
from ..sampling.diffusion import NoiseSchedule

MIN_SNR_GAMMA = 5.0


# Eq. 14:  L_LDM = E |eps - eps_theta(x_t, t, c, f)|^2
def denoising_loss(
    prediction: Tensor, target: Tensor, loss_mask: Tensor | None = None, row_weights: Tensor | None = None
) -> Tensor:
    """Mean squared error of the prediction, a scalar; ``target`` is the noise, or v for a v model.

    ``loss_mask`` [batch, 1, h, w], 0..1, weights the pixels; the mean is taken over what counts (0 where nothing does).
    ``row_weights`` [batch] are factors of the rows' errors.
    """
    if loss_mask is None and row_weights is None:
        return F.mse_loss(prediction.float(), target.float())
    errors = (prediction.float() - target.float()).square().mean(1, keepdim=True)
    if row_weights is not None:
        errors = errors * row_weights[:, None, None, None]
    if loss_mask is None:
        return errors.mean()
    return (errors * loss_mask).sum() / loss_mask.sum().clamp(min=1e-6)


# Hang et al. 2023:  w_t = min(snr, 5) / snr  where the noise is predicted,  min(snr, 5) / (snr + 1)  where v is
def min_snr_weights(noise: NoiseSchedule, t: Tensor) -> Tensor:
    """Min-SNR's factors of the denoising loss at integer timesteps ``t`` [batch], 0..1, [batch] float32. They bound the
    weight of the error of x_0, which is the signal-to-noise ratio itself where the error of the noise counts alike."""
    abar = noise.alphas_cumprod.to(t.device)[t]
    snr = abar / (1 - abar)
    if noise.prediction == "eps":
        return (MIN_SNR_GAMMA / snr).clamp(max=1)
    return snr.clamp(max=MIN_SNR_GAMMA) / (snr + 1)


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
