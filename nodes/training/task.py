"""The training that Train P3S is asked for, made from its inputs before anything is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from ...p3s.network.copy_settings import CopySettings
from ...p3s.reference.rngr import Reference
from ...p3s.subject.info import SubjectInfo, check_info
from ...p3s.training.examples import Example, examples_of
from ...p3s.training.key import TrainingInputs
from ...p3s.training.settings import TrainSettings
from ...p3s.training.step import check_base, check_examples
from ..host import conditions, weights


@dataclass(frozen=True, eq=False)
class Task:
    """A training to be done on a MODEL.

    ``references``, an example of each reference, and ``info``, whose steps and losses are not known yet, are for the
    subject file.
    """

    inputs: TrainingInputs
    references: list[Example]
    info: SubjectInfo


def make_task(
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
) -> Task:
    """The task of the node's inputs; ``tell`` is called with what is done next, and may raise.

    Raises P3SError for inputs that do not fit together.
    """
    config, noise = weights.unet_config(model), weights.noise_schedule(model)
    check_base(config)
    weights.check_trainable(model)
    prompts = conditions.prompts(positive, len(references), "positive")
    *texts, no_text = conditions.equally_long([*prompts, *conditions.prompts(empty, 1, "empty")])

    def encode(picture: torch.Tensor) -> torch.Tensor:
        return conditions.encode_latent(vae, model, picture, resolution)

    groups = []
    for number, (reference, text) in enumerate(zip(references, texts, strict=True), start=1):
        tell(f"Encoding reference {number} of {len(references)}")
        groups.append(examples_of(reference, text, encode, settings))
    examples = [example for group in groups for example in group]
    check_examples(config, examples, no_text)
    tell("Checking whether this training was already done")  # reads all weights of the model
    base, hashes = weights.base_fingerprint(model, patched=True), tuple(r.image_hash for r in references)
    inputs = TrainingInputs(base, hashes, examples, no_text, noise, copy_settings, settings)
    info = SubjectInfo(
        family=config.family,
        base_fingerprint=weights.base_fingerprint(model),
        copy_settings=copy_settings.to_dict(),
        train_settings=asdict(settings) | {"resolution": resolution},
        points=tuple(r.points.to_json() for r in references),
        image_hashes=hashes,
        steps=0,
        completed=False,
        prompt="",
        prediction=noise.prediction,
        training_key=inputs.key(),
        sketches=inputs.sketches(),
        identifier=identifier,
        licence=licence,
    )
    check_info(info)
    return Task(inputs, [group[0] for group in groups], info)
