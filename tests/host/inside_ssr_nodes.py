"""Run by test_ssr_nodes.py inside a host: Apply SSR against the core's U-Net and its own identities, and SSR Encode
against the core on the tensors that the host's models give."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import comfy.model_management
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import base_model, ssr, toy_world
from comfyui_p3s.nodes.ssr_apply import ApplySSR
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.ssr.attend import AppliedSSR, SSRHooks, SubjectRun
from comfyui_p3s.p3s.ssr.embeds import SubjectEmbeds
from comfyui_p3s.p3s.ssr.layers import SubjectLayers
from inside_peers import load_nodes, node
from inside_sampling import Watch, first_attention
from inside_ssr_encode import encode_facts, query_facts, tower_facts
from inside_ssr_subjects import apply_ssr, embeds_of, encoder_for, random_encoder, written
from inside_subjects import apply, call, conditioning, difference, draw, inputs, load, message, sample, subject_for

LEFT = torch.zeros(16, 16)
LEFT[:, :8] = 1
SOFT = torch.linspace(0, 1, 16).expand(16, 16).clone()


def ours_on(model: Any) -> list[Any]:
    """The patchers of the layers that are applied to a MODEL."""
    return model.get_additional_models_with_key(ssr.KEY)


@contextmanager
def counted(model: Any) -> Iterator[list[int]]:
    """The calls of W_K^S and W_V^S of what is applied to a MODEL, by their rows."""
    calls: list[int] = []
    projections = [m for p in ours_on(model) for m in p.model.modules() if hasattr(m, "weight")]
    handles = [m.register_forward_hook(lambda _, args, out: calls.append(len(out))) for m in projections]
    yield calls
    for handle in handles:
        handle.remove()


def network(model: Any) -> dict[str, dict[str, Any]]:
    """A call of the host's U-Net under the node's wrappers, and the core's with its hooks."""
    x, t, context = inputs(4)
    encoder = encoder_for(model)
    with torch.inference_mode(False):
        ours = UNet.from_state_dict(base_model.base_weights(model))
        layers = SubjectLayers.from_state_dict(encoder.layers, ours.config)
    one, two = embeds_of(encoder, 1), embeds_of(encoder, 2)
    masks = EffectMask(torch.stack([LEFT, SOFT]))
    cases: dict[str, list[AppliedSSR]] = {
        "both": [AppliedSSR(one, 1.5)],
        "conditional": [AppliedSSR(one, 1.5, "conditional")],
        "a mask for each image": [AppliedSSR(one, 1.5, mask=masks)],
        "chained": [AppliedSSR(SubjectEmbeds((*one.subjects, two.subjects[0]._replace(weight=0.5)), encoder), 1.5)],
        "two nodes": [AppliedSSR(one, 1.5), AppliedSSR(two, 0.8, mask=EffectMask(LEFT))],
        "layers": [
            AppliedSSR(one, 1.5, layers={layer: 0.5 for layer in ours.config.layers() if layer.side != "input"})
        ],
    }
    comfy.model_management.load_models_gpu([model])
    plain = call(model, x, t, context)
    facts = {}
    for name, applied in cases.items():
        patched = model
        for each in applied:
            patched = ssr.apply_ssr(patched, ours.config, each)
        found = call(patched, x, t, context)
        expected = ours(x, t, context, SSRHooks([SubjectRun(each, layers) for each in applied], [False, True]))
        facts[name] = {
            "error": difference(found, expected),
            "effect": difference(found, plain),
            "first half plain": torch.equal(found[:2], plain[:2]),
        }
    swapped = {**model.model_options["transformer_options"], "wrappers": patched.wrappers, "cond_or_uncond": [0, 1]}
    other = patched.model.diffusion_model(
        torch.cat([x[2:], x[:2]]),
        t,
        torch.cat([context[2:], context[:2]]),
        transformer_options={**swapped, "uuids": ["b", "a"]},
    )
    facts["swapped"] = {"error": difference(other, torch.cat([found[2:], found[:2]]))}
    return facts


