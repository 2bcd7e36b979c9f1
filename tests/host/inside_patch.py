"""Run by test_patch.py inside a host: the U-Net, the weights and the patches against the host's own code."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.model_sampling
import comfy.samplers
import comfy.sd
import comfy.utils
import comfy_extras.nodes_custom_sampler as custom
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import apply_subject, attention, base_model, guidance
from comfyui_p3s.nodes.host.sampling_run import SamplingRun
from comfyui_p3s.p3s.network.injection import EffectMask, Injection, InjectionHooks
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.sampling.application import Application
from comfyui_p3s.p3s.sampling.schedule import Schedule
from comfyui_p3s.p3s.sampling.settings import SamplingSettings
from inside_literal import literal
from inside_peers import load_nodes, node
from inside_subjects import (
    FIXED,
    apply,
    call,
    conditioning,
    difference,
    draw,
    inputs,
    load,
    message,
    sample,
    subject_for,
)


def same_unet(model: Any) -> float:
    """Largest difference between the host's U-Net and ours, relative to the output's size."""
    x, t, context = inputs()
    with torch.inference_mode(False):
        ours = UNet.from_state_dict(base_model.base_weights(model))
    comfy.model_management.load_models_gpu([model])
    theirs = call(model, x, t, context)
    return ((ours(x, t, context) - theirs).abs().max() / theirs.std()).item()


def lora_facts(model: Any, lora: Any) -> dict[str, Any]:
    patched, _ = comfy.sd.load_lora_for_models(model, None, lora, 0.7, 0.0)
    plain = base_model.base_weights(model)
    changed = base_model.base_weights(patched)
    comfy.model_management.load_models_gpu([patched])  # the shared module now holds the LoRA's weights
    while_loaded = base_model.base_weights(patched)
    plain_while_loaded = base_model.base_weights(model)
    truth = {k: v.float() for k, v in patched.model.diffusion_model.state_dict().items()}
    facts = {
        "changes": sum(not torch.equal(plain[k], changed[k]) for k in plain),
        "equals what the sampler uses": max((truth[k] - changed[k]).abs().max().item() for k in truth),
        "same while loaded": all(torch.equal(changed[k], while_loaded[k]) for k in changed),
        "plain is plain": all(torch.equal(plain[k], plain_while_loaded[k]) for k in plain),
        "normal tensors": not any(v.is_inference() for v in while_loaded.values()),
        "fingerprint ignores it": base_model.base_fingerprint(patched) == base_model.base_fingerprint(model),
    }
    comfy.model_management.unload_all_models()
    return facts


def injection_facts(model: Any) -> dict[str, Any]:
    """The host's attention under our patches against our own U-Net under the same injection."""
    facts = {}
    x, t, context = inputs()
    for name, settings in {
        "default": {},
        "no cross-attention": {"cross_attention": False},
        "attn1": {"feature": "attn1"},
        "one to one": {"pairing": "one_to_one"},
        "reference alone": {"copy_input": "reference"},
    }.items():
        subject = subject_for(model, **settings)
        with torch.inference_mode(False):
            base = UNet.from_state_dict(base_model.base_weights(model))
        copy = apply_subject.build_copy(base.config, subject, torch.float32)
        condition = copy.condition(subject.references[0].latent[None], subject.references[0].tokens[None])
        features = copy(x, t, context, condition).with_weight(0.8)
        expected = base(x, t, context, InjectionHooks(Injection(features, copy.settings.lam)))
        plain = base(x, t, context)
        patched = apply(model, subject, strength=0.8)
        found = call(patched, x, t, context)
        half = call(
            apply(model, subject, strength=0.8, settings=SamplingSettings(branches="conditional")), x, t, context
        )
        facts[name] = {
            "error": ((found - expected).abs().max() / expected.std()).item(),
            "effect": ((found - plain).abs().mean() / plain.std()).item(),
            "unconditional half is plain": ((half[:1] - plain[:1]).abs().max() / plain.std()).item(),
            "conditional half is injected": ((half[1:] - expected[1:]).abs().max() / expected.std()).item(),
        }
    return facts


def near(model: Any, expected: Any, *given: torch.Tensor) -> bool:
    """Whether a call of the U-Net gives what that of another MODEL gives."""
    return difference(call(model, *given), call(expected, *given)) < 1e-3


