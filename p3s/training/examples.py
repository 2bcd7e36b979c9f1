"""What training uses of a clean reference: views of it as latents, and which of their pixels count."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from ..errors import TrainingError
from ..network.label import LATENT_PIXEL, Sizes, label_of
from ..network.subject_tokens import SubjectTokens
from ..reference.rngr import Reference
from .settings import TrainSettings
from .views import View, shown_pixels, views_of


class Pooled(NamedTuple):
    """Pooled text embeddings [pooled width] of a prompt, and of the empty prompt."""

    prompt: Tensor
    without_prompt: Tensor


@dataclass(frozen=True)
class Example:
    """One picture to learn, and the reference it is a view of.

    ``latent`` I' [channels, h, w] (VAE mean, scaled) and ``tokens`` c_s [1 + patches, token_dim] are the reference's;
    ``prompt`` [text tokens, context_dim]. ``view`` [channels, h', w'] is what is learned, I' itself where it is None;
    ``loss_mask`` [h', w'], 0..1, is the share of each of its pixels in L_LDM, 1 everywhere where it is None. ``label``
    [label_dim] is what SDXL's U-Net reads beside the prompt (:func:`p3s.network.label.label_of`), and
    ``label_without_prompt`` what it reads where the prompt is dropped; None for other models. ``subject_mask`` [h, w]:
    1 where a pixel of I' shows the subject, 0 elsewhere; None for copies that do not ask.
    """

    latent: Tensor
    tokens: Tensor
    prompt: Tensor
    view: Tensor | None = None
    loss_mask: Tensor | None = None
    label: Tensor | None = None
    label_without_prompt: Tensor | None = None
    subject_mask: Tensor | None = None

    #: The names under which keys of trainings, sketches and states hold the fields. They never change.
    STORED: ClassVar[Mapping[str, str]] = {
        "latent": "latent",
        "tokens": "tokens",
        "prompt": "prompt",
        "view": "view",
        "loss_mask": "counted",
        "label": "label",
        "label_without_prompt": "label_without_prompt",
        "subject_mask": "subject_mask",
    }

    @property
    def learned_latent(self) -> Tensor:
        """The latent of the picture to learn, [channels, h', w']."""
        return self.latent if self.view is None else self.view

    @property
    def subject_tokens(self) -> SubjectTokens | None:
        """Which tokens of the reference show the subject."""
        return None if self.subject_mask is None else SubjectTokens.of(self.subject_mask)

    def stored(self) -> dict[str, Tensor]:
        """Its tensors by their stored names."""
        tensors = ((name, getattr(self, field)) for field, name in self.STORED.items())
        return {name: tensor for name, tensor in tensors if tensor is not None}

    @classmethod
    def from_stored(cls, tensors: Mapping[str, Tensor]) -> Example:
        """The example that :meth:`stored` gave."""
        field_of = {name: field for field, name in cls.STORED.items()}
        return cls(**{field_of[name]: tensor for name, tensor in tensors.items()})


def training_size(height: int, width: int, resolution: int, multiple: int = 16) -> tuple[int, int]:
    """The (height, width) in pixels at which a photo is trained: about ``resolution`` squared in area, with the
    photo's proportions as near as whole multiples of ``multiple`` allow. Nothing is cropped. Raises TrainingError for a
    ``resolution`` below ``multiple``."""
    if not resolution >= multiple:
        raise TrainingError(f"resolution must be at least {multiple} pixels; got {resolution!r}")
    scale = resolution / (height * width) ** 0.5
    rounded = [max(1, round(side * scale / multiple)) * multiple for side in (height, width)]
    return rounded[0], rounded[1]


def examples_of(
    reference: Reference,
    prompt: Tensor,
    encode: Callable[[Tensor], Tensor],
    resolution: int,
    settings: TrainSettings,
    generator: torch.Generator,
    pooled: Pooled | None = None,
    masked: bool = False,
) -> list[Example]:
    """The training examples of one reference, the whole picture first.

    ``prompt`` [text tokens, context_dim]; ``encode`` turns a picture [H, W, 3] in 0..1 into a scaled VAE latent
    [channels, h, w] (float32, CPU) of the size that is trained, about ``resolution`` squared pixels in area.
    ``generator``: of what is random in views (:func:`p3s.training.views.views_of`). ``pooled``: for SDXL. ``masked``:
    whether the copy asks where the subject is.
    """
    whole, *others = views_of(reference, resolution, settings, generator)
    latent = encode(whole.image)
    whole_mask = whole.loss_mask(_size(latent), settings)
    subject = shown_pixels(reference, _size(latent)) if masked else None
    found = [Example(latent, reference.tokens, prompt, None, whole_mask, *labels_of(whole, latent, pooled), subject)]
    for view in others:
        learned = encode(view.image)
        mask = view.loss_mask(_size(learned), settings)
        if mask is None or mask.any():
            labels = labels_of(view, learned, pooled)
            found.append(Example(latent, reference.tokens, prompt, learned, mask, *labels, subject))
    return found


def labels_of(view: View, latent: Tensor, pooled: Pooled | None) -> tuple[Tensor | None, Tensor | None]:
    """``Example.label`` and ``Example.label_without_prompt`` of a view that was encoded as ``latent``; (None, None)
    without ``pooled``.

    The sizes are those of SDXL's own training: of the view's pixels in the photo, so that one that was enlarged counts
    as a small picture; where it begins in the photo, in the scale that is trained; and of what is trained.
    """
    if pooled is None:
        return None, None
    height, width = view.image.shape[:2]
    target = [LATENT_PIXEL * side for side in _size(latent)]
    top, left = (round(at * side / own) for at, side, own in zip(view.cut, target, (height, width), strict=False))
    sizes = Sizes(height, width, top, left, *target)
    return label_of(pooled.prompt, sizes), label_of(pooled.without_prompt, sizes)


def _size(latent: Tensor) -> tuple[int, int]:
    return latent.shape[1], latent.shape[2]
