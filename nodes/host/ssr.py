"""Applying SSR-Encoder's subjects to a MODEL through the host's public hooks.

A wrapper around each call of the U-Net gives that call alone replacements of its cross-attention, which compute the
host's, or call those of other nodes, and add the subjects' attention. What a run keeps lives in the run's own options.
The given MODEL is never changed, and all that is stored on the patched one are closures over objects that do not
change.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.ops
import torch
from comfy.ldm.modules import attention
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...p3s.errors import P3SError
from ...p3s.network.unet_config import UNetConfig
from ...p3s.ssr.attend import AppliedSSR, SubjectRun
from ...p3s.ssr.file import SSRModel
from ...p3s.ssr.layers import SubjectLayers, check_layers
from .attention import SSR_KEY as KEY
from .attention import grid_of, layer_of
from .guidance import ROWS, check_masks, check_timesteps, chunks_of, conditional_chunks
from .patchers import OneDevicePatcher, attach, compute_dtype
from .sampling_run import ModelRun, window_of, wrappers_of_run

NODE = "Apply SSR"
SEVERAL_GPUS = "Apply SSR does not work with several GPUs at once: remove the multi-GPU node"


class LayersPatcher(OneDevicePatcher):
    """An SSR-Encoder's layers, as the host loads them beside the MODEL."""

    several_gpus = f"{SEVERAL_GPUS}, and choose the model's device before Apply SSR"


@dataclass(frozen=True, eq=False)
class SSROnModel:
    """Subjects on a MODEL, and the layers that read them."""

    applied: AppliedSSR
    layers: SubjectLayers


def apply_ssr(model: Any, config: UNetConfig, applied: AppliedSSR) -> Any:
    """A clone of MODEL, whose U-Net has this ``config``, that draws the subjects along with those already applied.

    Raises FamilyError where the SSR-Encoder was made for another model.
    """
    if model.get_additional_models_with_key("multigpu"):
        raise P3SError(SEVERAL_GPUS)
    check_layers(applied.embeds.model.layers, config)
    patched = model.clone()
    if applied.never:
        return patched
    patcher = patcher_of_layers(model, config, applied.embeds.model)
    subjects = (*(model.get_attachment(KEY) or ()), SSROnModel(applied, patcher.model))
    patched.set_attachments(KEY, subjects)
    attach(patched, KEY, patcher, wrappers(subjects))
    return patched


#: The first patcher of the layers of each SSR-Encoder in use, as of subjects' copies: all others are clones of it, and
#: nothing here keeps the layers alive.
_patchers: weakref.WeakKeyDictionary[SSRModel, weakref.WeakValueDictionary[Any, LayersPatcher]] = (
    weakref.WeakKeyDictionary()
)


def patcher_of_layers(model: Any, config: UNetConfig, encoder: SSRModel) -> LayersPatcher:
    """A patcher of the encoder's layers on the host's own operations, so that the host can stream and cast them."""
    dtype, devices = compute_dtype(model), {"load_device": model.load_device, "offload_device": model.offload_device}
    made = _patchers.setdefault(encoder, weakref.WeakValueDictionary())
    key = config, dtype, *devices.values()
    patcher = made.get(key)
    if patcher is None:
        with torch.inference_mode(False):
            layers = SubjectLayers.from_state_dict(encoder.layers, config, comfy.ops.manual_cast, dtype)
        patcher = made[key] = LayersPatcher(layers.train(False), **devices)
    return patcher.clone()


