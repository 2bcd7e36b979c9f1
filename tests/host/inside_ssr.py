"""Run by test_ssr.py inside a host: its vision tower and its U-Net's cross-attention under SSR-Encoder's core."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.clip_model
import comfy.model_management
import comfy.ops
import torch
from comfy.ldm.modules import attention
from comfyui_p3s.nodes.host import base_model
from comfyui_p3s.nodes.host.attention import grid_of, layer_of
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.ssr.aligner import Aligner, chosen_states
from comfyui_p3s.p3s.ssr.attend import AppliedSSR, SSRHooks, SubjectRun
from comfyui_p3s.p3s.ssr.embeds import Embed, SubjectEmbeds
from comfyui_p3s.p3s.ssr.file import SSRModel
from comfyui_p3s.p3s.ssr.layers import SubjectLayers
from comfyui_p3s.p3s.ssr.vision import clip_vision
from inside_subjects import difference, draw, inputs, load

TOWER = {
    "num_hidden_layers": 24,
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "hidden_act": "quick_gelu",
    "num_channels": 3,
    "patch_size": 7,
    "image_size": 28,
    "projection_dim": 16,
}


def tower_facts() -> dict[str, Any]:
    """The host's vision tower and transformers' with the same weights."""
    import transformers

    with torch.inference_mode(False):
        torch.manual_seed(0)
        theirs = transformers.CLIPVisionModel(transformers.CLIPVisionConfig(**TOWER))
        kind = {**TOWER, "model_type": "clip_vision_model"}
        host = comfy.clip_model.CLIPVisionModelProjection(kind, torch.float32, "cpu", comfy.ops.manual_cast)
        # transformers 5 has no prefix any more.
        state = {key.removeprefix("vision_model."): tensor for key, tensor in theirs.state_dict().items()}
        found = host.vision_model.load_state_dict(state, strict=False)
        vision, pixels = clip_vision(theirs), draw(2, 3, 28, 28)
        with torch.no_grad():
            outputs = host(pixel_values=pixels, intermediate_output="all")[1]
            expected = torch.stack(theirs(pixel_values=pixels, output_hidden_states=True).hidden_states[4::4], 1)
            zeros = host(pixel_values=torch.zeros(1, 3, 28, 28), intermediate_output="all")[1]
    return {
        "not loaded": [key for key in found.missing_keys if "position_ids" not in key],
        "unknown": found.unexpected_keys,
        "shape": list(outputs.shape),
        "states": difference(chosen_states(outputs, 6), expected),
        "zeros": difference(chosen_states(zeros, 6), vision.zeros()),
    }


def with_runs(options: Mapping[str, Any], layers: Any, runs: list[SubjectRun], prompts: list[bool]) -> dict[str, Any]:
    """The options of a call whose cross-attention is the host's own with the runs added."""

    def replace(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Mapping[str, Any]) -> torch.Tensor:
        def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
            return attention.optimized_attention(
                q, k, v, heads, attn_precision=extra["attn_precision"], transformer_options=extra
            )

        out = attend(q, k, v, extra["n_heads"])
        for run in runs:
            out = run.add(layer_of(extra), out, q, extra["n_heads"], grid_of(extra), prompts, attend)
        return out

    return {**options, "patches_replace": {"attn2": {tuple(layer): replace for layer in layers}}}


def network_facts(model: Any) -> dict[str, Any]:
    """A whole U-Net: the host's with the core as attn2 replace, and ours with the core's hooks."""
    x, t, context = inputs(4)
    with torch.inference_mode(False):
        ours = UNet.from_state_dict(base_model.base_weights(model))
        config = ours.config
        torch.manual_seed(1)
        state = {key: 0.1 * tensor for key, tensor in SubjectLayers(config).state_dict().items()}
        layers = SubjectLayers.from_state_dict(state, config)
        # As a host holds them: weights in another type than they are used in.
        hosted = SubjectLayers.from_state_dict(state, config, comfy.ops.manual_cast, torch.float64)
        encoder = SSRModel(Aligner(768, 8, 64, 1, 1), state, "")
    comfy.model_management.load_models_gpu([model])
    mask = EffectMask(torch.linspace(0, 1, 16).expand(2, 16, 16).clone())
    facts = {}
    for name, options in {
        "both": {},
        "conditional": {"guidance": "conditional"},
        "masked": {"mask": mask},
        "off": {"strength": 0.0},
        "nowhere": {"mask": EffectMask(torch.zeros(4, 4))},
    }.items():
        subject = Embed(draw(1, 30, 768, seed=7), draw(1, 30, 768, seed=8))
        embeds = SubjectEmbeds((subject,), encoder)
        applied = AppliedSSR(embeds, **{"strength": 2.0, **options})
        prompts = [False, True]
        found = model.model.diffusion_model(
            x, t, context, transformer_options=with_runs({}, config.layers(), [SubjectRun(applied, hosted)], prompts)
        )
        plain = model.model.diffusion_model(x, t, context, transformer_options={})
        expected = ours(x, t, context, SSRHooks([SubjectRun(applied, layers)], prompts))
        facts[name] = {
            "error": difference(found, expected),
            "effect": difference(found, plain),
            "plain": torch.equal(found, plain),
            "first half plain": torch.equal(found[:2], plain[:2]),
        }
    return facts


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    return {"tower": tower_facts(), "network": network_facts(load(arguments["model"]))}
