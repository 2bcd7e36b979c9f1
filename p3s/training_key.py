"""Keys by which a training that was done before, or was not finished, is found again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
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
) -> str:
    """sha256 (hex) of all that the result of a training depends on: equal keys mean equal trained weights (but for a
    training whose settings were changed on the way, see ``TrainState.changes``).

    ``base_fingerprint``: of the base's weights as they are trained on, LoRAs included (``p3s.subject.fingerprint``).
    The rest as for :func:`p3s.training.train`; every bit of the tensors counts.
    """
    steps = total_steps(examples, train_settings)
    return _key(base_fingerprint, examples, empty_prompt, noise, copy_settings, train_settings, steps)


def state_key(
    base_fingerprint: str,
    examples: Sequence[Example],
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    copy_settings: CopySettings,
    train_settings: TrainSettings,
) -> str:
    """The key (16 hex digits) of a training that is not finished: the number of its steps does not count, since it may
    be resumed with more. The first half does not depend on ``TrainSettings.REMEDIES`` either."""
    inputs = (base_fingerprint, examples, empty_prompt, noise, copy_settings, train_settings)
    return _key(*inputs, left_out=TrainSettings.REMEDIES)[:8] + _key(*inputs)[:8]


def _key(
    base_fingerprint: str,
    examples: Sequence[Example],
    empty_prompt: Tensor,
    noise: NoiseSchedule,
    copy_settings: CopySettings,
    train_settings: TrainSettings,
    steps: int | None = None,
    left_out: Collection[str] = (),
) -> str:
    digest = hashlib.sha256()
    left_out = {*TrainSettings.NEUTRAL, *left_out}
    training = {name: value for name, value in asdict(train_settings).items() if name not in left_out}
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
