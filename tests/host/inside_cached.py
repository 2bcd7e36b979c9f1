"""Run by test_cached.py inside a host: subjects whose network runs once, and how long its features are kept."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.sd
import comfy.utils
import torch
from comfyui_p3s.nodes.host import apply_subject, kept_features
from comfyui_p3s.p3s.sampling.settings import SamplingSettings, feature_values
from inside_literal import Literal, literal
from inside_peers import load_nodes, node
from inside_subjects import apply, conditioning, difference, load, sample, subject_for
from torch.utils.flop_counter import FlopCounterMode

import nodes

CONDITIONAL = SamplingSettings("conditional")


def copy_of(model: Any) -> Any:
    (patcher,) = model.get_additional_models_with_key(apply_subject.KEY)
    return patcher.model


def runs_of(copy: Any, run: Callable[[], Any]) -> int:
    """How many times a copy is run."""
    calls: list[int] = []
    handle = copy.unet.register_forward_pre_hook(lambda *_: calls.append(0))
    try:
        run()
    finally:
        handle.remove()
    return len(calls)


def pictures(model: Any) -> dict[str, bool]:
    """Pictures against the equations written out, by which the copy runs in every call."""
    found = {}
    for name, settings in {
        "full": {},
        "low rank": {"kind": "lora", "rank": 4},
        "learned weight": {"weight": "learned"},
        "attn1": {"feature": "attn1"},
        "keys alone": {"lam": 0.0, "cross_attention": False},
    }.items():
        subject = subject_for(model, copy_input="cached", **settings)
        for way, ours, written in (
            ("both", {}, {}),
            ("conditional", {"settings": CONDITIONAL}, {"guidance": "conditional"}),
        ):
            image = sample(apply(model, subject, 0.8, **ours), batch=2, size=(24, 16))
            expected = sample(literal(model, Literal(subject, 0.8, **written)), batch=2, size=(24, 16))
            without = sample(model, batch=2, size=(24, 16))
            found[f"{name}, {way}"] = difference(image, expected) < 2e-3 and difference(without, expected) > 0.01
    subject = subject_for(model, copy_input="cached")
    found["strength 0 is plain"] = torch.equal(sample(apply(model, subject, 0.0)), sample(model))
    return found


def keeping(model: Any) -> dict[str, Any]:
    subject = subject_for(model, copy_input="cached")
    applied = apply(model, subject)
    copy = copy_of(applied)
    first: list[torch.Tensor] = []

    def all_of_them() -> None:
        first.append(sample(applied, steps=4))
        sample(applied, steps=4, seed=4)
        sample(applied, batch=3)
        sample(applied, positive=conditioning(7), cfg=1.0)
        sample(applied, size=(24, 40), latent=torch.zeros(1, 4, 24, 40))
        sample(apply(model, subject, 0.5, settings=CONDITIONAL))

    found: dict[str, Any] = {"runs of the copy": runs_of(copy, all_of_them)}
    found["a kept picture is the same"] = torch.equal(sample(applied, steps=4), first[0])
    comfy.model_management.unload_all_models()
    found["kept when unloaded"] = len(kept_features._kept.get(copy, ()))
    again: list[torch.Tensor] = []
    found["runs after unloading"] = runs_of(copy, lambda: again.append(sample(applied, steps=4)))
    found["and it is the same again"] = torch.equal(again[0], first[0])
    found["kept"] = len(kept_features._kept[copy])
    return found


def kept_for_nobody() -> int:
    comfy.model_management.unload_all_models()
    gc.collect()
    return len(kept_features._kept)


def loras(model: Any, lora: Any) -> dict[str, bool]:
    """A low-rank copy runs on the MODEL's weights: a LoRA on them changes its features, whatever was kept."""
    subject = subject_for(model, copy_input="cached", kind="lora", rank=4)
    applied = apply(model, subject)
    plain = sample(applied)
    patched, _ = comfy.sd.load_lora_for_models(applied, None, lora, 0.7, 0.0)
    with_lora = sample(patched)
    other, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)
    expected = sample(literal(other, subject))
    return {
        "with a LoRA it is that of the equations": difference(with_lora, expected) < 2e-3,
        "the LoRA acts": difference(with_lora, plain) > 0.01,
        "without it is as before": torch.equal(sample(applied), plain),
    }


