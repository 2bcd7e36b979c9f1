"""The cases of inside_chaining.py with AnimateDiff-Evolved: frames that a motion module sees together."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from comfyui_p3s.nodes.host import base_model
from inside_literal import Literal, literal
from inside_subjects import apply, difference, sample, subject_for
from inside_verdicts import CONDITIONAL, EQUAL, REUSED, Chain, same

#: Motion modules exist for the widths of SD 1.5 only, so the latents are as small as its four levels allow.
FRAMES, WINDOW, SIZE = 4, 3, (8, 8)
VIDEO: dict[str, Any] = {"batch": FRAMES, "size": SIZE, "steps": 2}
MASKS = torch.rand(FRAMES, 6, 6, generator=torch.Generator().manual_seed(0))


def moving(chain: Chain, order: str, window: int = 0, guidance: str = "both", kind: str = "full") -> str:
    """A motion module that acts, against the equations written out beside it."""
    subject = chain.subject if kind == "full" else subject_for(chain.model, kind=kind, rank=4)
    settings = {"settings": CONDITIONAL} if guidance == "conditional" else {}

    def both(subject: Callable[[Any], Any]) -> torch.Tensor:
        frames = partial(chain.animatediff, window=window)
        chained = frames(subject(chain.model)) if order == "after" else subject(frames(chain.model))
        return sample(chained, **VIDEO)

    image, without = both(partial(apply, subject=subject, **settings)), both(lambda model: model)
    if difference(without, chain.image(False, **VIDEO)) < 0.1:
        return "nothing moves"
    written = partial(literal_of, Literal(subject, guidance=guidance))
    return same(image, both(written), without)


def literal_of(part: Literal, model: Any) -> Any:
    return literal(model, part)


def still(chain: Chain, order: str, window: int = 0, **application: Any) -> str:
    """A motion module that changes nothing gives the frames that a batch of images gives."""
    ours = partial(chain.ours, **application)
    frames = partial(chain.animatediff, moves=False, window=window)
    both = frames(ours(chain.model)) if order == "after" else ours(frames(chain.model))
    settings = {**VIDEO, "steps": 3}  # of which the mode fast uses features again in two
    return same(sample(both, **settings), sample(ours(chain.model), **settings), chain.image(False, **settings))


def again(chain: Chain, order: str) -> str:
    """A changed setting, after which the model alone and its weights are what they were before."""
    before, alone = base_model.base_weights(chain.model), chain.image(True, **VIDEO)
    fingerprint, config = base_model.base_fingerprint(chain.model), base_model.unet_config(chain.model)

    def both(strength: float) -> torch.Tensor:
        if order == "after":
            return sample(chain.animatediff(apply(chain.model, chain.subject, strength)), **VIDEO)
        return sample(apply(chain.animatediff(chain.model), chain.subject, strength), **VIDEO)

    first, changed, once_more = both(1.0), both(0.5), both(1.0)
    if difference(first, once_more) > EQUAL or difference(first, changed) < 0.05:
        return "the setting before stays"
    if base_model.unet_config(chain.model) != config or base_model.base_fingerprint(chain.model) != fingerprint:
        return "the model is read as another"
    left = base_model.base_weights(chain.model)
    if set(left) != set(before) or any(not torch.equal(left[key], before[key]) for key in before):
        return "the weights are others"
    trained = apply(chain.model, subject_for(chain.model, kind="lora", rank=4))  # borrows the model's layers
    if not torch.isfinite(sample(trained, size=SIZE, steps=1)).all():
        return "a low-rank subject cannot borrow"
    return same(sample(apply(chain.model, chain.subject), **VIDEO), alone, chain.image(False, **VIDEO))


def memory(chain: Chain, order: str) -> str:
    """In a window the host makes room for the frames of the window, with what the subject keeps for each."""

    def asked(subject: Callable[[Any], Any]) -> float:
        frames = partial(chain.animatediff, moves=False, window=WINDOW)
        model = frames(subject(chain.model)) if order == "after" else subject(frames(chain.model))
        real, seen = chain.model.model.memory_required, []

        def required(shape: Any, *args: Any, **kwargs: Any) -> float:
            seen.append((shape[0], real(shape, *args, **kwargs)))
            return seen[-1][1]

        with mock.patch.object(chain.model.model, "memory_required", required):
            sample(model, **{**VIDEO, "steps": 1})
        # The host estimates for both prompts before it loads, and at each call for the calls alone.
        return max(memory for rows, memory in seen if rows == 2 * WINDOW)

    more = asked(chain.ours) - asked(lambda model: model)
    needed = 4 * 4 * chain.values(SIZE) * 2 * WINDOW  # four times in float32, for both prompts
    return "works" if needed <= more < 1.3 * needed else f"{more} bytes are asked for, {needed} are needed"


OWN: dict[str, Callable[..., str]] = {
    "animatediff": moving,
    "animatediff-conditional": partial(moving, guidance="conditional"),
    "animatediff-low-rank": partial(moving, kind="lora"),
    "animatediff-windows": partial(moving, window=WINDOW),
    "animatediff-fast": partial(still, settings=REUSED),
    "animatediff-windows-fast": partial(still, window=WINDOW, settings=REUSED),
    "animatediff-masks": partial(still, window=WINDOW, mask=MASKS),
    "animatediff-again": again,
    "animatediff-memory": memory,
}
