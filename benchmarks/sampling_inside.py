"""Run by benchmarks/sampling.py inside a ComfyUI: the floating-point work of each variant, then all of them in turn."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import comfy.controlnet
import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import apply_subject, attention, base_model, sampling_run, ssr
from comfyui_p3s.nodes.host.sampling_run import SamplingRun, SubjectOnModel
from comfyui_p3s.nodes.host.ssr import SSROnModel, SSRRun
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.network.subject_copy import SubjectCopy
from comfyui_p3s.p3s.network.subject_tokens import SubjectTokens
from comfyui_p3s.p3s.network.unet_config import SDXL, UNetConfig
from comfyui_p3s.p3s.sampling.application import Application
from comfyui_p3s.p3s.sampling.schedule import Schedule
from comfyui_p3s.p3s.sampling.settings import EXACT, FAST, STANDARD, SamplingSettings
from comfyui_p3s.p3s.ssr.attend import AppliedSSR
from comfyui_p3s.p3s.ssr.embeds import QUERY_TOKENS, Embed, SubjectEmbeds
from comfyui_p3s.p3s.ssr.layers import SubjectLayers
from comfyui_p3s.p3s.subject.file import Subject, SubjectReference
from partial_results import keep
from random_models import bare_control, bare_model, random_control, random_model
from rounds import measure
from torch._subclasses.fake_tensor import FakeTensorMode, unset_fake_temporarily
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

sys.path.append(str(Path(__file__).parents[1] / "tests" / "host"))

from inside_peers import ipadapter, load_nodes, node
from inside_ssr_subjects import SIZES, apply_ssr, random_encoder
from inside_subjects import draw, load, sample, subject_for

PLAIN, CONTROLNET = "plain model", "ControlNet"
COMPILED = ", compiled"  # by the host's TorchCompileModel


def reference_only(model: Any) -> Any:
    """A second pass of the whole U-Net on a noised reference, whose self-attention inputs the first one sees too."""

    def wrapper(executor, x, timesteps, context=None, y=None, control=None, transformer_options={}, **kwargs):  # noqa: B006
        kept: dict[Any, torch.Tensor] = {}

        def write(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> Any:
            kept[extra["block"]] = k
            return q, k, v

        def read(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, extra: Any) -> Any:
            f = kept[extra["block"]]
            return q, torch.cat([k, f], 1), torch.cat([v, f], 1)

        for patched, given in ((write, x + torch.ones_like(x)), (read, x)):
            options = {**transformer_options, "patches": {"attn1_patch": [patched]}}
            out = executor(given, timesteps, context, y, control, options, **kwargs)
        return out

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "reference-only", wrapper)
    return clone


@dataclass(frozen=True)
class Use:
    """A subject by its number, kind and depth_stride, and how it is applied. ``side`` is the half of the image that it
    is masked to, ``without`` the side of the U-Net whose layers do not read it. ``shown``, for a subject network that
    runs once: the share of its photo that shows it."""

    number: int = 1
    kind: str = "full"
    stride: int = 1
    settings: SamplingSettings = EXACT
    weight: float = 1.0
    side: str = ""
    without: str = ""
    shown: float | None = None

    def copy_settings(self) -> dict[str, Any]:
        """The settings of its copy."""
        once = {} if self.shown is None else {"copy_input": "cached"}
        return {"kind": self.kind, "depth_stride": self.stride, **once}

    def subject_mask(self, size: int) -> torch.Tensor | None:
        """A square in the middle of its photo of ``size`` x ``size`` latent pixels."""
        if self.shown is None:
            return None
        mask, side = torch.zeros(size, size), round(size * self.shown**0.5)
        first = (size - side) // 2
        mask[first : first + side, first : first + side] = 1
        return mask

    def application(self, size: int, config: UNetConfig) -> Application:
        layers = {layer: 0.0 for layer in config.layers() if layer.side == self.without}
        mask = None
        if self.side:
            half = torch.zeros(size, size)
            half[:, : size // 2] = 1
            mask = EffectMask(half if self.side == "left" else 1 - half)
        return Application(Schedule("fixed", value=self.weight), settings=self.settings, mask=mask, layers=layers)


CONDITIONAL = SamplingSettings("conditional")
SHOWN = 1 / 6  # of a photo shows the subject
P3S = {
    "P3S, exact": (Use(),),
    "P3S, exact, a low-rank subject": (Use(3, "lora"),),
    "P3S, exact, conditional half": (Use(settings=CONDITIONAL),),
    "P3S, standard": (Use(settings=STANDARD),),
    "P3S, fast": (Use(settings=FAST),),
    "P3S, cached, exact": (Use(4, shown=SHOWN),),
    "P3S, cached, standard": (Use(4, settings=STANDARD, shown=SHOWN),),
    "P3S, cached, standard, it fills the photo": (Use(5, settings=STANDARD, shown=1.0),),
    "P3S, cached, standard, pool 2": (Use(4, settings=replace(STANDARD, pool=2), shown=SHOWN),),
    "P3S, cached, standard, one to one": (Use(4, settings=replace(STANDARD, pairing="one_to_one"), shown=SHOWN),),
    "P3S, cached, standard, without input layers": (Use(4, settings=STANDARD, without="input", shown=SHOWN),),
    "P3S, cached, standard, without output layers": (Use(4, settings=STANDARD, without="output", shown=SHOWN),),
    "P3S, off": (Use(weight=0.0),),
    "P3S, exact, masked to a half": (Use(side="left"),),
    "P3S, exact, two subjects": (Use(), Use(2)),
    "P3S, exact, two subjects, a half each": (Use(side="left"), Use(2, side="right")),
    "P3S, fast, two subjects, a half each": (Use(settings=FAST, side="left"), Use(2, settings=FAST, side="right")),
}
LOW = Use(kind="lora")
#: Of SDXL, where subjects are low-rank.
P3S_SDXL = {
    "P3S, exact": (LOW,),
    "P3S, exact, depth_stride 10": (replace(LOW, number=2, stride=10),),
    "P3S, exact, a full copy": (Use(3),),
    "P3S, exact, conditional half": (replace(LOW, settings=CONDITIONAL),),
    "P3S, exact, conditional half, reuse 3": (replace(LOW, settings=replace(CONDITIONAL, reuse=3)),),
    "P3S, standard": (replace(LOW, settings=STANDARD),),
    "P3S, fast": (replace(LOW, settings=FAST),),
    "P3S, cached, standard": (replace(LOW, number=4, settings=STANDARD, shown=SHOWN),),
    "P3S, off": (replace(LOW, weight=0.0),),
}
#: Subjects of SSR-Encoder, in one softmax.
SSR = {"SSR-Encoder": 1, "SSR-Encoder, two subjects": 2}
OTHERS = (PLAIN, CONTROLNET, "IPAdapter-plus", "reference-only")
#: Of each family: the configuration of its U-Net in full size, and P3S's variants.
FAMILIES: dict[str, tuple[UNetConfig, Mapping[str, Sequence[Use]]]] = {
    "sd15": (UNetConfig.build(), P3S),
    "sdxl": (UNetConfig.build(**SDXL), P3S_SDXL),
}
#: The smallest that the host takes for the family.
TINY = {
    "sd15": UNetConfig.build(320, (1,), 1, (1,)),
    "sdxl": UNetConfig.build(res_blocks=1, **{**SDXL, "channel_mult": (1, 1, 1), "transformer_depth": (0, 2, 5)}),
}


def prompt(config: UNetConfig, seed: int) -> list[Any]:
    """A conditioning as wide as the U-Net reads it, with the pooled text that SDXL reads beside it."""
    return [[draw(1, 77, config.context_dim, seed=seed), {"pooled_output": draw(1, 1280, seed=seed)}]]


def ssr_embeds(config: UNetConfig, count: int) -> SubjectEmbeds:
    """Random subjects of the released sizes."""
    shape = 1, SIZES["scales"] * QUERY_TOKENS, SIZES["query"]
    subjects = [Embed(draw(*shape, seed=60 + i), draw(*shape, seed=80 + i)) for i in range(count)]
    return SubjectEmbeds(tuple(subjects), random_encoder(config))


def variant(
    name: str,
    model: Any,
    side: int,
    uses: Mapping[str, Sequence[Use]] | None = None,
    subject: Callable[[Use], Any] | None = None,
) -> Any:
    """The MODEL of a variant; ControlNet's is the plain one. ``uses``: P3S's variants; ``subject`` gives a use's."""
    if name == "IPAdapter-plus":
        return ipadapter(model)
    if name == "reference-only":
        return reference_only(model)
    if name in SSR:
        return apply_ssr(model, ssr_embeds(base_model.unet_config(model), SSR[name]))
    for use in (uses or {}).get(name, ()):
        assert subject is not None
        one = subject(use)
        model = apply_subject.apply_subject(model, one, 0, use.application(side, base_model.unet_config(model)))[0]
    return model


