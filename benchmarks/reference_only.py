"""Reference-only: the frozen base reads its own hidden states of a reference by Eq. 7. Nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from p3s.models.pipeline import ModelBundle
from p3s.network.hooks import AttentionHooks
from p3s.network.injection import Features, Injection, InjectionHooks
from p3s.network.subject_copy import CopyReader
from p3s.sampling.ddim import Over

SEED = 1234  # of the reference's noise, the same at every step


# K' = W_K [z, r],  V' = W_V [z + lambda r, r],  r = norm1(base(x_t of the reference, t, c of its caption))
def reference_only(models: ModelBundle, picture: Tensor, caption: str, lam: float) -> Over:
    """The ``over`` of :meth:`ModelBundle.sample`. At every timestep the base runs on the reference ``picture``
    [H, W, 3], noised to the level of the step, under ``caption``; what its self-attentions read there, both branches of
    the guidance read by Eq. 7, with ``lam`` for lambda and the weight 1."""
    device = next(models.unet.parameters()).device
    latent, context = (part[None].to(device) for part in (models.encode_latent(picture), models.encode_text(caption)))
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(SEED)).to(device)

    @torch.no_grad()
    def over(hooks: AttentionHooks, t: int, prompts: Sequence[bool]) -> AttentionHooks:
        times, reader = torch.full((1,), t, device=device), CopyReader()
        models.unet(models.noise.add_noise(latent, noise, times), times, context, reader)
        subjects = hooks.injections if isinstance(hooks, InjectionHooks) else ()
        return InjectionHooks(*subjects, Injection(Features(reader.norm1, {}, reader.grids), lam))

    return over
