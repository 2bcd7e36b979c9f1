"""Eq. 6 to 9 in the host as they are written, for Apply P3S to be compared with.

Nothing is shared between the rows of a batch, kept from one call to the next, grouped, cut or skipped: every call runs
the whole copy, in plain torch, on all rows of its input, and a mask is a bias as large as the attention.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import base_model
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.image_latent import fit_condition
from comfyui_p3s.p3s.network.injection import Features, fit_tokens
from comfyui_p3s.p3s.network.subject_copy import CopyReader, SubjectCopy
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.network.unet_config import Layer, UNetConfig
from comfyui_p3s.p3s.subject.file import Subject

#: Where a call's options say for each row whether it belongs to the prompt, 1 or 0.
PROMPT = "literal_prompt"


@dataclass(frozen=True)
class Literal:
    """A subject, its weight eps_t and what that multiplies, its mask [h, w] or [images, h, w], whether it is in the
    negative prompt too, whether it is kept apart from other subjects with masks, and for how many calls of one kind its
    features serve (the MODEL made of it is then for one run). ``together``: the rows of a call that have no subject
    have a mask of zeros, instead of a call of their own."""

    subject: Subject
    weight: float = 1.0
    mask: torch.Tensor | None = None
    guidance: str = "both"
    weight_on: str = "features"
    isolate: bool = False
    reuse: int = 1
    together: bool = False

    @property
    def on_attention(self) -> float:
        return self.weight if self.weight_on == "attention" else 1.0


def literal(model: Any, *used: Literal | Subject, prompts: Collection[int] = (0,)) -> Any:
    """A MODEL with subjects. ``prompts`` are the numbers, in the order in which the guider asks for them, of the
    conditionings that "conditional" leaves the subject in."""
    parts = [each if isinstance(each, Literal) else Literal(each) for each in used]
    copies = [plain_copy(model, part.subject) for part in parts]
    channels = base_model.unet_config(model).out_channels
    kept: dict[Any, tuple[int, Features]] = {}

    def features_of(i: int, uuids: list[Any], *read: Any) -> Features:
        if parts[i].reuse == 1:
            return features(copies[i], parts[i], *read)
        calls, found = kept.get((i, *uuids), (0, None))
        if found is None or calls % parts[i].reuse == 0:
            found = features(copies[i], parts[i], *read)
        kept[(i, *uuids)] = calls + 1, found
        return found

    def wrapper(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        def call(rows: slice, kinds: list[int], uuids: list[Any]) -> torch.Tensor:
            here = picked((x, timesteps, context, y, control), rows, len(x))
            size = len(here[0]) // len(kinds)
            of_prompt = torch.tensor([float(kind in prompts) for kind in kinds]).repeat_interleave(size)
            options = {**transformer_options, "cond_or_uncond": kinds, "uuids": uuids, PROMPT: of_prompt}
            acting = [
                i
                for i, part in enumerate(parts)
                if part.guidance == "both" or part.together or (len(kinds) == 1 and kinds[0] in prompts)
            ]
            found = [features_of(i, uuids, here[0][:, :channels], *here[1:4]) for i in acting]
            patched = with_patches(options, found, [parts[i] for i in acting], [copies[i] for i in acting])
            return executor(*here, patched, **kwargs)

        kinds, uuids = transformer_options["cond_or_uncond"], transformer_options["uuids"]
        if all(part.guidance == "both" or part.together for part in parts):
            return call(slice(None), kinds, uuids)
        size = len(x) // len(kinds)
        return torch.cat([call(slice(i * size, (i + 1) * size), [kind], [uuids[i]]) for i, kind in enumerate(kinds)])

    patched = model.clone()
    patched.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "literal", wrapper)
    return patched


def plain_copy(model: Any, subject: Subject) -> SubjectCopy:
    """The subject's copy on torch's own layers; a low-rank one on a U-Net of the base's weights."""
    if CopySettings.from_dict(subject.info.copy_settings).kind == "lora":
        with torch.inference_mode(False):
            base = UNet.from_state_dict(base_model.base_weights(model))
            copy = SubjectCopy(base.config, *settings_of(subject))
            copy.load_state_dict(subject.weights)
            copy.borrow(base)
        return copy.requires_grad_(False)
    return full_copy(base_model.unet_config(model), subject)


