"""One step of training: what is drawn for it, and its losses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor

from ..arithmetic import moved
from ..errors import TrainingError
from ..network.image_latent import fit_condition
from ..network.injection import Injection, InjectionHooks
from ..network.subject_copy import SubjectCopy
from ..network.subject_tokens import SubjectTokens
from ..network.unet import BlockStage, UNet
from ..network.unet_config import Layer, UNetConfig
from ..sampling.diffusion import NoiseSchedule
from .examples import Example
from .losses import attention_consistency, denoising_loss, min_snr_weights
from .settings import TrainSettings

#: The fraction of the golden ratio.
GOLDEN = (5**0.5 - 1) / 2
#: The kind of U-Net that reads this many channels and predicts 4.
WIDER = {8: "an InstructPix2Pix or IC-Light model", 9: "an inpainting model"}


@dataclass(frozen=True)
class StepReport:
    """Given to the callback after every step: the step just done (1..total) and its losses."""

    step: int
    total: int
    loss: float
    denoising: float
    consistency: float


@dataclass(frozen=True)
class Batch:
    """The tensors of one step; its rows share one latent size.

    ``x`` x_t and ``target`` [batch, channels, h, w], ``timesteps`` [batch], ``context`` [batch, text tokens,
    context_dim]; ``sources`` the (I', c_s) of the condition of each row, [channels, h', w'] and [tokens, token_dim];
    ``loss_mask`` [batch, 1, h, w], 0..1, the share of each pixel in L_LDM; ``row_weights`` [batch], factors of the rows
    in it, None where all have the same; ``label`` [batch, label_dim], see :class:`Example`, None where the U-Net reads
    none; ``subjects``, which tokens of each source show the subject, None for copies that do not ask. Rows of one
    reference have the same object in ``sources``.
    """

    x: Tensor
    timesteps: Tensor
    target: Tensor
    context: Tensor
    sources: tuple[tuple[Tensor, Tensor], ...]
    loss_mask: Tensor
    row_weights: Tensor | None = None
    label: Tensor | None = None
    subjects: tuple[SubjectTokens | None, ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""

        def there(tensor: Tensor | None) -> Any:
            return None if tensor is None else moved(tensor, device)

        different = {id(source): source for source in self.sources}
        sources = {key: (there(latent), there(tokens)) for key, (latent, tokens) in different.items()}
        return Batch(
            there(self.x),
            there(self.timesteps),
            there(self.target),
            there(self.context),
            tuple(sources[id(source)] for source in self.sources),
            there(self.loss_mask),
            there(self.row_weights),
            there(self.label),
            self.subjects,
        )


def batch_losses(base: UNet, copy: SubjectCopy, batch: Batch, settings: TrainSettings) -> tuple[Tensor, Tensor]:
    """L_LDM and L_ac of a batch, both scalars. With the ``attention_layers`` "none", or gamma 0, L_ac is not computed
    and 0; neither is it for a copy that sees no text."""
    copy.borrow(base)
    if copy.settings.cached:
        prediction = _predict_cached(base, copy, batch)
        loss = denoising_loss(prediction, batch.target, batch.loss_mask, batch.row_weights)
        return loss, batch.x.new_zeros(())
    size = (batch.x.shape[2], batch.x.shape[3])
    # As in sampling, Eq. 4 works on the reference's own grid, and its result is placed on that of x_t.
    conditions = [copy.condition(latent[None], tokens[None]) for latent, tokens in batch.sources]
    condition = torch.cat([fit_condition(c, size) for c in conditions])
    compared = compared_layers(copy, settings.attention_layers if settings.gamma else "none")
    until = (compared[-1], BlockStage.NORM2) if compared else copy.last_read
    seen = copy.read(batch.x, batch.timesteps, batch.context, condition, until, batch.label)
    features = copy.features(seen)
    if copy.learned_weight is not None:
        features = features.with_weight(copy.learned_weight(batch.timesteps))
    hooks = _Watched(Injection(features, copy.settings.lam))
    prediction = base(batch.x, batch.timesteps, batch.context, hooks, label=batch.label)
    consistency = batch.x.new_zeros(())
    for layer in compared:
        ours = copy.unet.block(layer).attn2.attention_map(seen.norm2[layer], batch.context)
        twin = copy.map.twin(layer)
        theirs = base.block(twin).attn2.attention_map(hooks.queries[twin], batch.context)
        consistency = consistency + attention_consistency(ours, theirs, settings.attention_norm)
    return denoising_loss(prediction, batch.target, batch.loss_mask, batch.row_weights), consistency


def _predict_cached(base: UNet, copy: SubjectCopy, batch: Batch) -> Tensor:
    """The base's prediction for a batch under features that do not depend on the step. The copy runs once for each
    reference; the base runs apart for the rows of each, because their subjects have different numbers of tokens."""
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row, source in enumerate(batch.sources):
        rows_of[id(source)].append(row)

    def of_rows(tensor: Tensor, rows: list[int]) -> Tensor:
        return torch.stack([tensor[row] for row in rows])  # tensor[rows] has the processor wait for a GPU

    predictions: dict[int, Tensor] = {}
    for rows in rows_of.values():
        (latent, tokens), subject = batch.sources[rows[0]], batch.subjects[rows[0]]
        features = copy.cached(copy.condition(latent[None], tokens[None]), subject)
        times, label = of_rows(batch.timesteps, rows), None if batch.label is None else of_rows(batch.label, rows)
        if copy.learned_weight is not None:
            features = features.with_weight(copy.learned_weight(times))
        hooks = InjectionHooks(Injection(features, copy.settings.lam))
        found = base(of_rows(batch.x, rows), times, of_rows(batch.context, rows), hooks, label=label)
        predictions |= zip(rows, found, strict=True)
    return torch.stack([predictions[row] for row in range(len(batch.x))])


def compared_layers(copy: SubjectCopy, which: str) -> tuple[Layer, ...]:
    """The copy's layers whose cross-attention maps L_ac compares with those of their twins in the base."""
    layers = copy.map.config.layers()
    return {"last": layers[-1:], "all": layers, "none": ()}[which]


class _Watched(InjectionHooks):
    """Injection that also keeps the query inputs of the base's cross-attentions (see :class:`CopyReader`)."""

    def __init__(self, injection: Injection) -> None:
        super().__init__(injection)
        self.queries: dict[Layer, Tensor] = {}

    def cross_attention(self, layer: Layer, z: Tensor, context: Tensor, grid: tuple[int, int]) -> Tensor:
        query = super().cross_attention(layer, z, context, grid)
        self.queries.setdefault(layer, query)
        return query


def epoch_batches(examples: Sequence[Example], batch_size: int, generator: torch.Generator) -> list[list[int]]:
    """One shuffled pass over the examples, as batches of ``batch_size`` example numbers that share a latent size. Where
    a size has too few, or a remainder, some are repeated, with a noise and a timestep of their own."""
    by_size: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in torch.randperm(len(examples), generator=generator).tolist():
        by_size[tuple(examples[i].learned_latent.shape)].append(i)
    batches = [
        list(islice(cycle(rows), i, i + batch_size))
        for rows in by_size.values()
        for i in range(0, len(rows), batch_size)
    ]
    return [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]


def total_steps(examples: Sequence[Example], settings: TrainSettings) -> int:
    """The number of steps that the settings mean for these examples."""
    return settings.steps or settings.epochs * len(epoch_batches(examples, settings.batch_size, torch.Generator()))


def draw_batch(
    examples: Sequence[Example],
    rows: Sequence[int],
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    settings: TrainSettings,
    generator: torch.Generator,
    step: int = 0,
) -> Batch:
    """The random choices of a step: timesteps, noise, dropped prompts, and which reference is the condition. All
    tensors are float32 on the CPU. ``step``: how many steps with as many rows came before."""
    latents = torch.stack([examples[i].learned_latent for i in rows]).float()
    t = draw_timesteps(len(rows), len(noise), settings, generator, step)
    eps = torch.randn(latents.shape, generator=generator)
    dropped = (torch.rand(len(rows), generator=generator) < settings.prompt_dropout).tolist()
    prompts = [empty_prompt if gone else examples[i].prompt for i, gone in zip(rows, dropped, strict=True)]
    labels = [
        examples[i].label_without_prompt if gone else examples[i].label for i, gone in zip(rows, dropped, strict=True)
    ]
    given_labels = [label for label in labels if label is not None]
    sources = [_condition_of(i, examples, settings.pairs, generator) for i in rows]
    everything = torch.ones(latents.shape[2:])
    given = (examples[i].loss_mask for i in rows)
    masks = [everything if mask is None else mask for mask in given]

    def own(tensor: Tensor) -> Tensor:
        # A copy, because autograd refuses tensors that a host made in inference mode.
        return tensor.to(torch.float32, copy=True)

    owned = {id(e.latent): (own(e.latent), own(e.tokens)) for e in sources}
    return Batch(
        x=noise.add_noise(latents, eps, t),
        timesteps=t,
        target=noise.target(latents, eps, t),
        context=torch.stack(prompts).float(),
        sources=tuple(owned[id(e.latent)] for e in sources),
        loss_mask=torch.stack(masks).float()[:, None],
        row_weights=min_snr_weights(noise, t) if settings.loss_weighting == "min_snr" else None,
        label=torch.stack(given_labels).float() if given_labels else None,
        subjects=tuple(e.subject_tokens for e in sources),
    )


# stratified:  t_n = floor(T frac(u_0 + n (sqrt(5) - 1) / 2)),  n = step * rows + row
def draw_timesteps(rows: int, count: int, settings: TrainSettings, generator: torch.Generator, step: int) -> Tensor:
    """The timesteps of a step's rows, [rows], in 0..``count`` - 1, uniform over seeds.

    "stratified": the additive recurrence of the golden ratio, whose u_0 comes from the seed. Of any 20 rows in
    succession, within a step or over several, every tenth of the timesteps gets at least one. It depends on nothing but
    the number of the step, so that a resumed training continues it.
    """
    # Drawn either way: what else is random in a training is then the same with both.
    independent = torch.randint(count, (rows,), generator=generator)
    if settings.timesteps == "uniform":
        return independent
    first = torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(settings.seed))
    n = step * rows + torch.arange(rows, dtype=torch.float64)
    return ((first + n * GOLDEN) % 1 * count).long()


