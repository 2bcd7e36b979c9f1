"""Small random SSR-Encoders for the tests, and the method in a few lines of its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from small import SMALL
from torch import Tensor

from p3s.network.unet_config import UNetConfig
from p3s.ssr.aligner import Aligner
from p3s.ssr.embeds import Embed, SubjectEmbeds, Vision
from p3s.ssr.file import SSRModel
from p3s.ssr.layers import SubjectLayers

#: Text and vision width, the aligner's width and heads, scales, tokens of a text, patches along a side.
TEXT, VISION, INNER, HEADS, SCALES, LENGTH, GRID = SMALL.context_dim, 20, 16, 2, 3, 7, 4
SIDE = 32  # of CLIP's pictures


def rand(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def random_aligner(seed: int = 0, **sizes: int) -> Aligner:
    torch.manual_seed(seed)
    sizes = {"query": TEXT, "vision": VISION, "inner": INNER, "heads": HEADS, "scales": SCALES} | sizes
    aligner = Aligner(**sizes)
    with torch.no_grad():  # no part of the norm a no-op, and attention that is not flat
        aligner.norm.weight.add_(0.1 * torch.randn_like(aligner.norm.weight))
        aligner.norm.bias.add_(0.1 * torch.randn_like(aligner.norm.bias))
        aligner.to_q.weight.mul_(4)
        aligner.to_k.weight.mul_(4)
    return aligner.requires_grad_(False).eval()


def random_layers(config: UNetConfig = SMALL, seed: int = 1) -> SubjectLayers:
    torch.manual_seed(seed)
    layers = SubjectLayers(config).requires_grad_(False)
    for p in layers.parameters():
        p.mul_(3)
    return layers


def random_model(seed: int = 0, config: UNetConfig = SMALL) -> SSRModel:
    return SSRModel(random_aligner(seed), random_layers(config, seed + 1).state_dict(), "of the test")


MODEL = random_model()


def random_embeds(count: int = 1, seed: int = 5, weights: tuple[float, ...] = (1.0, 1.0, 1.0)) -> SubjectEmbeds:
    tokens = SCALES * LENGTH
    subjects = (
        Embed(rand(1, tokens, TEXT, seed=seed + i), rand(1, tokens, TEXT, seed=seed + 50 + i), weights[i])
        for i in range(count)
    )
    return SubjectEmbeds(tuple(subjects), MODEL)


def random_vision(seed: int = 3) -> Vision:
    """A tower without depth: every state is another projection of the patches' pixels, the class token their mean."""
    patch = SIDE // GRID
    weights = rand(SCALES, 3 * patch * patch, VISION, seed=seed) * 0.3

    def states(picture: Tensor) -> Tensor:
        blocks = torch.nn.functional.pixel_unshuffle(picture.permute(0, 3, 1, 2), patch).flatten(2).transpose(1, 2)
        blocks = torch.cat([blocks.mean(1, keepdim=True), blocks], 1)
        return torch.einsum("bpc,kcd->bkpd", blocks, weights)

    return Vision(SIDE, states, lambda: states(torch.zeros(1, SIDE, SIDE, 3)))


def by_hand(w: Mapping[str, Tensor], heads: int, states: Tensor, query: Tensor, bias: Tensor | None = None) -> Tensor:
    """c_s of one picture, [K * L, width], with loops instead of batches; ``w`` by the released keys' short names."""
    q, k = query @ w["to_q.weight"].T, states[-1] @ w["to_k.weight"].T
    d = q.shape[1] // heads
    rows = []
    for i, state in enumerate(states):
        v = state @ w[f"to_v.{i}.weight"].T
        heads_out = []
        for h in range(heads):
            part = slice(h * d, (h + 1) * d)
            logits = q[:, part] @ k[:, part].T * d**-0.5 + (0 if bias is None else bias)
            heads_out.append(torch.exp(logits - logits.logsumexp(1, keepdim=True)) @ v[:, part])
        rows.append(torch.cat(heads_out, 1) @ w[f"to_out.{i}.weight"].T)
    c = torch.cat(rows)
    c = (c - c.mean(1, keepdim=True)) / (c.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    return c * w["norm.weight"] + w["norm.bias"]


def cross_attention_by_hand(
    attn: Any, n: Tensor, text: Tensor, c: Tensor, w_k: Tensor, w_v: Tensor, scale: float, heads: int
) -> Tensor:
    """The formula of one row: n [tokens, d], text and c [tokens, width]; the output after the output projection."""
    q, out = n @ attn.to_q.weight.T, []
    d = q.shape[1] // heads
    k, v = text @ attn.to_k.weight.T, text @ attn.to_v.weight.T
    k_s, v_s = c @ w_k.T, c @ w_v.T
    for h in range(heads):
        part = slice(h * d, (h + 1) * d)
        own = (q[:, part] @ k[:, part].T / d**0.5).softmax(1) @ v[:, part]
        out.append(own + scale * (q[:, part] @ k_s[:, part].T / d**0.5).softmax(1) @ v_s[:, part])
    return torch.cat(out, 1) @ attn.to_out[0].weight.T + attn.to_out[0].bias
