"""Treating the prompt and the negative prompt of the guidance differently inside one call of the U-Net."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...p3s.errors import P3SError
from ...p3s.network.injection import EffectMask

#: Where a call's options say for each row whether it belongs to the prompt, if the chunks do not.
ROWS = "p3s_rows"
#: A guider's conditionings by their names, as the host has prepared them for a run.
Conditionings = Mapping[str, Sequence[Mapping[str, Any]]]


def chunks_of(options: Mapping[str, Any]) -> list[int]:
    """One entry for each chunk of a call's batch, 0 for the first conditioning of the guider (the prompt, with
    ordinary guidance). Without the host's list all rows are conditional."""
    return options.get("cond_or_uncond") or [0]


def is_prompt(name: str) -> bool:
    """Whether a subject belongs to a guider's conditionings of this name: all but negative ones, which PerpNeg has two
    of."""
    return "negative" not in name


def prompts_of(conds: Conditionings) -> frozenset[Hashable]:
    """The uuids of the conditionings that a subject belongs to."""
    entries = (entry for name, part in conds.items() if is_prompt(name) for entry in part)
    return frozenset(entry["uuid"] for entry in entries if "uuid" in entry)


def conditional_chunks(options: Mapping[str, Any], prompts: frozenset[Hashable]) -> list[bool]:
    """For each chunk of a call's batch, whether it belongs to the prompt. Its number does not say so: guiders order
    their conditionings in their own way, and some nodes ask for the unconditional prediction alone."""
    chunks, uuids = chunks_of(options), options.get("uuids") or ()
    if prompts and len(uuids) == len(chunks):
        return [uuid in prompts for uuid in uuids]
    return [kind == 0 for kind in chunks]


def conditional_rows(context: Tensor, conds: Conditionings) -> list[bool] | None:
    """For each row of a batch, whether it belongs to the prompt, by its text conditioning ``context`` [rows, tokens,
    width]; None where the text does not decide. For batches that another node has put together in an order of its own.
    """
    of_prompt, of_other = (torch.zeros(len(context), dtype=torch.bool, device=context.device) for _ in range(2))
    for name, entry in ((name, entry) for name, part in conds.items() for entry in part):
        text = entry.get("model_conds", {}).get("c_crossattn")
        if text is not None and context.shape[1] % text.cond.shape[1] == 0:
            # Prompts of unequal length come repeated to a common one.
            known = text.cond.to(context).repeat(1, context.shape[1] // text.cond.shape[1], 1)
            rows = of_prompt if is_prompt(name) else of_other
            rows |= (context[:, None] == known[None]).all(3).all(2).any(1)
    return None if (of_prompt == of_other).any() else of_prompt.tolist()


def check_masks(masks: Sequence[EffectMask], latents: Sequence[int], conds: Conditionings, node: str) -> None:
    """Raise P3SError, naming the node, where effect masks cannot be placed on what is sampled, [images, channels, h,
    w]."""
    if masks and any(cond.get("area") is not None for part in conds.values() for cond in part):
        raise P3SError(
            f"the mask of {node} does not work together with Conditioning (Set Area), which crops the image: use "
            "Conditioning (Set Mask) instead, or remove the mask"
        )
    for mask in masks:
        mask.check(latents[0])


def check_timesteps(model: Any, node: str) -> None:
    """Raise P3SError, naming the node, where a MODEL's timesteps do not go up to 1000: weights and windows are computed
    from them."""
    sampling = model.get_model_object("model_sampling")
    last = float(sampling.timestep(sampling.sigma_max))
    if not 900 < last < 1001:  # flows come to a little more than 1000 by rounding
        raise P3SError(
            f"{node} works with models whose timesteps go up to 1000; this one samples with {type(sampling).__name__}, "
            f"whose go up to {last:.4g}: remove the node that sets it (ModelSamplingContinuousEDM?), or load a "
            "checkpoint that is not of the EDM kind (as Playground 2.5 and CosXL are)"
        )
