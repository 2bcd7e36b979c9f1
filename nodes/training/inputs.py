"""The inputs of Train P3S, and the settings made of them."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from comfy_api.latest import io

from ...p3s.network.copy_settings import CopySettings
from ...p3s.settings import settings_of
from ...p3s.subject.info import IDENTIFIER, LICENCE
from ...p3s.training.sample_preview import EVERY
from ...p3s.training.settings import RESOLUTION, TrainSettings
from ..wire_types import Reference, build, input_of

COPY, TRAIN = settings_of(CopySettings), settings_of(TrainSettings)
CHECKPOINT_EVERY = 250  # steps; the state of a full copy has 7 GB, which takes a disk some seconds


def inputs() -> list[Any]:
    """All inputs of the node. Their order is the order of the values in saved workflows: append only."""
    return [
        io.Model.Input("model", tooltip="An SD 1.x, SD 2.x or SDXL model. LoRAs before this node become part of it."),
        io.Vae.Input("vae", tooltip="The VAE of that model."),
        Reference.Input("reference", tooltip="From RNGR Mask: one photo, or several chained ones."),
        io.Conditioning.Input(
            "positive",
            tooltip='The training prompt: a rare word and the class, such as "a photo of a sks dog".',
        ),
        io.Conditioning.Input("empty", tooltip="An empty prompt, encoded with the same CLIP."),
        io.String.Input("name", default="subject", tooltip="Name of the file in models/p3s."),
        input_of("epochs", TRAIN["epochs"]),
        input_of("steps", TRAIN["steps"]),
        input_of("batch_size", TRAIN["batch_size"]),
        input_of("learning_rate", TRAIN["learning_rate"], round=False),
        # A seed that changed by itself would start a new training every time.
        input_of("seed", TRAIN["seed"], control_after_generate=False),
        input_of("precision", TRAIN["precision"]),
        input_of("resolution", RESOLUTION),
        input_of("gamma", TRAIN["gamma"], advanced=True),
        input_of("lam", COPY["lam"], advanced=True),
        input_of("identifier", IDENTIFIER, optional=True),
        input_of("licence", LICENCE, optional=True, advanced=True),
        *(
            input_of(name, TRAIN[name], optional=True, advanced=True)
            for name in ("prompt_dropout", "zero_init", "attention_layers", "attention_norm", "pairs")
        ),
        *(
            input_of(name, COPY[name], optional=True, advanced=True)
            for name in ("feature", "pairing", "copy_input", "cross_attention", "image_dim")
        ),
        io.Int.Input(
            "preview_every",
            default=EVERY,
            min=0,
            max=1000000,
            optional=True,
            tooltip="Steps between two previews on the node; 0 turns them off. One takes about as long as 3 steps.",
        ),
        input_of("views", TRAIN["views"], optional=True, advanced=True),
        input_of("removed", TRAIN["removed"], optional=True, advanced=True),
        io.Boolean.Input(
            "retrain",
            default=False,
            optional=True,
            tooltip="Off: if this exact training was done before, its file is reused. On: train each time the workflow "
            "is queued.",
        ),
        input_of("kind", COPY["kind"], optional=True),
        input_of("rank", COPY["rank"], optional=True, advanced=True),
        input_of("weight", COPY["weight"], optional=True, advanced=True),
        input_of("checkpointing", TRAIN["checkpointing"], optional=True, advanced=True),
        input_of("optimizer", TRAIN["optimizer"], optional=True, advanced=True),
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
        *(
            input_of(name, TRAIN[name], optional=True, advanced=True)
            for name in ("background_weight", "backdrop", "crops", "flip")
        ),
        input_of("alpha", COPY["alpha"], optional=True, advanced=True),
        *(
            input_of(name, TRAIN[name], optional=True, advanced=True)
            for name in ("timesteps", "loss_weighting", "warmup_steps")
        ),
        input_of("depth_stride", COPY["depth_stride"], optional=True, advanced=True),
    ]


def settings(values: dict[str, Any]) -> tuple[CopySettings, TrainSettings]:
    """The settings among the node's values. Those that are not there, in graphs from before there was an input for
    them, are as before; the defaults stand for others. Raises P3SError."""

    def of(kind: Any) -> Any:
        given = {f.name: values[f.name] for f in fields(kind) if f.name in values}
        return kind(**{**kind.ADDED, **given})

    return of(CopySettings), of(TrainSettings)