def hook_loras(model: Any, name: str) -> dict[str, bool]:
    """A LoRA on one prompt alone: the copy of each prompt is that of its weights."""
    subject = subject_for(model, copy_input="cached", kind="lora", rank=4)
    (hooks,) = node("CreateHookLoraModelOnly", lora_name=name, strength_model=1.0)
    given = {"strength": 1.0, "set_cond_area": "default", "hooks": hooks}
    positive = node(
        "PairConditioningSetProperties", positive_NEW=conditioning(1), negative_NEW=conditioning(2), **given
    )
    (loaded,) = node("LoraLoaderModelOnly", model=model, lora_name=name, strength_model=1.0)
    both = sample(apply(model, subject), positive=positive[0], negative=positive[1])
    return {
        "on both prompts it is the LoRA": difference(both, sample(apply(loaded, subject))) < 2e-3,
        "it acts": difference(both, sample(apply(model, subject))) > 0.01,
    }


def bypass_loras(path: str, name: str) -> dict[str, bool]:
    """A LoRA in bypass mode changes the layers that a low-rank copy runs on, and leaves no other trace: what was kept
    before is no longer right with it, nor what was made with it without."""
    if "LoraLoaderBypassModelOnly" not in nodes.NODE_CLASS_MAPPINGS:
        return {}
    model = load(path)
    subject = subject_for(model, copy_input="cached", kind="lora", rank=4)

    def picture(bypassed: bool) -> torch.Tensor:
        applied = apply(model, subject)
        given = {"model": applied, "lora_name": name, "strength_model": 1.0}
        return sample(node("LoraLoaderBypassModelOnly", **given)[0] if bypassed else applied)

    def fresh(bypassed: bool) -> torch.Tensor:
        comfy.model_management.unload_all_models()
        return picture(bypassed)

    expected = {bypassed: fresh(bypassed) for bypassed in (False, True)}
    after = {"with it": picture(True), "without": picture(False)}
    return {
        "with it, after a run without": difference(after["with it"], expected[True]) < 2e-3,
        "without it, after a run with it": difference(after["without"], expected[False]) < 2e-3,
        "it acts": difference(expected[True], expected[False]) > 0.01,
    }


def price(model: Any) -> dict[str, float]:
    """FLOPs of a run of 4 steps relative to the plain model's, the first and a later one; and those of the same copy
    where it sees the noisy image."""

    def flops(applied: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            sample(applied, steps=4)
        return counter.get_total_flops()

    plain, subject = flops(model), subject_for(model, copy_input="cached")
    applied = apply(model, subject, settings=CONDITIONAL)
    noisy = apply(model, subject_for(model), settings=CONDITIONAL)
    return {"first": flops(applied) / plain, "later": flops(applied) / plain, "noisy": flops(noisy) / plain}


def memory(model: Any) -> dict[str, int]:
    """What the host is asked for beyond the plain model's, for an image of any size."""
    subject = subject_for(model, copy_input="cached")
    applied = apply(model, subject)
    needed = 4 * apply_subject.compute_dtype(model).itemsize * feature_values(copy_of(applied), 16 * 16)
    asked = {"needed": needed}
    for size in (16, 32):
        (run,) = applied.wrappers["prepare_sampling"][apply_subject.KEY]
        shape = [1, 4, size, size]
        seen = run(lambda _, noise_shape: noise_shape, model, shape)
        asked[f"asked for {size}"] = model.model.memory_required(seen) - model.model.memory_required(shape)
    return asked


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    load_nodes([])
    model = load(arguments["slim"])
    facts = {"pictures": pictures(model), "keeping": keeping(model), "kept for nobody": kept_for_nobody()}
    facts |= {"price": price(model), "memory": memory(model)}
    topo = load(arguments["topo"])
    facts["loras"] = loras(topo, comfy.utils.load_torch_file(arguments["lora-topo"]))
    micro = load(arguments["micro"])
    facts["hook loras"] = hook_loras(micro, "lora-micro.safetensors")
    facts["bypass loras"] = bypass_loras(arguments["micro"], "lora-micro.safetensors")
    return facts
