"""Run by test_chaining.py inside a host: every case of chaining.py, in every order. Returns how each went.

A case *works* where its pictures are those of inside_literal.py beside the same other node, or those of another way to
the same picture, and where both the subject and the other node change them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import cache, partial
from typing import Any
from unittest import mock

import comfy.model_management
import comfy.samplers
import torch
from comfyui_p3s.p3s.errors import P3SError
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.sampling.schedule import Schedule
from comfyui_p3s.p3s.sampling.settings import SamplingSettings
from inside_animatediff import OWN as WITH_ANIMATEDIFF
from inside_literal import Literal, literal
from inside_peers import adaptive, load_nodes, node
from inside_ssr_chaining import PREFIX, SSRChain
from inside_ssr_chaining import run_case as run_ssr_case
from inside_subjects import apply, conditioning, difference, draw, inputs, load, sample, subject_for
from inside_verdicts import CONDITIONAL, HALF, REUSED, SEEN, VARIANTS, Chain, same


def on_the_wire(chain: Chain, other: Callable[[Any], Any], order: str, variant: str = "", more_steps: int = 0) -> str:
    steps = chain.steps + more_steps
    ours, written = (partial(m, **use) for m, use in zip((chain.ours, chain.written), VARIANTS[variant], strict=True))

    def both(subject: Callable[..., Any]) -> torch.Tensor:
        chained = subject(other(chain.model))
        return sample(other(subject(chain.model)) if order == "after" else chained, steps=steps)

    image = both(ours)
    found = same(image, both(written), chain.without(other, steps))
    if found == "works" and difference(image, chain.image(True, variant, steps=steps)) < SEEN:
        return "the other node does not act"
    return found


def in_sampling(chain: Chain, changes: dict[str, Any], variant: str = "") -> str:
    settings: dict[str, Any] = {"steps": chain.steps, **changes}
    ours, written = (partial(m, **use) for m, use in zip((chain.ours, chain.written), VARIANTS[variant], strict=True))
    image = sample(ours(chain.model), **settings)
    found = same(image, sample(written(chain.model), **settings), sample(chain.model, **settings))
    if found == "works" and difference(image, chain.image(True, variant, steps=settings["steps"])) < SEEN:
        return "it does not act"
    return found


def second_subject(chain: Chain, order: str) -> str:
    one, two = chain.subject, subject_for(chain.model, 2)
    first, second = (one, two) if order == "after" else (two, one)
    image = sample(apply(apply(chain.model, first), second), steps=chain.steps)
    return same(
        image, sample(literal(chain.model, first, second), steps=chain.steps), chain.image(True, steps=chain.steps)
    )


def unchanged(chain: Chain, other: Callable[[Any], Any], order: str, batch: int = 1, **application: Any) -> str:
    """Nodes that change how a picture is computed, not which."""
    ours = chain.ours(chain.model, **application)
    both = other(ours) if order == "after" else chain.ours(other(chain.model), **application)
    # Context Windows of 0.3.64 samples as many images as there are sigmas.
    settings = {"steps": chain.steps if batch == 1 else batch - 1, "batch": batch}
    return same(sample(both, **settings), sample(ours, **settings), chain.image(False, **settings))


def nag_conditional(chain: Chain, order: str) -> str:
    """NAGuidance compares the rows of the prompt with the others inside a call: they cannot be written out apart."""
    ours, written = (
        partial(chain.ours, settings=CONDITIONAL),
        partial(chain.written, guidance="conditional", together=True),
    )

    def both(subject: Callable[[Any], Any]) -> torch.Tensor:
        chained = chain.nag(subject(chain.model)) if order == "after" else subject(chain.nag(chain.model))
        return sample(chained, steps=chain.steps)

    image = both(ours)
    if difference(image, chain.image(True, "-conditional", steps=chain.steps)) < SEEN:
        return "NAGuidance does not act"
    return same(image, both(written), chain.without(chain.nag, chain.steps))


def tiled_batch(chain: Chain, order: str, settings: SamplingSettings, method: str = "MultiDiffusion") -> str:
    """A batch of tiles, in which the rows of the prompts alternate, against one tile at a time."""

    def both(batch: int, subject: Callable[[Any], Any]) -> torch.Tensor:
        tiles = partial(chain.tiled, batch=batch, method=method)
        return sample(
            tiles(subject(chain.model)) if order == "after" else subject(tiles(chain.model)), steps=chain.steps
        )

    expected = both(1, partial(chain.written, guidance="conditional"))
    return same(both(4, partial(chain.ours, settings=settings)), expected, both(4, lambda model: model))


def attention_couple_by_masks(chain: Chain, order: str) -> str:
    """The older node, which replaces cross-attention and changes the prompts as well."""
    parts = []
    for seed, side in ((1, 0), (3, 1)):
        mask = torch.zeros(1, 128, 128)
        mask[:, :, 64 * side : 64 * side + 64] = 1
        given = {"conditioning": chain.conditioning(seed), "mask": mask, "strength": 1.0}
        parts += node("ConditioningSetMask", **given, set_cond_area="default")[0]

    def run(subject: Callable[[Any], Any]) -> torch.Tensor:
        given = {"positive": parts, "negative": chain.conditioning(2), "mode": "Attention"}
        before = subject(chain.model) if order == "after" else chain.model
        model, positive, negative = node("Attention couple", model=before, **given)
        model = model if order == "after" else subject(model)
        return sample(model, steps=chain.steps, positive=positive, negative=negative)

    return same(run(chain.ours), run(chain.written), run(lambda model: model))


def samplers(chain: Chain) -> str:
    wrong = []
    for name in comfy.samplers.KSampler.SAMPLERS:
        run = adaptive if name == "dpm_adaptive" else partial(sample, sampler=name, steps=chain.steps)
        found = same(*(run(model) for model in (chain.ours(chain.model), chain.written(chain.model), chain.model)))
        if found != "works":
            wrong.append(f"{name} ({found})")
    return f"not with {', '.join(wrong)}" if wrong else "works"


def guided(guider: Any, sampler: str, sigmas: torch.Tensor) -> torch.Tensor:
    (noise,), (sampler,) = node("RandomNoise", noise_seed=3), node("KSamplerSelect", sampler_name=sampler)
    given = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas}
    return node("SamplerCustomAdvanced", **given, latent_image={"samples": torch.zeros(1, 4, 16, 16)})[0]["samples"]


def few_steps(chain: Chain) -> str:
    """As distilled models are sampled, by a checkpoint or a LoRA: without guidance."""
    kinds = {"Turbo": "euler_ancestral", "Lightning": "euler", "LCM": "lcm"}

    def run(model: Any, kind: str) -> torch.Tensor:
        if kind == "LCM":
            (model,) = node("ModelSamplingDiscrete", model=model, sampling="lcm", zsnr=False)
        if kind == "Turbo":
            (sigmas,) = node("SDTurboScheduler", model=model, steps=1, denoise=1.0)
        else:
            (sigmas,) = node("BasicScheduler", model=model, scheduler="sgm_uniform", steps=4, denoise=1.0)
        (guider,) = node("BasicGuider", model=model, conditioning=chain.conditioning(1))
        return guided(guider, kinds[kind], sigmas)

    images = chain.ours(chain.model), chain.written(chain.model), chain.model
    wrong = [f"{kind} ({told})" for kind in kinds if (told := same(*(run(m, kind) for m in images))) != "works"]
    return f"not with {', '.join(wrong)}" if wrong else "works"


def guiders(chain: Chain, guidance: str) -> str:
    """Each guider's prompts get the subject, whatever it asks for first."""

    def run(model: Any, kind: str) -> torch.Tensor:
        positive, negative, empty = (chain.conditioning(seed) for seed in (1, 2, 3))
        given = {
            "BasicGuider": {"conditioning": positive},
            "CFGGuider": {"positive": positive, "negative": negative, "cfg": 5.0},
            "DualCFGGuider": {"cond1": positive, "cond2": empty, "negative": negative, "cfg_conds": 5.0}
            | {"cfg_cond2_negative": 3.0, "style": "regular"},
            "PerpNegGuider": {"positive": positive, "negative": negative, "empty_conditioning": empty}
            | {"cfg": 5.0, "neg_scale": 1.0},
        }[kind]
        (guider,) = node(kind, model=model, **given)
        (sigmas,) = node("BasicScheduler", model=model, scheduler="karras", steps=chain.steps, denoise=1.0)
        return guided(guider, "heun", sigmas)

    #: The numbers of the conditionings, in the order in which a guider asks for them, that are prompts.
    prompts = {"BasicGuider": {0}, "CFGGuider": {0}, "DualCFGGuider": {1, 2}, "PerpNegGuider": {0}}
    settings = CONDITIONAL if guidance == "conditional" else SamplingSettings()
    wrong = []
    for kind, numbers in prompts.items():
        written = literal(chain.model, Literal(chain.subject, guidance=guidance), prompts=numbers)
        images = (chain.ours(chain.model, settings=settings), written, chain.model)
        found = same(*(run(model, kind) for model in images))
        if found != "works":
            wrong.append(f"{kind} ({found})")
    return f"not with {', '.join(wrong)}" if wrong else "works"


