"""From references to a trained subject, for the library and for hosts.

Callers bring what differs between them: the pictures' encoders, the base's weights, progress and cancelling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace

import torch
from torch import Tensor

from ..errors import TrainingError
from ..network.copy_settings import CopySettings
from ..network.copy_start import start_copy
from ..network.subject_copy import SubjectCopy
from ..network.unet_config import UNetConfig
from ..reference.rngr import Reference
from ..sampling.diffusion import NoiseSchedule
from ..subject.file import Subject, SubjectReference
from ..subject.info import SubjectInfo, check_info
from .examples import Example, Pooled, examples_of
from .key import TrainingInputs
from .loop import TrainResult
from .loss_map import STORED_LOSSES, loss_map
from .settings import TrainSettings
from .step import check_base, check_examples, reference_numbers

#: The settings of L_ac.
CONSISTENCY = ("gamma", "attention_layers", "attention_norm")


def prepare(
    config: UNetConfig,
    references: Sequence[Reference],
    prompts: Sequence[Tensor],
    empty_prompt: Tensor,
    encode: Callable[[Tensor], Tensor],
    resolution: int,
    noise: NoiseSchedule,
    base_fingerprint: Callable[[], str],
    copy_settings: CopySettings,
    settings: TrainSettings,
    tell: Callable[[str], None] = lambda _: None,
    pooled: Sequence[Pooled] | None = None,
) -> TrainingInputs:
    """All that a training on a base with this ``config`` depends on.

    ``prompts``: one for each reference, and ``empty_prompt``, all [text tokens, context_dim]. ``encode`` turns a
    picture [H, W, 3] in 0..1 into the latent that is trained, of about ``resolution`` squared pixels, see
    :func:`examples_of`. ``base_fingerprint`` is asked last, as it reads the base's weights. ``tell`` is called with
    what is done next, and may raise. ``pooled``: for SDXL, one for each reference.

    Raises TrainingError for a base that cannot be trained on and for inputs that do not fit together.
    """
    check_base(config)
    if not references:
        raise TrainingError("no reference to train on: give at least one photo")
    examples: list[Example] = []
    generator = torch.Generator().manual_seed(settings.seed)
    pools: Sequence[Pooled | None] = pooled or [None] * len(references)
    for number, (reference, prompt, pool) in enumerate(zip(references, prompts, pools, strict=True), start=1):
        tell(f"Encoding reference {number} of {len(references)}")
        # A tensor of its own for each reference: there is a sketch for each tensor, the same number for all callers.
        masked = copy_settings.cached
        examples += examples_of(reference, prompt.clone(), encode, resolution, settings, generator, pool, masked)
    check_examples(config, examples, empty_prompt)
    # A stride beyond the longest row of blocks has the effect of that length: it is the same training.
    longest = 1 + max(layer.depth for layer in config.layers())
    copy_settings = replace(copy_settings, depth_stride=min(copy_settings.depth_stride, longest))
    if copy_settings.cached:  # without a text there are no maps to compare
        settings = replace(settings, **{name: getattr(TrainSettings, name) for name in CONSISTENCY})
    tell("Checking whether this training was already done")
    hashes = tuple(reference.image_hash for reference in references)
    return TrainingInputs(base_fingerprint(), hashes, examples, empty_prompt, noise, copy_settings, settings)


def info_of(
    inputs: TrainingInputs,
    references: Sequence[Reference],
    family: str,
    base_fingerprint: str | None = None,
    resolution: int | None = None,
    identifier: str = "",
    prompt: str = "",
    licence: str = "",
) -> SubjectInfo:
    """What a subject file says of a training that is not done yet; :func:`with_result` adds the rest.

    ``base_fingerprint``: of the base without LoRAs, by which a file is matched with models; by default that of
    ``inputs``. ``resolution``: of the training, in pixels, where it is known. ``identifier``, ``prompt``,
    ``licence``: notes for people. Raises SubjectFileError for notes that a file cannot hold.
    """
    given = tuple(reference.given_masks for reference in references)
    trained = asdict(inputs.settings) | ({} if resolution is None else {"resolution": resolution})
    info = SubjectInfo(
        family=family,
        base_fingerprint=base_fingerprint or inputs.base_fingerprint,
        copy_settings=inputs.copy_settings.to_dict(),
        train_settings=trained,
        points=tuple(reference.points.to_json() for reference in references),
        image_hashes=tuple(inputs.image_hashes),
        steps=0,
        completed=False,
        prediction=inputs.noise.prediction,
        training_key=inputs.key(),
        sketches=inputs.sketches(),
        identifier=identifier,
        prompt=prompt,
        licence=licence,
        given_masks=given if any(given) else (),
    )
    check_info(info)
    return info


def new_copy(base_weights: Mapping[str, Tensor], inputs: TrainingInputs) -> SubjectCopy:
    """The untrained copy for :func:`p3s.training.loop.train`, on the CPU; ``base_weights``: of the U-Net."""
    settings, token_dim = inputs.settings, inputs.examples[0].tokens.shape[-1]
    return start_copy(base_weights, inputs.copy_settings, token_dim, settings.zero_init, settings.seed)


def with_result(info: SubjectInfo, result: TrainResult) -> SubjectInfo:
    """``info`` of a training that has ended with this result."""
    settings = info.train_settings
    if result.changes:
        settings = settings | {"changes": [list(change) for change in result.changes]}
    return replace(
        info,
        train_settings=settings,
        steps=len(result.reports),
        completed=result.completed,
        loss_map=loss_map(result.reports, STORED_LOSSES),
    )


def subject_of(copy: SubjectCopy, examples: Sequence[Example], info: SubjectInfo) -> Subject:
    """The trained subject as its file will hold it, so that a loaded one gives the same pictures, bit for bit.

    Of ``examples`` that are views of one reference, the reference is stored once. Weights are stored in 16 bits, except
    those that do not fit into them.
    """

    def stored(weight: Tensor) -> Tensor:
        weight = weight.detach().cpu()
        half = weight.to(torch.float16)
        return half if torch.isfinite(half).all() else weight

    of_number = dict(zip(reversed(reference_numbers(examples)), reversed(examples), strict=True))
    whole = (of_number[n] for n in sorted(of_number))
    references = tuple(SubjectReference(e.latent, e.tokens, e.subject_mask) for e in whole)
    return Subject({key: stored(weight) for key, weight in copy.state_dict().items()}, references, info)
