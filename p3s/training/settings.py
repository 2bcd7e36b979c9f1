"""How a subject is trained: the named settings of training, with the paper's values as defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from ..errors import TrainingError
from ..settings import Setting, check, setting

RESOLUTION = Setting(
    512,
    "Photos are scaled to about resolution x resolution pixels, uncropped, with their proportions kept. For SDXL: "
    "1024.",
    low=128,
    high=2048,
    step=64,
)


@dataclass(frozen=True)
class TrainSettings:
    """How a subject is trained. The defaults are the paper's where nothing else is said; letters are the rows of
    docs/method.md. Raises TrainingError for a value that is not allowed."""

    epochs: int = setting(
        60,
        "Passes over the photos, used when steps is 0. The paper trains 60 epochs on 3 to 5 photos.",
        low=1,
        high=10000,
    )
    steps: int = setting(
        0,
        "Training steps; 0 follows epochs. With a single photo, 200 to 300 steps match the paper.",
        low=0,
        high=1000000,
    )
    batch_size: int = setting(
        1, "Photos per step. If there are fewer, some are repeated, each time with different noise.", low=1, high=64
    )
    learning_rate: float = setting(
        1e-5,
        "Learning rate. Lower it if the loss becomes NaN; raise it if the subject does not come through.",
        low=1e-8,
        high=1.0,
        step=1e-6,
    )
    weight_decay: float = setting(
        0.01, "Weight decay of matrices and convolutions; biases and norms have none.", low=0.0, high=1.0
    )
    #: It starts from nothing, and at the rate of the copy, which starts from trained weights, it would hardly move
    #: within a training.
    weight_learning_rate: float = setting(
        1e-3, "Learning rate of the curve that is learned where weight is learned.", low=1e-8, high=1.0
    )
    seed: int = setting(
        0,
        "Fixes every random choice; on a GPU, results may still differ in the last bits.",
        low=0,
        high=2**64 - 1,
    )
    #: Of the step; the copy's own weights are float32. fp16 scales the gradients.
    precision: str = setting(
        "fp32",
        "bf16 (recent GPUs) and fp16 are faster and need less memory; the trained weights stay in fp32.",
        ("fp32", "bf16", "fp16"),
    )
    optimizer: str = setting(
        "adamw",
        "adamw8bit needs a quarter of adamw's memory, and the package bitsandbytes.",
        ("adamw", "adamw8bit"),
    )
    #: Keeps less for the backward pass and computes it again: the same result, bit for bit.
    checkpointing: bool = setting(
        False, "Gradient checkpointing: less memory for about a third more time, and the same result."
    )
    #: gamma of Eq. 15.
    gamma: float = setting(
        0.1,
        "Weight of the attention consistency loss, which keeps the prompt in control.",
        low=0.0,
        high=100.0,
        step=0.01,
    )
    #: (m) share of the training rows whose prompt is replaced by the empty one.
    prompt_dropout: float = setting(
        0.1,
        "Fraction of steps trained without the prompt, for classifier-free guidance.",
        low=0.0,
        high=1.0,
        step=0.01,
    )
    #: Of L_ac.
    attention_layers: str = setting(
        "last", "Cross-attention layers that the attention consistency loss compares.", ("last", "all", "none")
    )
    #: (e) the normaliser of Eq. 12: the mean, or the sum as printed.
    attention_norm: str = setting(
        "mean",
        "Normaliser of the attention consistency loss: the mean attention, or the sum as in the paper, which makes the "
        "loss almost 0.",
        ("mean", "sum"),
    )
    #: (d) "zero" as written. The default is the toy world's evidence (benchmarks/README.md): from zero the subject is
    #: seldom carried over in as many steps.
    zero_init: str = setting(
        "identity",
        "How the zero convolutions start: identity (the subject network's own features), or zero (the paper).",
        ("zero", "identity"),
    )
    #: (n) the condition of an example.
    pairs: str = setting(
        "other",
        "With several photos: a random other photo is the condition, or the photo itself.",
        ("other", "self"),
    )
    #: See :func:`p3s.training.views.views_of`. The crop is not in the paper: the toy world samples better with it
    #: (benchmarks/README.md).
    views: str = setting(
        "whole+subject",
        "whole: the photo, as in the paper. whole+subject: also a crop around the subject, so that its position is not "
        "memorised.",
        ("whole", "whole+subject"),
    )
    #: "ignored" leaves the fill out of L_LDM; the paper learns it.
    removed: str = setting(
        "ignored",
        "Whether the filled-in area of a removed subject is learned like the rest, or ignored by the loss.",
        ("learned", "ignored"),
    )
    #: See :func:`p3s.training.step.draw_timesteps`.
    timesteps: str = setting(
        "uniform",
        "How timesteps are drawn: uniform, each independently of the others, or stratified, spread evenly over rows "
        "and steps.",
        ("uniform", "stratified"),
    )
    #: See :func:`p3s.training.losses.min_snr_weights`.
    loss_weighting: str = setting(
        "none",
        "Weights of the timesteps in the denoising loss: none, or min_snr (Min-SNR, gamma 5), with which those of "
        "little noise count less.",
        ("none", "min_snr"),
    )
    warmup_steps: int = setting(
        0,
        "Steps in which the learning rate rises linearly to its full value; 0 starts with it.",
        low=0,
        high=1000000,
    )

    #: Of what is outside the subject's area (:func:`p3s.training.views.subject_area_of`).
    background_weight: float = setting(
        1.0,
        "Weight of the background in the loss: 1 learns it as much as the subject, 0 not at all.",
        low=0.0,
        high=1.0,
        step=0.05,
    )
    #: It never counts in the loss: the prompt does not describe it.
    backdrop: str = setting(
        "photo",
        "What lies behind the subject in crops: the photo, one random colour (plain) or several (random). The colours "
        "are not learned.",
        ("photo", "plain", "random"),
    )
    crops: int = setting(
        0, "Further crops per photo, at random places and in random sizes, around the whole subject.", low=0, high=16
    )
    flip: bool = setting(
        False, "Also learn a mirrored version of each view. Not for subjects with writing or a mark on one side."
    )

    #: Settings that do not change what a step does to the weights.
    NEUTRAL: ClassVar[tuple[str, ...]] = ("epochs", "steps", "checkpointing")
    #: Settings that keys and states of earlier versions lack, with the values by which a training is one of those: at
    #: them they are left out still. Whatever the defaults become, these values stay.
    ADDED: ClassVar[Mapping[str, Any]] = {
        "background_weight": 1.0,
        "backdrop": "photo",
        "crops": 0,
        "flip": False,
        "timesteps": "uniform",
        "loss_weighting": "none",
        "warmup_steps": 0,
    }
    #: Settings that may be changed to resume after the loss was no longer finite.
    REMEDIES: ClassVar[tuple[str, ...]] = ("learning_rate", "precision")

    def __post_init__(self) -> None:
        check(self, TrainingError)
