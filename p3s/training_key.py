"""A key by which a training that was done before is found again: equal keys mean equal trained weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict

from torch import Tensor

from .diffusion import NoiseSchedule
from .files import as_bytes
from .subject_copy import CopySettings
from .training_settings import TrainSettings
from .training_step import Example, total_steps

#: To be raised when the same inputs train to something else than before.
METHOD = 1


def training_key(
    base_fingerprint: str,
    examples: Sequence[Example],
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    copy_settings: CopySettings,
    train_settings: TrainSettings,
    to_the_end: bool = True,
) -> str:
    """sha256 (hex) of all that the result of a training depends on.

    ``base_fingerprint``: of the base's weights as they are trained on, LoRAs included (``p3s.subject.fingerprint``).
    The rest as for :func:`p3s.training.train`; every bit of the tensors counts. Without ``to_the_end`` the number of
    steps does not count: this is the key of a training that may be resumed with more steps.
    """
    digest = hashlib.sha256()
    training = {name: value for name, value in asdict(train_settings).items() if name not in TrainSettings.NEUTRAL}
    steps = total_steps(examples, train_settings) if to_the_end else None
    settings = [METHOD, base_fingerprint, noise.prediction, copy_settings.to_dict(), training, steps]
    digest.update(json.dumps(settings, sort_keys=True).encode())
    parts = [part for e in examples for part in (e.latent, e.tokens, e.prompt, e.view, e.counted)]
    for tensor in (*parts, empty_prompt, noise.alphas_cumprod):
        if tensor is None:
            digest.update(b" none ")
            continue
        digest.update(f" {tensor.dtype} {tuple(tensor.shape)} ".encode())
        digest.update(as_bytes(tensor.cpu().contiguous()))
    return digest.hexdigest()
