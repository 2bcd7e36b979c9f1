"""Training an SSR-Encoder: what is drawn for a step, its losses, and the step."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..arithmetic import moved
from ..errors import TrainingError
from ..network.hooks import AttentionHooks
from ..network.unet import UNet
from ..network.unet_config import Layer, UNetConfig
from ..sampling.diffusion import NoiseSchedule
from ..settings import check, setting
from .aligner import Aligner
from .attend import KeysValues, add_subject
from .file import SSRModel
from .layers import SubjectLayers


@dataclass(frozen=True)
class SSRTrainSettings:
    """How an SSR-Encoder is trained; the defaults are the published ones. Raises P3SError for other values.

    ``consistency`` is lambda of L_reg; ``learning_rate`` and ``weight_decay`` are AdamW's.
    """

    consistency: float = setting(
        0.01,
        "Weight of the loss that ties each token's embedding to the meaning of that token. The authors use 0.001 to "
        "fine-tune.",
        low=0.0,
        high=100.0,
    )
    consistency_norm: str = setting(
        "sum",
        "What that loss compares: sum, each scale's embeddings, as in the authors' code; mean, their mean over the "
        "scales, as in the paper.",
        ("sum", "mean"),
    )
    prompt_dropout: float = setting(
        0.8,
        "Share of the rows trained without the prompt, which leaves the query to say what to draw.",
        low=0.0,
        high=1.0,
    )
    image_dropout: float = setting(
        0.0,
        "Share of the rows trained on the embedding of no picture, which guidance uses. The authors have none.",
        low=0.0,
        high=1.0,
    )
    start: str = setting(
        "random",
        "How the subject's keys and values start: random, as in the authors' code; copy, as the U-Net's own for the "
        "text, as in the paper.",
        ("random", "copy"),
    )
    timesteps: str = setting(
        "uniform",
        "Noise levels of the rows: uniform, as in the authors' code; noisy, more of those that decide the looks.",
        ("uniform", "noisy"),
    )
    learning_rate: float = setting(
        5e-5,
        "Learning rate, without a schedule. Lower it if the loss becomes NaN.",
        low=0.0,
        high=1.0,
    )
    weight_decay: float = setting(0.01, "Weight decay.", low=0.0, high=1.0)

    def __post_init__(self) -> None:
        check(self)


#: Settings that may change when a training is continued.
ADJUSTABLE = ("learning_rate", "weight_decay")


class Pair(NamedTuple):
    """One row of training data: the target's latent [channels, h, w] and prompt [L, context_dim]; of the reference the
    hidden states [K, P, vision], the query [L, query], and the bias of its mask [P] or None."""

    latent: Tensor
    prompt: Tensor
    states: Tensor
    query: Tensor
    bias: Tensor | None = None


class Batch(NamedTuple):
    """The tensors of one step: x_t, the timesteps [batch], what the U-Net should predict, its context; states, query
    and bias of the aligner."""

    x: Tensor
    timesteps: Tensor
    target: Tensor
    context: Tensor
    states: Tensor
    query: Tensor
    bias: Tensor | None

    def to(self, device: torch.device) -> Batch:
        """The same on ``device``."""
        return Batch(*(None if part is None else moved(part, device) for part in self))  # type: ignore[arg-type]


def joined(batches: Sequence[Batch]) -> Batch:
    """The rows of several batches, none of which has a bias, as one."""
    return Batch(*(None if parts[0] is None else torch.cat(parts) for parts in zip(*batches, strict=True)))  # type: ignore[arg-type]


def draw(
    pairs: Sequence[Pair],
    empty: Pair,
    noise: NoiseSchedule,
    settings: SSRTrainSettings,
    generator: torch.Generator,
) -> Batch:
    """The random choices of a step on ``pairs``: timesteps, noise, dropped prompts and images.

    ``empty`` has the empty prompt, the states of the zero picture and the query of the empty text.
    """
    latents = torch.stack([pair.latent for pair in pairs]).float()
    if settings.timesteps == "noisy":  # a density in proportion to t, of which every pair has an equal part
        share = (torch.arange(len(pairs)) + torch.rand(len(pairs), generator=generator)) / len(pairs)
        t = (share.sqrt() * len(noise)).long().clamp(max=len(noise) - 1)
    else:
        t = torch.randint(len(noise), (len(pairs),), generator=generator)
    eps = torch.randn(latents.shape, generator=generator)

    def with_empty(share: float) -> list[Pair]:
        gone = torch.rand(len(pairs), generator=generator) < share
        return [empty if out else pair for pair, out in zip(pairs, gone.tolist(), strict=True)]

    prompts = [pair.prompt for pair in with_empty(settings.prompt_dropout)]
    seen = with_empty(settings.image_dropout)
    biases = [pair.states.new_zeros(pair.states.shape[1]) if pair.bias is None else pair.bias for pair in pairs]
    return Batch(
        x=noise.add_noise(latents, eps, t),
        timesteps=t,
        target=noise.target(latents, eps, t),
        context=torch.stack(prompts).float(),
        states=torch.stack([pair.states for pair in seen]).float(),
        query=torch.stack([pair.query for pair in seen]).float(),
        bias=None if all(pair.bias is None for pair in pairs) else torch.stack(biases),
    )


# L_reg = sum over k of  mean(1 - cos(c_s^k, z_q))      or  mean(1 - cos(mean over k of c_s^k, z_q))
def embedding_consistency(c: Tensor, query: Tensor, scales: int, norm: str = "sum") -> Tensor:
    """How far each token's embedding is from the meaning of that token, a scalar.

    ``c``: c_s, [batch, K * L, width]; ``query``: z_q, [batch, L, width], which gets no gradient; ``scales``: K.
    """
    parts, meaning = c.unflatten(1, (scales, -1)), query.detach()
    if norm == "mean":
        return (1 - F.cosine_similarity(parts.mean(1), meaning, dim=-1)).mean()
    return (1 - F.cosine_similarity(parts, meaning[:, None], dim=-1)).mean((0, 2)).sum()


class Trainee(nn.Module):
    """What is trained, in one module, so that one wrapper for several devices holds all of it."""

    def __init__(self, aligner: Aligner, layers: SubjectLayers) -> None:
        super().__init__()
        self.aligner, self.layers = aligner, layers

    def forward(self, base: UNet, batch: Batch, consistency_norm: str = "sum") -> tuple[Tensor, Tensor]:
        """L_LDM and L_reg of a batch on a frozen U-Net, both scalars."""
        c = self.aligner(batch.states, batch.query, batch.bias)
        prediction = base(batch.x, batch.timesteps, batch.context, _Training(self.layers, c))
        # L_LDM = E |eps - eps_theta(x_t, t, [c_t; c_s])|^2
        denoising = F.mse_loss(prediction.float(), batch.target.float())
        return denoising, embedding_consistency(c, batch.query, self.aligner.scales, consistency_norm)


class _Training(AttentionHooks):
    """Every row reads its own embedding, at strength 1."""

    def __init__(self, layers: SubjectLayers, c: Tensor) -> None:
        self.layers, self.c = layers, c

    def cross_attention_result(self, layer: Layer, out: Tensor, q: Tensor, heads: int, grid: tuple[int, int]) -> Tensor:
        return add_subject(out, q, heads, KeysValues(*self.layers.project(layer, self.c)), None, (True,), 1.0)


def start(base: UNet, vision: int, settings: SSRTrainSettings, seed: int = 0, **sizes: int) -> Trainee:
    """An untrained SSR-Encoder for a U-Net, whose queries are as wide as its text, and a vision tower of this width.

    ``sizes``: inner, heads and scales of :class:`Aligner`. Equal seeds give equal weights; the global random state is
    left alone.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        trainee = Trainee(Aligner(base.config.context_dim, vision, **sizes), SubjectLayers(base.config))
    if settings.start == "copy":
        trainee.layers.copy_from(base)
    return trainee