def _condition_of(row: int, examples: Sequence[Example], pairs: str, generator: torch.Generator) -> Example:
    """The example whose reference is the condition of example ``row``; views of one reference are not others."""
    own = examples[row]
    others = [e for e in examples if e.latent is not own.latent]
    if pairs == "self" or not others:
        return own
    return others[int(torch.randint(len(others), (), generator=generator))]


def check_base(config: UNetConfig) -> None:
    """Raise TrainingError for a U-Net on which no subject can be trained."""
    if config.in_channels != config.out_channels:
        kind = WIDER.get(config.in_channels, "a model that reads more than the latent")
        raise TrainingError(
            f"this U-Net reads {config.in_channels} channels and predicts {config.out_channels} ({kind}): train on the "
            "ordinary model of the family; the subject can then be applied to this one"
        )


def check_examples(config: UNetConfig, examples: Sequence[Example], empty_prompt: Tensor) -> None:
    """Raise :class:`TrainingError`, naming the reference, for examples that do not fit the base or each other."""
    check_base(config)
    if not examples:
        raise TrainingError("no reference to train on: give at least one photo")
    prompt = tuple(empty_prompt.shape)
    for number, example in zip(reference_numbers(examples), examples, strict=True):
        name = f"reference {number}"
        if example.latent.ndim != 3 or example.latent.shape[0] != config.in_channels:
            raise TrainingError(
                f"{name}: expected a latent of {config.in_channels} channels, got {tuple(example.latent.shape)}"
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
        if example.loss_mask is not None and example.loss_mask.shape != example.learned_latent.shape[1:]:
            raise TrainingError(
                f"{name}: loss_mask has the shape {tuple(example.loss_mask.shape)}, its latent "
                f"{tuple(example.learned_latent.shape[1:])}"
            )
        for label in (example.label, example.label_without_prompt):
            width = 0 if label is None else label.numel()
            if width != config.label_dim:
                raise TrainingError(
                    f"{name}: its label (pooled text and sizes) has {width} numbers, and this U-Net reads "
                    f"{config.label_dim}: encode the prompts with this model's own CLIP"
                )
        for part in example.stored().values():
            if not torch.isfinite(part).all():
                raise TrainingError(f"{name} holds values that are not finite (NaN or infinite)")


def reference_numbers(examples: Sequence[Example]) -> list[int]:
    """For each example the number, from 1, of the reference that it is a view of."""
    seen: dict[int, int] = {}
    return [seen.setdefault(id(example.latent), len(seen) + 1) for example in examples]
