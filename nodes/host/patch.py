"""Applying a subject to a MODEL through the host's public hooks.

A wrapper around each call of the U-Net runs the copy on the same input and hands its features to an attn1 and an
attn2 patch, made for that call alone. Nothing of a call outlives it, the given MODEL is never changed, and all that is
stored on the patched one are closures over objects that do not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...p3s.errors import P3SError
from ...p3s.injection import Features, add_to_query, extend_keys, extend_values, fit_tokens
from ...p3s.schedule import Schedule
from ...p3s.subject import Subject, SubjectReference, check_family, check_weights
from ...p3s.subject_copy import CopySettings, SubjectCopy
from ...p3s.unet_config import Layer, UNetConfig
from .weights import base_fingerprint, unet_config

KEY = "p3s"  # under which the host keeps our wrappers and additional models


@dataclass(frozen=True)
class Application:
    """How a subject is applied: when, how strongly, and to which half of the guidance."""

    schedule: Schedule
    strength: float
    conditional_only: bool

    def weight(self, t: float) -> float:
        """eps_t times the strength at timestep ``t``; exactly 0 where the subject is off."""
        return self.strength * float(self.schedule.weight(t))


def apply_subject(
    model: Any, subject: Subject, reference: int, application: Application
) -> tuple[Any, tuple[str, ...]]:
    """A clone of MODEL that generates the subject, and warnings for the user.

    ``reference`` is the number of the photo that serves as the condition, from 0. Raises FamilyError or
    SubjectFileError when model and subject do not fit.
    """
    config = unet_config(model)
    warnings = check_family(subject, config.family, base_fingerprint(model))
    if not 0 <= reference < len(subject.references):
        raise P3SError(f"reference must lie in 0..{len(subject.references) - 1} for this subject; got {reference}")
    patched = model.clone()
    if application.strength == 0:
        return patched, warnings
    copy = build_copy(config, subject, compute_dtype(model))
    patcher = ModelPatcher(
        copy,
        load_device=model.load_device,
        offload_device=model.offload_device,
    )
    patched.set_additional_models(KEY, [*patched.get_additional_models_with_key(KEY), patcher])
    wrapper = make_wrapper(copy, subject.references[reference], application)
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, KEY, wrapper)
    return patched, warnings


def compute_dtype(model: Any) -> torch.dtype:
    """The type that the model's layers compute in, which may differ from the one its weights are stored in."""
    return model.model.manual_cast_dtype or model.model.get_dtype()


def build_copy(config: UNetConfig, subject: Subject, dtype: torch.dtype) -> SubjectCopy:
    """The subject's copy on the host's own layers, so that the host can stream and cast its weights."""
    settings = CopySettings.from_dict(subject.info.copy_settings)
    tokens = subject.references[0].tokens.shape[1]
    plain = SubjectCopy(config, settings, tokens, device="meta")
    check_weights(subject, {k: v.shape for k, v in plain.state_dict().items()})
    with torch.inference_mode(False):
        copy = SubjectCopy(config, settings, tokens, comfy.ops.manual_cast, device="meta")
        copy.load_state_dict({k: v.to(dtype) for k, v in subject.weights.items()}, assign=True)
    return copy.requires_grad_(False).eval()


