"""How a subject is applied in a sampling run, for the sampler in ``ddim`` and for hosts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from ..errors import P3SError, shown
from ..network.injection import EffectMask
from ..network.subject_copy import SubjectCopy
from ..network.subject_tokens import SubjectTokens
from ..network.unet_config import Layer, UNetConfig
from ..settings import Setting, check, setting, settings_of
from .layer_strengths import layer_strengths as factors_of
from .layer_strengths import parse_layer_strengths
from .schedule import Schedule
from .settings import EXACT, MODES, SamplingSettings

MODE = Setting(
    "standard",
    "standard: applies the subject to the prompt only, at 0.8 of its weight, until 0.8 of denoising; 1.3 times the "
    "work of the plain model. exact: the paper's reading, on both sides of guidance until the end; 1.8 times. fast: as "
    "standard, with the subject network run at every third evaluation of the model; 1.2 times.",
    tuple(MODES),
)
EFFECT_MASK = Setting(
    None,
    "Where in the image the subject acts; everywhere without a mask. Soft edges are kept. With several subjects, give "
    "each a mask of its own.",
)


@dataclass(frozen=True, eq=False)
class Application:
    """When, how strongly, where and at which layers a subject acts, and what is skipped for speed.

    ``schedule`` gives eps_t; None is the one learned with the copy, or Eq. 10. Without a ``mask`` the subject acts
    everywhere. ``layers`` multiplies the weight in single base layers, 0 or more; 0 leaves a layer alone. Raises
    P3SError for a value out of its range.
    """

    schedule: Schedule | None = None
    strength: float = setting(
        1.0,
        "Multiplies the schedule's weight. 0 is the plain model. Tiny values do not fade to it, because the subject's "
        "tokens still take part in attention; use 0 to switch the subject off, or set weight_on to attention to let it "
        "fade.",
        low=0.0,
        high=10.0,
        step=0.01,
    )
    settings: SamplingSettings = EXACT
    mask: EffectMask | None = None
    layers: Mapping[Layer, float] = field(default_factory=dict)
    #: (d) "attention": as the factor eps_t of the subject's share of the softmax, with the features as they are.
    weight_on: str = setting(
        "features",
        "What the weight multiplies. features: the subject's features, as in the paper. attention: the share of "
        "attention that the subject's tokens get, so that low weights come close to the plain model. At 1 both are the "
        "same.",
        ("features", "attention"),
    )
    #: Bounded self-attention (Dahary et al. 2024). A pair of subjects takes the larger one of its values.
    isolate: float = setting(
        0.0,
        "With several subjects that have masks: in this first part of denoising, what is under one subject's mask does "
        "not attend to what is under another's. 0 is off, 1 is always. Of two subjects the larger value counts. With "
        "one mask nothing happens.",
        low=0.0,
        high=1.0,
        step=0.01,
    )

    def __post_init__(self) -> None:
        check(self)

    @property
    def factor(self) -> float:
        """What multiplies the schedule's weight."""
        return self.strength * self.settings.gain

    @property
    def off(self) -> bool:
        """Whether the subject acts nowhere and never, so that the picture is the plain model's, bit for bit."""
        return self.factor == 0 or (self.mask is not None and self.mask.nowhere)

    def isolates_at(self, percent: float) -> bool:
        """Whether it is kept apart from other subjects at a denoising percent, 0 (noise) .. 1 (image)."""
        return percent < self.isolate or self.isolate == 1


@dataclass(frozen=True, eq=False)
class AppliedSubject:
    """A subject in a sampling run. ``condition`` is I'' [1, channels, h, w] (:meth:`SubjectCopy.condition`);
    ``subject``: which tokens of it show the subject, for a copy that asks."""

    copy: SubjectCopy
    condition: Tensor
    application: Application = field(default_factory=Application)
    subject: SubjectTokens | None = None


def application(
    config: UNetConfig,
    schedule: Schedule | None = None,
    strength: float = 1.0,
    mode: str = MODE.default,
    branches: str = "both",
    mask: EffectMask | None = None,
    layer_strengths: str = "",
    weight_on: str = "features",
    isolate: float = 0.0,
) -> Application:
    """An application to a U-Net of this ``config`` from what users choose: ``mode``, a name in ``MODES``; ``branches``,
    those of classifier-free guidance that see the subject in the mode "exact" (in the others always the "conditional"
    one); ``layer_strengths`` as :func:`parse_layer_strengths` reads them; the others are :class:`Application`'s.

    Raises P3SError, naming the setting, for another value.
    """
    for name, value, allowed in (
        ("mode", mode, MODE),
        ("branches", branches, settings_of(SamplingSettings)["branches"]),
    ):
        if not allowed.allows(value):
            raise P3SError(f"{name} must be {allowed.expected}; got {shown(value)}")
    settings = MODES[mode] if branches == "both" else replace(MODES[mode], branches=branches)
    layers = factors_of(parse_layer_strengths(layer_strengths), config)
    return Application(schedule, strength, settings, mask, layers, weight_on, isolate)
