"""Applying subjects to a MODEL through the host's public hooks.

A wrapper around each call of the U-Net runs the subjects' copies on the same input and hands their features to patches
of the attention, made for that call alone. What a run keeps lives in the run's own options. The given MODEL is never
changed, and all that is stored on the patched one are closures over objects that do not change.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Sequence
from typing import Any

import comfy.ops
import torch
from comfy.patcher_extension import CallbacksMP, WrappersMP

from ...p3s.errors import P3SError
from ...p3s.network.copy_settings import CopySettings
from ...p3s.network.subject_copy import SubjectCopy
from ...p3s.network.unet_config import UNetConfig
from ...p3s.sampling.application import Application
from ...p3s.sampling.settings import feature_values, schedule_for
from ...p3s.subject.file import Subject, check_family, check_weights, reference_of
from . import kept_features
from .attention import SUBJECT_KEY as KEY
from .attention import alone_before_attention, with_patches
from .base_model import base_fingerprint, channels_read, ejected, unet_config
from .guidance import check_masks, check_timesteps
from .patchers import OneDevicePatcher, attach, compute_dtype
from .sampling_run import SamplingRun, SubjectOnModel, UNetInput, wrappers_of_run

SEVERAL_GPUS = "Apply P3S does not work with several GPUs at once: remove the multi-GPU node"


class CopyPatcher(OneDevicePatcher):
    """A subject's copy, as the host loads it beside the MODEL."""

    several_gpus = f"{SEVERAL_GPUS}, and choose the model's device before Apply P3S"


def apply_subject(
    model: Any, subject: Subject, reference: int, application: Application
) -> tuple[Any, tuple[str, ...]]:
    """A clone of MODEL that generates the subject along with those already applied, and warnings for the user.

    ``reference`` is the number of the photo that serves as the condition, from 0. Raises FamilyError or
    SubjectFileError when model and subject do not fit.
    """
    if model.get_additional_models_with_key("multigpu"):
        raise P3SError(SEVERAL_GPUS)
    config = unet_config(model)
    warnings = check_family(subject, config.family, base_fingerprint(model))
    shown = reference_of(subject, reference)
    patched = model.clone()
    if application.off:
        return patched, warnings
    patcher = patcher_of_copy(model, config, subject)
    copy = patcher.model
    applied = SubjectOnModel(copy, shown, application, schedule_for(copy, application.schedule))
    subjects = (*(model.get_attachment(KEY) or ()), applied)
    patched.set_attachments(KEY, subjects)
    attach(patched, KEY, patcher, wrappers(subjects, config))
    return patched, warnings


#: The first patcher of each copy in use, so that several Apply nodes of one subject share it. Nothing here keeps a copy
#: alive.
_patchers: weakref.WeakKeyDictionary[Subject, weakref.WeakValueDictionary[Any, CopyPatcher]] = (
    weakref.WeakKeyDictionary()
)


def patcher_of_copy(model: Any, config: UNetConfig, subject: Subject) -> CopyPatcher:
    """A patcher of :func:`build_copy`'s copy, or of the one that it built for another MODEL of this configuration.

    All patchers of a copy are clones of one, which lives as long as any of them: to the host a copy that is still in
    use after its last known patcher is a leak. A low-rank copy runs on the layers of the MODEL itself, as the host
    moves, casts and patches them; it serves clones of that MODEL only.
    """
    base, dtype = model.model.diffusion_model, compute_dtype(model)
    devices = {"load_device": model.load_device, "offload_device": model.offload_device}
    made = _patchers.setdefault(subject, weakref.WeakValueDictionary())
    low_rank = CopySettings.from_dict(subject.info.copy_settings).kind == "lora"
    # A low-rank copy keeps its base alive: no other one can have its id meanwhile.
    key = (config, dtype, *devices.values(), id(base) if low_rank else None)
    patcher = made.get(key)
    if patcher is None:
        copy = build_copy(config, subject, dtype)
        with ejected(model):
            copy.borrow(base, channels_read)
        patcher = made[key] = CopyPatcher(copy, **devices)
        patcher.add_callback(CallbacksMP.ON_DETACH, kept_features.drop)
    return patcher.clone()