def make_wrapper(copy: SubjectCopy, reference: SubjectReference, application: Application) -> Callable[..., Any]:
    """The DIFFUSION_MODEL wrapper: runs once per U-Net call, on exactly the input that the U-Net gets."""
    channels = copy.unet.config.in_channels  # an inpainting U-Net reads a mask and a masked image behind the latent
    latent, tokens = reference.latent[None], reference.tokens[None]

    def wrapper(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        if "multigpu_thread_device" in transformer_options:
            raise P3SError("Apply P3S does not work with several GPUs at once: remove the multi-GPU node")
        weight = application.weight(float(timesteps[0]))
        if weight == 0:
            return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

        def injected(x, timesteps, context, control, options):
            condition = copy.condition(latent.to(x.device, x.dtype), tokens.to(x.device, x.dtype))
            features = copy(x[:, :channels], timesteps, context, condition).weighted(weight)
            options = with_patches(options, features, copy.settings.lam)
            return executor(x, timesteps, context, y, control, options, **kwargs)

        if not application.conditional_only:
            return injected(x, timesteps, context, control, transformer_options)

        def plain(x, timesteps, context, control, options):
            return executor(x, timesteps, context, y, control, options, **kwargs)

        return by_halves(injected, plain, x, timesteps, context, control, transformer_options)

    return wrapper


def with_patches(options: Mapping[str, Any], features: Features, lam: float) -> dict[str, Any]:
    """The call's transformer_options with our patches appended, so that they run after those of other nodes."""

    def grid(extra: Mapping[str, Any]) -> tuple[int, int]:
        return tuple(extra["activations_shape"][2:])

    def layer_of(extra: Mapping[str, Any]) -> Layer:
        return Layer(*extra["block"], extra["block_index"])

    # Guidance nodes (PAG, SAG) replace a block's attention with code that expects as many keys as queries.
    replaced = options.get("patches_replace", {}).get("attn1", {})

    def attn1_patch(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        layer = layer_of(extra)
        if layer not in features.self_attention or extra["block"] in replaced or tuple(layer) in replaced:
            return q, k, v
        f = fit_tokens(features.self_attention[layer], features.grids[layer], grid(extra)).to(k.dtype)
        k, v, f = (as_tiles(t, len(q)) for t in (k, v, f))
        return q, extend_keys(k, f), extend_values(v, f, lam)

    def attn2_patch(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> tuple[Tensor, Tensor, Tensor]:
        layer = layer_of(extra)
        if layer not in features.cross_attention:
            return q, k, v
        g = fit_tokens(features.cross_attention[layer], features.grids[layer], grid(extra)).to(q.dtype)
        return add_to_query(q, g), k, v

    patches = dict(options.get("patches", {}))
    patches["attn1_patch"] = [*patches.get("attn1_patch", ()), attn1_patch]
    patches["attn2_patch"] = [*patches.get("attn2_patch", ()), attn2_patch]
    return {**options, "patches": patches}


def as_tiles(tokens: Tensor, batch: int) -> Tensor:
    """Cut tokens [b, n, channels] as HyperTile has cut the queries, [batch, n b / batch, channels]; else unchanged.

    Keys and values reach a patch uncut, and the host's attention regroups them in memory order: the same is done here,
    before features are appended, so that every tile sees its own part of both.
    """
    return tokens if len(tokens) == batch else tokens.reshape(batch, -1, tokens.shape[-1])


def by_halves(
    injected: Callable[..., Tensor],
    plain: Callable[..., Tensor],
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    control: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Tensor:
    """Run the conditional rows of a batch through ``injected``, the others through ``plain``.

    The host lists one entry per chunk of the batch in ``cond_or_uncond``, 0 for the first conditioning of its guider
    (the prompt, with ordinary guidance). Without the list all rows are conditional.
    """
    chunks = options.get("cond_or_uncond", [0])
    size = len(x) // len(chunks)
    out: Tensor | None = None
    for run, wanted in ((injected, True), (plain, False)):
        chosen = [i for i, kind in enumerate(chunks) if (kind == 0) == wanted]
        if not chosen:
            continue
        rows = torch.cat([torch.arange(i * size, (i + 1) * size) for i in chosen]).to(x.device)

        def pick(value: Any, rows: Tensor = rows) -> Any:
            if isinstance(value, Tensor):
                return value[rows] if value.ndim and len(value) == len(x) else value
            if isinstance(value, list):
                return [pick(v) for v in value]
            return {k: pick(v) for k, v in value.items()} if isinstance(value, dict) else value

        part = {**options, "cond_or_uncond": [chunks[i] for i in chosen]}
        if len(options.get("uuids", ())) == len(chunks):
            part["uuids"] = [options["uuids"][i] for i in chosen]
        result = run(pick(x), pick(timesteps), pick(context), pick(control), part)
        if out is None:
            out = result.new_empty((len(x), *result.shape[1:]))
        out[rows] = result
    assert out is not None, "the host called the U-Net with an empty batch"
    return out
