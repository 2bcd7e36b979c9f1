"""Run by test_equations.py inside a host: pictures against those of the equations as they are written."""

from __future__ import annotations

from typing import Any

import torch
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import attention
from comfyui_p3s.p3s.network.injection import EffectMask, SelfAttentionPart
from comfyui_p3s.p3s.sampling.settings import SamplingSettings
from comfyui_p3s.p3s.subject.file import Subject
from inside_literal import Literal, literal
from inside_subjects import apply, conditioning, difference, draw, load, sample, subject_for
from torch.utils._python_dispatch import TorchDispatchMode

#: Shares of the left side, of the right side, and none.
LEFT = torch.cat([torch.ones(12, 5), torch.full((12, 2), 0.5), torch.zeros(12, 5)], 1)
MASKS = torch.stack([LEFT, 1 - LEFT, torch.zeros(12, 12)])


class Largest(TorchDispatchMode):
    """The size of the largest tensor that is made, in numbers."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        found = [
            t.numel() for t in (made if isinstance(made, (list, tuple)) else [made]) if isinstance(t, torch.Tensor)
        ]
        self.numbers = max([self.numbers, *found])
        return made


def scaled_changes(model: Any) -> tuple[Subject, Subject]:
    """A low-rank subject whose alpha is three times its rank, with changes of every layer, and one of alpha 0 whose
    changes are three times those."""
    scaled, plain = (subject_for(model, 1, kind="lora", rank=4, **alpha) for alpha in ({"alpha": 12.0}, {}))
    with torch.inference_mode(False):
        for i, name in enumerate(scaled.weights):
            if name.endswith(".up.weight"):
                shape = scaled.weights[name].shape
                scaled.weights[name] = draw(*shape, seed=i) * 0.1 * shape[1] ** -0.5
                plain.weights[name] = 3 * scaled.weights[name]
    return scaled, plain


def as_written(model: Any, inpaint: Any) -> dict[str, dict[str, float]]:
    """Pictures against those of inside_literal.py, and what the subject does to them: where sharing, masks and the
    order of a batch could go wrong without a sign of it."""
    one, two = subject_for(model, 1), subject_for(model, 2)
    low_rank = subject_for(model, 1, kind="lora", rank=4)
    scaled, as_scaled = scaled_changes(model)
    conditional = SamplingSettings("conditional")
    # Two crops that are one at the first step, and then two.
    crops = {
        "noise": draw(1, 4, 16, 8, seed=5).repeat(1, 1, 1, 2),
        "positive": [*conditioning(1, area=(16, 8, 0, 0)), *conditioning(3, area=(16, 8, 0, 8))],
    }
    # InpaintModelConditioning gives what is to be painted to one of the prompts only.
    part = {"concat_latent_image": draw(1, 4, 16, 16, seed=9), "concat_mask": torch.ones(1, 1, 16, 16)}
    painted = {"positive": conditioning(1, **part), "negative": conditioning(2)}
    left, right = EffectMask(LEFT), EffectMask(1 - LEFT)
    half = Literal(one, guidance="conditional")
    cases: dict[str, tuple[Any, Any, Any, dict[str, Any]]] = {
        "guidance": (model, apply(model, one), literal(model, one), {}),
        "batch": (model, apply(model, one), literal(model, one), {"batch": 3}),
        "cfg 1": (model, apply(model, one), literal(model, one), {"cfg": 1.0}),
        "low rank": (model, apply(model, low_rank), literal(model, low_rank), {}),
        "low rank, alpha": (model, apply(model, scaled), literal(model, as_scaled), {}),
        "conditional": (model, apply(model, one, settings=conditional), literal(model, half), {"batch": 2}),
        "crops, conditional": (model, apply(model, one, settings=conditional), literal(model, half), crops),
        "crops that start equal": (model, apply(model, one), literal(model, one), crops),
        "inpainting one prompt": (inpaint, apply(inpaint, one), literal(inpaint, one), painted),
        "mask": (model, apply(model, one, mask=left), literal(model, Literal(one, mask=LEFT)), {}),
        "two masks": (
            model,
            apply(apply(model, one, mask=left), two, mask=right),
            literal(model, Literal(one, mask=LEFT), Literal(two, mask=1 - LEFT)),
            {},
        ),
        "a mask for each image": (
            model,
            apply(model, one, mask=EffectMask(MASKS)),
            literal(model, Literal(one, mask=MASKS)),
            {"batch": 3},
        ),
        "weight on attention": (
            model,
            apply(model, one, 0.3, weight_on="attention"),
            literal(model, Literal(one, 0.3, weight_on="attention")),
            {"batch": 2},
        ),
        "weight on attention, mask": (
            model,
            apply(model, one, 0.3, weight_on="attention", mask=left),
            literal(model, Literal(one, 0.3, weight_on="attention", mask=LEFT)),
            {},
        ),
    }
    for name, (use, masks, batch) in {
        "isolated": ({}, (LEFT, 1 - LEFT), 1),
        "isolated, conditional": ({"guidance": "conditional"}, (LEFT, 1 - LEFT), 1),
        "isolated, masks for each image": ({}, (MASKS, 1 - MASKS), 3),
    }.items():
        how = {"settings": conditional} if use else {}
        first = apply(model, one, mask=EffectMask(masks[0]), isolate=1.0, **how)
        cases[name] = (
            apply(apply(model, one, mask=EffectMask(masks[0]), **how), two, mask=EffectMask(masks[1]), **how),
            apply(first, two, mask=EffectMask(masks[1]), **how),
            literal(model, Literal(one, mask=masks[0], isolate=True, **use), Literal(two, mask=masks[1], **use)),
            {"batch": batch},
        )
    found = {}
    for name, (plain, ours, theirs, settings) in cases.items():
        image, expected = sample(ours, steps=3, **settings), sample(theirs, steps=3, **settings)
        found[name] = {
            "error": difference(image, expected),
            "effect": difference(expected, sample(plain, steps=3, **settings)),
        }
    return found


def soft_mask(side: int = 48) -> dict[str, float]:
    """A soft mask in one attention: its largest tensor, relative to its keys, and its error."""
    heads, width, n = 8, 40, side * side
    q, k, v = (draw(1, m, heads * width, seed=i) for i, m in enumerate((n, 2 * n, 2 * n)))
    mask = EffectMask(torch.linspace(0.05, 0.95, side).expand(side, side))
    extra = {"n_heads": heads, "activations_shape": [1, 8, side, side]}
    with Largest() as largest:
        part = SelfAttentionPart(k[:, n:], k[:, n:], mask.tokens((side, side)))
        found = attention.SubjectAttention()(q, k, v, attention.Appended([part], [mask], [None], n), extra)
    split = [t.unflatten(2, (heads, width)).transpose(1, 2) for t in (q, k, v)]
    bias = torch.cat([torch.zeros(n, n), mask.tokens((side, side)).log().T.expand(n, n)], 1)
    expected = torch.nn.functional.scaled_dot_product_attention(*split, bias).transpose(1, 2).flatten(2)
    return {"error": difference(found, expected), "largest": largest.numbers / k.numel()}


def with_tokens(model: Any, last: bool = False) -> Any:
    """What a reference-only node does: self-attention sees three tokens more. ``last``: by a patch that comes after all
    others."""

    def more(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> tuple[torch.Tensor, ...]:
        tokens = draw(1, 3, k.shape[2], seed=8).expand(len(k), -1, -1)
        return q, torch.cat([k, tokens], 1), torch.cat([v, tokens], 1)

    def wrapper(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        patches = transformer_options["patches"]
        patches = {**patches, "attn1_patch": [*patches["attn1_patch"], more]}
        return executor(x, timesteps, context, y, control, {**transformer_options, "patches": patches}, **kwargs)

    changed = model.clone()
    if last:
        changed.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "more tokens", wrapper)
    else:
        changed.set_model_attn1_patch(more)
    return changed


def beside_tokens(model: Any) -> dict[str, dict[str, float]]:
    """Isolated subjects, one with its weight on attention, where another node appends tokens, too."""
    one, two = subject_for(model, 1), subject_for(model, 2)

    def ours(model: Any) -> Any:
        first = apply(model, one, 0.5, mask=EffectMask(LEFT), weight_on="attention", isolate=1.0)
        return apply(first, two, mask=EffectMask(1 - LEFT))

    first = Literal(one, 0.5, LEFT, weight_on="attention", isolate=True)
    expected = sample(literal(with_tokens(model), first, Literal(two, mask=1 - LEFT)))
    without = sample(ours(model))
    orders = {
        "before": ours(with_tokens(model)),
        "after": with_tokens(ours(model)),
        "last": with_tokens(ours(model), last=True),
    }
    return {
        name: {"error": difference(sample(both), expected), "effect": difference(expected, without)}
        for name, both in orders.items()
    }


def overridden(model: Any) -> list[int]:
    """How many attentions of one call of the U-Net go through another node's attention (sage, flash), without and
    with a mask that is hard: its two sides are attended to apart."""
    calls = 0

    def override(attention: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return attention(*args, **kwargs)

    found = []
    hard = EffectMask(torch.cat([torch.ones(8, 4), torch.zeros(8, 4)], 1))
    for mask in (None, hard):
        applied = apply(model, subject_for(model), mask=mask)
        applied.model_options["transformer_options"]["optimized_attention_override"] = override
        calls = 0
        sample(applied, steps=1, cfg=1.0)
        found.append(calls)
    return found


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    micro = load(arguments["micro"])
    return {
        "pictures": as_written(micro, load(arguments["inpaint"])),
        "overridden": overridden(micro),
        "soft mask": soft_mask(),
        "tokens": beside_tokens(micro),
    }
