"""Chains of Apply P3S and another node, and when a picture of theirs is right."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.sampling.settings import SamplingSettings, feature_values
from inside_literal import Literal, literal
from inside_other_nodes import OtherNodes
from inside_subjects import apply, difference, sample, subject_for

HALF = torch.cat([torch.ones(8, 4), torch.zeros(8, 4)], 1)
CONDITIONAL = SamplingSettings("conditional")
REUSED = SamplingSettings("conditional", reuse=3)
#: Below this share of the latent's size a change counts as none.
SEEN = 1e-2
#: Runs that are to be equal may differ by rounding.
EQUAL = 2e-3
STEPS = 3
#: What the endings of cases' names change: in Apply P3S, and in the equations written out.
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "-with-mask": ({"mask": HALF}, {"mask": HALF}),
    "-conditional": ({"settings": CONDITIONAL}, {"guidance": "conditional"}),
    "-fast": ({"settings": REUSED}, {"guidance": "conditional", "reuse": REUSED.reuse}),
    "": ({}, {}),
}


class Chain(OtherNodes):
    """The other nodes with a subject, and pictures that many cases are compared with."""

    def __init__(self, arguments: dict[str, Any], name: str, **settings: Any) -> None:
        super().__init__(arguments, name)
        self.subject = subject_for(self.model, **settings)
        self.steps = STEPS - self.sdxl  # which takes five times as long
        self.image = cache(self._image)
        self.without = cache(self._without)

    def ours(self, model: Any, mask: torch.Tensor | None = None, **application: Any) -> Any:
        return apply(model, self.subject, mask=None if mask is None else EffectMask(mask), **application)

    def written(self, model: Any, **use: Any) -> Any:
        return literal(model, Literal(self.subject, **use))

    def values(self, size: tuple[int, int]) -> int:
        """How many numbers the features of one image of this size are."""
        (copy,) = (p.model for p in self.ours(self.model).get_additional_models_with_key("p3s"))
        return feature_values(copy, math.prod(size))

    def _image(self, subject: bool, variant: str = "", **settings: Any) -> torch.Tensor:
        """Of the model alone or with the subject."""
        return sample(self.ours(self.model, **VARIANTS[variant][0]) if subject else self.model, **settings)

    def _without(self, other: Callable[[Any], Any], steps: int) -> torch.Tensor:
        """Of another node without the subject."""
        return sample(other(self.model), steps=steps)


def same(image: torch.Tensor, expected: torch.Tensor, without: torch.Tensor) -> str:
    """ "works" where a picture is the expected one, and the subject makes a difference."""
    if not torch.isfinite(image).all():
        return "not finite"
    if difference(expected, without) < SEEN:
        return "the subject does not act"
    error = difference(image, expected)
    return "works" if error < EQUAL else f"another picture, by {error:.2g} of its size"
