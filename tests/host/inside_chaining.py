"""Run by test_chaining.py inside a host: every case of chaining.py, in every order. Returns how each went."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache, partial
from typing import Any
from unittest import mock

import comfy.model_management
import comfy.samplers
import torch
from comfyui_p3s.p3s.errors import P3SError
from comfyui_p3s.p3s.injection import EffectMask
from inside_peers import adaptive, ipadapter, load_nodes, node
from inside_subjects import apply, conditioning, difference, draw, inputs, load, sample, subject_for

HALF = EffectMask(torch.cat([torch.ones(8, 4), torch.zeros(8, 4)], 1))
#: Below this share of the latent's size a change counts as none.
SEEN = 1e-3
#: Runs that are to be equal may differ by rounding.
EQUAL = 2e-3


class Chain:
    """The models, and one method for each case: it returns a MODEL for the cases with an order, else the changes to
    sampling that both the plain model and the one with the subject get."""

    def __init__(self, arguments: dict[str, Any], preset: str) -> None:
        self.arguments = arguments
        self.model = load(arguments[f"sd15-{preset}"])
        self.subject = subject_for(self.model)
        controlnet = arguments.get(f"controlnet-{preset}")
        self.control = comfy_controlnet(controlnet) if controlnet else None
        self.hint = draw(1, 128, 128, 3).clamp(0, 1)
        self.images: dict[Any, torch.Tensor] = {}
        self.alone: dict[Any, torch.Tensor] = {}

    # On the MODEL wire

    def lora(self, model: Any) -> Any:
        return node("LoraLoaderModelOnly", model=model, lora_name="lora-micro.safetensors", strength_model=1.0)[0]

    def freeu(self, model: Any) -> Any:
        return node("FreeU", model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]

    def freeu_v2(self, model: Any) -> Any:
        return node("FreeU_V2", model=model, b1=1.3, b2=1.4, s1=0.9, s2=0.2)[0]

    def hypertile(self, model: Any) -> Any:
        return node("HyperTile", model=model, tile_size=32, swap_size=1, max_depth=0, scale_depth=False)[0]

    def tome(self, model: Any) -> Any:
        return node("TomePatchModel", model=model, ratio=0.5)[0]

    def pag(self, model: Any) -> Any:
        return node("PerturbedAttentionGuidance", model=model, scale=3.0)[0]

    def sag(self, model: Any) -> Any:
        return node("SelfAttentionGuidance", model=model, scale=0.5, blur_sigma=2.0)[0]

    def deepshrink(self, model: Any) -> Any:
        settings = {"downscale_method": "bicubic", "upscale_method": "bicubic", "downscale_after_skip": True}
        settings |= {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.6}
        return node("PatchModelAddDownscale", model=model, **settings)[0]

    def easycache(self, model: Any) -> Any:
        settings = {"reuse_threshold": 5.0, "start_percent": 0.0, "end_percent": 1.0, "verbose": False}
        return node("EasyCache", model=model, **settings)[0]

    def rescale_cfg(self, model: Any) -> Any:
        return node("RescaleCFG", model=model, multiplier=0.7)[0]

    def v_prediction(self, model: Any) -> Any:
        return node("ModelSamplingDiscrete", model=model, sampling="v_prediction", zsnr=True)[0]

    def attention_multiply(self, model: Any) -> Any:
        return node("UNetSelfAttentionMultiply", model=model, q=1.1, k=0.9, v=1.1, out=1.0)[0]

    def compile(self, model: Any) -> Any:
        # What the node does, with the backend that needs no compiler.
        from comfy_api.torch_helpers import set_torch_compile_wrapper

        compiled = model.clone()
        set_torch_compile_wrapper(model=compiled, backend="eager")
        return compiled

    def ipadapter(self, model: Any) -> Any:
        return ipadapter(model)

    def second_subject(self, model: Any) -> Any:
        return apply(model, subject_for(self.model, 2))

    def context_windows(self, model: Any) -> Any:
        """Over the images of a batch, which a model without time treats each for itself."""
        settings = {"context_length": 2, "context_overlap": 1, "context_schedule": "standard_static", "dim": 0}
        settings |= {"context_stride": 1, "closed_loop": False, "fuse_method": "pyramid"}
        return node("ContextWindowsManual", later={"freenoise": False}, model=model, **settings)[0]

    # On the CONDITIONING wires

    def controlnet(self, **window: float) -> dict[str, Any]:
        settings = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, **window}
        given = {"positive": conditioning(1), "negative": conditioning(2), "control_net": self.control}
        positive, negative = node("ControlNetApplyAdvanced", **given, image=self.hint, **settings)
        return {"positive": positive, "negative": negative}

    def controlnet_window(self) -> dict[str, Any]:
        return self.controlnet(start_percent=0.3, end_percent=0.8)

    def area(self) -> dict[str, Any]:
        left = node("ConditioningSetArea", conditioning=conditioning(1), width=64, height=128, x=0, y=0, strength=1.0)
        right = node("ConditioningSetArea", conditioning=conditioning(3), width=64, height=128, x=64, y=0, strength=1.0)
        return {"positive": left[0] + right[0]}

    def mask(self) -> dict[str, Any]:
        parts = []
        for seed, side in ((1, 0), (3, 1)):
            mask = torch.zeros(1, 128, 128)
            mask[:, :, 64 * side : 64 * side + 64] = 1
            given = {"conditioning": conditioning(seed), "mask": mask, "strength": 1.0, "set_cond_area": "default"}
            parts += node("ConditioningSetMask", **given)[0]
        return {"positive": parts}

    def combine(self) -> dict[str, Any]:
        return {
            "positive": node("ConditioningCombine", conditioning_1=conditioning(1), conditioning_2=conditioning(3))[0]
        }

    def timesteps(self) -> dict[str, Any]:
        parts = []
        for seed, start, end in ((1, 0.0, 0.5), (3, 0.5, 1.0)):
            parts += node("ConditioningSetTimestepRange", conditioning=conditioning(seed), start=start, end=end)[0]
        return {"positive": parts}

    def long_prompt(self) -> dict[str, Any]:
        return {"positive": conditioning(1, tokens=154), "negative": conditioning(2, tokens=154)}

    def unequal_prompts(self) -> dict[str, Any]:
        return {"positive": conditioning(1, tokens=154), "negative": conditioning(2)}

    def advanced_controlnet(self) -> dict[str, Any]:
        return self.advanced(self.control, self.hint)

    def reference_controlnet(self) -> dict[str, Any]:
        settings = {"reference_type": "reference_attn", "style_fidelity": 0.5, "ref_weight": 1.0}
        (control,) = node("ACN_ReferenceControlNet", **settings)
        size = {"samples": draw(1, 4, 16, 16)}
        (hint,) = node("ACN_ReferencePreprocessor", vae=Encoder(), image=self.hint, latent_size=size)
        return self.advanced(control, hint)

    def advanced(self, control: Any, hint: Any) -> dict[str, Any]:
        given = {"positive": conditioning(1), "negative": conditioning(2), "control_net": control, "image": hint}
        settings = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0}
        positive, negative, *_ = node("ACN_AdvancedControlNetApply_v2", **given, **settings)
        return {"positive": positive, "negative": negative}

    # Ways of sampling

    def no_guidance(self) -> dict[str, Any]:
        return {"cfg": 1.0}

    def image_to_image(self) -> dict[str, Any]:
        return {"latent": draw(1, 4, 16, 16, seed=9), "denoise": 0.5, "steps": 4}

    def noise_mask(self) -> dict[str, Any]:
        mask = torch.zeros(1, 1, 16, 16)
        mask[..., 8:] = 1
        return {"latent": draw(1, 4, 16, 16, seed=9), "noise_mask": mask}

    # Helpers

    def with_subject(self, model: Any, **application: Any) -> Any:
        return apply(model, self.subject, **application)

    def image(self, subject: bool, **settings: Any) -> torch.Tensor:
        """Of the model alone or with the subject, which many cases are compared with."""
        key = subject, *sorted(settings.items())
        if key not in self.images:
            self.images[key] = sample(self.with_subject(self.model) if subject else self.model, **settings)
        return self.images[key]


class Encoder:
    """Stands for a VAE where only a latent is wanted."""

    downscale_ratio = 8

    def spacial_compression_encode(self) -> int:
        return 8

    def vae_encode_crop_pixels(self, picture: torch.Tensor) -> torch.Tensor:
        return picture

    def encode(self, picture: torch.Tensor) -> torch.Tensor:
        return draw(len(picture), 4, picture.shape[1] // 8, picture.shape[2] // 8, seed=11)


def comfy_controlnet(path: str) -> Any:
    import comfy.controlnet

    return comfy.controlnet.load_controlnet(path)


def acts(image: torch.Tensor, without: torch.Tensor) -> bool:
    return bool(torch.isfinite(image).all()) and difference(image, without) > SEEN


def told(run: Callable[[], str]) -> str:
    """How a case went: its own words, "refused: ..." or "fails: ..."."""
    try:
        return run()
    except P3SError as error:
        return f"refused: {error}"
    except Exception as error:  # a crash is a result too
        return f"fails: {type(error).__name__}: {error}"


def on_the_wire(chain: Chain, other: Callable[[Any], Any], order: str, **application: Any) -> str:
    settings: dict[str, Any] = {"steps": 3}
    if other == chain.context_windows:
        settings["batch"] = 4
    both = chain.with_subject(other(chain.model), **application)
    if order == "after":
        both = other(chain.with_subject(chain.model, **application))
    image = sample(both, **settings)
    if other not in chain.alone:
        chain.alone[other] = sample(other(chain.model), **settings)
    plain, without = chain.image(False, **settings), chain.alone[other]
    if not acts(image, without):
        return "the subject does not act"
    if other in (chain.compile, chain.context_windows):  # they change how it is computed, not what
        same = difference(image, chain.image(True, **settings)) < EQUAL
        return "works" if same else "it makes another picture"
    if difference(without, plain) < SEEN or not acts(image, chain.image(True, **settings)):
        return "the other node does not act"
    return "works"


def in_sampling(chain: Chain, changes: dict[str, Any], **application: Any) -> str:
    model = chain.with_subject(chain.model, **application)
    settings = {"steps": 3, **changes}
    image = sample(model, **settings)
    if not acts(image, sample(chain.model, **settings)):
        return "the subject does not act"
    if "positive" in changes and not acts(image, chain.image(True, steps=3)):
        return "the other node does not act"
    return "works"


def samplers(chain: Chain) -> str:
    model, applied = chain.model, chain.with_subject(chain.model)
    wrong = []
    for name in comfy.samplers.KSampler.SAMPLERS:
        run = adaptive if name == "dpm_adaptive" else partial(sample, sampler=name, steps=3)
        images = [run(m) for m in (model, applied)]
        if not acts(images[1], images[0]):
            wrong.append(name)
    return f"not with {', '.join(wrong)}" if wrong else "works"


def guiders(chain: Chain) -> str:
    def run(model: Any, kind: str) -> torch.Tensor:
        positive, negative, empty = (conditioning(seed) for seed in (1, 2, 3))
        inputs = {
            "BasicGuider": {"conditioning": positive},
            "CFGGuider": {"positive": positive, "negative": negative, "cfg": 5.0},
            "DualCFGGuider": {"cond1": positive, "cond2": empty, "negative": negative, "cfg_conds": 5.0}
            | {"cfg_cond2_negative": 3.0, "style": "regular"},
            "PerpNegGuider": {"positive": positive, "negative": negative, "empty_conditioning": empty}
            | {"cfg": 5.0, "neg_scale": 1.0},
        }[kind]
        (guider,) = node(kind, model=model, **inputs)
        (noise,) = node("RandomNoise", noise_seed=3)
        (sampler,) = node("KSamplerSelect", sampler_name="heun")
        (sigmas,) = node("BasicScheduler", model=model, scheduler="karras", steps=3, denoise=1.0)
        given = {"noise": noise, "guider": guider, "sampler": sampler, "sigmas": sigmas}
        return node("SamplerCustomAdvanced", **given, latent_image={"samples": torch.zeros(1, 4, 16, 16)})[0]["samples"]

    applied = chain.with_subject(chain.model)
    kinds = ("BasicGuider", "CFGGuider", "DualCFGGuider", "PerpNegGuider")
    wrong = [kind for kind in kinds if not acts(run(applied, kind), run(chain.model, kind))]
    return f"not with {', '.join(wrong)}" if wrong else "works"


def advanced(chain: Chain) -> str:
    """Four steps in one run, and in two with the subject only in the middle of the schedule."""
    from comfyui_p3s.p3s.schedule import Schedule

    applied = chain.with_subject(chain.model, schedule=Schedule("fixed", start=0.2, end=0.8))

    def part(latent: torch.Tensor, start: int, end: int) -> torch.Tensor:
        given = {"model": applied, "positive": conditioning(1), "negative": conditioning(2)}
        given |= {"noise_seed": 3, "steps": 4, "cfg": 7.0, "sampler_name": "euler", "scheduler": "normal"}
        given |= {"add_noise": "enable" if start == 0 else "disable", "start_at_step": start, "end_at_step": end}
        keep = "disable" if end == 4 else "enable"
        return node("KSamplerAdvanced", **given, latent_image={"samples": latent}, return_with_leftover_noise=keep)[0][
            "samples"
        ]

    nothing = torch.zeros(1, 4, 16, 16)
    whole = part(nothing, 0, 4)
    parts = part(part(nothing, 0, 2), 2, 4)
    return "works" if difference(parts, whole) < EQUAL else "two parts are not one run"


def split_batch(chain: Chain) -> str:
    """The host runs the halves of the guidance apart when it believes that memory is short."""
    applied = chain.with_subject(chain.model)
    together = sample(applied)

    def full(*args: Any, torch_free_too: bool = False) -> Any:
        return (2**20, 2**20) if torch_free_too or True in args else 2**20

    with ExitStack() as stack:
        for owner in (comfy.model_management, type(chain.model)):
            if hasattr(owner, "get_free_memory"):
                stack.enter_context(mock.patch.object(owner, "get_free_memory", full))
        apart = sample(applied)
    return "works" if difference(apart, together) < EQUAL else "the halves apart are another picture"


def batch(chain: Chain) -> str:
    """Every image of a batch is what it is alone, from the same noise."""
    applied = chain.with_subject(chain.model)
    together = sample(applied, batch=3)
    noise = draw(3, 4, 16, 16, seed=5)
    for i in range(3):
        alone = comfy.sample.sample(
            applied, noise[i : i + 1], 2, 7.0, "euler", "normal", conditioning(1), conditioning(2),
            torch.zeros(1, 4, 16, 16), denoise=1.0, seed=3, disable_pbar=True,
        )  # fmt: skip
        if difference(alone, together[i : i + 1]) > EQUAL:
            return f"image {i} of the batch is another"
    return "works"


def inpainting(chain: Chain) -> str:
    model = load(chain.arguments["sd15-inpaint-micro"])
    applied = apply(model, chain.subject)
    return "works" if acts(sample(applied), sample(model)) else "the subject does not act"


def sizes(chain: Chain) -> str:
    applied = chain.with_subject(chain.model)
    for size in ((24, 16), (16, 40), (13, 18), (33, 9)):
        settings = {"size": size, "latent": torch.zeros(1, 4, *size)}
        if not acts(sample(applied, **settings), sample(chain.model, **settings)):
            return f"not at {size}"
    return "works"


def several_gpus(chain: Chain) -> str:
    from comfy.patcher_extension import WrappersMP

    (wrapper,) = chain.with_subject(chain.model).wrappers[WrappersMP.DIFFUSION_MODEL]["p3s"]
    wrapper(None, *inputs(), transformer_options={"multigpu_thread_device": "cuda:1"})
    return "works"


#: The smallest models on which every part acts, where it is not "micro": FreeU knows blocks by their widths, others
#: need several levels, and packs count on every block of SD 1.5.
PRESETS = {"freeu": "wide", "freeu-v2": "wide", "deepshrink": "slim", "hypertile": "slim", "tome": "slim"}
PRESETS |= {"sizes": "slim", "ipadapter": "topo", "reference-controlnet": "topo"}

#: Cases that are more than a change of the model or of the conditioning.
OWN = {
    "samplers": samplers,
    "guiders": guiders,
    "advanced": advanced,
    "split-batch": split_batch,
    "batch": batch,
    "inpainting": inpainting,
    "sizes": sizes,
    "several-gpus": several_gpus,
}


def main(arguments: dict[str, Any]) -> dict[str, dict[str, str]]:
    load_nodes(arguments["peers"])
    chain_of = cache(partial(Chain, arguments))
    found: dict[str, dict[str, str]] = {}
    for name, orders in arguments["cases"].items():
        chain = chain_of(PRESETS.get(name, "micro"))
        case, application = getattr(chain, name.replace("-", "_"), None), {}
        if case is None and name.endswith("-mask"):
            case, application = getattr(chain, name.removesuffix("-mask").replace("-", "_")), {"mask": HALF}
        found[name] = {}
        for order in orders:
            if name in OWN:
                found[name][order] = told(lambda: OWN[name](chain))  # noqa: B023
            elif order:
                found[name][order] = told(lambda: on_the_wire(chain, case, order, **application))  # noqa: B023
            else:
                found[name][order] = told(lambda: in_sampling(chain, case(), **application))  # noqa: B023
            print(name, order, found[name][order], flush=True)
    return found
