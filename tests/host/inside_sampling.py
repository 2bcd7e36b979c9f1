"""Run by test_sampling.py inside a host: what a sampling run computes, shares, keeps and asks for."""

from __future__ import annotations

import gc
import weakref
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import comfy.model_management
import comfy.samplers
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import apply_subject, base_model
from comfyui_p3s.p3s.network.injection import EffectMask, Injection, InjectionHooks
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.sampling.schedule import Schedule
from comfyui_p3s.p3s.sampling.settings import STANDARD, SamplingSettings, feature_values, injection
from inside_subjects import apply, call, conditioning, difference, draw, inputs, load, sample, subject_for
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

#: Operators whose result is a number on the processor: on a GPU each of them waits for it.
READS = ("_local_scalar_dense", "item", "equal", "is_nonzero", "nonzero", "_unique2", "unique_dim")
LEFT = EffectMask(torch.cat([torch.ones(12, 5), torch.full((12, 2), 0.5), torch.zeros(12, 5)], 1))
RIGHT = EffectMask(1 - LEFT._mask[0])


class Reads(TorchDispatchMode):
    """Counts what makes the processor wait for the GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in READS:
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


class Watch:
    """Counts the rows that a module is given, at each of its calls."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.rows: list[int] = []
        self.handle = module.register_forward_pre_hook(lambda _, args: self.rows.append(len(args[0])))

    def __enter__(self) -> list[int]:
        return self.rows

    def __exit__(self, *_: Any) -> None:
        self.handle.remove()


def copies(model: Any) -> list[Any]:
    return [p.model for p in model.get_additional_models_with_key(apply_subject.KEY)]


def first_attention(model: Any) -> torch.nn.Module:
    return model.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn1.to_q


def agreement(model: Any) -> dict[str, float]:
    """One U-Net call of the host under masks, several subjects and faster settings, against the core's own."""
    subjects = [subject_for(model, 1), subject_for(model, 2)]
    x, t, context = inputs(size=8)
    with torch.inference_mode(False):
        base = UNet.from_state_dict(base_model.base_weights(model))
    made = [apply_subject.build_copy(base.config, s, torch.float32) for s in subjects]
    references = [s.references[0] for s in subjects]
    conditions = [c.condition(r.latent[None], r.tokens[None]) for c, r in zip(made, references, strict=True)]

    def ours(x: torch.Tensor, *used: tuple[int, float, dict[str, Any]]) -> torch.Tensor:
        parts: list[Injection] = []
        for number, weight, options in used:
            features = made[number](x, t, context, conditions[number])
            parts.append(injection(made[number], features, weight, **options))
        return base(x, t, context, InjectionHooks(*parts))

    def theirs(x: torch.Tensor, *used: tuple[int, float, dict[str, Any]]) -> torch.Tensor:
        patched = model
        for number, weight, options in used:
            options = {name: value for name, value in options.items() if name != "isolated"} | (
                {"isolate": 1.0} if options.get("isolated") else {}
            )
            patched = apply(patched, subjects[number], weight, **options)
        return call(patched, x, t, context)

    cases: dict[str, list[tuple[int, float, dict[str, Any]]]] = {
        "mask": [(0, 0.8, {"mask": LEFT})],
        "two subjects": [(0, 0.8, {}), (1, 1.1, {})],
        "two masks": [(0, 0.8, {"mask": LEFT}), (1, 1.1, {"mask": RIGHT})],
        "one of two masked": [(0, 0.8, {"mask": LEFT}), (1, 1.1, {})],
        "pooled": [(0, 0.8, {"settings": SamplingSettings(pool=2)})],
        "one to one": [(0, 0.8, {"settings": SamplingSettings(pairing="one_to_one")})],
        "all at once": [
            (0, 0.8, {"mask": LEFT, "settings": SamplingSettings(pool=2)}),
            (1, 1.1, {"mask": RIGHT, "settings": SamplingSettings(pool=2, pairing="one_to_one")}),
        ],
        "weight on attention": [
            (0, 0.2, {"weight_on": "attention", "layers": {base.config.layers()[1]: 0.5}}),
            (1, 1.1, {"weight_on": "attention", "mask": RIGHT, "settings": SamplingSettings(pool=2)}),
        ],
        "isolated": [(0, 0.8, {"mask": LEFT}), (1, 1.1, {"mask": RIGHT, "isolated": True})],
    }
    found = {name: difference(theirs(x, *used), ours(x, *used)) for name, used in cases.items()}
    # Rows that repeat themselves, as the branches of the guidance do, are computed once where they are still equal.
    twice = x[:1].repeat(2, 1, 1, 1)
    for name in ("two subjects", "two masks"):
        with Watch(first_attention(model)) as rows:
            found[f"{name}, branches"] = difference(theirs(twice, *cases[name]), ours(twice, *cases[name]))
        found[f"{name}, branches, rows"] = float(rows[-1])
    return found


