"""The cases of chaining.py with Apply SSR, for inside_chaining.py: pictures against the method written out on the same
hooks (inside_ssr_subjects.py), or against another way to the same picture."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from comfyui_p3s.p3s.network.injection import EffectMask
from inside_animatediff import VIDEO
from inside_other_nodes import OtherNodes
from inside_peers import node
from inside_ssr_subjects import apply_ssr, embeds_of, encoder_for, written
from inside_subjects import apply, conditioning, difference, sample, subject_for
from inside_verdicts import CONDITIONAL, HALF, SEEN, STEPS, same

#: "ssr-" and the name of a case is Apply SSR's.
PREFIX = "ssr-"


class SSRChain(OtherNodes):
    """The other nodes with a subject of an SSR-Encoder."""

    def __init__(self, arguments: dict[str, Any], name: str) -> None:
        super().__init__(arguments, name)
        self.embeds = embeds_of(encoder_for(self.model), 1)

    def ours(self, model: Any, mask: torch.Tensor | None = None) -> Any:
        return apply_ssr(model, self.embeds, mask=None if mask is None else EffectMask(mask))

    def written(self, model: Any, mask: torch.Tensor | None = None, **more: Any) -> Any:
        return written(model, self.embeds, mask=mask, **more)


def on_the_wire(
    chain: SSRChain, other: Callable[[Any], Any], order: str, mask: torch.Tensor | None = None, **more: Any
) -> str:
    """A node on the MODEL wire. ``more`` is for the method written out, and for the settings of sampling."""
    settings = more.pop("settings", {"steps": STEPS})

    def both(subject: Callable[..., Any]) -> torch.Tensor:
        made = other(subject(chain.model, mask)) if order == "after" else subject(other(chain.model), mask)
        return sample(made, **settings)

    image = both(chain.ours)
    found = same(image, both(partial(chain.written, **more)), sample(other(chain.model), **settings))
    if found == "works" and difference(image, sample(chain.ours(chain.model, mask), **settings)) < SEEN:
        return "the other node does not act"
    return found


def in_sampling(chain: SSRChain, changes: dict[str, Any], mask: torch.Tensor | None = None) -> str:
    settings: dict[str, Any] = {"steps": STEPS, **changes}
    others = [entry[0] for entry in settings.get("negative") or conditioning(2)]
    models = (chain.ours(chain.model, mask), chain.written(chain.model, mask, others=others), chain.model)
    return same(*(sample(model, **settings) for model in models))


def unchanged(chain: SSRChain, order: str, mask: torch.Tensor | None = None) -> str:
    """A window that slides over the images of a batch gives the batch without it."""
    ours = partial(chain.ours, mask=mask)
    windows = chain.context_windows
    both = windows(ours(chain.model)) if order == "after" else ours(windows(chain.model))
    settings = {"steps": STEPS, "batch": 4}
    return same(sample(both, **settings), sample(ours(chain.model), **settings), sample(chain.model, **settings))


def p3s(chain: SSRChain, order: str, **application: Any) -> str:
    """Apply P3S, which changes the queries that SSR reads."""
    subject = partial(apply, subject=subject_for(chain.model), **application)
    both = subject(chain.ours(chain.model)) if order == "after" else chain.ours(subject(chain.model))
    image, without = sample(both, steps=STEPS), sample(subject(chain.model), steps=STEPS)
    found = same(image, sample(chain.written(subject(chain.model)), steps=STEPS), without)
    if found == "works" and difference(image, sample(chain.ours(chain.model), steps=STEPS)) < SEEN:
        return "Apply P3S does not act"
    return found


def second(chain: SSRChain, order: str) -> str:
    two = embeds_of(encoder_for(chain.model), 2)
    other, literal = partial(apply_ssr, embeds=two, strength=0.5), partial(written, embeds=two, strength=0.5)
    both = other(chain.ours(chain.model)) if order == "after" else chain.ours(other(chain.model))
    expected = sample(literal(chain.written(chain.model)), steps=STEPS)
    return same(sample(both, steps=STEPS), expected, sample(other(chain.model), steps=STEPS))


def guiders(chain: SSRChain) -> str:
    """Every prompt reads c, and negative prompts and PerpNeg's empty one read that of the zero picture."""

    def run(model: Any, kind: str) -> torch.Tensor:
        positive, negative, empty = (conditioning(seed) for seed in (1, 2, 3))
        given = {
            "BasicGuider": {"conditioning": positive},
            "DualCFGGuider": {"cond1": positive, "cond2": conditioning(4), "negative": negative, "cfg_conds": 5.0}
            | {"cfg_cond2_negative": 3.0, "style": "regular"},
            "PerpNegGuider": {"positive": positive, "negative": negative, "empty_conditioning": empty}
            | {"cfg": 5.0, "neg_scale": 1.0},
        }[kind]
        (guider,) = node(kind, model=model, **given)
        (noise,), (sampler,) = node("RandomNoise", noise_seed=3), node("KSamplerSelect", sampler_name="heun")
        (sigmas,) = node("BasicScheduler", model=model, scheduler="karras", steps=STEPS, denoise=1.0)
        given = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas}
        return node("SamplerCustomAdvanced", **given, latent_image={"samples": torch.zeros(1, 4, 16, 16)})[0]["samples"]

    others = [conditioning(seed)[0][0] for seed in (2, 3)]
    strong = {"embeds": chain.embeds, "strength": 2.0}  # seen without guidance, too
    models = (apply_ssr(chain.model, **strong), written(chain.model, **strong, others=others), chain.model)
    kinds = ("BasicGuider", "DualCFGGuider", "PerpNegGuider")
    wrong = [f"{kind} ({told})" for kind in kinds if (told := same(*(run(m, kind) for m in models))) != "works"]
    return f"not with {', '.join(wrong)}" if wrong else "works"


OWN: dict[str, Callable[..., str]] = {
    "context-windows": unchanged,
    "context-windows-masks": partial(unchanged, mask=torch.rand(4, 6, 6, generator=torch.Generator().manual_seed(0))),
    "p3s": p3s,
    "p3s-conditional": partial(p3s, settings=CONDITIONAL),
    "second": second,
    "guiders": guiders,
    # The regions' rows are there after the node only, and are one again at its end.
    "attention-couple": lambda chain, order: on_the_wire(chain, chain.attention_couple, order, first=True),
    "attention-couple-ppm": lambda chain, order: on_the_wire(chain, chain.attention_couple_ppm, order, first=True),
    "animatediff": lambda chain, order: on_the_wire(chain, chain.animatediff, order, settings=VIDEO),
    "animatediff-windows": lambda chain, order: on_the_wire(
        chain, partial(chain.animatediff, window=3), order, settings=VIDEO
    ),
}


def run_case(chain: SSRChain, name: str, order: str) -> str:
    """A case by its name without the prefix."""
    if name in OWN:
        return OWN[name](chain, order) if order else OWN[name](chain)
    mask = HALF if name.endswith("-with-mask") else None
    other = getattr(chain, name.removesuffix("-with-mask").replace("-", "_"))
    return on_the_wire(chain, other, order, mask) if order else in_sampling(chain, other(), mask)
