"""What Train P3S is asked for, made from its inputs before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from ...p3s.network.copy_settings import CopySettings
from ...p3s.reference.rngr import Reference
from ...p3s.subject.info import SubjectInfo
from ...p3s.training.driver import info_of, prepare
from ...p3s.training.key import TrainingInputs
from ...p3s.training.settings import TrainSettings
from ...p3s.training.step import check_base
from ..host import base_model, encoders


def prepared(
    model: Any,
    vae: Any,
    references: Sequence[Reference],
    positive: Any,
    empty: Any,
    resolution: int,
    copy_settings: CopySettings,
    settings: TrainSettings,
    tell: Callable[[str], None] = lambda _: None,
    identifier: str = "",
    licence: str = "",
) -> tuple[TrainingInputs, SubjectInfo]:
    """What is trained, and what its file will say of it but for the result. ``tell`` is called with what is done next,
    and may raise.

    Raises P3SError for inputs that do not fit together.
    """
    config, noise = base_model.unet_config(model), base_model.noise_schedule(model)
    check_base(config)  # what it says of a MODEL comes before what is wrong with a prompt for it
    base_model.check_trainable(model)
    prompts = encoders.prompts(positive, len(references), "positive")
    *texts, no_text = encoders.equally_long([*prompts, *encoders.prompts(empty, 1, "empty")])

    def encode(picture: Tensor) -> Tensor:
        return encoders.encode_latent(vae, model, picture, resolution)

    patched = partial(base_model.base_fingerprint, model, patched=True)
    pooled = encoders.pooled(positive, empty, len(references), config.label_dim)
    inputs = prepare(
        config, references, texts, no_text, encode, resolution, noise, patched, copy_settings, settings, tell, pooled
    )
    base = base_model.base_fingerprint(model)
    info = info_of(inputs, references, config.family, base, resolution, identifier=identifier, licence=licence)
    return inputs, info
