"""The methods that the toy world compares, and the tables they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from p3s.network.copy_settings import CopySettings
from p3s.network.unet_config import Layer
from p3s.sampling.application import MODE
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import EXACT, FAST, MODES
from p3s.toyworld.models import unet_config
from p3s.training.settings import TrainSettings

from .toyworld_ssr import SSRWay


@dataclass(frozen=True)
class Method:
    """``kind``: "p3s", "dreambooth" or "lora"; or, where nothing is trained, "plain", "reference-only" or "ssr".
    ``rngr``: whether it trains on (or reads) the clean reference, or the photo as it is. ``train``: changes to the
    benchmark's settings of training, ``rate`` a factor of its learning rate. ``work``: how much of the benchmark's work
    it gets; with ``steps`` among ``train``, it takes these instead. ``weight`` and ``applied``, further values of an
    Application: how the subject is sampled, by default as the node does. ``ssr``: how "ssr" selects."""

    kind: str = "p3s"
    rngr: bool = True
    copy: CopySettings = field(default_factory=CopySettings)
    train: dict[str, Any] = field(default_factory=dict)
    weight: Schedule = field(default_factory=Schedule)
    rate: float = 1.0
    work: float = 1.0
    applied: dict[str, Any] = field(default_factory=lambda: dict(STANDARD_WAY))
    ssr: SSRWay = field(default_factory=SSRWay)

    @property
    def trained(self) -> Method:
        """The same for all methods that differ in sampling alone."""
        return replace(self, weight=Schedule(), applied={})


#: How the node applies a subject by default.
STANDARD_WAY: dict[str, Any] = {"settings": MODES[MODE.default]}


#: What "p3s" is here; the pack's defaults, written out so that a row keeps its meaning when one changes.
BASE: dict[str, Any] = {
    "zero_init": "identity",
    "views": "whole+subject",
    "removed": "ignored",
    "prompt_dropout": 0.1,
    **TrainSettings.ADDED,
}
#: Learning rates, chosen among four or five on references that are in no table (README.md says how).
RATE, DREAMBOOTH_RATE, LORA_RATE = 4e-4, 5e-5, 1e-3
RANK = CopySettings().rank
SHIPPED = TrainSettings()
SHIPPED_STEPS = 2 * SHIPPED.epochs


#: The weight as a factor of the subject's share of attention.
ON_ATTENTION = STANDARD_WAY | {"weight_on": "attention"}


TOY = unet_config()
#: Layers that do not read the subject: one alone, a side of the U-Net, or a resolution.
LEFT_OUT: dict[str, Sequence[Layer]] = {
    **{side: [layer for layer in TOY.layers() if layer.side == side] for side in ("input", "middle", "output")},
    **{name: [layer for layer in TOY.layers() if TOY.level(layer) == i] for i, name in enumerate(("fine", "coarse"))},
    **{f"{layer.side}-{layer.block}": [layer] for layer in TOY.layers() if layer.side != "middle"},
}


def _p3s(copy: CopySettings | None = None, weight: Schedule | None = None, rate: float = 1.0, **train: Any) -> Method:
    return Method(copy=copy or CopySettings(), weight=weight or Schedule(), train=BASE | train, rate=rate)


def _cached(**settings: Any) -> Method:
    """A subject network that runs once, sampled as by default but for further ``settings`` of sampling."""
    applied = {"settings": replace(MODES[MODE.default], **settings)}
    return replace(_p3s(CopySettings(copy_input="cached")), applied=applied)


def _ssr(**ways: Any) -> Method:
    way = SSRWay(**ways)
    return Method("ssr", rngr=way.clicked, ssr=way)


METHODS: dict[str, Method] = {
    "plain": Method("plain"),
    "reference-only": Method("reference-only"),
    "p3s": _p3s(),
    "p3s-exact": replace(_p3s(), applied={"settings": EXACT}),
    "p3s-fast": replace(_p3s(), applied={"settings": FAST}),
    # The settings that the node has by default, for real weights: 60 epochs of the photo and its crop.
    "p3s-shipped": Method(
        train=BASE | {"learning_rate": SHIPPED.learning_rate, "batch_size": 1, "steps": SHIPPED_STEPS}
    ),
    # Low-rank changes of the base's own weights instead of a copy with weights of its own.
    "p3s-lora": _p3s(CopySettings(kind="lora")),
    # The same at rates of its own, where the full copy's is too low for changes that start from nothing.
    "p3s-lora-x3": _p3s(CopySettings(kind="lora"), rate=3.0),
    "p3s-lora-x10": _p3s(CopySettings(kind="lora"), rate=10.0),
    # The same with changes that are scaled up, at the full copy's rate and at three times that.
    "p3s-lora-alpha2": _p3s(CopySettings(kind="lora", alpha=2.0 * RANK)),
    "p3s-lora-alpha4": _p3s(CopySettings(kind="lora", alpha=4.0 * RANK)),
    "p3s-lora-alpha2-x3": _p3s(CopySettings(kind="lora", alpha=2.0 * RANK), rate=3.0),
    "p3s-lora-alpha4-x3": _p3s(CopySettings(kind="lora", alpha=4.0 * RANK), rate=3.0),
    # Timesteps, their weights, the learning rate's start, and every row with its prompt.
    "stratified": _p3s(timesteps="stratified"),
    "min-snr": _p3s(loss_weighting="min_snr"),
    "warm-up": _p3s(warmup_steps=10),
    "no-dropout": _p3s(prompt_dropout=0.0),
    # The paper's training data: the whole clean reference and nothing else.
    "p3s-whole": _p3s(views="whole", removed="learned"),
    "no-rngr": Method(rngr=False, train=BASE | {"views": "whole", "removed": "learned"}),
    "removed-learned": _p3s(removed="learned"),
    "view-whole": _p3s(views="whole"),
    "background-0.1": _p3s(background_weight=0.1),
    "backdrop-plain": _p3s(backdrop="plain"),
    "backdrop-random": _p3s(backdrop="random"),
    "crops-3": _p3s(crops=3),
    "flip": _p3s(flip=True),
    "zero-start": _p3s(zero_init="zero"),
    "no-lac": _p3s(attention_layers="none"),
    "lac-all": _p3s(attention_layers="all"),
    "lac-sum": _p3s(attention_norm="sum"),
    "fixed": _p3s(weight=Schedule("fixed")),
    "increasing": _p3s(weight=Schedule("increasing")),
    "decreasing": _p3s(weight=Schedule("decreasing")),
    "p3s-attention": replace(_p3s(), applied=ON_ATTENTION),
    "fixed-attention": replace(_p3s(weight=Schedule("fixed")), applied=ON_ATTENTION),
    "increasing-attention": replace(_p3s(weight=Schedule("increasing")), applied=ON_ATTENTION),
    "decreasing-attention": replace(_p3s(weight=Schedule("decreasing")), applied=ON_ATTENTION),
    "learned": _p3s(CopySettings(weight="learned"), Schedule("learned")),
    "no-cross": _p3s(CopySettings(cross_attention=False)),
    "attn1-feature": _p3s(CopySettings(feature="attn1")),
    "one-to-one": _p3s(CopySettings(pairing="one_to_one")),
    "reference-input": _p3s(CopySettings(copy_input="reference")),
    # The subject network runs once: at equal work, and for as many steps as p3s.
    "cached": _cached(),
    "cached-exact": replace(_p3s(CopySettings(copy_input="cached")), applied={"settings": EXACT}),
    "cached-steps": _p3s(CopySettings(copy_input="cached"), steps=100),
    "cached-keys": _p3s(CopySettings(copy_input="cached", lam=0.0, cross_attention=False)),
    # Less work than that: see the table "cheaper".
    "cached-pool-2": _cached(pool=2),
    "cached-one-to-one": _cached(pairing="one_to_one"),
    **{
        f"cached-no-{name}": replace(_cached(), applied=STANDARD_WAY | {"layers": dict.fromkeys(layers, 0.0)})
        for name, layers in LEFT_OUT.items()
    },
    "dreambooth": Method("dreambooth", rngr=False, rate=DREAMBOOTH_RATE / RATE),
    "dreambooth-rngr": Method("dreambooth", train=BASE, rate=DREAMBOOTH_RATE / RATE),
    "lora": Method("lora", rngr=False, rate=LORA_RATE / RATE),
    "lora-rngr": Method("lora", train=BASE, rate=LORA_RATE / RATE),
    # The class alone cannot tell two of a class apart; the look in words can; masks and clean references come from the
    # clicks.
    "ssr-word": _ssr(),
    "ssr-look": _ssr(look=True),
    "ssr-mask": _ssr(mask="strict"),
    "ssr-mask-soft": _ssr(mask="soft"),
    "ssr-clean": _ssr(clean=True),
    "ssr-clean-mask": _ssr(clean=True, mask="strict"),
    "ssr-clean-mask-soft": _ssr(clean=True, mask="soft"),
    "dreambooth-rngr-x2": Method("dreambooth", train=BASE, rate=DREAMBOOTH_RATE / RATE, work=2.0),
    "lora-rngr-x2": Method("lora", train=BASE, rate=LORA_RATE / RATE, work=2.0),
}

RIVALS = ("dreambooth-rngr", "lora-rngr")
SSR_ROWS = ("ssr-clean-mask", "ssr-clean", "ssr-mask", "ssr-look", "ssr-word")
TABLES: dict[str, tuple[str, ...]] = {
    "main": ("p3s", "p3s-exact", "p3s-fast", "no-rngr", *RIVALS, *SSR_ROWS, "reference-only", "plain"),
    "ssr": SSR_ROWS,
    "shipped": ("p3s", "p3s-shipped"),
    "twice": ("p3s", "dreambooth-rngr-x2", "lora-rngr-x2"),
    "photo": ("p3s", "no-rngr", "dreambooth", "lora"),
    "data": ("p3s", "removed-learned", "view-whole", "p3s-whole"),
    "views": (
        "p3s",
        "background-0.1",
        "backdrop-plain",
        "backdrop-random",
        "crops-3",
        "flip",
    ),
    "start": ("p3s", "zero-start"),
    "kind": ("p3s", "p3s-lora", "p3s-lora-x3", "p3s-lora-x10"),
    "consistency": ("p3s", "no-lac", "lac-all", "lac-sum"),
    "weight": ("p3s", "fixed", "increasing", "decreasing"),
    "weight_on": tuple(name + on for name in ("p3s", "fixed", "increasing", "decreasing") for on in ("", "-attention")),
    "learned": ("p3s", "learned"),
    "cached": ("p3s", "p3s-exact", "p3s-fast", "cached", "cached-exact", "cached-steps"),
    "cheaper": ("cached", "cached-pool-2", "cached-one-to-one", *(f"cached-no-{name}" for name in LEFT_OUT)),
    "structure": ("p3s", "no-cross", "attn1-feature", "one-to-one", "reference-input"),
}
