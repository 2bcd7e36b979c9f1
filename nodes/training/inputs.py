"""The inputs of Train P3S, and the settings made of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ...p3s.network.copy_settings import LARGEST_RANK, CopySettings
from ...p3s.training.preview import EVERY
from ...p3s.training.settings import TrainSettings
from ..types import Reference, build

COPY, TRAIN = CopySettings(), TrainSettings()
CHECKPOINT_EVERY = 250  # steps; the state of a full copy has 7 GB, which takes a disk some seconds


def inputs() -> list[Any]:
    """All inputs of the node. Their order is the order of the values in saved workflows: append only."""
    return [
        io.Model.Input("model", tooltip="An SD 1.x model. LoRAs before this node become part of it."),
        io.Vae.Input("vae", tooltip="The VAE of that model."),
        Reference.Input("reference", tooltip="From RNGR Mask: one photo, or several chained ones."),
        io.Conditioning.Input(
            "positive",
            tooltip='The training prompt: a rare word and the class, such as "a photo of a sks dog".',
        ),
        io.Conditioning.Input("empty", tooltip="An empty prompt, encoded with the same CLIP."),
        io.String.Input("name", default="subject", tooltip="Name of the file in models/p3s."),
        io.Int.Input(
            "epochs",
            default=TRAIN.epochs,
            min=1,
            max=10000,
            tooltip="Passes over the photos, used when steps is 0. The paper trains 60 epochs on 3 to 5 photos.",
        ),
        io.Int.Input(
            "steps",
            default=TRAIN.steps,
            min=0,
            max=1000000,
            tooltip="Training steps; 0 follows epochs. With a single photo, 200 to 300 steps match the paper.",
        ),
        io.Int.Input(
            "batch_size",
            default=TRAIN.batch_size,
            min=1,
            max=64,
            tooltip="Photos per step. If there are fewer, some are repeated, each time with different noise.",
        ),
        io.Float.Input(
            "learning_rate",
            default=TRAIN.learning_rate,
            min=1e-8,
            max=1.0,
            step=1e-6,
            round=False,
            tooltip="Learning rate. Lower it if the loss becomes NaN; raise it if the subject does not come through.",
        ),
        io.Int.Input(
            "seed",
            default=TRAIN.seed,
            min=0,
            max=0xFFFFFFFFFFFFFFFF,
            # A seed that changed by itself would start a new training every time.
            control_after_generate=False,
            tooltip="Fixes every random choice (on a GPU, to the last bit only with ComfyUI's --deterministic).",
        ),
        io.Combo.Input(
            "precision",
            options=list(TRAIN.CHOICES["precision"]),
            default=TRAIN.precision,
            tooltip="bf16 (recent GPUs) and fp16 are faster and need less memory; the trained weights stay in fp32.",
        ),
        io.Int.Input(
            "resolution",
            default=512,
            min=128,
            max=2048,
            step=64,
            tooltip="Photos are scaled to about resolution x resolution pixels, uncropped, with their proportions "
            "kept.",
        ),
        build(
            io.Float.Input,
            "gamma",
            default=TRAIN.gamma,
            min=0.0,
            max=100.0,
            step=0.01,
            advanced=True,
            tooltip="Weight of the attention consistency loss, which keeps the prompt in control.",
        ),
        build(
            io.Float.Input,
            "lam",
            default=COPY.lam,
            min=-10.0,
            max=10.0,
            step=0.01,
            advanced=True,
            tooltip="Lambda: how much of the subject's features is added to the values of self-attention.",
        ),
        io.String.Input(
            "identifier",
            default="",
            optional=True,
            tooltip="Stored in the file: the rare word that stands for the subject in prompts.",
        ),
        build(
            io.String.Input,
            "licence",
            default="",
            optional=True,
            advanced=True,
            tooltip="Stored in the file: what others may do with this subject.",
        ),
        build(
            io.Float.Input,
            "prompt_dropout",
            default=TRAIN.prompt_dropout,
            min=0.0,
            max=1.0,
            step=0.01,
            optional=True,
            advanced=True,
            tooltip="Fraction of steps trained without the prompt, for classifier-free guidance.",
        ),
        _choice(
            TRAIN,
            "zero_init",
            "How the zero convolutions start: identity (the copy's own features), or zero (the paper).",
        ),
        _choice(
            TRAIN,
            "attention_layers",
            "Cross-attention layers that the attention consistency loss compares.",
        ),
        _choice(
            TRAIN,
            "attention_norm",
            "Normaliser of that loss: the mean attention, or the sum as in the paper, which makes it almost 0.",
        ),
        _choice(
            TRAIN,
            "pairs",
            "With several photos: a random other photo is the condition, or the photo itself.",
        ),
        _choice(
            COPY,
            "feature",
            "What the copy hands over: the input (norm1) or output (attn1) of its self-attention.",
        ),
        _choice(
            COPY,
            "pairing",
            "level: all 16 attention layers of the model read the subject. one_to_one: 10 of them, faster.",
        ),
        _choice(
            COPY,
            "copy_input",
            "What the copy sees: the noisy image plus the reference, or only the reference.",
        ),
        build(
            io.Boolean.Input,
            "cross_attention",
            default=COPY.cross_attention,
            optional=True,
            advanced=True,
            tooltip="Let the subject also steer the queries of cross-attention.",
        ),
        build(
            io.Int.Input,
            "image_dim",
            default=COPY.image_dim,
            min=1,
            max=1024,
            optional=True,
            advanced=True,
            tooltip="Inner size of the attention between the reference and its CLIP features.",
        ),
        io.Int.Input(
            "preview_every",
            default=EVERY,
            min=0,
            max=1000000,
            optional=True,
            tooltip="Steps between two previews on the node; 0 turns them off. One takes about as long as 3 steps.",
        ),
        _choice(
            TRAIN,
            "views",
            "whole: the photo, as in the paper. whole+subject: also a crop around the subject, so that its position "
            "is not memorised.",
        ),
        _choice(
            TRAIN,
            "removed",
            "Whether the filled-in area of a removed subject is learned like the rest, or ignored by the loss.",
        ),
        io.Boolean.Input(
            "retrain",
            default=False,
            optional=True,
            tooltip="Off: if this exact training was done before, its file is reused. On: train each time the workflow "
            "is queued.",
        ),
        io.Combo.Input(
            "kind",
            options=list(COPY.CHOICES["kind"]),
            default=COPY.kind,
            optional=True,
            tooltip="full: the whole copy, as in the paper. lora: low-rank changes, a small file and less memory.",
        ),
        build(
            io.Int.Input,
            "rank",
            default=COPY.rank,
            min=1,
            max=LARGEST_RANK,
            optional=True,
            advanced=True,
            tooltip="Rank of lora's changes. A higher rank can learn more; the file grows with it.",
        ),
        _choice(
            COPY,
            "weight",
            "Weight of the subject during training: 1, as in the paper, or a curve that is learned along with it.",
        ),
        build(
            io.Boolean.Input,
            "checkpointing",
            default=TRAIN.checkpointing,
            optional=True,
            advanced=True,
            tooltip="Gradient checkpointing: less memory for about a third more time, and the same result.",
        ),
        _choice(TRAIN, "optimizer", "adamw8bit needs a quarter of adamw's memory, and the package bitsandbytes."),
        build(
            io.Int.Input,
            "checkpoint_every",
            default=CHECKPOINT_EVERY,
            min=0,
            max=1000000,
            optional=True,
            advanced=True,
            tooltip="Save a resumable checkpoint every this many steps; 0: only when the training is cancelled or "
            "stops.",
        ),
        build(
            io.Boolean.Input,
            "resume",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Resume where this training was cancelled or stopped. You may ask for more steps.",
        ),
    ]


def settings(values: dict[str, Any]) -> tuple[CopySettings, TrainSettings]:
    """The settings among the node's values; the defaults stand for those that are not there. Raises P3SError."""

    def of(kind: type) -> Any:
        return kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})

    return of(CopySettings), of(TrainSettings)


def _choice(settings: Any, name: str, tooltip: str) -> Any:
    return build(
        io.Combo.Input,
        name,
        options=list(settings.CHOICES[name]),
        default=getattr(settings, name),
        optional=True,
        advanced=True,
        tooltip=tooltip,
    )