def identity_facts(model: Any) -> dict[str, bool]:
    """Everything that must be equal bit for bit."""
    one, two = subject_for(model, 1), subject_for(model, 2)
    plain = sample(model)
    applied = apply(model, one)
    image = sample(applied)
    lora_like = applied.clone()  # what every later node does to a MODEL
    lora_like.set_model_output_block_patch(lambda h, skip, options: (h, skip))
    chained = apply(apply(model, one), two)
    both = sample(chained)
    copies = [p.model for p in lora_like.get_additional_models_with_key(apply_subject.KEY)]
    between = Schedule("fixed").within(0.4, 0.6)  # two steps: the first at 0, the second at 1
    return {
        "a subject changes the image": not torch.equal(image, plain),
        "the given model stays plain": torch.equal(sample(model), plain) and not model.wrappers,
        "strength 0 is plain": torch.equal(sample(apply(model, one, 0.0)), plain),
        "weight 0 is plain": torch.equal(sample(apply(model, one, 1.0, Schedule("fixed", value=0.0))), plain),
        "outside the window is plain": torch.equal(sample(apply(model, one, 1.0, between)), plain),
        "a second run is the same": torch.equal(sample(applied), image),
        "another strength is another image": not torch.equal(sample(apply(model, one, 0.5)), image),
        "applied again is the same as fresh": torch.equal(sample(apply(model, one)), image),
        "a later clone is the same": torch.equal(sample(lora_like), image),
        "a clone does not copy the copy": copies
        == [p.model for p in applied.get_additional_models_with_key(apply_subject.KEY)],
        "two subjects chain": not torch.equal(both, image) and torch.equal(sample(apply(apply(model, one), two)), both),
        "the first of a chain stays as it was": torch.equal(sample(applied), image),
        "two subjects, two copies": len(chained.get_additional_models_with_key(apply_subject.KEY)) == 2,
        "without guidance": not torch.equal(sample(applied, cfg=1.0), sample(model, cfg=1.0)),
        "other sizes": near(applied, literal(model, one), *inputs(size=24)),
        "odd sizes": near(applied, literal(model, one), draw(2, 4, 13, 18), *inputs()[1:]),
    }


def foreign(key: str) -> Any:
    """A MODEL of an architecture that needs no small checkpoint to be recognised by the key of a weight."""
    flux = torch.nn.Module()
    flux.model_config = type("Flux", (), {})()
    *path, name = f"diffusion_model.{key}".split(".")
    place = flux
    for part in path:
        place.add_module(part, torch.nn.Module())
        place = place.get_submodule(part)
    place.register_parameter(name, torch.nn.Parameter(torch.zeros(1)))
    return comfy.model_patcher.ModelPatcher(flux, torch.device("cpu"), torch.device("cpu"))