def sharing(model: Any) -> dict[str, Any]:
    """What is computed once for both branches of the guidance, and when it is not."""
    applied = apply(model, subject_for(model))
    (copy,) = copies(applied)
    watched = {"copy": copy.unet.input_blocks[0][0], "base": first_attention(model)}

    def rows(run: Callable[[], Any]) -> dict[str, list[int]]:
        with Watch(watched["copy"]) as in_copy, Watch(watched["base"]) as in_base:
            run()
        return {"copy": in_copy, "base": in_base}

    blocked = applied.clone()  # stands for any node that touches the way in
    blocked.set_model_input_block_patch(lambda h, options: h)
    area = [*conditioning(1, area=(8, 8, 0, 0)), *conditioning(3, area=(8, 8, 8, 8))]
    return {
        "branches": rows(lambda: sample(applied)),
        "batch of three": rows(lambda: sample(applied, batch=3)),
        "another node": rows(lambda: sample(blocked)),
        "no guidance": rows(lambda: sample(applied, cfg=1.0)),
        "crops": rows(lambda: sample(applied, positive=area, cfg=1.0)),
    }


def reads(model: Any) -> dict[str, Any]:
    """Reads from the device in runs of two and of six steps, with and without a subject."""
    subject = subject_for(model)
    cases = {
        "plain": model,
        "subject": apply(model, subject),
        "two subjects and masks": apply(apply(model, subject, mask=LEFT), subject_for(model, 2), mask=RIGHT),
        "fast": apply(model, subject, settings=SamplingSettings(branches="conditional", reuse=3, pool=2)),
        "window": apply(model, subject, schedule=Schedule(end=0.7)),
        "weight on attention": apply(model, subject, schedule=Schedule(), weight_on="attention"),
        "isolated": apply(apply(model, subject, mask=LEFT, isolate=1.0), subject_for(model, 2), mask=RIGHT),
    }
    found: dict[str, Any] = {}
    for name, applied in cases.items():
        for steps in (2, 6):
            with Reads() as counter:
                sample(applied, steps=steps)
            found[f"{name}, {steps}"] = sum(counter.count.values())
    return found


def once(model: Any) -> dict[str, Any]:
    """What is computed how often in a run of five steps."""

    def runs(seen: Callable[[Any], torch.nn.Module], steps: int = 5, **application: Any) -> int:
        applied = apply(model, subject_for(model), **application)
        (copy,) = copies(applied)
        with Watch(seen(copy)) as rows:
            sample(applied, steps=steps)
        return len(rows)

    def image_latent(copy: Any) -> Any:
        return copy.image_latent.to_k

    def unet(copy: Any) -> Any:
        return copy.unet.input_blocks[0][0]

    return {
        "image latents": runs(image_latent),
        "copies": runs(unet),
        "copies, reuse 2": runs(unet, settings=SamplingSettings(reuse=2)),
        "copies, reuse 3 of the conditional half": runs(unet, settings=SamplingSettings("conditional", reuse=3)),
        "copies, early end": runs(unet, settings=SamplingSettings(end=0.5)),
        "copies, off": runs(unet, schedule=Schedule("fixed", value=0.0)),
        "copies, window": runs(unet, schedule=Schedule(start=0.2, end=0.8)),
    }


def predictions(model: Any, steps: int) -> list[torch.Tensor]:
    """The picture that each step of a run predicts."""
    found: list[torch.Tensor] = []
    sample(model, steps=steps, callback=lambda step, predicted, x, total: found.append(predicted.clone()))
    return found


def identities(model: Any) -> dict[str, bool]:
    """Bit for bit."""
    one, two = subject_for(model, 1), subject_for(model, 2)
    ones, zeros = EffectMask(torch.ones(5, 3)), EffectMask(torch.zeros(5, 3))
    plain, image = sample(model), sample(apply(model, one))
    conditional = SamplingSettings("conditional")
    fast = apply(model, one, settings=SamplingSettings("conditional", reuse=2, pool=2))
    first, again = sample(fast), sample(fast)
    masked = apply(model, one, mask=LEFT)
    # The steps are at 0, 0.5 and 1 of the denoising.
    late = predictions(apply(model, one, schedule=Schedule("fixed", start=0.6)), steps=3)
    before = [torch.equal(a, b) for a, b in zip(late, predictions(model, steps=3), strict=True)]
    apart = [
        predictions(apply(apply(model, one, mask=LEFT), two, mask=RIGHT, isolate=share), steps=3)
        for share in (0.0, 0.4, 0.6, 1.0)
    ]
    equal = [[torch.equal(a, b) for a, b in zip(some, apart[-1], strict=True)] for some in apart]
    return {
        "a mask of ones is no mask": torch.equal(sample(apply(model, one, mask=ones)), image),
        "a mask of zeros is the plain model": torch.equal(sample(apply(model, one, mask=zeros)), plain),
        "a second subject under zeros changes nothing": torch.equal(
            sample(apply(apply(model, one), two, mask=zeros)), image
        ),
        "a second subject of weight 0 changes nothing": torch.equal(
            sample(apply(apply(model, one), two, schedule=Schedule("fixed", value=0.0))), image
        ),
        "a mode's gain is a strength": torch.equal(
            sample(apply(model, one, settings=STANDARD)),
            sample(apply(model, one, STANDARD.gain, settings=replace(STANDARD, gain=1.0))),
        ),
        "zeros in the conditional half": torch.equal(
            sample(apply(model, one, mask=zeros, settings=conditional)), plain
        ),
        "a mask is another image": not torch.equal(sample(masked), image) and not torch.equal(sample(masked), plain),
        "a masked run repeats": torch.equal(sample(masked), sample(masked)),
        "a fast run repeats": torch.equal(first, again),
        "the branch without is plain": torch.equal(sample(model), plain),
        "steps before the window are plain": before == [True, True, False],
        "subjects are apart in the first part of the run": equal
        == [[False] * 3, [True, False, False], [True, True, False], [True] * 3],
        "one mask isolates nothing": torch.equal(
            sample(apply(apply(model, one, mask=LEFT, isolate=1.0), two)),
            sample(apply(apply(model, one, mask=LEFT), two)),
        ),
        "a weight of 1 on attention is one on features": torch.equal(
            sample(
                apply(
                    model,
                    one,
                    weight_on="attention",
                    schedule=Schedule("keyframes", keyframes=((0, 1), (0.9, 1), (1, 0))),
                )
            ),
            sample(apply(model, one, schedule=Schedule("keyframes", keyframes=((0, 1), (0.9, 1), (1, 0))))),
        ),
        "one strength in each half": not torch.equal(
            sample(apply(apply(model, one), two, settings=conditional)), sample(apply(apply(model, one), two))
        ),
    }