def build_copy(config: UNetConfig, subject: Subject, dtype: torch.dtype) -> SubjectCopy:
    """The subject's copy on the host's own layers, so that the host can stream and cast its weights."""
    settings = CopySettings.from_dict(subject.info.copy_settings)
    tokens = subject.references[0].tokens.shape[1]
    plain = SubjectCopy(config, settings, tokens, device="meta")
    check_weights(subject, {k: v.shape for k, v in plain.state_dict().items()})
    with torch.inference_mode(False):
        copy = SubjectCopy(config, settings, tokens, comfy.ops.manual_cast, device="meta")
        # The curve of a learned weight is read once, and in float32 as everywhere.
        curve = torch.float32
        weights = {k: v.to(curve if k.startswith("learned_weight.") else dtype) for k, v in subject.weights.items()}
        copy.load_state_dict(weights, assign=True)
    return copy.requires_grad_(False).train(False)


def wrappers(subjects: Sequence[SubjectOnModel], config: UNetConfig) -> dict[str, Any]:
    """Our wrappers by the host's kinds of wrappers."""
    channels = config.out_channels  # an inpainting U-Net reads a mask and a masked image behind the latent
    first = config.layers()[0]

    def start(guider: Any, latents: Sequence[int]) -> SamplingRun:
        masks = [s.application.mask for s in subjects if s.application.mask is not None]
        check_masks(masks, latents, guider.conds, "Apply P3S")
        check_timesteps(guider.model_patcher, "Apply P3S")
        return SamplingRun(subjects, guider.conds, latents, guider.model_patcher)

    def prepare_sampling(executor, model, noise_shape, *args, **kwargs):
        """Before the models are loaded: asks for the additional memory that the subjects need."""
        return executor(model, with_room(model, subjects, noise_shape), *args, **kwargs)

    def diffusion_model(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        """Around each call of the U-Net, on exactly the input that it gets."""
        if "multigpu_thread_device" in transformer_options:
            raise P3SError(SEVERAL_GPUS)
        run = transformer_options.get(KEY) or SamplingRun(subjects)
        weights = {
            i: w for i in range(len(subjects)) if (w := run.weight(i, timesteps, transformer_options)) is not None
        }
        if any(subjects[i].application.mask is not None for i in weights):
            run.check_mask(x)
        on_prompts = {i for i in weights if subjects[i].application.settings.branches == "conditional"}
        prompt = None
        if on_prompts:
            of_prompt = run.rows_of_prompts(x, context, transformer_options)
            if of_prompt is None:
                raise P3SError(
                    "Apply P3S cannot tell which part of the batch belongs to the prompt, because another node stacks "
                    "the image in its own order (a batch of tiles?): set guidance to both and mode to exact, or that "
                    "node's batch to 1"
                )
            if not any(of_prompt):
                weights = {i: w for i, w in weights.items() if i not in on_prompts}
            elif not all(of_prompt):
                prompt = run.prompt_rows(of_prompt, x.device)
        if weights:
            label = y if config.label_dim else None
            read = UNetInput(x, timesteps, context, label)
            placed, shared = run.injections(weights, read, transformer_options, channels, prompt)
            shared = shared if alone_before_attention(transformer_options, control) else None
            transformer_options = with_patches(transformer_options, placed, first, shared, run.attention)
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    return {
        **wrappers_of_run(KEY, start),
        WrappersMP.PREPARE_SAMPLING: prepare_sampling,
        WrappersMP.DIFFUSION_MODEL: diffusion_model,
    }


def with_room(model: Any, subjects: Sequence[SubjectOnModel], noise_shape: Sequence[int]) -> list[int]:
    """The shape of the noise from which the host's estimate of memory has room for what subjects keep during a step.

    It is higher, rather than for more images, because nodes that slide a window over the images cut their number.
    """

    def pixels(subject: SubjectOnModel) -> int:
        own = subject.copy.settings.cached  # on the reference's own grid
        return math.prod(subject.reference.latent.shape[1:] if own else noise_shape[2:])

    values = sum(feature_values(s.copy, pixels(s)) for s in subjects)
    # Features as they come, features weighted, and the longer keys and values that they become a part of.
    needed = 4 * values * compute_dtype(model).itemsize
    image = model.model.memory_required([1, *noise_shape[1:]])
    images, channels, height, *others = noise_shape
    return [images, channels, height + math.ceil(height * needed / max(1, image)), *others]
