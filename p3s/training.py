"""Training: a frozen U-Net, a copy and the references of a subject in, a trained copy out."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from .diffusion import NoiseSchedule
from .errors import TrainingError
from .image_latent import fit_condition
from .injection import Features, InjectionHooks
from .losses import attention_consistency, denoising_loss, total_loss
from .subject_copy import SubjectCopy, is_number
from .unet import Stage, UNet
from .unet_config import Layer, UNetConfig


@dataclass(frozen=True)
class TrainSettings:
    """How a subject is trained. The defaults are the paper's; letters are the rows of docs/method.md."""

    #: Passes over the references; ignored when ``steps`` is positive.
    epochs: int = 60
    steps: int = 0
    batch_size: int = 1
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    seed: int = 0
    #: Arithmetic of the step: "fp32", or "bf16" with float32 weights of the copy.
    precision: str = "fp32"
    #: gamma of Eq. 15.
    gamma: float = 0.1
    #: (m) share of the training rows whose prompt is replaced by the empty one.
    prompt_dropout: float = 0.1
    #: Cross-attention layers compared by L_ac: "last", "all", or "none".
    attention_layers: str = "last"
    #: (e) the normaliser of Eq. 12: "mean", or "sum" as printed.
    attention_norm: str = "mean"
    #: (d) start of the zero convolutions: "zero" or "identity".
    zero_init: str = "zero"
    #: (n) the condition of an example: "other", a random other reference of the subject, or "self".
    pairs: str = "other"

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "precision": ("fp32", "bf16"),
        "attention_layers": ("last", "all", "none"),
        "attention_norm": ("mean", "sum"),
        "zero_init": ("zero", "identity"),
        "pairs": ("other", "self"),
    }

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainingError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        largest = {"epochs": 10**6, "steps": 10**9, "batch_size": 10**4, "seed": 2**64 - 1}
        smallest = {"epochs": 1, "batch_size": 1}
        for name, high in largest.items():
            value, low = getattr(self, name), smallest.get(name, 0)
            if not isinstance(value, int) or not is_number(value, low, high):
                raise TrainingError(f"{name} must be a whole number in {low}..{high}; got {value!r}")
        if not is_number(self.learning_rate, 1e-12, 1e6):
            raise TrainingError(f"learning_rate must be a positive number; got {self.learning_rate!r}")
        for name, upper in (("weight_decay", 1e6), ("gamma", 1e6), ("prompt_dropout", 1.0)):
            if not is_number(getattr(self, name), 0.0, upper):
                raise TrainingError(f"{name} must be a number in 0..{upper:g}; got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Example:
    """One reference as training needs it: ``latent`` I' [channels, h, w] (VAE mean, scaled), ``tokens`` c_s
    [1 + patches, token_dim], ``prompt`` [text tokens, context_dim]."""

    latent: Tensor
    tokens: Tensor
    prompt: Tensor


@dataclass(frozen=True)
class StepReport:
    """Told to the callback after every step: the step just done (1..total) and its losses."""

    step: int
    total: int
    loss: float
    denoising: float
    consistency: float


@dataclass(frozen=True)
class TrainResult:
    """What a training gave: a report per step, whether it ran to its end, and the error that ended it early, if one
    did. The weights are in the copy."""

    reports: tuple[StepReport, ...]
    completed: bool
    error: Exception | None = None


#: Called after every step; a training stops early when it returns False.
Callback = Callable[[StepReport], bool | None]


def training_size(height: int, width: int, resolution: int, multiple: int = 16) -> tuple[int, int]:
    """The (height, width) in pixels at which a photo is trained: about ``resolution`` squared in area, with the
    photo's proportions as near as whole multiples of ``multiple`` allow. Nothing is cropped."""
    scale = resolution / (height * width) ** 0.5
    rounded = [max(1, round(side * scale / multiple)) * multiple for side in (height, width)]
    return rounded[0], rounded[1]


def train(
    base: UNet,
    copy: SubjectCopy,
    examples: Sequence[Example],
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    settings: TrainSettings,
    callback: Callback | None = None,
) -> TrainResult:
    """Train ``copy`` in place on ``examples``; ``base`` is frozen and only read.

    ``empty_prompt`` [text tokens, context_dim] replaces a dropped prompt. Both networks must be on one device, the
    copy in float32. All random choices come from ``settings.seed`` through a CPU generator, so that they do not
    depend on the device. Equal seeds give equal weights, bit for bit, on one CPU; on a GPU where the environment
    variable CUBLAS_WORKSPACE_CONFIG allows it (see :func:`deterministic`). The weight of the condition is 1 in
    training: the schedule of Eq. 10 belongs to sampling.

    Nothing trained is lost: a loss or gradient that is no longer finite, an exception in a later step, and the
    callback's word end the training with the weights of the last good step; the result says why. Raises
    :class:`TrainingError` for inputs that do not fit together, before the first step.
    """
    check_examples(base.config, examples, empty_prompt)
    device = next(copy.parameters()).device
    base.requires_grad_(False).eval()
    copy.requires_grad_(True).train()
    optimizer = torch.optim.AdamW(copy.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    total = settings.steps or settings.epochs * len(epoch(examples, settings.batch_size, generator))
    generator.manual_seed(settings.seed)

    reports: list[StepReport] = []
    error: Exception | None = None
    with torch.inference_mode(False), torch.enable_grad(), deterministic():
        try:
            for rows in _batches(examples, settings.batch_size, generator, total):
                batch = draw(examples, rows, empty_prompt, noise, settings, generator, device)
                with _autocast(settings.precision, device):
                    denoising, consistency = losses(base, copy, batch, settings)
                    loss = total_loss(denoising, consistency, settings.gamma)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                _check_finite(loss, copy, settings, len(reports) + 1, total)
                optimizer.step()
                step = len(reports) + 1
                reports.append(StepReport(step, total, loss.item(), denoising.item(), consistency.item()))
                if callback is not None and callback(reports[-1]) is False:
                    break
        except Exception as problem:
            if not reports:
                raise
            error = problem
    copy.requires_grad_(False).eval()
    return TrainResult(tuple(reports), len(reports) == total, error)


def _check_finite(loss: Tensor, copy: SubjectCopy, settings: TrainSettings, step: int, total: int) -> None:
    """Refuse a step that would spoil the weights."""
    norm = torch.nn.utils.clip_grad_norm_(copy.parameters(), float("inf"))  # measured, never clipped
    if not torch.isfinite(loss + norm):
        raise TrainingError(
            f"the loss is no longer finite at step {step} of {total}: lower learning_rate "
            f"(now {settings.learning_rate:g}), or train in fp32 (now {settings.precision})"
        )


@dataclass(frozen=True)
class Batch:
    """The tensors of one step; its rows share one latent size.

    ``x`` x_t and ``target`` [batch, channels, h, w], ``timesteps`` [batch], ``context`` [batch, text tokens,
    context_dim]; ``sources`` the (I', c_s) of the condition of each row, [channels, h', w'] and [tokens, token_dim].
    """

    x: Tensor
    timesteps: Tensor
    target: Tensor
    context: Tensor
    sources: tuple[tuple[Tensor, Tensor], ...]


def losses(base: UNet, copy: SubjectCopy, batch: Batch, settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """L_LDM and L_ac of a batch, both scalars (the second is 0 when ``attention_layers`` is "none")."""
    size = (batch.x.shape[2], batch.x.shape[3])
    # As in sampling, Eq. 4 works on the reference's own grid, and its result is placed on that of x_t.
    conditions = [copy.condition(latent[None], tokens[None]) for latent, tokens in batch.sources]
    condition = torch.cat([fit_condition(c, size) for c in conditions])
    compared = compared_layers(copy, settings.attention_layers)
    seen = copy.read(
        batch.x, batch.timesteps, batch.context, condition, until=Stage.NORM2 if compared else copy.last_stage
    )
    hooks = _Watched(copy.features(seen), copy.settings.lam)
    prediction = base(batch.x, batch.timesteps, batch.context, hooks)
    consistency = batch.x.new_zeros(())
    for layer in compared:
        ours = copy.unet.block(layer).attn2.map(seen.norm2[layer], batch.context)
        twin = copy.map.twin(layer)
        theirs = base.block(twin).attn2.map(hooks.queries[twin], batch.context)
        consistency = consistency + attention_consistency(ours, theirs, settings.attention_norm)
    return denoising_loss(prediction, batch.target), consistency


def compared_layers(copy: SubjectCopy, which: str) -> tuple[Layer, ...]:
    """The copy's layers whose cross-attention maps L_ac compares with those of their twins in the base."""
    layers = copy.map.config.layers()
    return {"last": layers[-1:], "all": layers, "none": ()}[which]


class _Watched(InjectionHooks):
    """Injection that also keeps what the base's cross-attentions are asked with."""

    def __init__(self, features: Features, lam: float) -> None:
        super().__init__(features, lam)
        self.queries: dict[Layer, Tensor] = {}

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        self.queries[layer] = super().cross_attention(layer, z, context, grid)
        return self.queries[layer]


def epoch(examples: Sequence[Example], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """One shuffled pass over the examples, as batches of example numbers that share a latent size."""
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in torch.randperm(len(examples), generator=generator).tolist():
        by_size[tuple(examples[i].latent.shape)].append(i)
    batches = [rows[i : i + batch_size] for rows in by_size.values() for i in range(0, len(rows), batch_size)]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def _batches(
    examples: Sequence[Example], batch_size: int, generator: torch.Generator, total: int
) -> Iterator[list[int]]:
    done = 0
    while done < total:
        for rows in epoch(examples, batch_size, generator)[: total - done]:
            yield rows
            done += 1


def draw(
    examples: Sequence[Example],
    rows: Sequence[int],
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    settings: TrainSettings,
    generator: torch.Generator,
    device: torch.device,
) -> Batch:
    """The random choices of a step: timesteps, noise, dropped prompts, and which reference is the condition."""
    latents = torch.stack([examples[i].latent for i in rows]).float()
    t = torch.randint(len(noise), (len(rows),), generator=generator)
    eps = torch.randn(latents.shape, generator=generator)
    dropped = torch.rand(len(rows), generator=generator) < settings.prompt_dropout
    prompts = [empty_prompt if gone else examples[i].prompt for i, gone in zip(rows, dropped.tolist(), strict=True)]
    sources = [examples[_condition_of(i, len(examples), settings.pairs, generator)] for i in rows]

    def own(tensor: Tensor) -> Tensor:
        # A copy, because autograd refuses tensors that a host made in inference mode.
        return tensor.to(device, torch.float32, copy=True)

    return Batch(
        x=noise.add_noise(latents, eps, t).to(device),
        timesteps=t.to(device),
        target=noise.target(latents, eps, t).to(device),
        context=torch.stack(prompts).float().to(device),
        sources=tuple((own(e.latent), own(e.tokens)) for e in sources),
    )


def _condition_of(row: int, count: int, pairs: str, generator: torch.Generator) -> int:
    if pairs == "self" or count == 1:
        return row
    other = int(torch.randint(count - 1, (), generator=generator))
    return other + (other >= row)


def check_base(config: UNetConfig) -> None:
    """Raise :class:`TrainingError` for a U-Net on which no subject can be trained."""
    if config.in_channels != config.out_channels:
        raise TrainingError(
            f"this U-Net reads {config.in_channels} channels and predicts {config.out_channels} (an inpainting model): "
            "train on the ordinary model of the family; the subject can then be applied to the inpainting model"
        )


def check_examples(config: UNetConfig, examples: Sequence[Example], empty_prompt: Tensor) -> None:
    """Raise :class:`TrainingError`, naming the reference, for examples that do not fit the base or each other."""
    check_base(config)
    if not examples:
        raise TrainingError("no reference to train on: connect at least one")
    prompt = tuple(empty_prompt.shape)
    for i, example in enumerate(examples):
        name = f"reference {i + 1}"
        if example.latent.ndim != 3 or example.latent.shape[0] != config.in_channels:
            raise TrainingError(
                f"{name}: expected a latent of {config.in_channels} channels, got {example.latent.shape}"
            )
        if example.tokens.ndim != 2 or example.tokens.shape != examples[0].tokens.shape:
            raise TrainingError(
                f"{name}: its CLIP vision tokens have the shape {tuple(example.tokens.shape)}, those of reference 1 "
                f"{tuple(examples[0].tokens.shape)}: make all references with one CLIP vision model"
            )
        if tuple(example.prompt.shape) != prompt or prompt[-1] != config.context_dim:
            raise TrainingError(
                f"{name}: its prompt has the shape {tuple(example.prompt.shape)}, the empty prompt {prompt}; both must "
                f"be equally long and {config.context_dim} wide (encode both with this model's own CLIP)"
            )
        for part in (example.latent, example.tokens, example.prompt):
            if not torch.isfinite(part).all():
                raise TrainingError(f"{name} holds values that are not finite (NaN or infinite)")


def _autocast(precision: str, device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def deterministic() -> Iterator[None]:
    """Within, torch uses deterministic algorithms; the former state is restored afterwards.

    On a GPU this needs the environment variable CUBLAS_WORKSPACE_CONFIG (the host's --deterministic sets it). Without
    it torch only prefers deterministic algorithms, and runs of one seed may differ in the last bits.
    """
    cudnn: Any = torch.backends.cudnn
    memory: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        cudnn.deterministic,
        cudnn.benchmark,
        memory.fill_uninitialized_memory,
    )
    strict = not torch.cuda.is_available() or "CUBLAS_WORKSPACE_CONFIG" in os.environ
    torch.use_deterministic_algorithms(True, warn_only=not strict)
    cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = True, False, False
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        cudnn.deterministic, cudnn.benchmark, memory.fill_uninitialized_memory = before[2:]
