"""Training an SSR-Encoder on captioned pictures: the run around :func:`p3s.ssr.training.training_step`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import TrainingError
from ..network.unet import UNet
from ..sampling.diffusion import NoiseSchedule
from ..settings import check, setting
from .dataset import Reader, Sample, seeded
from .embeds import Vision
from .file import SSRModel
from .processes import Alone
from .state_file import State
from .training import ADJUSTABLE, Batch, Pair, SSRTrainSettings, Trainee, draw, joined, optimizer, training_step


@dataclass(frozen=True)
class RunSettings:
    """Length, batch and arithmetic of a training. Raises P3SError for a value that is not allowed."""

    steps: int = setting(1_000_000, "Steps in all. The same command continues a stopped training.", low=1, high=10**9)
    batch_size: int = setting(
        24, "Pictures per step and process; 24 as published, on many GPUs. Fewer need less memory.", low=1, high=4096
    )
    save_every: int = setting(1000, "Steps between two saves of model and state.", low=1, high=10**9)
    seed: int = setting(0, "Fixes every random choice.", low=0, high=2**64 - 1)
    #: No fp16: its gradients would have to be scaled, and only GPUs older than bf16 would gain.
    precision: str = setting(
        "fp32",
        "Arithmetic of the step and the frozen models. bf16 (recent GPUs) is faster and needs less memory; the trained "
        "weights stay in fp32.",
        ("fp32", "bf16"),
    )
    checkpointing: bool = setting(
        False, "Gradient checkpointing: much less memory for about a third more time, and the same result."
    )
    workers: int = setting(4, "Threads that read the pictures of the next step.", low=1, high=256)

    def __post_init__(self) -> None:
        check(self)


class FrozenModels(NamedTuple):
    """What an SSR-Encoder is trained on. ``latent``: of a picture [R, R, 3] in 0..1, R = ``resolution``, the scaled
    latent [channels, h, w]; ``text``: of texts, the encoder's last hidden states [texts, L, width], which are both
    prompts and queries."""

    base: UNet
    noise: NoiseSchedule
    latent: Callable[[Tensor], Tensor]
    text: Callable[[Sequence[str]], Tensor]
    vision: Vision
    resolution: int


class Report(NamedTuple):
    """After a step: its number from 1, of how many, and L_LDM and L_reg before it, means over the processes."""

    step: int
    total: int
    denoising: float
    consistency: float


class Trainer:
    """A training, after ``done`` steps of ``samples`` samples in all processes.

    ``facts`` are what its result depends on, by names that users know; a state with others is refused. ``adjustable``
    are the settings that may change when a training is continued; those that change no number, such as checkpointing,
    are in neither. ``arithmetic`` is what losses are computed in. The device is that of ``models.base``.
    """

    def __init__(
        self,
        trainee: Trainee,
        models: FrozenModels,
        reader: Reader,
        settings: SSRTrainSettings,
        run: RunSettings,
        facts: dict[str, str],
        processes: Alone | None = None,
        arithmetic: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self.models, self.reader, self.settings, self.run, self.facts = models, reader, settings, run, facts
        self.processes, self.arithmetic = processes or Alone(), arithmetic
        self.device = next(models.base.parameters()).device
        self.trainee = trainee.to(self.device).requires_grad_(True).train()
        models.base.requires_grad_(False).train(False)
        models.base.checkpointing = run.checkpointing
        self.optimizer = _Optimizer(optimizer(self.trainee, settings))
        self.done = self.samples = 0
        self._empty: Pair | None = None

    @property
    def adjustable(self) -> dict[str, str]:
        values = {
            **{name: getattr(self.settings, name) for name in ADJUSTABLE},
            "precision": self.run.precision,
            "batch_size": self.run.batch_size,
            "processes": self.processes.count,
        }
        return {name: str(value) for name, value in values.items()}

    @property
    def whole(self) -> bool:
        """Whether all weights are those after the same step: not where the optimiser has failed within one."""
        return not self.optimizer.within

    def steps(self, stopped: Callable[[], bool] = lambda: False) -> Iterator[Report]:
        """Take the remaining steps. Between two of them ``stopped`` says whether to end, in one process or more.

        Raises TrainingError for a picture that cannot be read and for a loss that is not finite, in all processes if
        in one; the weights are then those of the step before.
        """
        through = self.processes.wrapped(self.trainee)
        while self.done < self.run.steps and not self.processes.any(stopped()):
            losses = training_step(
                through,
                self.models.base,
                self._agreed_batch(),
                self.optimizer,
                self.settings,
                self.processes.backward,
                self.arithmetic,
                self.processes.all,
            )
            self.done += 1
            self.samples += self.reader.step_size
            yield Report(self.done, self.run.steps, *self.processes.mean(losses))

    @torch.no_grad()
    def batch(self, samples: Sequence[Sample], numbers: Sequence[int]) -> Batch:
        """A step's batch of samples, whose ``numbers`` decide what is random in each."""
        models = self.models
        with self.arithmetic():
            if self._empty is None:
                latent = torch.zeros(models.base.config.in_channels, 1, 1)
                self._empty = Pair(latent, self._text([""])[0], models.vision.zeros()[0], self._text([""])[0])
            texts = self._text([sample.caption for sample in samples])
            states = models.vision.states(torch.stack([sample.seen for sample in samples]))
            latents = [models.latent(sample.target) for sample in samples]
        rows = [
            draw([Pair(latent, text, seen, text)], self._empty, models.noise, self.settings, self._noise(number))
            for latent, text, seen, number in zip(latents, texts, states, numbers, strict=True)
        ]
        return joined(rows).to(self.device)

    def state(self) -> State:
        """All that continuing needs."""
        moments = self.optimizer.inner.state
        named = dict(self.trainee.named_parameters())
        return State(
            self.facts,
            self.adjustable,
            self.done,
            self.samples,
            {name: p.detach() for name, p in named.items()},
            {name: (moments[p]["exp_avg"], moments[p]["exp_avg_sq"]) for name, p in named.items() if p in moments},
        )

    def restore(self, state: State) -> None:
        """Continue from a state, with the settings of now. Raises TrainingError for the state of another training."""
        state.check(self.facts)
        self.trainee.load_state_dict(dict(state.weights))
        inner = self.optimizer.inner
        step = torch.tensor(float(state.step))
        moments = {
            number: {"step": step.clone(), "exp_avg": state.moments[name][0], "exp_avg_sq": state.moments[name][1]}
            for number, (name, _) in enumerate(self.trainee.named_parameters())
            if name in state.moments
        }
        inner.load_state_dict({"state": moments, "param_groups": inner.state_dict()["param_groups"]})
        self.done, self.samples = state.step, state.samples

    def model(self) -> SSRModel:
        """The SSR-Encoder as trained so far, for :func:`p3s.ssr.file.save_ssr`."""
        return SSRModel(self.trainee.aligner, self.trainee.layers.state_dict(), "")

    def _agreed_batch(self) -> Batch:
        """The next batch, or the same error in all processes: one alone would leave the others waiting for it."""
        batch, problem = None, None
        try:
            batch = self.batch(self.reader.read(self.samples), self.reader.numbers(self.samples))
        except Exception as error:
            problem = error
        if self.processes.any(problem is not None):
            raise problem or TrainingError("another process stopped; its message says why")
        assert batch is not None
        return batch

    def _text(self, texts: Sequence[str]) -> Tensor:
        return self.models.text(texts).float()

    def _noise(self, number: int) -> torch.Generator:
        return seeded(self.run.seed, "noise", number)


class _Optimizer:
    """An optimiser that knows whether it is ``within`` a step."""

    def __init__(self, inner: torch.optim.Optimizer) -> None:
        self.inner, self.within = inner, False

    def zero_grad(self) -> None:
        self.inner.zero_grad(set_to_none=True)

    def step(self) -> None:
        self.within = True
        self.inner.step()
        self.within = False
