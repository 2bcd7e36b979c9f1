"""The steps of the method on a whole text-to-image model: references -> a trained Subject -> pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Protocol

import torch
from torch import Tensor

from ..errors import TrainingError
from ..network.copy_settings import CopySettings
from ..network.subject_copy import SubjectCopy
from ..network.unet import UNet
from ..reference.masks import MaskSettings
from ..reference.points import PointSet
from ..reference.rngr import Reference
from ..sampling.diffusion import NoiseSchedule
from ..sampling.schedule import Schedule
from ..sampling.settings import AppliedSubject
from ..subject.base_fingerprint import fingerprint
from ..subject.file import Subject, SubjectReference, check_family, check_weights, reference_of
from ..subject.info import SubjectInfo, check_info
from ..training.examples import Example, examples_of
from ..training.key import TrainingInputs
from ..training.loop import Callback, TrainResult, train
from ..training.loss_map import FILED, loss_map
from ..training.settings import TrainSettings


class ModelBundle(Protocol):
    """Frozen models that belong together: ``p3s.toyworld.world.ToyWorld`` or :class:`StableDiffusion`.

    Pictures are [H, W, 3] (or batches of them), values 0..1. The U-Net may be on any device; tensors that the methods
    give are on the CPU.
    """

    @property
    def unet(self) -> UNet: ...

    @property
    def noise(self) -> NoiseSchedule: ...

    def encode_text(self, text: str) -> Tensor:
        """The U-Net's context of a prompt, [text tokens, context_dim]."""
        ...

    def encode_clip(self, pictures: Tensor) -> Tensor:
        """CLIP's last hidden state [batch, 1 + g*g, D] of pictures of its own size."""
        ...

    def reference(self, picture: Tensor, points: PointSet, settings: MaskSettings = ...) -> Reference:
        """The clean reference of a photo (Eq. 1-3)."""
        ...

    def encode_latent(self, picture: Tensor) -> Tensor:
        """The scaled VAE latent [channels, h, w] of a picture, in the size that is trained."""
        ...

    def sample(
        self,
        prompt: str,
        seeds: Sequence[int],
        copy: SubjectCopy | None = None,
        condition: Tensor | None = None,
        weight: Schedule | None = None,
        steps: int = ...,
        guidance: float = ...,
    ) -> Tensor:
        """Pictures [len(seeds), H, W, 3] for a prompt."""
        ...


def train_subject(
    models: ModelBundle,
    references: Sequence[Reference],
    prompt: str,
    train_settings: TrainSettings,
    copy_settings: CopySettings,
    identifier: str = "",
    licence: str = "",
    callback: Callback | None = None,
) -> tuple[Subject, TrainResult]:
    """Train a subject on its references, all under one ``prompt``.

    As with ``train``, the steps done are kept when a later one fails: see the result's ``error``. Raises P3SError for
    what a subject file could not hold, before the first step.
    """
    if not references:
        raise TrainingError("no reference to train on: give at least one photo")
    text, empty = models.encode_text(prompt), models.encode_text("")
    groups = [examples_of(r, text, models.encode_latent, train_settings) for r in references]
    examples = [example for group in groups for example in group]
    base = fingerprint(models.unet.state_dict())
    hashes = tuple(r.image_hash for r in references)
    inputs = TrainingInputs(base, hashes, examples, empty, models.noise, copy_settings, train_settings)
    info = SubjectInfo(
        family=models.unet.config.family,
        base_fingerprint=base,
        copy_settings=copy_settings.to_dict(),
        train_settings=asdict(train_settings),
        points=tuple(r.points.to_json() for r in references),
        image_hashes=hashes,
        steps=0,
        completed=False,
        identifier=identifier,
        prompt=prompt,
        licence=licence,
        prediction=models.noise.prediction,
        training_key=inputs.key(),
        sketches=inputs.sketches(),
    )
    check_info(info)
    copy = SubjectCopy.from_base(
        models.unet.state_dict(),
        copy_settings,
        examples[0].tokens.shape[-1],
        train_settings.zero_init,
        train_settings.seed,
    ).to(_device(models))
    result = train(models.unet, copy, examples, empty, models.noise, train_settings, callback)
    info = replace(
        info, steps=len(result.reports), completed=result.completed, loss_map=loss_map(result.reports, FILED)
    )
    return subject_of(copy, [group[0] for group in groups], info), result


def subject_of(copy: SubjectCopy, examples: Sequence[Example], info: SubjectInfo) -> Subject:
    """The trained subject as its file will hold it, so that a loaded one gives the same pictures, bit for bit.
    ``examples``: one of each reference.

    Weights are stored in 16 bits, except those that do not fit into them.
    """

    def stored(weight: Tensor) -> Tensor:
        weight = weight.detach().cpu()
        half = weight.to(torch.float16)
        return half if torch.isfinite(half).all() else weight

    references = tuple(SubjectReference(e.latent, e.tokens) for e in examples)
    return Subject({key: stored(weight) for key, weight in copy.state_dict().items()}, references, info)


def apply_subject(models: ModelBundle, subject: Subject, reference: int = 0) -> tuple[AppliedSubject, tuple[str, ...]]:
    """A subject on the device of the U-Net, for ``ModelBundle.sample``, and warnings for the user. ``reference``: which
    photo is the condition, from 0.

    Raises FamilyError or SubjectFileError when subject and model do not fit, P3SError for a reference that it lacks.
    """
    config, shown = models.unet.config, reference_of(subject, reference)
    warnings = check_family(subject, config.family, fingerprint(models.unet.state_dict()))
    settings = CopySettings.from_dict(subject.info.copy_settings)
    copy = SubjectCopy(config, settings, shown.tokens.shape[1], device="meta")
    check_weights(subject, {key: weight.shape for key, weight in copy.state_dict().items()})
    copy.load_state_dict({key: weight.float() for key, weight in subject.weights.items()}, assign=True)
    copy.to(_device(models)).requires_grad_(False).train(False)
    latent, tokens = (t[None].float().to(_device(models)) for t in (shown.latent, shown.tokens))
    return AppliedSubject(copy, copy.condition(latent, tokens)), warnings


def _device(models: ModelBundle) -> torch.device:
    return next(models.unet.parameters()).device
