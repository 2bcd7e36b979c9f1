"""What the scripts share that try Apply SSR inside a host: random SSR-Encoders and subjects, and the method in its own
few lines on the host's hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import base_model, ssr
from comfyui_p3s.nodes.host.attention import grid_of, layer_of
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.network.unet_config import UNetConfig
from comfyui_p3s.p3s.ssr.aligner import Aligner
from comfyui_p3s.p3s.ssr.attend import AppliedSSR
from comfyui_p3s.p3s.ssr.embeds import Embed, SubjectEmbeds
from comfyui_p3s.p3s.ssr.file import SSRModel
from comfyui_p3s.p3s.ssr.layers import SubjectLayers, file_index
from inside_subjects import conditioning, draw
from torch import Tensor

TOKENS = 30
SIZES = {"query": 768, "vision": 1024, "inner": 512, "heads": 8, "scales": 6}


def random_encoder(config: UNetConfig, seed: int = 1, **sizes: int) -> SSRModel:
    """An SSR-Encoder for a U-Net, whose subjects change what it draws."""
    with torch.inference_mode(False), torch.random.fork_rng():
        torch.manual_seed(seed)
        aligner = Aligner(**{**SIZES, **sizes}).requires_grad_(False).train(False)
        state = {key: 0.3 * tensor.detach() for key, tensor in SubjectLayers(config).state_dict().items()}
    return SSRModel(aligner, state, f"of the test, {seed}")


def encoder_for(model: Any, seed: int = 1) -> SSRModel:
    return random_encoder(base_model.unet_config(model), seed, inner=64, heads=1, vision=8, scales=1)


def embeds_of(encoder: SSRModel, *seeds: int, weights: Sequence[float] = (1.0, 1.0, 1.0)) -> SubjectEmbeds:
    width = encoder.aligner.to_q.in_features
    subjects = (
        Embed(draw(1, TOKENS, width, seed=60 + s), draw(1, TOKENS, width, seed=80 + s), weight)
        for s, weight in zip(seeds, weights, strict=False)
    )
    return SubjectEmbeds(tuple(subjects), encoder)


def apply_ssr(model: Any, embeds: SubjectEmbeds, strength: float = 1.0, **options: Any) -> Any:
    """A MODEL with subjects applied, as the node does it."""
    return ssr.apply_ssr(model, base_model.unet_config(model), AppliedSSR(embeds, strength, **options))


def written(
    model: Any,
    embeds: SubjectEmbeds,
    strength: float = 1.0,
    mask: Tensor | None = None,
    guidance: str = "both",
    others: Sequence[Tensor] = (),
    first: bool = False,
) -> Any:
    """A MODEL with subjects, row by row and head by head: what a cross-attention reads is projected by its own weights
    again, and what it gives has the subjects' part, through its own last projection, added.

    ``others`` are the texts [1, tokens, width] that are no prompts: the negative prompt of ``sample`` by default.
    ``first``: the queries are those before other nodes change them.
    """
    index = file_index(base_model.unet_config(model))
    state, texts = embeds.model.layers, others or (conditioning(2)[0][0],)
    c = torch.cat([s.c * s.weight for s in embeds.subjects], 1)[0]
    unconditional = torch.cat([s.unconditional for s in embeds.subjects], 1)[0]

    def module_of(extra: dict[str, Any]) -> Any:
        side, number = extra["block"]
        unet = model.model.diffusion_model
        block = unet.middle_block if side == "middle" else getattr(unet, f"{side}_blocks")[number]
        transformers = next(m for m in block if hasattr(m, "transformer_blocks"))
        return transformers.transformer_blocks[extra["block_index"]].attn2

    def wrapper(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        seen: dict[Any, Tensor] = {}
        of_prompt = [not any(is_text(row, text) for text in texts) for row in context]

        def attn2_patch(n: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
            seen[layer_of(extra)] = n
            return n, k, v

        def attn2_output_patch(out: Tensor, extra: dict[str, Any]) -> Tensor:
            layer, module, heads = layer_of(extra), module_of(extra), extra["n_heads"]
            n = seen.pop(layer)
            w_k, w_v = (state[f"{index[layer]}.to_{part}_SSR.weight"].to(n) for part in "kv")
            rows = []
            for row, prompt in zip(n, of_prompt, strict=True):
                text = (c if prompt else unconditional).to(n)
                q, k, v = module.to_q(row[None])[0], text @ w_k.T, text @ w_v.T
                parts = [
                    (a @ b.T / a.shape[1] ** 0.5).softmax(1) @ d
                    for a, b, d in zip(*(t.chunk(heads, 1) for t in (q, k, v)), strict=True)
                ]
                part = module.to_out[0](torch.cat(parts, 1)[None])[0] - module.to_out[0](torch.zeros_like(q)[None])[0]
                rows.append(0 * part if guidance == "conditional" and not prompt else strength * part)
            added = torch.stack(rows)
            if mask is not None:
                added = added * EffectMask(mask).tokens(grid_of(extra))[0][:, None].to(added)
            return out + added

        patches = {name: list(found) for name, found in transformer_options.get("patches", {}).items()}
        for name, patch in (("attn2_patch", attn2_patch), ("attn2_output_patch", attn2_output_patch)):
            there = patches.get(name, [])
            patches[name] = [patch, *there] if first and name == "attn2_patch" else [*there, patch]
        options = {**transformer_options, "patches": patches}
        return executor(x, timesteps, context, y, control, options, **kwargs)

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "written", wrapper)
    return patched


def is_text(row: Tensor, text: Tensor) -> bool:
    """Whether a row of a call's context is a text, which may be repeated to the length of others."""
    times, rest = divmod(len(row), text.shape[1])
    return not rest and torch.equal(row, text[0].to(row).repeat(times, 1))