def part_of_run(model: Any, latent: torch.Tensor, start: int, end: int, steps: int = 4) -> torch.Tensor:
    """Some steps of a run, by KSampler (Advanced)."""
    given = {"model": model, "positive": conditioning(1, model=model), "negative": conditioning(2, model=model)}
    given |= {"noise_seed": 3, "steps": steps, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
    given |= {"add_noise": "enable" if start == 0 else "disable", "start_at_step": start, "end_at_step": end}
    given |= {"return_with_leftover_noise": "disable" if end == steps else "enable"}
    return node("KSamplerAdvanced", **given, latent_image={"samples": latent})[0]["samples"]


def advanced(chain: Chain) -> str:
    """Four steps in one run, and in two with the subject only in the middle of the schedule."""
    applied = apply(chain.model, chain.subject, schedule=Schedule("fixed", start=0.2, end=0.8))
    nothing = torch.zeros(1, 4, 16, 16)
    parts = part_of_run(applied, part_of_run(applied, nothing, 0, 2), 2, 4)
    return same(parts, part_of_run(applied, nothing, 0, 4), part_of_run(chain.model, nothing, 0, 4))


def refined(chain: Chain) -> str:
    """The last steps by SDXL's refiner, which has no subject."""
    refiner, nothing = load(chain.arguments["sdxl-refiner"]), torch.zeros(1, 4, 16, 16)

    def run(model: Any) -> torch.Tensor:
        return part_of_run(refiner, part_of_run(model, nothing, 0, 2), 2, 4)

    image = run(chain.ours(chain.model))
    if difference(image, part_of_run(chain.ours(chain.model), nothing, 0, 4)) < SEEN:
        return "the refiner does not act"
    return same(image, run(chain.written(chain.model)), run(chain.model))


def on_the_refiner(chain: Chain) -> str:
    apply(load(chain.arguments["sdxl-refiner"]), chain.subject)
    return "it is not refused"


@contextmanager
def without_memory(model: Any) -> Iterator[None]:
    """The host runs the branches of the guidance apart, as it believes that memory is short."""

    def full(*args: Any, torch_free_too: bool = False) -> Any:
        return (2**20, 2**20) if torch_free_too or True in args else 2**20

    with ExitStack() as stack:
        for owner in (comfy.model_management, type(model)):
            if hasattr(owner, "get_free_memory"):
                stack.enter_context(mock.patch.object(owner, "get_free_memory", full))
        yield


def split_batch(chain: Any) -> str:
    applied, plain = chain.ours(chain.model), sample(chain.model)
    with without_memory(chain.model):
        apart = sample(applied)
    return same(apart, sample(applied), plain)


def batch(chain: Chain, **application: Any) -> str:
    """Every image of a batch is what it is alone, from the same noise."""
    applied, noise = chain.ours(chain.model, **application), draw(3, 4, 16, 16, seed=5)
    together = sample(applied, batch=3, noise=noise)
    for i in range(3):
        row = slice(i, i + 1)
        found = same(*(sample(model, noise=noise[row]) for model in (applied, applied, chain.model)))
        found = found if found != "works" else same(together[row], sample(applied, noise=noise[row]), noise[row])
        if found != "works":
            return f"image {i}: {found}"
    return "works"


def concatenated(chain: Chain, kind: str) -> str:
    """Models that read more than the latent: here another picture with the prompt than with the negative prompt."""
    model = load(chain.arguments["sdxl-inpaint-slim" if chain.sdxl else f"sd15-{kind}-micro"])
    part = {"concat_latent_image": draw(1, 4, 16, 16, seed=9), "concat_mask": torch.ones(1, 1, 128, 128)}
    settings = {"positive": chain.conditioning(1, **part), "negative": chain.conditioning(2), "steps": chain.steps}
    images = (sample(made, **settings) for made in (chain.ours(model), chain.written(model), model))
    return same(*images)


def scaled_fp8(chain: Chain) -> str:
    """Weights in 8 bits with a scale, which a copy of the kind lora borrows."""
    settings = CopySettings.from_dict(chain.subject.info.copy_settings)
    for kind in (settings, replace(settings, kind="lora", rank=4)):
        subject = subject_for(chain.model, **kind.to_dict())
        models = (apply(chain.model, subject), literal(chain.model, subject), chain.model)
        found = same(*(sample(model, steps=chain.steps) for model in models))
        if found != "works":
            return f"{kind.kind}: {found}"
    return "works"


def sizes(chain: Chain) -> str:
    for size in ((24, 16), (16, 40), (13, 18), (33, 9)):
        settings = {"size": size, "latent": torch.zeros(1, 4, *size)}
        models = (chain.ours(chain.model), chain.written(chain.model), chain.model)
        found = same(*(sample(model, **settings) for model in models))
        if found != "works":
            return f"at {size}: {found}"
    return "works"


def several_gpus(chain: Chain) -> str:
    from comfy.patcher_extension import WrappersMP

    (wrapper,) = chain.ours(chain.model).wrappers[WrappersMP.DIFFUSION_MODEL]["p3s"]
    wrapper(None, *inputs(), transformer_options={"multigpu_thread_device": "cuda:1"})
    return "works"


#: The smallest models on which every part acts, where it is not the first: FreeU knows blocks by their widths, others
#: need several levels, and packs count on every block of the family.
SMALLEST = {"sd15": "micro", "sdxl": "slim"}
PRESETS = {"freeu": "wide", "freeu-v2": "wide", "deepshrink": "slim", "hypertile": "slim", "tome": "slim"}
PRESETS |= {"sizes": "slim", "scaled-fp8": "slim-scaled-fp8"}
PRESETS |= dict.fromkeys(("ipadapter", "reference-controlnet", "attention-couple-old"), "topo")
PRESETS |= dict.fromkeys(WITH_ANIMATEDIFF, "animate")
#: "sdxl-" and the name of a case is that case on SDXL.
SDXL = "sdxl-"
#: "cached-" and the name of a case is that case with a subject network that runs once.
CACHED = "cached-"

#: Cases that are more than a change of the model or of the conditioning; those with an order get it.
OWN: dict[str, Callable[..., str]] = {
    "second-subject": second_subject,
    # With more steps it skips not only the last, which changes little.
    "easycache": lambda chain, order: on_the_wire(chain, chain.easycache, order, more_steps=1 + chain.sdxl),
    "compile": lambda chain, order: unchanged(chain, chain.compile, order),
    "compile-with-mask": lambda chain, order: unchanged(chain, chain.compile, order, mask=HALF),
    "compile-conditional": lambda chain, order: unchanged(chain, chain.compile, order, settings=CONDITIONAL),
    "context-windows": lambda chain, order: unchanged(chain, chain.context_windows, order, batch=4),
    "context-windows-fast": lambda chain, order: unchanged(
        chain, chain.context_windows, order, batch=4, settings=REUSED
    ),
    "context-windows-masks": lambda chain, order: unchanged(
        chain, chain.context_windows, order, batch=4, mask=torch.rand(4, 6, 6, generator=torch.Generator())
    ),
    "nag-conditional": nag_conditional,
    "attention-couple-old": attention_couple_by_masks,
    "tiled-conditional": partial(tiled_batch, settings=CONDITIONAL),
    "tiled-fast": partial(tiled_batch, settings=REUSED),
    "tiled-moving": partial(tiled_batch, settings=REUSED, method="SpotDiffusion"),
    "samplers": samplers,
    "guiders": partial(guiders, guidance="both"),
    "guiders-conditional": partial(guiders, guidance="conditional"),
    "advanced": advanced,
    "few-steps": few_steps,
    "refiner": refined,
    "refiner-subject": on_the_refiner,
    "split-batch": split_batch,
    "batch": batch,
    "batch-conditional": partial(batch, settings=CONDITIONAL),
    "inpainting": partial(concatenated, kind="inpaint"),
    "instruct": partial(concatenated, kind="ic"),
    "scaled-fp8": scaled_fp8,
    "sizes": sizes,
    "several-gpus": several_gpus,
    **WITH_ANIMATEDIFF,
}


def told(run: Callable[[], str]) -> str:
    """How a case went: its own words, "refused: ..." or "fails: ..."."""
    try:
        return run()
    except P3SError as error:
        return f"refused: {error}"
    except Exception as error:  # a crash is a result too
        return f"fails: {type(error).__name__}: {error}"


def split(name: str) -> tuple[str, str]:
    """A case's name without its ending, and the ending, which is one of VARIANTS."""
    ending = "" if name in OWN else next(ending for ending in VARIANTS if name.endswith(ending))
    return name.removesuffix(ending), ending


def run_case(chain: Chain, name: str, order: str) -> str:
    if name in OWN:
        return OWN[name](chain, order) if order else OWN[name](chain)
    case, variant = split(name)
    other = getattr(chain, case.replace("-", "_"))
    return on_the_wire(chain, other, order, variant) if order else in_sampling(chain, other(), variant)


def main(arguments: dict[str, Any]) -> dict[str, dict[str, str]]:
    load_nodes(arguments["peers"])
    chain_of, ssr_of = cache(partial(Chain, arguments)), cache(partial(SSRChain, arguments))
    found: dict[str, dict[str, str]] = {}
    for name, orders in arguments["cases"].items():
        cached, plain = name.startswith(CACHED), name.removeprefix(CACHED)
        family = "sdxl" if plain.startswith(SDXL) else "sd15"
        case = plain.removeprefix(SDXL).removeprefix(PREFIX)
        model = f"{family}-{PRESETS.get(split(case)[0], SMALLEST[family])}"
        if not name.startswith(PREFIX):
            chain = chain_of(model, copy_input="cached") if cached else chain_of(model)
            run: Callable[[str], str] = partial(run_case, chain, case)
        elif case == "split-batch":
            run = partial(lambda chain, _: split_batch(chain), ssr_of(model))
        else:
            run = partial(run_ssr_case, ssr_of(model), case)
        found[name] = {order: told(partial(run, order)) for order in orders}
        print(name, found[name], flush=True)
    return found
