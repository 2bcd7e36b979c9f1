"""Subjects as the U-Net reads them: embeddings with their weights, which chain."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import FamilyError, MaskError, P3SError
from ..settings import Setting
from .file import SSRModel
from .query import QuerySettings, View, focus_map, query_bias

QUERY_TOKENS = 77  # of one text: what the aligner was trained on
WEIGHT = Setting(
    1.0,
    "This subject's weight among several that are chained. 0 leaves it out.",
    low=0.0,
    high=5.0,
    step=0.05,
)
WEIGHTING = Setting(
    "embedding",
    "What a subject's weight multiplies. embedding: what keys and values are made of, as the authors of SSR-Encoder "
    "mean it. output: the values alone, so that a weight does not move the attention.",
    ("embedding", "output"),
)


class Vision(NamedTuple):
    """A vision tower: ``size`` S of its pictures; ``states`` of a picture [1, S, S, 3] in 0..1, the hidden states
    [1, K, P, width] that an aligner reads (:func:`p3s.ssr.aligner.chosen_states`); ``zeros``, those of the picture that
    is zero after normalisation, [1, K, P, width], for the unconditional embedding."""

    size: int
    states: Callable[[Tensor], Tensor]
    zeros: Callable[[], Tensor]


class Embed(NamedTuple):
    """One subject. ``c`` is c_s of its photo and query, ``unconditional`` that of the zero picture and the empty text,
    both [1, K * L, width], float32 on the CPU; ``weight``, 0 or more, is its share among several subjects."""

    c: Tensor
    unconditional: Tensor
    weight: float = 1.0


class Joint(NamedTuple):
    """Several subjects as one sequence of tokens, each [1, tokens, width]: what W_K^S and W_V^S read for the prompt,
    and for the others."""

    for_keys: Tensor
    for_values: Tensor
    unconditional: Tensor


@dataclass(frozen=True, eq=False)
class SubjectEmbeds:
    """Subjects that share one softmax, and the SSR-Encoder that made them, whose layers read them. Adding two chains
    them.

    Raises P3SError for a weight that ``WEIGHT`` does not allow.
    """

    subjects: tuple[Embed, ...]
    model: SSRModel

    def __post_init__(self) -> None:
        for subject in self.subjects:
            if not WEIGHT.allows(subject.weight):
                raise P3SError(f"weight must be {WEIGHT.expected}; got {subject.weight!r}")

    def __add__(self, more: SubjectEmbeds) -> SubjectEmbeds:
        if more.model.sha256 != self.model.sha256:
            raise FamilyError(
                "embeds: the subjects of one chain were encoded by two different SSR-Encoders. Connect the ssr "
                "inputs of both SSR Encode nodes to one output."
            )
        return SubjectEmbeds(self.subjects + more.subjects, self.model)

    # c = [w_1 c_1, w_2 c_2, ...],  c' = [c'_1, c'_2, ...]
    def joint(self, weighting: str = "embedding") -> Joint | None:
        """The subjects with a weight above 0, one after the other; None where there are none. ``weighting`` as
        ``WEIGHTING`` says; P3SError for another one."""
        if not WEIGHTING.allows(weighting):
            raise P3SError(f"weighting must be {WEIGHTING.expected}; got {weighting!r}")
        present = [s for s in self.subjects if s.weight]
        if not present:
            return None
        plain = torch.cat([s.c for s in present], 1)
        weighted = torch.cat([s.c * s.weight for s in present], 1)
        unconditional = torch.cat([s.unconditional for s in present], 1)
        return Joint(weighted if weighting == "embedding" else plain, weighted, unconditional)


class Encoded(NamedTuple):
    """An encoded subject, and what its query attends to, over the photo, float32 [height, width], 0 or more."""

    embeds: SubjectEmbeds
    attention: Tensor


@torch.no_grad()
def encode(
    model: SSRModel,
    query: Tensor,
    empty: Tensor,
    photo: Tensor,
    vision: Vision,
    mask: Tensor | None = None,
    settings: QuerySettings | None = None,
    weight: float = 1.0,
    words: slice | None = None,
) -> Encoded:
    """Encode the subject that a query selects in a photo.

    The clean picture and the subject mask of a :class:`p3s.reference.rngr.Reference` are a photo and its mask.

    Args:
        model: the SSR-Encoder.
        query: the text encoder's last hidden state of the query, [1, L, width]; ``empty``: that of the empty text.
        photo: [height, width, 3], floating point in 0..1.
        mask: where the subject is in the photo (:meth:`p3s.ssr.query.View.shares`); acts on both embeddings.
        words: the query's tokens that ``attention`` is averaged over; all by default.

    Raises:
        FamilyError: a vision tower or text encoder of other widths than the aligner's.
        MaskError: a picture, mask or settings as described with them.
    """
    settings = settings or QuerySettings()
    if photo.ndim != 3 or photo.shape[-1] != 3:
        raise MaskError(f"image: expected one photo, [height, width, 3], got {list(photo.shape)}.")
    view = View(photo.shape[1], photo.shape[0], settings.framing)
    states = vision.states(view.picture(photo.detach().float().cpu(), vision.size)).float().cpu()
    query, empty = query.float().cpu(), empty.float().cpu()
    aligner = model.aligner
    aligner.check(states, query)
    grid = grid_of(states)
    shares = None if mask is None else view.shares(mask, grid)
    bias = query_bias(view.valid(grid), shares, settings.focus, settings.mask_mode)
    c = aligner(states, query, bias)
    unconditional = aligner(vision.zeros().float().cpu(), empty, bias)
    attention = focus_map(aligner.map(states, query, bias), words)
    return Encoded(SubjectEmbeds((Embed(c, unconditional, weight),), model), view.to_photo(attention))


def grid_of(states: Tensor) -> int:
    """g, patches along each side, of hidden states [..., 1 + g*g, width]. Raises FamilyError where they are not one
    class token and a square."""
    patches = states.shape[-2] - 1
    side = round(patches**0.5)
    if side < 1 or side * side != patches:
        raise FamilyError(
            f"clip_vision: expected one class token and a square of patches, such as the 1 + 16 x 16 tokens of CLIP "
            f"ViT-L/14; this model gives {patches + 1} tokens."
        )
    return side


def check_query(text: str, restricted: bool) -> tuple[str, ...]:
    """Warnings about a query in words; ``restricted``: a mask or reference says where the subject is.

    Raises MaskError for an empty query that nothing restricts.
    """
    if text.strip():
        return ()
    if not restricted:
        raise MaskError("query: it is empty. Name the subject, as in 'dog', or connect a mask or a reference.")
    return ("query is empty: the mask alone selects, for which SSR-Encoder was not trained. Name the subject as well.",)


def kept_tokens(tokens: Tensor) -> tuple[Tensor, tuple[str, ...]]:
    """The first 77 of a text's tokens [1, L, width], and warnings."""
    if tokens.shape[1] <= QUERY_TOKENS:
        return tokens, ()
    return tokens[:, :QUERY_TOKENS], (f"query is long: its first {QUERY_TOKENS} tokens are read, the rest is not.",)