class Shapes:
    """A U-Net of ``config``, a ControlNet and subjects as shapes in the host's own classes: counts floating-point work
    and does none of it. ``side``: of the latent; ``uses``: P3S's variants."""

    def __init__(self, config: UNetConfig, side: int, uses: Mapping[str, Sequence[Use]]) -> None:
        self.side, self.uses = side, uses
        self.mode = FakeTensorMode(allow_non_fake_inputs=True)
        device = torch.device("cpu")
        with self.mode:
            self.model = ModelPatcher(bare_model(config, torch.float32, device), device, device)
            self.control = bare_control(config, torch.float32, device)
        self.config = base_model.unet_config(self.model)

    @contextmanager
    def counting(self) -> Iterator[FlopCounterMode]:
        """What reads a tensor is answered: the branches of the guidance are equal, masks and the weight are real."""
        real_groups, real_weight = attention.query_groups, SamplingRun.weight

        def tokens(mask: torch.Tensor) -> SubjectTokens:
            with unset_fake_temporarily():
                return SubjectTokens(mask)  # of its own, because it keeps shapes without values

        def groups(*args: Any) -> Any:
            with unset_fake_temporarily():
                return real_groups(*args)

        def weight(run: SamplingRun, index: int, timesteps: torch.Tensor, options: Mapping[str, Any]) -> Any:
            with unset_fake_temporarily():
                found = real_weight(run, index, torch.full((1,), 500.0), {})
                return None if found is None else float(found)

        with (
            mock.patch.object(sampling_run, "repeated", lambda x, timesteps, chunks, channels: (chunks > 1,) * 2),
            mock.patch.object(attention, "query_groups", groups),
            mock.patch.object(SubjectTokens, "of", tokens),
            mock.patch.object(SamplingRun, "weight", weight),
            sdpa_kernel(SDPBackend.MATH),  # of the fused ones not every torch counts all
            torch.no_grad(),
            self.mode,
            FlopCounterMode(display=False) as counter,
        ):
            yield counter

    def applied(self, use: Use) -> SubjectOnModel:
        application = use.application(self.side, self.config)
        if application.mask is not None:  # or it would keep shapes without values
            for scale in (1, 2, 4, 8):
                application.mask.tokens((self.side // scale, self.side // scale))
        with self.mode:
            settings = CopySettings(**use.copy_settings())
            copy = SubjectCopy(self.config, settings, 1024, comfy.ops.manual_cast)
            copy.borrow(self.model.model.diffusion_model)
            latent, tokens = torch.zeros(4, self.side, self.side), torch.zeros(257, 1024)
        reference = SubjectReference(latent, tokens, use.subject_mask(self.side))
        return SubjectOnModel(copy.requires_grad_(False), reference, application, application.schedule)

    def applied_ssr(self, count: int) -> SSROnModel:
        embeds = ssr_embeds(self.config, count)
        with self.mode:
            state = {key: torch.zeros(tensor.shape) for key, tensor in embeds.model.layers.items()}
            layers = SubjectLayers.from_state_dict(state, self.config, comfy.ops.manual_cast)
        return SSROnModel(AppliedSSR(embeds), layers)

    def options(self, name: str, subjects: Sequence[SubjectOnModel]) -> dict[str, Any]:
        """The transformer_options of a call, as the host gives them, with what a run keeps."""
        patched = self.model if subjects or name in SSR else variant(name, self.model, self.side)
        options = dict(patched.model_options["transformer_options"])
        options |= {"cond_or_uncond": [1, 0], "uuids": ["a", "b"], "wrappers": patched.wrappers}
        if subjects:
            made, key, run = (
                apply_subject.wrappers(subjects, self.config),
                apply_subject.KEY,
                SamplingRun(subjects, model=self.model),
            )
        elif name in SSR:
            on_model = (self.applied_ssr(SSR[name]),)
            made, key, run = ssr.wrappers(on_model), ssr.KEY, SSRRun(on_model)
        else:
            return options
        wrapper = made[WrappersMP.DIFFUSION_MODEL]
        return {**options, "wrappers": {WrappersMP.DIFFUSION_MODEL: {key: [wrapper]}}, key: run}

    def work(self, name: str) -> dict[str, float]:
        """TFLOP of a step with guidance, averaged over a run if features are used again or it ends early; "first": that
        of the first one, where it makes what the others read, and what other runs read."""
        subjects = tuple(self.applied(use) for use in self.uses.get(name, ()))
        with mock.patch.object(comfy.model_management, "get_torch_device", lambda: torch.device("cpu")):
            options = self.options(name, subjects)  # all on one device, also where there is a GPU
        once = name in SSR or any(s.copy.settings.cached for s in subjects)
        first = {"first": self.steps(name, options, 1)} if once else {}
        tflop = self.steps(name, options, max([s.application.settings.reuse for s in subjects], default=1))
        end = max([s.application.settings.end for s in subjects], default=1.0)
        if end != 1.0:
            tflop = end * tflop + (1 - end) * self.work(PLAIN)["tflop"]
        return {"tflop": tflop} | first

    def steps(self, name: str, options: Mapping[str, Any], count: int) -> float:
        """TFLOP of the next steps of a run, on average."""
        run = options.get(apply_subject.KEY)
        with self.counting() as counter:
            x, t = torch.zeros(2, 4, self.side, self.side), torch.full((2,), 500.0)
            context, label = torch.zeros(2, 77, self.config.context_dim), self.config.label_dim
            given: dict[str, Any] = {"y": torch.zeros(2, label)} if label else {}
            for _ in range(count):
                if name == CONTROLNET:
                    hint = torch.zeros(2, 3, 8 * self.side, 8 * self.side)
                    made = self.control(x=x, hint=hint, timesteps=t, context=context, y=given.get("y"))
                    given["control"] = {key: list(parts) for key, parts in made.items()}
                # IPAdapter-plus would read it.
                step = options if run is None else {**options, "sigmas": torch.zeros(1)}
                if run is not None:
                    run.next_evaluation({})
                self.model.model.diffusion_model(x, t, context, transformer_options=step, **given)
        return counter.get_total_flops() / 1e12 / count


def runs(
    models: dict[str, Any], config: UNetConfig, arguments: dict[str, Any], control: Any
) -> dict[str, Callable[[], torch.Tensor]]:
    """Name -> a sampling run."""
    side, (positive, negative) = arguments["size"] // 8, (prompt(config, seed) for seed in (1, 2))
    settings = {"steps": arguments["steps"], "size": (side, side), "latent": torch.zeros(1, 4, side, side)}
    texts = {name: {"positive": positive, "negative": negative} for name in models}
    if CONTROLNET in models:
        hint = draw(1, 8 * side, 8 * side, 3).clamp(0, 1)
        given = {**texts[CONTROLNET], "control_net": control, "image": hint}
        found = node("ControlNetApplyAdvanced", **given, strength=1.0, start_percent=0.0, end_percent=1.0)
        texts[CONTROLNET] = dict(zip(("positive", "negative"), found, strict=False))
    return {name: partial(sample, m, **settings, **texts[name]) for name, m in models.items()}


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    load_nodes(arguments["peers"])
    torch.set_num_threads(arguments["threads"] or torch.get_num_threads())
    full, uses = FAMILIES[arguments["family"]]
    full = TINY[arguments["family"]] if arguments.get("tiny") else full
    known = (*OTHERS, *(SSR if arguments["family"] == "sd15" else ()), *uses)
    wanted = [text.strip() for text in arguments["only"].split(";") if text.strip()]
    whole, parts = [t for t in wanted if t in known], [t for t in wanted if t not in known]
    names = [n for n in known if n == PLAIN or not wanted or n in whole or any(text in n for text in parts)]
    names = [n for n in names if n != "IPAdapter-plus" or arguments["peers"]]

    size, work_side = arguments["size"], arguments["work_size"] // 8
    shapes = cache(lambda: Shapes(full, work_side, uses))  # slow to make, and not needed where all is counted
    found: dict[str, dict[str, Any]] = {}
    counted = arguments.get("counted") or {}
    for name in names:
        work = counted.get(name) or shapes().work(name)
        plain = found.get(PLAIN, work)["tflop"]
        found[name] = {**work, "work": work["tflop"] / plain}
        print(f"{name}: {work['tflop']:.3f} TFLOP, {found[name]['work']:.3f}", flush=True)
        if "first" in work:
            print(
                f"  the first step, which makes what the others read: {work['first']:.3f}, {work['first'] / plain:.3f}"
            )
    if arguments["rounds"]:
        model, side = load(arguments["checkpoint"]) if arguments["checkpoint"] else random_model(full), size // 8
        config, control = base_model.unet_config(model), arguments["controlnet"]
        if CONTROLNET in names and not arguments["checkpoint"]:
            control = random_control(full)
        elif control:
            control = comfy.controlnet.load_controlnet(control)

        @cache
        def trained(use: Use) -> Subject:
            found = subject_for(model, use.number, **use.copy_settings())
            latent, mask = draw(4, side, side, seed=use.number), use.subject_mask(side)
            return replace(found, references=(SubjectReference(latent, found.references[0].tokens, mask),))

        def subject(use: Use) -> Subject:
            return trained(Use(use.number, use.kind, use.stride, shown=use.shown))

        models = {name: variant(name, model, side, uses, subject) for name in names if name != CONTROLNET or control}
        twins = [name for name in models if arguments.get("compiled") and (name == PLAIN or name in uses)]
        models |= {
            name + COMPILED: node("TorchCompileModel", model=models[name], backend="inductor")[0] for name in twins
        }
        found |= {name + COMPILED: dict(found[name]) for name in twins}
        if (config, side) == (full, work_side):
            work = {name: found[name]["work"] for name in models}
        else:
            own = Shapes(config, side, uses)
            plain = own.work(PLAIN)["tflop"]
            work = {name: own.work(name.removesuffix(COMPILED))["tflop"] / plain for name in models}
        timed, device = runs(models, config, arguments, control), comfy.model_management.get_torch_device()
        for figures in measure(timed, PLAIN, arguments["rounds"], device, comfy.model_management.unload_all_models):
            for name, each in figures.items():
                found[name] |= {**each, "seconds": each["seconds"] / arguments["steps"], "own": work[name]}
            keep(arguments, found)
    return found