def identities(model: Any) -> dict[str, bool]:
    """What must be equal bit for bit."""
    encoder = encoder_for(model)
    one, two = embeds_of(encoder, 1), embeds_of(encoder, 2)
    plain, applied = sample(model), apply_ssr(model, one)
    image = sample(applied)
    before = [t.clone() for subject in one.subjects for t in subject[:2]]
    off = {
        "strength 0": apply_ssr(model, one, 0.0),
        "an empty mask": apply_ssr(model, one, mask=EffectMask(torch.zeros(4, 4))),
        "an empty window": apply_ssr(model, one, start=0.5, end=0.5),
        "weight 0": apply_ssr(model, embeds_of(encoder, 1, weights=(0.0,))),
    }
    between = apply_ssr(model, one, start=0.4, end=0.6)  # two steps: the first at 0, the second at 1
    quiet = apply_ssr(model, one, layers=dict.fromkeys(base_model.unet_config(model).layers(), 0.0))
    with counted(between) as steps, counted(quiet) as silent:
        found = {
            "outside the window is plain": torch.equal(sample(between), plain),
            "layers at 0 are plain": torch.equal(sample(quiet), plain),
            "where nothing acts nothing is computed": not steps and not silent,
        }
    with counted(applied) as calls:
        found["a second run is the same"] = torch.equal(sample(applied), image)
        layers = len(base_model.unet_config(model).layers())
        # K and V of the photo in each layer, and K and V of the zero picture.
        found["K and V are computed once a run"] = len(calls) == 4 * layers
    found |= {f"{name} is plain": torch.equal(sample(each), plain) for name, each in off.items()}
    found |= {
        f"{name} installs nothing": not each.wrappers.get(WrappersMP.DIFFUSION_MODEL) for name, each in off.items()
    }
    patched = applied.clone()
    patched.set_model_output_block_patch(lambda h, skip, options: (h, skip))
    branch_one, branch_two = apply_ssr(model, one), apply_ssr(model, two)
    second, first = sample(branch_two), sample(branch_one)
    (patcher,), (cloned,) = ours_on(applied), ours_on(patched)
    return found | {
        "a subject changes the image": not torch.equal(image, plain),
        "the given model stays plain": torch.equal(sample(model), plain) and not model.wrappers.get("diffusion_model"),
        "a mask of ones is no mask": torch.equal(
            sample(apply_ssr(model, one, mask=EffectMask(torch.ones(3, 3)))), image
        ),
        "a later clone is the same": torch.equal(sample(patched), image),
        "a clone does not copy the layers": patcher.model is cloned.model,
        "two nodes of one encoder share them": len(apply_ssr(applied, two).get_additional_models_with_key(ssr.KEY))
        == 1,
        "branches do not influence each other": torch.equal(first, image)
        and torch.equal(second, sample(apply_ssr(model, two)))
        and not torch.equal(first, second),
        "the wires keep their tensors": all(
            torch.equal(a, b) and b.device.type == "cpu" and b.dtype == torch.float32
            for a, b in zip(before, (t for subject in one.subjects for t in subject[:2]), strict=True)
        ),
    }


def freed(path: str) -> bool:
    """Whether the layers go when the MODEL goes that they are beside."""
    model = load(path)
    patched = apply_ssr(model, embeds_of(encoder_for(model), 1))
    sample(patched)
    layers = weakref.ref(ours_on(patched)[0].model)
    del model, patched
    comfy.model_management.unload_all_models()
    comfy.model_management.cleanup_models_gc()
    gc.collect()
    return layers() is None


