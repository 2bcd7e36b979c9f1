"""What a sampling run computes once, and what it keeps from one step to the next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...p3s.errors import P3SError
from ...p3s.network.injection import EffectMask, Features
from ...p3s.network.subject_copy import SubjectCopy
from ...p3s.sampling.application import Application
from ...p3s.sampling.schedule import Schedule, percent_of
from ...p3s.sampling.settings import FeatureCache, always_on, early_end, injection
from ...p3s.subject.file import SubjectReference
from .attention import Placed, SubjectAttention
from .guidance import Conditionings, chunks_of, conditional_chunks, conditional_rows, is_prompt, prompts_of
from .kept_features import features_of
from .rows import Rows


class UNetInput(NamedTuple):
    """What a call of the U-Net reads; ``label`` is what SDXL reads beside the prompt."""

    x: Tensor
    timesteps: Tensor
    context: Tensor
    label: Tensor | None


class _CopyInput(NamedTuple):
    """What a copy reads in a call, which call of its kind it is, and whether all chunks of the call repeat the
    first."""

    read: UNetInput
    call: Hashable
    repeated: bool


@dataclass(frozen=True, eq=False)
class SubjectOnModel:
    """A subject on a MODEL, and the ``schedule`` of its application with the curve that it learned filled in."""

    copy: SubjectCopy
    reference: SubjectReference
    application: Application
    schedule: Schedule


class ModelRun:
    """What is known of one sampling run of a MODEL: its prompts, and what a call of the U-Net is about. Lives in the
    run's own options, so that runs never meet.

    ``node`` is the name of the node that asks, for its messages. ``conds`` are the guider's conditionings, among which
    :func:`guidance.prompts_of` finds the prompts; without any, the first conditioning of a call is the prompt.
    ``latents`` is the shape of what is sampled, [images, channels, h, w].
    """

    def __init__(self, node: str, conds: Conditionings | None = None, latents: Sequence[int] | None = None) -> None:
        self.node = node
        self.latents = latents
        self._know(conds or {})
        self._timestep: tuple[Any, float] = None, 0.0

    def next_evaluation(self, conds: Conditionings) -> None:
        """Take note that the sampler evaluates the model. ``conds`` are now prepared for the run."""
        self._know(conds)

    def _know(self, conds: Conditionings) -> None:
        self.conds, self.prompts = conds, prompts_of(conds)
        negative = {name: part for name, part in conds.items() if not is_prompt(name)}
        others = {entry["uuid"] for part in negative.values() for entry in part if "uuid" in entry}
        self._ambiguous = self.prompts & others
        entries = (entry for part in conds.values() for entry in part)
        self._hooked = any(entry.get("hooks") is not None for part in conds.values() for entry in part)
        self._areas = {entry.get("uuid") for entry in entries if entry.get("area") is not None}

    def ordered(self, x: Tensor, options: Mapping[str, Any]) -> bool:
        """Whether the rows of a call are its chunks', one after the other, and the chunks tell which are prompts."""
        images = self.images(options)
        stacked = images is not None and len(x) != images * len(chunks_of(options))
        # The host gives the negative prompt an area of the prompt's, with the prompt's uuid.
        return not stacked and not self._ambiguous.intersection(options.get("uuids", ()))

    def rows_of_prompts(self, x: Tensor, context: Tensor, options: Mapping[str, Any]) -> list[bool] | None:
        """For each row of a call's batch, whether it belongs to the prompt; None where that cannot be told."""
        if not self.ordered(x, options):
            return conditional_rows(context, self.conds)
        chunks = conditional_chunks(options, self.prompts)
        return [of_prompt for of_prompt in chunks for _ in range(len(x) // len(chunks))]

    def check_mask(self, x: Tensor) -> None:
        """Raise P3SError if a call is about a crop of the image, on which an effect mask cannot be placed."""
        if self._is_crop(x):
            raise P3SError(
                f"the mask of {self.node} does not work together with nodes that sample the image in parts (Tiled "
                "Diffusion, spatial context windows, areas): remove that node, or the mask"
            )

    def percent(self, timesteps: Tensor, options: Mapping[str, Any]) -> float:
        """The denoising percent, 0 (noise) .. 1 (image), of a call. Reads from the device once for each tensor of
        sigmas."""
        return float(percent_of(torch.tensor(self._timestep_of(timesteps, options), dtype=torch.float64)))

    def _timestep_of(self, timesteps: Tensor, options: Mapping[str, Any]) -> float:
        sigmas = options.get("sigmas")
        if sigmas is None or sigmas is not self._timestep[0]:
            self._timestep = sigmas, float(timesteps[0])
        return self._timestep[1]

    def _is_crop(self, x: Tensor) -> bool:
        return self.latents is not None and any(a < b for a, b in zip(x.shape[2:], self.latents[2:], strict=True))

    def images(self, options: Mapping[str, Any]) -> int | None:
        """How many images (frames) each chunk of a call has, if that is known."""
        window = window_of(options, self.latents)
        if window is not None and window.dim == 0:
            return len(window.indices)
        return None if self.latents is None else self.latents[0]


class SamplingRun(ModelRun):
    """One sampling run of a MODEL with subjects."""

    def __init__(
        self,
        subjects: Sequence[SubjectOnModel],
        conds: Conditionings | None = None,
        latents: Sequence[int] | None = None,
        model: Any = None,
    ) -> None:
        super().__init__("Apply P3S", conds, latents)
        self._model = model
        self.subjects = subjects
        self.attention = SubjectAttention()
        self._schedules = [early_end(s.schedule, s.application.settings) for s in subjects]
        self._always_on = [always_on(schedule) for schedule in self._schedules]
        self._caches = [FeatureCache(s.application.settings.reuse) for s in subjects]
        self._conditions: dict[Hashable, Tensor] = {}
        self._own_features: dict[Hashable, Features] = {}
        self._masks: dict[Hashable, EffectMask] = {}
        self._prompt_rows: dict[Hashable, Rows] = {}
        self._evaluation: int | None = None
        self._calls: Counter[Hashable] = Counter()

    def next_evaluation(self, conds: Conditionings) -> None:
        """Take note that the sampler evaluates the model, at a new x_t: by as many calls of the U-Net as it takes
        (conditionings run apart, crops, context windows, guidance nodes). ``conds`` are now prepared for the run."""
        self._evaluation = 0 if self._evaluation is None else self._evaluation + 1
        self._calls.clear()
        super().next_evaluation(conds)

    def weight(self, index: int, timesteps: Tensor, options: Mapping[str, Any]) -> float | Tensor | None:
        """eps_t times the application's factor, or None where the subject is off.

        A schedule that is never 0 is computed where the timesteps are, because reading them would make the CPU wait for
        the GPU. For the others the timestep is read once for each tensor of sigmas.
        """
        schedule, factor = self._schedules[index], self.subjects[index].application.factor
        if self._always_on[index]:
            return factor * schedule.weight(timesteps[:1].float())[0]
        return factor * schedule.weight(self._timestep_of(timesteps, options)) or None

    def prompt_rows(self, of_prompt: Sequence[bool], device: torch.device) -> Rows:
        """The rows of a batch that belong to the prompt, of which there are some: made once."""
        key = tuple(of_prompt), device
        if key not in self._prompt_rows:
            numbers = [i for i, of in enumerate(of_prompt) if of]
            self._prompt_rows[key] = Rows(numbers, len(of_prompt), device)
        return self._prompt_rows[key]

    def _isolated(self, index: int, timesteps: Tensor, options: Mapping[str, Any]) -> bool:
        """Whether a subject is kept apart from others. The timestep is read only where the answer changes in a run."""
        application = self.subjects[index].application
        if application.isolate in (0, 1):
            return application.isolate == 1
        return application.isolates_at(self.percent(timesteps, options))

    def injections(
        self,
        weights: Mapping[int, float | Tensor],
        read: UNetInput,
        options: Mapping[str, Any],
        channels: int,
        prompt: Rows | None = None,
    ) -> tuple[list[Placed], int | None]:
        """The subjects' part in a call, by their numbers, and, where the chunks of the batch repeat the first up to the
        first cross-attention and all see the same subjects, the rows of a chunk.

        Of x the first ``channels`` are the latent, which is all that the copy reads. ``prompt``: the rows of the
        prompt, if there are others; the copies of subjects that act on these alone run on them.
        """
        x = read.x
        evaluation = self._evaluation if self._stays(x, options) else None
        of_kind: dict[Rows | None, _CopyInput] = {}
        found = []
        for index, weight in weights.items():
            copy, application = self.subjects[index].copy, self.subjects[index].application
            rows = prompt if application.settings.branches == "conditional" else None
            if rows not in of_kind:
                of_kind[rows] = self._copy_input(read, rows, options, channels)
            own = of_kind[rows]

            def features(copy: SubjectCopy = copy, index: int = index, read: UNetInput = own.read) -> Features:
                return copy(read.x, read.timesteps, read.context, self._condition(index, read.x), read.label)

            if copy.settings.cached:
                kept = self._cached(index, x)
            else:
                kept = self._caches[index].get(own.call, evaluation, features)
            of_step = injection(
                copy,
                kept,
                weight,
                self._mask(index, options),
                application.layers,
                application.settings,
                application.weight_on,
                self._isolated(index, read.timesteps, options),
            )
            found.append(Placed(of_step, rows))
        shared = None in of_kind and len(of_kind) == 1 and of_kind[None].repeated
        return found, len(x) // len(chunks_of(options)) if shared else None

    def _copy_input(self, read: UNetInput, rows: Rows | None, options: Mapping[str, Any], channels: int) -> _CopyInput:
        """What copies read of a call: of ``rows``, and of chunks that begin with equal latents the first."""
        x, timesteps, context, label = (t if rows is None or t is None else rows.pick(t) for t in read)
        assert x is not None and timesteps is not None and context is not None
        chunks = max(1, len(x) * len(chunks_of(options)) // len(read.x))
        # What SDXL reads beside the prompt makes its chunks differ from the start.
        equal, all_equal = (False, False) if label is not None else repeated(x, timesteps, chunks, channels)
        size = len(x) // chunks if equal else len(x)
        kind = tuple(options.get("uuids", ())), window_of(options, self.latents), x.shape, size, rows is None
        call = *kind, self._calls[kind]
        self._calls[kind] += 1
        return _CopyInput(UNetInput(x[:size, :channels], timesteps[:size], context, label), call, all_equal)

    def _cached(self, index: int, x: Tensor) -> Features:
        """The features of a subject that are the same in every step: those of an earlier run, if nothing that they
        depend on has changed. A low-rank copy runs on the MODEL's own layers, as LoRAs have changed them."""
        subject = self.subjects[index]
        low_rank = subject.copy.settings.kind == "lora"

        def compute() -> Features:
            return subject.copy.cached(self._condition(index, x), subject.reference.subject_tokens)

        if torch.is_grad_enabled() or (low_rank and (self._model is None or self._hooked)):
            return compute()  # the MODEL is trained, is not known, or its weights change with the prompt
        key = subject.reference, x.device, x.dtype
        if low_rank and self._model.injections:  # which change its layers, as LoRAs in bypass mode do, unnoticed
            if (index, key) not in self._own_features:
                self._own_features[index, key] = compute()
            return self._own_features[index, key]
        return features_of(subject.copy, key, self._model.patches_uuid if low_rank else None, compute)

    def _stays(self, x: Tensor, options: Mapping[str, Any]) -> bool:
        """Whether a call is about the same part of the image at every step: all of it, or its conditioning's area.
        Tiles may move."""
        return not self._is_crop(x) or self._areas.issuperset(options.get("uuids", ()))

    def _mask(self, index: int, options: Mapping[str, Any]) -> EffectMask | None:
        """A subject's effect mask for the images of a call."""
        mask, window = self.subjects[index].application.mask, window_of(options, self.latents)
        if mask is None or mask.images == 1 or window is None or window.dim != 0:
            return mask
        if (index, window) not in self._masks:
            self._masks[index, window] = mask.of(window.indices)
        return self._masks[index, window]

    def _condition(self, index: int, x: Tensor) -> Tensor:
        """I'' of a subject, made once."""
        key = index, x.device, x.dtype
        if key not in self._conditions:
            copy, reference = self.subjects[index].copy, self.subjects[index].reference
            latent, tokens = (t[None].to(x.device, x.dtype) for t in (reference.latent, reference.tokens))
            self._conditions[key] = copy.condition(latent, tokens)
        return self._conditions[key]


def wrappers_of_run(key: str, start: Callable[[Any, Sequence[int]], ModelRun]) -> dict[str, Any]:
    """The host's wrappers, by their kinds, that keep a :class:`ModelRun` under ``key`` in the options of each sampling
    run. ``start`` makes it from the guider and the shape of what is sampled, and refuses what cannot work."""

    def outer_sample(executor, noise, *args, **kwargs):
        guider = executor.class_obj
        before = guider.model_options
        run = start(guider, noise.shape)
        guider.model_options = create_model_options_clone(before)
        guider.model_options["transformer_options"][key] = run
        try:
            return executor(noise, *args, **kwargs)
        finally:
            guider.model_options = before

    def predict_noise(executor, *args, **kwargs):
        """Around each evaluation of the model by the sampler."""
        guider = executor.class_obj
        run = guider.model_options["transformer_options"].get(key)
        if run is not None:
            run.next_evaluation(guider.conds)
        return executor(*args, **kwargs)

    return {WrappersMP.OUTER_SAMPLE: outer_sample, WrappersMP.PREDICT_NOISE: predict_noise}


class Window(NamedTuple):
    """The part of a batch, or of another dimension ``dim`` of the latents, that a call is about."""

    dim: int
    indices: tuple[int, ...]


def window_of(options: Mapping[str, Any], latents: Sequence[int] | None) -> Window | None:
    """The window of a call where a node slides one over the images: the host's Context Windows, which may also slide
    over the height or width, and AnimateDiff-Evolved's. ``latents`` is the shape of what is sampled."""
    window = options.get("context_window")
    if window is not None:
        # It may take more than its own indices: newer hosts put the image before them first.
        size = max(window.index_list) + 1 if latents is None else latents[window.dim]
        return Window(window.dim, tuple(window.get_tensor(torch.arange(size), dim=0).tolist()))
    frames = (options.get("ad_params") or {}).get("sub_idxs")
    return None if frames is None else Window(0, tuple(frames))


def repeated(x: Tensor, timesteps: Tensor, chunks: int, channels: int) -> tuple[bool, bool]:
    """Whether all chunks of a batch repeat the first, as prompt and negative prompt have the same x_t: in their first
    ``channels`` and timesteps, and in all channels.

    They do not for crops of the image, and an inpainting model may read another masked image in each. The graph does
    not say which nodes do so, and the values are compared, which on a GPU waits for the step's input.
    """
    if chunks == 1 or len(x) % chunks:
        return False, False
    rows, times = x.unflatten(0, (chunks, -1)), timesteps.unflatten(0, (chunks, -1))
    same = rows == rows[:1]
    latents = bool(same[:, :, :channels].all() & (times == times[:1]).all())
    return latents, latents and (x.shape[1] == channels or bool(same.all()))