def start_from(model: SSRModel, config: UNetConfig) -> Trainee:
    """An SSR-Encoder as the start of a training, in float32. Its tensors may be shared and are then trained themselves.

    Raises FamilyError for one that was made for another U-Net.
    """
    return Trainee(model.aligner, SubjectLayers.from_state_dict(model.layers, config, dtype=torch.float32))


def optimizer(trainee: nn.Module, settings: SSRTrainSettings) -> torch.optim.Optimizer:
    """The published optimiser: AdamW at a constant rate."""
    return torch.optim.AdamW(trainee.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay)


# L = L_LDM + lambda L_reg
def step_loss(
    trainee: nn.Module, base: UNet, batch: Batch, settings: SSRTrainSettings
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a batch, and its parts L_LDM and L_reg; all scalars."""
    denoising, consistency = trainee(base, batch, settings.consistency_norm)
    return denoising + settings.consistency * consistency, denoising, consistency


def training_step(
    trainee: nn.Module,
    base: UNet,
    batch: Batch,
    steps: Any,
    settings: SSRTrainSettings,
    backward: Callable[[Tensor], object] = Tensor.backward,
    arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext,
    everywhere: Callable[[bool], bool] = bool,
) -> tuple[float, float]:
    """One step on a batch; returns L_LDM and L_reg before it.

    ``trainee``: a :class:`Trainee`, or a wrapper of it; ``steps``: its optimiser; ``backward``: what computes the
    gradients of a loss; ``arithmetic``: what the loss is computed in, such as autocast; ``everywhere``: of several
    processes, whether something is true in all of them. Raises TrainingError for a loss that is not finite, in all
    processes if it is so in one, and then changes nothing.
    """
    steps.zero_grad()
    with arithmetic():
        loss, denoising, consistency = step_loss(trainee, base, batch, settings)
    if not everywhere(bool(torch.isfinite(loss))):
        reduced = next(base.parameters()).dtype != torch.float32
        raise TrainingError(
            f"the loss is {loss.item()}: lower the learning rate{', or train in fp32' if reduced else ''}"
        )
    backward(loss)
    steps.step()
    return denoising.item(), consistency.item()
