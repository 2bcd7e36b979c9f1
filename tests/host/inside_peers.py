"""The host's own nodes and those of other packs, called from scripts that run inside a host."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import folder_paths
import torch
from inside_subjects import conditioning, draw

import nodes


def load_nodes(packs: Sequence[str] = ()) -> None:
    """The host's extra nodes, and packs by their folders. RuntimeError for one that does not load."""
    asyncio.run(nodes.init_builtin_extra_nodes())
    installed = Path(folder_paths.get_folder_paths("custom_nodes")[0])
    sys.path.append(str(installed.parent))  # some import themselves as custom_nodes.NAME
    for folder in packs:
        link = installed / Path(folder).name
        link.unlink(missing_ok=True)
        link.symlink_to(folder)
        if not asyncio.run(nodes.load_custom_node(str(link))):
            raise RuntimeError(f"{folder} does not load in this host")


def node(name: str, /, later: dict[str, Any] | None = None, **inputs: Any) -> tuple[Any, ...]:
    """The outputs of a node; ``later`` are inputs that only newer versions of it have."""
    kind = nodes.NODE_CLASS_MAPPINGS[name]
    known = inspect.signature(
        getattr(kind, kind.FUNCTION if not hasattr(kind, "define_schema") else "execute")
    ).parameters
    inputs |= {key: value for key, value in (later or {}).items() if key in known}
    found = getattr(kind if hasattr(kind, "define_schema") else kind(), kind.FUNCTION)(**inputs)
    return tuple(getattr(found, "args", found))


#: The blocks with attention in the order of an IPAdapter's file, as (side, block, depth): of SD 1.5 and of SDXL.
SD15_BLOCKS = [("input", i, 1) for i in (1, 2, 4, 5, 7, 8)] + [("output", i, 1) for i in range(3, 12)]
SDXL_BLOCKS = [("input", i, 2 if i < 7 else 10) for i in (4, 5, 7, 8)]
SDXL_BLOCKS += [("output", i, 10 if i < 3 else 2) for i in range(6)]


def ipadapter(model: Any, weight: float = 1.0) -> Any:
    """A MODEL with a random IPAdapter-plus (16 tokens), by ComfyUI_IPAdapter_plus."""
    package = nodes.NODE_CLASS_MAPPINGS["IPAdapterEmbeds"].__module__.rpartition(".")[0]
    torch.manual_seed(0)  # the same one at every call
    unet, context = model.model.diffusion_model, model.model.model_config.unet_config["context_dim"]
    sdxl = context == 2048
    widths = {"dim": 1280 if sdxl else 768, "heads": 20 if sdxl else 12, "output_dim": context}
    projection = sys.modules[f"{package}.image_proj_models"].Resampler(
        depth=4, dim_head=64, num_queries=16, embedding_dim=1280, ff_mult=4, **widths
    )
    sides = {"input": unet.input_blocks, "middle": [unet.middle_block], "output": unet.output_blocks}
    blocks = [*SDXL_BLOCKS, ("middle", 0, 10)] if sdxl else [*SD15_BLOCKS, ("middle", 0, 1)]
    layers = {}
    for number, (side, i) in enumerate((side, i) for side, i, depth in blocks for _ in range(depth)):
        # A smaller model lacks some blocks; the pack wants weights for all of them.
        found = [m for m in sides[side][i].modules() if hasattr(m, "attn2")] if i < len(sides[side]) else []
        width = found[0].attn2.to_k.out_features if found else 320
        for part in "kv":
            layers[f"{2 * number + 1}.to_{part}_ip.weight"] = draw(width, context, seed=number) * context**-0.5
    given = {"model": model, "ipadapter": {"image_proj": projection.state_dict(), "ip_adapter": layers}}
    given |= {"pos_embed": draw(1, 257, 1280, seed=8), "neg_embed": torch.zeros(1, 257, 1280)}
    settings = {"weight": weight, "weight_type": "linear", "start_at": 0.0, "end_at": 1.0}
    return node("IPAdapterEmbeds", **given, **settings)[0]


def adaptive(model: Any) -> torch.Tensor:
    """dpm_adaptive takes as many steps as its tolerance asks for: on random weights, which predict no noise, next to
    endless with the usual one."""
    settings = {"order": 3, "rtol": 5.0, "atol": 5.0, "h_init": 0.5, "pcoeff": 0.0, "icoeff": 1.0, "dcoeff": 0.0}
    (sampler,) = node("SamplerDPMAdaptative", **settings, accept_safety=0.81, eta=0.0, s_noise=1.0)
    (sigmas,) = node("BasicScheduler", model=model, scheduler="karras", steps=3, denoise=1.0)
    given = {"positive": conditioning(1), "negative": conditioning(2), "sampler": sampler, "sigmas": sigmas}
    given |= {"model": model, "add_noise": True, "noise_seed": 3, "cfg": 7.0}
    return node("SamplerCustom", **given, latent_image={"samples": torch.zeros(1, 4, 16, 16)})[0]["samples"]