def memory(model: Any) -> dict[str, Any]:
    """Copies that are shared, and what the host is told."""
    subject = subject_for(model)
    one = apply(model, subject)
    branch = apply(model, subject, strength=0.5)
    both = apply(one, subject, strength=0.5, mask=LEFT)
    two = apply(one, subject_for(model, 2))
    (copy,) = copies(one)
    seen: list[float] = []

    def prepare(executor: Any, model: Any, noise_shape: Any, conds: Any, *args: Any, **kwargs: Any) -> Any:
        # What the host asks for each image, also where a node cuts their number.
        seen.append(model.model.memory_required([1, *noise_shape[1:]]))
        assert noise_shape[0] == 2
        return executor(model, noise_shape, conds, *args, **kwargs)

    asked = {}
    for name, applied in {"plain": model, "one": one, "same subject twice": both, "two": two}.items():
        probe = applied.clone()
        probe.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, "probe", prepare)
        sample(probe, steps=1, batch=2)
        asked[name] = seen.pop()
    shares = [p.data_ptr() for p in copy.parameters()]
    stored = {t.data_ptr() for t in subject.weights.values()}
    facts = {
        "asked for": asked,
        "needed": sum(
            4 * apply_subject.compute_dtype(model).itemsize * feature_values(c, 16 * 16) for c in copies(one)
        ),
        "one copy in two branches": copies(branch) == [copy],
        "one copy in a chain": copies(both) == [copy],
        "two subjects, two copies": len(copies(two)) == 2,
        "weights are not copied": apply_subject.compute_dtype(model) != torch.float32
        or all(p in stored for p in shares),
    }
    gone = weakref.ref(copy)
    del one, both, two, applied, probe
    gc.collect()
    sample(branch, steps=1)
    # What the host takes for a leak it reports at every run from then on, and keeps in its list.
    facts["to the host no copy is a leak"] = not any(m.is_dead() for m in comfy.model_management.current_loaded_models)
    comfy.model_management.unload_all_models()
    del branch, copy
    gc.collect()
    facts["an unused copy is freed"] = gone() is None
    return facts


def price(model: Any) -> dict[str, float]:
    """FLOPs of a step of two branches relative to the plain model, as the host runs it."""
    twice = draw(1, 4, 16, 16).repeat(2, 1, 1, 1), *inputs()[1:]

    def flops(applied: Any) -> float:
        with FlopCounterMode(display=False) as counter:
            call(applied, *twice)
        return counter.get_total_flops()

    subject = subject_for(model)
    plain = flops(model)
    half = torch.zeros(16, 16)
    half[:, :8] = 1
    left, right = EffectMask(half), EffectMask(1 - half)
    found = {
        "exact": apply(model, subject),
        "half masked": apply(model, subject, mask=left),
        "two subjects": apply(apply(model, subject), subject_for(model, 2)),
        "two subjects, a half each": apply(apply(model, subject, mask=left), subject_for(model, 2), mask=right),
        "off": apply(model, subject, schedule=Schedule("fixed", value=0.0)),
    }
    return {name: flops(applied) / plain for name, applied in found.items()}


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    topo, micro = load(arguments["topo"]), load(arguments["micro"])
    return {
        "agreement": agreement(topo),
        "sharing": sharing(micro),
        "reads": reads(micro),
        "once": once(micro),
        "identities": identities(micro),
        "memory": memory(micro),
        "price": price(micro),
    }