class SSRRun(ModelRun):
    """One sampling run of a MODEL with subjects, whose keys and values it keeps."""

    def __init__(self, subjects: Sequence[SSROnModel], conds: Any = None, latents: Sequence[int] | None = None) -> None:
        super().__init__(NODE, conds, latents)
        self._runs = [SubjectRun(subject.applied, subject.layers) for subject in subjects]

    def acting(self, timesteps: Tensor, options: Mapping[str, Any]) -> list[SubjectRun]:
        """Those that act in a call. The timestep is read only where the answer changes in a run."""

        def acts(applied: AppliedSSR) -> bool:
            return (applied.start, applied.end) == (0, 1) or applied.acts_at(self.percent(timesteps, options))

        return [run for run in self._runs if acts(run.applied)]

    def with_rows(self, x: Tensor, context: Tensor, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The options of a call, which tell the prompt's rows where its chunks do not."""
        if self.ordered(x, options):
            return options
        rows = self.rows_of_prompts(x, context, options)
        if rows is None:
            raise P3SError(
                "Apply SSR cannot tell which part of the batch belongs to the prompt, because another node stacks the "
                "image in its own order (a batch of tiles?): set that node's batch to 1"
            )
        return {**options, ROWS: rows}


def wrappers(subjects: Sequence[SSROnModel]) -> dict[str, Any]:
    """Our wrappers by the host's kinds of wrappers."""
    masks = [subject.applied.mask for subject in subjects if subject.applied.mask is not None]

    def start(guider: Any, latents: Sequence[int]) -> SSRRun:
        check_masks(masks, latents, guider.conds, NODE)
        if any((subject.applied.start, subject.applied.end) != (0, 1) for subject in subjects):
            check_timesteps(guider.model_patcher, f"{NODE} with a start_percent or end_percent")
        return SSRRun(subjects, guider.conds, latents)

    def diffusion_model(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        """Around each call of the U-Net."""
        if "multigpu_thread_device" in transformer_options:
            raise P3SError(SEVERAL_GPUS)
        run = transformer_options.get(KEY) or SSRRun(subjects)
        acting = run.acting(timesteps, transformer_options)
        if acting:
            if any(each.applied.mask is not None for each in acting):
                run.check_mask(x)
            transformer_options = with_subjects(run.with_rows(x, context, transformer_options), run, acting)
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    return {**wrappers_of_run(KEY, start), WrappersMP.DIFFUSION_MODEL: diffusion_model}


def with_subjects(options: Mapping[str, Any], run: SSRRun, acting: Sequence[SubjectRun]) -> dict[str, Any]:
    """The call's transformer_options with the subjects in its cross-attention, over what other nodes put there."""
    replaces = options.get("patches_replace", {})
    before = replaces.get("attn2", {})
    window = window_of(options, run.latents)
    images = window.indices if window is not None and window.dim == 0 else None

    def attn2_replace(q: Tensor, k: Tensor, v: Tensor, extra: Mapping[str, Any]) -> Tensor:
        def attend(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
            return attention.optimized_attention(
                q, k, v, heads, attn_precision=extra.get("attn_precision"), transformer_options=extra
            )

        layer, heads = layer_of(extra), extra["n_heads"]
        others = before.get(tuple(layer)) or before.get(layer[:2])
        out = others(q, k, v, extra) if others else attend(q, k, v, heads)
        prompts = chunks_of_queries(len(q), extra, run)
        for each in acting:
            out = each.add(layer, out, q, heads, grid_of(extra), prompts, attend, images)
        return out

    layers = {layer for each in acting for layer in each.layers if each.applied.factor(layer)}
    attn2 = {**before, **{tuple(layer): attn2_replace for layer in layers}}
    return {**options, "patches_replace": {**replaces, "attn2": attn2}}


def chunks_of_queries(rows: int, extra: Mapping[str, Any], run: ModelRun) -> Sequence[bool]:
    """For each of equal parts of the queries' rows, whether it belongs to the prompt.

    Attention Couple's nodes repeat every chunk but those of the guider's second conditioning, once for each region.
    Where rows are multiplied in another way, P3SError.
    """
    batch, chunks = extra["activations_shape"][0], chunks_of(extra)
    found: Sequence[bool] = extra.get(ROWS) or conditional_chunks(extra, run.prompts)
    if rows == batch:
        return found
    once = chunks.count(1)
    parts, rest = divmod(rows * len(chunks), batch)
    regions, left = divmod(parts - once, max(1, len(chunks) - once))
    if len(found) != len(chunks) or rest or left or regions < 1:
        raise P3SError(
            f"Apply SSR does not work together with a node that multiplies the rows of cross-attention (from {batch} "
            f"to {rows} here): remove that node, or Apply SSR"
        )
    return [of for of, kind in zip(found, chunks, strict=True) for _ in range(1 if kind == 1 else regions)]