def values(model: Any) -> dict[str, float]:
    """Errors of pictures against others that must be the same but for rounding, and of the linear parts of a layer."""
    encoder = encoder_for(model)
    one, two = embeds_of(encoder, 1), embeds_of(encoder, 2)
    chained, turned = embeds_of(encoder, 1, 2, weights=(0.7, 1.2)), embeds_of(encoder, 2, 1, weights=(1.2, 0.7))
    image = sample(apply_ssr(model, one))
    p3s = subject_for(model)
    conditional = {"guidance": "conditional"}
    latent = {"batch": 4, "noise": draw(4, 4, 16, 16, seed=5)}
    batch = sample(apply_ssr(model, one, mask=EffectMask(torch.stack([LEFT, SOFT, 1 - LEFT, SOFT.T]))), **latent)
    singles = [
        sample(apply_ssr(model, one, mask=EffectMask(mask)), noise=latent["noise"][i : i + 1])
        for i, mask in enumerate((LEFT, SOFT, 1 - LEFT, SOFT.T))
    ]
    return {
        "written": difference(image, sample(written(model, one))),
        "written, conditional": difference(
            sample(apply_ssr(model, one, **conditional)), sample(written(model, one, **conditional))
        ),
        "written, masked": difference(
            sample(apply_ssr(model, one, mask=EffectMask(LEFT))), sample(written(model, one, mask=LEFT))
        ),
        "written, chained": difference(sample(apply_ssr(model, chained)), sample(written(model, chained))),
        "order of a chain": difference(sample(apply_ssr(model, chained)), sample(apply_ssr(model, turned))),
        "the same subject twice in a chain": difference(sample(apply_ssr(model, embeds_of(encoder, 1, 1))), image),
        "two nodes": difference(
            sample(apply_ssr(apply_ssr(model, one), two, 0.5)), sample(written(written(model, one), two, 0.5))
        ),
        "a batch": difference(batch, torch.cat(singles)),
        "with P3S": difference(sample(apply_ssr(apply(model, p3s), one)), sample(written(apply(model, p3s), one))),
        "cfg 1": difference(sample(apply_ssr(model, one), cfg=1.0), sample(written(model, one), cfg=1.0)),
    }


def weights(model: Any) -> dict[str, bool]:
    """Both weights of a chain act: those of all but the first did nothing in the authors' code."""
    encoder = encoder_for(model)
    images = [sample(apply_ssr(model, embeds_of(encoder, 1, 2, weights=w))) for w in ((1, 1), (0.5, 1), (1, 0.5))]
    return {
        "the first": difference(images[1], images[0]) > 0.01,
        "the second": difference(images[2], images[0]) > 0.01,
        "each in its way": difference(images[1], images[2]) > 0.01,
    }


def with_p3s(model: Any) -> dict[str, Any]:
    """Both nodes on one MODEL."""
    one, subject = embeds_of(encoder_for(model), 1), subject_for(model)
    orders = [apply_ssr(apply(model, subject), one), apply(apply_ssr(model, one), subject)]
    images, rows = [], []
    for both in orders:
        with Watch(first_attention(both)) as seen:
            images.append(sample(both))
        rows.append(sorted(set(seen)))
    mask = torch.zeros(1, 4, 4)
    return {
        "orders": torch.equal(*images),
        "P3S acts": difference(images[0], sample(apply_ssr(model, one))),
        "SSR acts": difference(images[0], sample(apply(model, subject))),
        "P3S alone": torch.equal(sample(apply_ssr(apply(model, subject), one, 0.0)), sample(apply(model, subject))),
        "SSR alone": torch.equal(
            sample(apply(apply_ssr(model, one), subject, mask=EffectMask(mask))), sample(apply_ssr(model, one))
        ),
        "rows of P3S's first attention": rows,
    }


def layer_facts(model: Any) -> dict[str, Any]:
    """The output of one cross-attention, before anything else reads it."""
    x, t, context = inputs(2)
    one = embeds_of(encoder_for(model), 1)
    comfy.model_management.load_models_gpu([model])

    def out(patched: Any) -> torch.Tensor:
        found: list[torch.Tensor] = []
        module = patched.model.diffusion_model.input_blocks[1][1].transformer_blocks[0].attn2.to_out
        handle = module.register_forward_hook(lambda _, args, __: found.append(args[0].clone()))
        call(patched, x, t, context)
        handle.remove()
        return found[0]

    plain, full = out(model), out(apply_ssr(model, one, 1.0))
    left = out(apply_ssr(model, one, 1.0, mask=EffectMask(LEFT)))
    soft = out(apply_ssr(model, one, 1.0, mask=EffectMask(SOFT)))
    half = out(apply_ssr(model, one, 0.5))
    inside = LEFT.flatten() > 0
    return {
        "linear": difference(half - plain, 0.5 * (full - plain)),
        "masked right": torch.equal(left[:, ~inside], plain[:, ~inside]),
        "masked left": difference(left[:, inside], full[:, inside]),
        "soft": difference(soft - plain, SOFT.flatten()[:, None] * (full - plain)),
        "acts": difference(full, plain),
    }


