"""How a subject is trained: the named settings of training, with the paper's values as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from ..errors import TrainingError
from ..network.copy_settings import is_number


@dataclass(frozen=True)
class TrainSettings:
    """How a subject is trained. The defaults are the paper's where nothing else is said; letters are the rows of
    docs/method.md."""

    #: Passes over the references; ignored when ``steps`` is positive.
    epochs: int = 60
    steps: int = 0
    batch_size: int = 1
    learning_rate: float = 1e-5
    weight_decay: float = 0.01
    #: Learning rate of the MLP of a learned weight. It starts from nothing, and at the rate of the copy, which starts
    #: from trained weights, it would hardly move within a training.
    weight_learning_rate: float = 1e-3
    seed: int = 0
    #: Arithmetic of the step: "fp32", or "bf16" or "fp16" (with scaled gradients) with float32 weights of the copy.
    precision: str = "fp32"
    #: "adamw", or "adamw8bit" of the package bitsandbytes: a quarter of its memory.
    optimizer: str = "adamw"
    #: Keep less for the backward pass and compute it again: less memory, more work, the same result, bit for bit.
    checkpointing: bool = False
    #: gamma of Eq. 15.
    gamma: float = 0.1
    #: (m) share of the training rows whose prompt is replaced by the empty one.
    prompt_dropout: float = 0.1
    #: Cross-attention layers compared by L_ac: "last", "all", or "none".
    attention_layers: str = "last"
    #: (e) the normaliser of Eq. 12: "mean", or "sum" as printed.
    attention_norm: str = "mean"
    #: (d) start of the zero convolutions: "zero" as written, or "identity". The default is the toy world's evidence
    #: (benchmarks/README.md): from zero the subject is seldom carried over in as many steps.
    zero_init: str = "identity"
    #: (n) the condition of an example: "other", a random other reference of the subject, or "self".
    pairs: str = "other"
    #: What is learned of each reference (see :func:`p3s.training.examples.views`). Not in the paper, whose way is
    #: "whole": the toy world's samples are better with the crop (benchmarks/README.md).
    views: str = "whole+subject"
    #: Whether the fill of a removed subject is "learned" like the rest of the picture (as in the paper), or "ignored"
    #: by L_LDM.
    removed: str = "ignored"

    #: Settings that do not change what a step does to the weights.
    NEUTRAL: ClassVar[tuple[str, ...]] = ("epochs", "steps", "checkpointing")
    #: Settings that may be changed to resume after the loss was no longer finite.
    REMEDIES: ClassVar[tuple[str, ...]] = ("learning_rate", "precision")
    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "precision": ("fp32", "bf16", "fp16"),
        "optimizer": ("adamw", "adamw8bit"),
        "attention_layers": ("last", "all", "none"),
        "attention_norm": ("mean", "sum"),
        "zero_init": ("zero", "identity"),
        "pairs": ("other", "self"),
        "views": ("whole", "whole+subject"),
        "removed": ("learned", "ignored"),
    }

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise TrainingError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        if not isinstance(self.checkpointing, bool):
            raise TrainingError(f"checkpointing must be true or false; got {self.checkpointing!r}")
        largest = {"epochs": 10**6, "steps": 10**9, "batch_size": 10**4, "seed": 2**64 - 1}
        smallest = {"epochs": 1, "batch_size": 1}
        for name, high in largest.items():
            value, low = getattr(self, name), smallest.get(name, 0)
            if not isinstance(value, int) or not is_number(value, low, high):
                raise TrainingError(f"{name} must be a whole number in {low}..{high}; got {value!r}")
        for name in ("learning_rate", "weight_learning_rate"):
            if not is_number(getattr(self, name), 1e-12, 1e6):
                raise TrainingError(f"{name} must be a positive number; got {getattr(self, name)!r}")
        for name, upper in (("weight_decay", 1e6), ("gamma", 1e6), ("prompt_dropout", 1.0)):
            if not is_number(getattr(self, name), 0.0, upper):
                raise TrainingError(f"{name} must be a number in 0..{upper:g}; got {getattr(self, name)!r}")
