"""What is computed when in a sampling run: the settings, and the reuse of features over steps.

Shared by the sampler in ``ddim`` and by hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from ..errors import P3SError
from ..network.copy_settings import CopySettings, is_number
from ..network.injection import EffectMask, Features, Injection
from ..network.subject_copy import SubjectCopy
from ..network.unet_config import Layer
from .schedule import Schedule, timestep_of

LARGEST_REUSE = 100
LARGEST_POOL = 8
ALMOST_0 = 1e-4  # a weight that comes so near to 0 may reach it: keyframes are rounded


@dataclass(frozen=True)
class SamplingSettings:
    """What a sampling run leaves out of the exact method, to be faster. The defaults leave out nothing.

    Raises P3SError for other values. benchmarks/README.md has the costs.
    """

    #: (m) which sides of guidance see the subject: "both", or only the "conditional" one.
    halves: str = "both"
    #: (b) which base layers read a feature: those of the training ("trained"), or only those from which the copy's
    #: layers were initialised ("one_to_one").
    pairing: str = "trained"
    #: The copy is run at every n-th evaluation of the model; in between its last features are reused.
    reuse: int = 1
    #: At the finest layers the appended tokens are means of pool x pool features.
    pool: int = 1
    #: Denoising percent (0..1) from which on the subject is off, at the latest.
    end: float = 1.0

    CHOICES: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "halves": ("both", "conditional"),
        "pairing": ("trained", "one_to_one"),
    }

    def __post_init__(self) -> None:
        for name, choices in self.CHOICES.items():
            if getattr(self, name) not in choices:
                raise P3SError(f"{name} must be one of {', '.join(choices)}; got {getattr(self, name)!r}")
        for name, high in (("reuse", LARGEST_REUSE), ("pool", LARGEST_POOL)):
            if not isinstance(getattr(self, name), int) or not is_number(getattr(self, name), 1, high):
                raise P3SError(f"{name} must be a whole number in 1..{high}; got {getattr(self, name)!r}")
        if not is_number(self.end, 0, 1):
            raise P3SError(f"end must be a number in 0..1; got {self.end!r}")


EXACT = SamplingSettings()
#: Less work than a ControlNet. What it costs in the toy world, and what it would without the early end, is in
#: benchmarks/README.md, "What a faster step costs".
FAST = SamplingSettings(halves="conditional", reuse=3, end=0.8)
MODES = {"exact": EXACT, "fast": FAST}


def default_schedule(settings: CopySettings) -> Schedule:
    """The schedule that a subject is sampled with where none is chosen: its learned curve, or Eq. 10."""
    return Schedule("learned" if settings.weight == "learned" else "paper")


def schedule_for(copy: SubjectCopy, chosen: Schedule | None = None) -> Schedule:
    """The schedule to sample a copy with: ``chosen`` or the default one, with the copy's learned curve filled in.

    Raises P3SError when a learned weight is asked for and the copy was trained without.
    """
    chosen = chosen or default_schedule(copy.settings)
    if chosen.kind != "learned":
        return chosen
    if copy.learned_weight is None:
        raise P3SError(
            'this subject was trained without a learned weight: choose another kind than "learned" in Weight '
            "Schedule, or train it with the setting weight = learned"
        )
    return replace(chosen, learned=copy.learned_weight.curve())


def early_end(schedule: Schedule, settings: SamplingSettings) -> Schedule:
    """The schedule under the settings' early end."""
    return schedule.within(0.0, settings.end)


def injection(
    copy: SubjectCopy,
    features: Features,
    weight: float | Tensor,
    mask: EffectMask | None = None,
    layers: Mapping[Layer, float] | None = None,
    settings: SamplingSettings = EXACT,
) -> Injection:
    """The injection of a copy's features with the weight eps_t (not 0) under the given settings."""
    if mask is not None and mask.everywhere:
        mask = None
    if settings.pairing == "one_to_one":
        features = features.only({copy.map.twin(layer) for layer in copy.map.config.layers()})
    return Injection(features.weighted(weight).scaled(layers or {}), copy.settings.lam, mask, settings.pool)


def always_on(weight: Schedule) -> bool:
    """Whether the weight is above 0 at every timestep, so that no step's weight has to be read before it runs."""
    t = torch.cat([torch.arange(1001.0), timestep_of(torch.tensor([p for p, _ in weight.keyframes]))])
    return bool((weight.weight(t) > ALMOST_0).all())


def feature_values(copy: SubjectCopy, size: int) -> int:
    """How many numbers the features of one image have; ``size`` is the number of its latent's pixels."""
    config = copy.map.config
    kinds = 1 + bool(copy.settings.cross_attention)
    return sum(kinds * config.channels(layer) * size // 4 ** config.level(layer) for layer in config.layers())


class FeatureCache:
    """Features that are reused in the following evaluations of the model in one sampling run.

    ``key`` distinguishes calls that belong to other inputs (conditionings, crops, sizes) of one evaluation.
    """

    def __init__(self, reuse: int) -> None:
        self.reuse = reuse
        self._kept: dict[Hashable, tuple[int, Features]] = {}

    def get(self, key: Hashable, evaluation: int | None, compute: Callable[[], Features]) -> Features:
        """The features for a call in the ``evaluation``-th evaluation: kept ones while they are less than ``reuse``
        evaluations old. None: the evaluation is not known, so nothing is reused."""
        if self.reuse == 1 or evaluation is None:
            return compute()
        self._kept = {k: kept for k, kept in self._kept.items() if evaluation - kept[0] < self.reuse}
        if key not in self._kept:
            self._kept[key] = evaluation, compute()
        return self._kept[key][1]