def refusals(model: Any, paths: dict[str, str]) -> dict[str, str]:
    """What a user is told."""
    encoder = encoder_for(model)
    one, mask = embeds_of(encoder, 1), EffectMask(LEFT)
    toy = random_encoder(base_model.unet_config(toy_world.model()), query=64, vision=96, inner=64, heads=4, scales=3)
    area = node("ConditioningSetArea", conditioning=conditioning(1), width=64, height=128, x=0, y=0, strength=1.0)[0]
    edm = node("ModelSamplingContinuousEDM", model=model, sampling="v_prediction", sigma_max=80.0, sigma_min=0.002)[0]
    given = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "guidance": "both"}

    def run(**changed: Any) -> str:
        return message(lambda: ApplySSR.execute(**{"model": model, "embeds": one, **given, **changed}))

    (wrapper,) = apply_ssr(model, one).wrappers[WrappersMP.DIFFUSION_MODEL][ssr.KEY]
    (patcher,) = ours_on(apply_ssr(model, one))
    try:
        patcher.deepclone_multigpu()
        several = "no error"
    except RuntimeError as error:
        several = str(error)
    return {
        "another encoder": run(embeds=embeds_of(toy, 1)),
        "SD 2": run(model=load(paths["sd2"])),
        "window": run(start_percent=0.5, end_percent=0.2),
        "strength": run(strength=float("nan")),
        "layers": run(layer_strengths="output 99: 0"),
        "masks": message(lambda: sample(apply_ssr(model, one, mask=EffectMask(torch.rand(3, 4, 4))))),
        "area": message(lambda: sample(apply_ssr(model, one, mask=mask), positive=area)),
        "several GPUs": message(lambda: wrapper(None, *inputs(), transformer_options={"multigpu_thread_device": "1"})),
        "several devices": several,
        "rows": message(lambda: sample(apply_ssr(with_rows_added(model), one), batch=2)),
        "timesteps": message(lambda: sample(apply_ssr(edm, one, end=0.6))),
        "timesteps without a window": message(lambda: sample(apply_ssr(edm, one))),
    }


def with_rows_added(model: Any) -> Any:
    """A MODEL whose cross-attention has a row more than the batch."""
    patched = model.clone()
    patched.set_model_attn2_patch(lambda n, k, v, extra: tuple(torch.cat([t, t[:1]]) for t in (n, k, v)))
    patched.set_model_attn2_output_patch(lambda n, extra: n[:-1])
    return patched


def toy_sampling() -> dict[str, float]:
    """The toy world's MODEL with a random encoder, as another model would have it."""
    model = toy_world.model()
    encoder = random_encoder(base_model.unet_config(model), query=64, vision=96, inner=64, heads=4, scales=3)
    embeds = embeds_of(encoder, 1)
    settings: dict[str, Any] = {"latent": toy_world.empty_latents(1), "noise": draw(1, 8, 12, 12)}
    settings |= {"positive": toy_world.Text().encode_from_tokens_scheduled("a photo of a dog on the beach")}
    settings |= {"negative": toy_world.Text().encode_from_tokens_scheduled("")}
    image = sample(apply_ssr(model, embeds), **settings)
    return {
        "error": difference(image, sample(written(model, embeds, others=[settings["negative"][0][0]]), **settings)),
        "effect": difference(image, sample(model, **settings)),
    }


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    load_nodes()
    model = load(arguments["model"])
    found = {
        "network": network(load(arguments["topo"])),
        "identities": identities(model),
        "values": values(model),
        "weights": weights(model),
        "with P3S": with_p3s(model),
        "layer": layer_facts(model),
        "refusals": refusals(model, arguments),
        "tower": tower_facts(),
        "encode": encode_facts(),
        "toy": toy_sampling(),
        "query": query_facts(arguments["slim"]),
    }
    del model
    return found | {"freed": freed(arguments["model"])}
