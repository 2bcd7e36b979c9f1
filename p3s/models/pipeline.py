"""The steps of the method on a whole text-to-image model: references -> a trained Subject -> pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from ..network.copy_settings import CopySettings
from ..network.subject_copy import SubjectCopy
from ..network.unet import UNet
from ..reference.masks import MaskSettings
from ..reference.points import PointSet
from ..reference.rngr import Reference
from ..sampling.application import Application, AppliedSubject
from ..sampling.application import application as usual
from ..sampling.ddim import Over
from ..sampling.diffusion import NoiseSchedule
from ..subject.base_fingerprint import fingerprint
from ..subject.file import Subject, check_family, check_weights, reference_of
from ..training.driver import info_of, new_copy, prepare, subject_of, with_result
from ..training.loop import Callback, TrainResult, train
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

    @property
    def resolution(self) -> int:
        """Photos are trained at about this many pixels squared."""
        ...

    def encode_text(self, text: str) -> Tensor:
        """The U-Net's context of a prompt, [text tokens, context_dim]."""
        ...

    def encode_clip(self, pictures: Tensor) -> Tensor:
        """CLIP's last hidden state [batch, 1 + g*g, D] of pictures of its own size."""
        ...

    def reference(
        self,
        picture: Tensor,
        points: PointSet | None,
        settings: MaskSettings = ...,
        subject_mask: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Reference:
        """The clean reference of a photo (Eq. 1-3); the masks as for :func:`p3s.reference.rngr.make_reference`."""
        ...

    def encode_latent(self, picture: Tensor) -> Tensor:
        """The scaled VAE latent [channels, h, w] of a picture, in the size that is trained."""
        ...

    def sample(
        self,
        prompt: str,
        seeds: Sequence[int],
        subjects: Sequence[AppliedSubject] = (),
        steps: int = ...,
        guidance: float = ...,
        over: Over = ...,
    ) -> Tensor:
        """Pictures [len(seeds), H, W, 3] for a prompt, with subjects as :func:`apply_subject` gives them. ``over``: see
        :func:`p3s.sampling.ddim.generate`."""
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
    text = models.encode_text(prompt)
    inputs = prepare(
        models.unet.config,
        references,
        [text] * len(references),
        models.encode_text(""),
        models.encode_latent,
        models.resolution,
        models.noise,
        lambda: fingerprint(models.unet.state_dict()),
        copy_settings,
        train_settings,
    )
    family = models.unet.config.family
    info = info_of(inputs, references, family, identifier=identifier, prompt=prompt, licence=licence)
    copy = new_copy(models.unet.state_dict(), inputs).to(_device(models))
    result = train(models.unet, copy, inputs, callback)
    return subject_of(copy, inputs.examples, with_result(info, result)), result


def apply_subject(
    models: ModelBundle, subject: Subject, reference: int = 0, application: Application | None = None
) -> tuple[AppliedSubject, tuple[str, ...]]:
    """A subject on the device of the U-Net, for ``ModelBundle.sample``, and warnings for the user.

    ``reference``: which photo is the condition, from 0. ``application``: how it acts
    (:func:`p3s.sampling.application.application`); by default as that does without further arguments.

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
    how = application or usual(config)
    return AppliedSubject(copy, copy.condition(latent, tokens), how, shown.subject_tokens), warnings


def _device(models: ModelBundle) -> torch.device:
    return next(models.unet.parameters()).device