@lru_cache(maxsize=4)
def full_copy(config: UNetConfig, subject: Subject) -> SubjectCopy:
    with torch.inference_mode(False):
        copy = SubjectCopy(config, *settings_of(subject), device="meta")
        copy.load_state_dict(subject.weights, assign=True)
    return copy.requires_grad_(False)


def settings_of(subject: Subject) -> tuple[CopySettings, int]:
    return CopySettings.from_dict(subject.info.copy_settings), subject.references[0].tokens.shape[1]


def features(
    copy: SubjectCopy,
    part: Literal,
    x: torch.Tensor,
    timesteps: torch.Tensor,
    context: torch.Tensor,
    label: torch.Tensor | None,
) -> Features:
    """Eq. 6 and 9."""
    reference = part.subject.references[0]
    condition = copy.condition(reference.latent[None], reference.tokens[None])
    if copy.settings.cached:
        label = label if label is None else no_text(label, condition)
        reader, nothing = CopyReader(), torch.zeros(1, 1, copy.map.config.context_dim)
        copy.unet(condition, torch.zeros(1), nothing, reader, label=label)
        found = copy.features(reader)
    else:
        found = copy(x, timesteps, context, condition, label)
    return found.with_weight(part.weight / part.on_attention)


def no_text(label: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
    """SDXL's label of a picture of the reference's size with nothing in its pooled text."""
    height, width = (8.0 * side for side in condition.shape[2:])
    angles = [
        torch.tensor(size) * torch.exp(-math.log(10000) * torch.arange(128) / 128)
        for size in (height, width, 0.0, 0.0, height, width)
    ]
    sizes = torch.cat([torch.cat([angle.cos(), angle.sin()]) for angle in angles])
    return torch.cat([torch.zeros(label.shape[1] - len(sizes)), sizes])[None]


def with_patches(
    options: Mapping[str, Any], found: list[Features], parts: list[Literal], copies: list[SubjectCopy]
) -> dict[str, Any]:
    """Eq. 7 and 8, and the caption of Fig. 3."""
    replaced = options.get("patches_replace", {}).get("attn1", {})

    def at(i: int, kind: str, layer: Layer, extra: Any) -> torch.Tensor:
        """The features of a subject at the tokens of the image."""
        f, grid, target = getattr(found[i], kind)[layer], found[i].grids[layer], tuple(extra["activations_shape"][2:])
        if not copies[i].settings.cached:
            return fit_tokens(f, grid, target)
        picture = (f * shown(i, grid)[:, None]).transpose(1, 2).unflatten(2, grid)
        return fit_condition(picture, target).flatten(2).transpose(1, 2).expand(extra["activations_shape"][0], -1, -1)

    def shown(i: int, grid: tuple[int, int]) -> torch.Tensor:
        """Which tokens of its reference show a subject."""
        return F.adaptive_max_pool2d(parts[i].subject.references[0].mask[None], grid).flatten() > 0

    def keys_of(i: int, layer: Layer, extra: Any, rows: int) -> torch.Tensor:
        """The tokens that a subject appends to rows that may be tiles of the image."""
        if not copies[i].settings.cached:
            return at(i, "self_attention", layer, extra).reshape(rows, -1, found[i].self_attention[layer].shape[-1])
        f, grid = found[i].self_attention[layer], found[i].grids[layer]
        return f[:, shown(i, grid)].expand(rows, -1, -1)

    def share(part: Literal, extra: Any, rows: int) -> torch.Tensor:
        """m [rows, tokens]."""
        grid = tuple(extra["activations_shape"][2:])
        m = torch.ones(rows, grid[0] * grid[1])
        if part.mask is not None:
            mask = part.mask.reshape(-1, 1, *part.mask.shape[-2:])
            m = F.interpolate(mask, grid, mode="bilinear", antialias=True).flatten(1)
            m = m.repeat(rows // len(m), 1)
        return m * extra[PROMPT][:, None] if part.guidance == "conditional" and part.together else m

    def apart(extra: Any, rows: int, tokens: int) -> torch.Tensor:
        """What is left of every key of the image for every query, [rows, tokens, tokens]."""
        found = torch.ones(rows, tokens, tokens)
        masked = [part for part in parts if part.mask is not None]
        for part in masked:
            m, nobody = share(part, extra, rows), torch.ones(rows, tokens)
            for other in masked:
                if other is not part and (other.isolate or part.isolate):
                    nobody = nobody * (1 - share(other, extra, rows))
            alone, foreign = m * nobody, (1 - m) * (1 - nobody)
            found *= (1 - foreign).clamp(min=0)[:, None] ** alone[:, :, None]
        return found

    def reading(layer: Layer) -> list[int]:
        """The numbers of the subjects that act in a layer."""
        return [i for i, of in enumerate(found) if layer in of.self_attention]

    def attn1_patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> tuple[torch.Tensor, ...]:
        layer = Layer(*extra["block"], extra["block_index"])
        if extra["block"] in replaced or tuple(layer) in replaced or not reading(layer):
            return q, k, v

        def tile(t: torch.Tensor) -> torch.Tensor:
            return t.reshape(len(q), -1, t.shape[-1])  # HyperTile has cut the queries

        here = reading(layer)
        f = [at(i, "self_attention", layer, extra) for i in here]
        summed = v.clone()
        for copy, part, each in zip([copies[i] for i in here], [parts[i] for i in here], f, strict=True):
            lam = copy.settings.lam * part.on_attention
            summed[:, : each.shape[1]] += lam * share(part, extra, len(each))[..., None] * each
        tiles = [keys_of(i, layer, extra, len(q)) for i in here]
        return q, torch.cat([tile(k), *tiles], 1), torch.cat([tile(summed), *tiles], 1)

    def attn1_replace(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> torch.Tensor:
        layer, heads = Layer(*extra["block"], extra["block_index"]), extra["n_heads"]
        here = [parts[i] for i in reading(layer)]
        lengths = [keys_of(i, layer, extra, len(q)).shape[1] for i in reading(layer)]
        columns = [torch.zeros(len(q), q.shape[1], k.shape[1] - sum(lengths))]
        columns[0][:, :, : q.shape[1]] = apart(extra, len(q), q.shape[1]).log()
        for part, length in zip(here, lengths, strict=True):
            weighed = part.on_attention * share(part, extra, len(q))
            columns.append(weighed.log()[..., None].expand(-1, -1, length))
        split = [t.unflatten(2, (heads, -1)).transpose(1, 2) for t in (q, k, v)]
        return F.scaled_dot_product_attention(*split, torch.cat(columns, 2)[:, None]).transpose(1, 2).flatten(2)

    def attn2_patch(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> tuple[torch.Tensor, ...]:
        layer = Layer(*extra["block"], extra["block_index"])
        for i, part in enumerate(parts):
            if layer in found[i].cross_attention:
                g = at(i, "cross_attention", layer, extra)
                q = q + part.on_attention * share(part, extra, len(g))[..., None] * g
        return q, k, v

    if not found:
        return dict(options)
    patches = {name: list(of) for name, of in options.get("patches", {}).items()}
    patches["attn1_patch"] = [*patches.get("attn1_patch", ()), attn1_patch]
    patches["attn2_patch"] = [attn2_patch, *patches.get("attn2_patch", ())]
    made = {**options, "patches": patches}
    if any(part.mask is not None or part.on_attention != 1 or part.together for part in parts):
        own = {tuple(layer): attn1_replace for layer in found[0].self_attention if layer[:2] not in replaced}
        made["patches_replace"] = {**options.get("patches_replace", {}), "attn1": {**own, **replaced}}
    return made


def picked(value: Any, rows: slice, of: int) -> Any:
    """Rows of every tensor of a batch of ``of`` rows."""
    if isinstance(value, torch.Tensor):
        return value[rows] if value.ndim and len(value) == of else value
    if isinstance(value, (list, tuple)):
        return type(value)(picked(each, rows, of) for each in value)
    return {key: picked(each, rows, of) for key, each in value.items()} if isinstance(value, dict) else value
