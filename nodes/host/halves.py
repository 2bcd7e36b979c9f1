"""Treating the halves of the guidance differently inside one call of the U-Net."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: (x, timesteps, context, control, transformer_options) -> the U-Net's output
Call = Callable[[Tensor, Tensor, Tensor, Any, Mapping[str, Any]], Tensor]


def chunks_of(options: Mapping[str, Any]) -> list[int]:
    """One entry for each chunk of a call's batch, 0 for the first conditioning of the guider (the prompt, with
    ordinary guidance). Without the host's list all rows are conditional."""
    return options.get("cond_or_uncond") or [0]


def prompts_of(conds: Mapping[str, Sequence[Mapping[str, Any]]]) -> frozenset[Hashable]:
    """The uuids of those of a guider's conditionings that a subject belongs to: all but its negative ones, which
    PerpNeg has two of."""
    entries = (entry for name, part in conds.items() if "negative" not in name for entry in part)
    return frozenset(entry["uuid"] for entry in entries if "uuid" in entry)


def conditional_chunks(options: Mapping[str, Any], prompts: frozenset[Hashable]) -> list[bool]:
    """Of each chunk of a call's batch, whether it is of the prompt. Numbers do not tell: guiders order their
    conditionings in their own way, and some nodes ask for the unconditional prediction alone."""
    chunks, uuids = chunks_of(options), options.get("uuids") or ()
    if prompts and len(uuids) == len(chunks):
        return [uuid in prompts for uuid in uuids]
    return [kind == 0 for kind in chunks]


def by_halves(
    prompts: frozenset[Hashable],
    conditional: Call,
    other: Call,
    x: Tensor,
    timesteps: Tensor,
    context: Tensor,
    control: Mapping[str, Any] | None,
    options: Mapping[str, Any],
) -> Tensor:
    """Run the rows of the prompts (:func:`prompts_of`) through one call, the others of the batch through another."""
    chunks, told = chunks_of(options), conditional_chunks(options, prompts)
    size = len(x) // len(chunks)
    out: Tensor | None = None
    for run, wanted in ((conditional, True), (other, False)):
        chosen = [i for i, of_prompt in enumerate(told) if of_prompt == wanted]
        if not chosen:
            continue
        if len(chosen) == len(chunks):
            return run(x, timesteps, context, control, options)
        rows = torch.cat([torch.arange(i * size, (i + 1) * size) for i in chosen]).to(x.device)

        def pick(value: Any, rows: Tensor = rows) -> Any:
            if isinstance(value, Tensor):
                return value[rows] if value.ndim and len(value) == len(x) else value
            if isinstance(value, list):
                return [pick(v) for v in value]
            return {k: pick(v) for k, v in value.items()} if isinstance(value, dict) else value

        part = {**options, "cond_or_uncond": [chunks[i] for i in chosen]}
        if len(options.get("uuids", ())) == len(chunks):
            part["uuids"] = [options["uuids"][i] for i in chosen]
        result = run(pick(x), pick(timesteps), pick(context), pick(control), part)
        if out is None:
            out = result.new_empty((len(x), *result.shape[1:]))
        out[rows] = result
    assert out is not None, "the host called the U-Net with an empty batch"
    return out