def refusals(model: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    subject = subject_for(model)
    packed = model.clone()
    parameter = next(packed.model.diffusion_model.parameters())
    parameter.tensor_type = 2  # as GGUF marks its tensors
    gguf = message(lambda: base_model.base_weights(packed))
    del parameter.tensor_type
    sd2 = load(arguments["sd2"])
    micro = load(arguments["micro"])
    other = load(arguments["other"])
    return {
        "gguf": gguf,
        "flux": message(lambda: base_model.unet_config(foreign("double_blocks.0.img_attn.qkv.weight"))),
        "sd2": message(lambda: apply(sd2, subject)),
        "other shapes": message(lambda: apply(micro, subject)),
        "no such photo": message(lambda: apply_subject.apply_subject(model, subject, 3, Application(FIXED))),
        "other weights": list(apply_subject.apply_subject(other, subject, 0, Application(FIXED))[1]),
        "same weights": list(apply_subject.apply_subject(model, subject, 0, Application(FIXED))[1]),
        "copies on several gpus": message(lambda: apply(with_a_copy_on_another_gpu(model), subject)),
        "then copied to another gpu": copied_to_another_gpu(apply(model, subject)),
        "multiplied rows": message(lambda: sample(apply(with_multiplied_rows(model), subject))),
        "multiplied rows, off": message(lambda: sample(apply(with_multiplied_rows(model), subject, 0.0))),
        "several gpus": message(
            lambda: apply(model, subject).wrappers[WrappersMP.DIFFUSION_MODEL][apply_subject.KEY][0](
                None, *inputs(), transformer_options={"multigpu_thread_device": "cuda:1"}
            )
        ),
    }


def with_a_copy_on_another_gpu(model: Any) -> Any:
    """What the node MultiGPU CFG Split makes of a MODEL where there are two GPUs."""
    split = model.clone()
    split.set_additional_models("multigpu", [model.clone()])
    return split


def with_multiplied_rows(model: Any) -> Any:
    """What a node of regional prompts does that works on self-attention: every row once for each region."""
    changed = model.clone()
    changed.set_model_attn1_patch(lambda q, k, v, extra: tuple(t.repeat(2, 1, 1) for t in (q, k, v)))
    changed.set_model_attn1_output_patch(lambda n, extra: n[: len(n) // 2])
    return changed


def copied_to_another_gpu(patched: Any) -> str:
    """What the host says when that node, or Select Model Device, comes after ours."""
    (copy,) = patched.get_additional_models_with_key(apply_subject.KEY)
    try:
        copy.clone().deepclone_multigpu(new_load_device=torch.device("cpu"))
    except RuntimeError as error:
        return str(error)
    return ""


def resampled(model: Any, kind: Any, base: Any = comfy.model_sampling.ModelSamplingDiscrete) -> Any:
    """What ModelSamplingDiscrete does to a MODEL: another model_sampling, the same model_type."""
    changed = model.clone()
    changed.add_object_patch("model_sampling", type("Advanced", (base, kind), {})(model.model.model_config))
    return changed


def noise_facts(model: Any) -> dict[str, Any]:
    class FewSigmas(comfy.model_sampling.ModelSamplingDiscrete):
        """As the LCM setting: a thousand timesteps, fifty sigmas."""

        def set_sigmas(self, sigmas: torch.Tensor) -> None:
            super().set_sigmas(sigmas[19::20])

    noise = base_model.noise_schedule(model)
    sampling = comfy.model_sampling
    return {
        "plain": [noise.prediction, len(noise), noise.alphas_cumprod[0].item(), noise.alphas_cumprod[-1].item()],
        "v": base_model.noise_schedule(resampled(model, sampling.V_PREDICTION)).prediction,
        "lcm": message(lambda: base_model.noise_schedule(resampled(model, sampling.EPS, FewSigmas))),
        "x0": message(lambda: base_model.noise_schedule(resampled(model, sampling.X0))),
    }


def rows_facts(model: Any) -> dict[str, bool]:
    """A subject on the prompt's rows alone, in one call of the U-Net with the others: each row is that of a call where
    all have the subject, or that of the plain model; also beside a subject that all rows have."""
    one, two = subject_for(model), subject_for(model, 2)
    mask = EffectMask(torch.cat([torch.ones(4, 2), torch.zeros(4, 2)], 1))

    def models(model: Any) -> dict[str, tuple[Any, Any, Any]]:
        """The subject on the prompt, on all, and on none."""
        beside, settings = apply(model, two, mask=mask), SamplingSettings(branches="conditional")
        found = {"": (apply(model, one, settings=settings), apply(model, one), model)}
        found["beside another"] = apply(beside, one, settings=settings), apply(beside, one), beside
        return found

    made = models(model)
    tiles = {"tile_size": 32, "swap_size": 1, "max_depth": 0, "scale_depth": False}
    for name, settings in {"HyperTile": tiles, "TomePatchModel": {"ratio": 0.5}}.items():
        made[name] = models(node(name, model=model, **settings)[0])[""]
    cases = [(c, r, "") for c, r in (([1, 0], 1), ([0, 1], 2), ([1, 0, 0], 2), ([0, 1, 0], 1), ([0], 3), ([1], 2))]
    # What the guiders say counts, not the order they ask in: DualCFG's negative is its first, SAG asks for it alone.
    cases += [([2, 1, 0], 1, "u0 u1"), ([0], 2, "elsewhere"), ([0, 0, 1], 1, "u1")]
    facts = {}
    for chunks, rows, told in cases:
        uuids = [f"u{i}" for i in range(len(chunks))]
        conds = {"positive": [{"uuid": uuid} for uuid in told.split()]} if told else {}
        chosen = [uuid in told.split() if told else kind == 0 for uuid, kind in zip(uuids, chunks, strict=True)]
        prompt = torch.tensor(chosen).repeat_interleave(rows)
        for name, models_of in made.items():
            found, everywhere, nowhere = (
                row_call(each, inputs(len(prompt)), conds, cond_or_uncond=chunks, uuids=uuids) for each in models_of
            )
            for kind, of, expected in (("prompt", prompt, everywhere), ("other", ~prompt, nowhere)):
                if of.any():
                    facts[f"{chunks} {told} {name}: {kind}"] = difference(found[of], expected[of]) < 1e-3
    conds = {name: [{"uuid": name}, {}] for name in ("positive", "middle", "negative", "empty_negative_prompt")}
    facts["negative ones are no prompts"] = guidance.prompts_of(conds) == {"positive", "middle"}
    tiles = torch.arange(24.0).view(2, 6, 2)
    facts["tiles keep the order"] = torch.equal(attention.as_tiles(tiles, 6).flatten(), tiles.flatten())
    facts["no tiles"] = attention.as_tiles(tiles, 2) is tiles
    return facts


def row_call(model: Any, given: Any, conds: Any, **options: Any) -> torch.Tensor:
    """A call of the U-Net in a run of a MODEL with subjects."""
    subjects = model.get_attachment(apply_subject.KEY)
    torch.manual_seed(0)  # ToMe draws from it
    return call(model, *given, **options, **({apply_subject.KEY: SamplingRun(subjects, conds)} if subjects else {}))


def guider_facts(model: Any) -> dict[str, float]:
    """With the guidance "conditional" the subject is on the prompts of a guider that asks for its negative first: at a
    scale at which it comes to the prediction of the prompt, it is compared with that prediction alone."""
    applied = apply(model, subject_for(model), settings=SamplingSettings(branches="conditional"))
    positive, other, negative = (conditioning(seed) for seed in (1, 2, 3))

    def run(model: Any, kind: type, *conds: Any, **options: Any) -> torch.Tensor:
        guider = kind(model)
        guider.set_conds(*conds)
        guider.set_cfg(*options.pop("cfg"), **options)
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "normal", 2)
        sampler = comfy.samplers.ksampler("euler")
        return guider.sample(draw(1, 4, 16, 16), torch.zeros(1, 4, 16, 16), sampler, sigmas, disable_pbar=True, seed=0)

    alone = run(applied, comfy.samplers.CFGGuider, positive, negative, cfg=(1.0,))
    plain = run(model, comfy.samplers.CFGGuider, positive, negative, cfg=(1.0,))
    dual = run(applied, custom.Guider_DualCFG, positive, other, negative, cfg=(1.0, 1.0), nested=True)
    return {"effect": difference(plain, alone), "DualCFG": difference(dual, alone)}


def fp8_facts(path: str) -> dict[str, Any]:
    state = {k: v for k, v in comfy.utils.load_torch_file(path).items() if k.startswith("model.diffusion_model.")}
    model = comfy.sd.load_diffusion_model_state_dict(dict(state), model_options={"dtype": torch.float8_e4m3fn})
    key = "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"
    stored = state["model.diffusion_model." + key].to(torch.float8_e4m3fn).float()
    subject = subject_for(model)
    expected = sample(literal(model, subject))
    return {
        "stored in 8 bits": next(model.model.diffusion_model.parameters()).dtype == torch.float8_e4m3fn,
        "weights are widened": torch.equal(base_model.base_weights(model)[key], stored),
        "applies": difference(sample(apply(model, subject)), expected) < 2e-3 < difference(sample(model), expected),
        "works in": str(apply_subject.compute_dtype(model)),
    }


def inpaint_facts(path: str, plain_path: str) -> dict[str, Any]:
    """A subject of the ordinary model on an inpainting U-Net of nine channels."""
    plain = load(plain_path)
    inpaint = load(path)
    subject = subject_for(plain)
    expected = sample(literal(inpaint, subject))
    return {
        "channels": base_model.unet_config(inpaint).in_channels,
        "effect": difference(sample(inpaint), expected),
        "error": difference(sample(apply(inpaint, subject)), expected),
    }


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    load_nodes()
    model = load(arguments["topo"])
    slim = load(arguments["slim"])
    lora = comfy.utils.load_torch_file(arguments["lora"])
    return {
        "unet": {"full": same_unet(model), "one ResBlock": same_unet(slim)},
        "lora": lora_facts(model, lora),
        "noise": noise_facts(slim),
        "rows": rows_facts(slim),
        "guiders": guider_facts(slim),
        "injection": injection_facts(model),
        "identity": identity_facts(slim),
        "refusals": refusals(slim, arguments),
        "fp8": fp8_facts(arguments["slim"]),
        "inpaint": inpaint_facts(arguments["inpaint"], arguments["micro"]),
    }
