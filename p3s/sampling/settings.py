"""What is computed when in a sampling run: the settings, and the reuse of features over steps.

Shared by the sampler in ``ddim`` and by hosts.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import P3SError
from ..network.copy_settings import CopySettings
from ..network.injection import EffectMask, Features, Injection
from ..network.subject_copy import SubjectCopy
from ..network.unet_config import Layer
from ..settings import check, setting
from .schedule import Schedule, timestep_of

ALMOST_0 = 1e-4  # a weight that comes so near to 0 may reach it: keyframes are rounded


@dataclass(frozen=True)
class SamplingSettings:
    """What a sampling run leaves out of the exact method, to be faster. The defaults leave out nothing.

    Raises P3SError for other values. benchmarks/README.md has the costs.
    """

    #: (m) which sides of guidance see the subject.
    branches: str = setting(
        "both",
        "In the mode exact, which side of classifier-free guidance sees the subject: both, or the prompt only "
        "(faster).",
        ("both", "conditional"),
    )
    #: (b) which base layers read a feature: "one_to_one" are those from which the copy's layers were initialised.
    pairing: str = setting(
        "trained",
        "Layers of the model that read the subject: those it was trained with, or fewer (one_to_one), which is faster.",
        ("trained", "one_to_one"),
    )
    #: In between its last features are reused.
    reuse: int = setting(1, "The subject network runs at every n-th evaluation of the model.", low=1, high=100)
    pool: int = setting(
        1, "At the finest layers, the subject's tokens are means of pool x pool features.", low=1, high=8
    )
    #: As Schedule's, at the latest.
    end: float = setting(1.0, "The subject is off from this fraction of denoising on.", low=0.0, high=1.0)
    gain: float = setting(
        1.0,
        "Multiplies the weight. Guidance amplifies a subject that only the prompt sees.",
        low=0.0,
        high=10.0,
    )

    def __post_init__(self) -> None:
        check(self)


EXACT = SamplingSettings()
#: (m) By the toy world's evidence (benchmarks/README.md): more pictures have the prompt's background and one
#: animal than with the exact method, and no fewer show the clicked one.
STANDARD = SamplingSettings(branches="conditional", end=0.8, gain=0.8)
#: Less work than a ControlNet. What it costs in the toy world, and what it would without the early end, is in
#: benchmarks/toyworld-2026-11-21.md, "What a faster step costs".
FAST = replace(STANDARD, reuse=3)
MODES = {"standard": STANDARD, "exact": EXACT, "fast": FAST}


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
    weight_on: str = "features",
    isolated: bool = False,
) -> Injection:
    """The injection of a copy's features with the weight eps_t (not 0) under the given settings.

    ``layers`` multiplies the weight in single layers, ``weight_on`` is that of an Application, ``isolated`` whether the
    subject is kept apart from others in this step.
    """
    if mask is not None and mask.everywhere:
        mask = None
    if settings.pairing == "one_to_one":
        features = features.for_layers({copy.map.twin(layer) for layer in copy.map.config.layers()})
    factors, weights = layers or {}, None
    if weight_on == "attention":
        weights = {layer: weight * f if (f := factors.get(layer, 1.0)) != 1 else weight for layer in features.grids}
        features = features.for_layers([layer for layer in features.grids if factors.get(layer, 1.0) != 0])
    else:
        features = features.with_weight(weight).with_layer_strengths(factors)
    return Injection(features, copy.settings.lam, mask, settings.pool, weights, isolated)


def always_on(weight: Schedule) -> bool:
    """Whether the weight is above 0 at every timestep, so that no step's weight has to be read before it runs."""
    t = torch.cat([torch.arange(1001.0), timestep_of(torch.tensor([p for p, _ in weight.keyframes]))])
    return bool((weight.weight(t) > ALMOST_0).all())


def feature_values(copy: SubjectCopy, size: int) -> int:
    """How many numbers the features of one image have; ``size`` is the number of its latent's pixels."""
    config = copy.map.config
    kinds = 1 + bool(copy.settings.cross_attention)
    return sum(kinds * config.channels(layer) * size // 4 ** config.level(layer) for layer in copy.map.gives)


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
