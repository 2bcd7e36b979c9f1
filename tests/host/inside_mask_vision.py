"""Run by test_mask_vision.py inside a host: the host's own vision models, small and random, as what masks compare."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy.clip_vision import IMAGE_ENCODERS, ClipVisionModel
from comfyui_p3s.nodes.host import clip_token_cache, toy_world
from comfyui_p3s.nodes.host.clip_token_cache import Choice, ClipTokenCache
from comfyui_p3s.nodes.host.encoders import clip_encoder
from comfyui_p3s.nodes.host.patch_vision import patch_vision, patch_vision_in_place
from comfyui_p3s.nodes.rngr_mask import RNGRMask
from comfyui_p3s.p3s.errors import MaskError, P3SError
from comfyui_p3s.p3s.reference.framing import CLIP_MEAN
from comfyui_p3s.p3s.reference.masks import FEATURES, MaskSettings
from comfyui_p3s.p3s.reference.points import PointSet
from comfyui_p3s.p3s.reference.rngr import make_reference
from comfyui_p3s.p3s.reference.vision import PatchVision
from inside_rngr_mask import equal
from torch import Tensor
from torch.nn import functional

WIDTH, HEADS, LAYERS = 16, 2, 3
SHARED = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "num_hidden_layers": LAYERS, "num_channels": 3}
CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", "intermediate_size": 32, "image_size": 64},
    "siglip": {"model_type": "siglip_vision_model", "hidden_act": "gelu", "intermediate_size": 32, "image_size": 69},
    "dinov2": {"model_type": "dinov2", "image_size": 518, "layer_norm_eps": 1e-6, "use_swiglu_ffn": False},
}
PATCH = {"clip": 16, "siglip": 16, "dinov2": 14}
STD = (0.2, 0.3, 0.25)
MEAN = {"clip": CLIP_MEAN, "siglip": (0.5, 0.5, 0.5), "dinov2": (0.4, 0.5, 0.6)}


def model_of(kind: str) -> Any:
    file = Path(folder_paths.get_temp_directory()) / f"{kind}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    colours = {"image_mean": MEAN[kind], "image_std": STD}
    file.write_text(json.dumps(SHARED | {"patch_size": PATCH[kind]} | CONFIGS[kind] | colours))
    vision = ClipVisionModel(str(file))
    torch.manual_seed(0)
    state = {}
    for name, weight in vision.model.state_dict().items():
        noise = torch.randn(weight.shape)
        state[name] = 1 + 0.3 * noise if weight.ndim == 1 and "bias" not in name else 0.3 * noise
    vision.load_sd(state)
    return vision


def registers() -> list[Any] | None:
    """Of DINOv3, which hosts after 0.3.64 have: tokens before the patches, its grid, and whether its last state is that
    of the model itself, and each state of its own."""
    if "dinov3" not in IMAGE_ENCODERS:
        return None
    more = {"num_register_tokens": 4, "intermediate_size": 32, "layer_norm_eps": 1e-5, "rope_theta": 100.0}
    CONFIGS["dinov3"], PATCH["dinov3"], MEAN["dinov3"] = (
        {"model_type": "dinov3", "image_size": 64, **more},
        16,
        CLIP_MEAN,
    )
    model, picture = model_of("dinov3"), torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    del CONFIGS["dinov3"]
    states = patch_vision(model).encode(picture, FEATURES)
    pixels = ((picture * 255).round() / 255 - torch.tensor(CLIP_MEAN)) / torch.tensor(STD)
    expected = model.model(pixels.movedim(-1, 1))[0]
    apart = min(far(states["last"], states[name].cpu()) for name in FEATURES[1:])
    own = far(states["last"], expected.cpu()) < 1e-6 and apart > 0.01
    return [states["last"].shape[1] - 16, patch_vision(model).patches(two_colours()).grid, own]


def by_hand(kind: str, weights: dict[str, Tensor], picture: Tensor) -> dict[str, Tensor]:
    """The model once more, in plain operations on its weights."""
    w = {name: tensor.float() for name, tensor in weights.items()}
    dino, start = kind == "dinov2", "" if kind == "dinov2" else "vision_model."

    def norm(x: Tensor, name: str) -> Tensor:
        eps = 1e-6 if dino else 1e-5
        return functional.layer_norm(x, (WIDTH,), w[start + name + ".weight"], w[start + name + ".bias"], eps)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ w[start + name + ".weight"].T + w[start + name + ".bias"]

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        parts = []
        for a, b, c in zip(*(each.split(WIDTH // HEADS, -1) for each in (q, k, v)), strict=True):
            parts.append((a @ b.transpose(1, 2) / (WIDTH // HEADS) ** 0.5).softmax(-1) @ c)
        return torch.cat(parts, -1)

    pixels = (picture * 255).round() / 255
    pixels = (pixels - torch.tensor(MEAN[kind])) / torch.tensor(STD)
    e = "embeddings.patch_embeddings.projection" if dino else "embeddings.patch_embedding"
    bias = w.get(start + e + ".bias")
    x = functional.conv2d(pixels.movedim(-1, 1), w[start + e + ".weight"], bias, PATCH[kind]).flatten(2).transpose(1, 2)
    token = w.get("embeddings.cls_token" if dino else start + "embeddings.class_embedding")
    if token is not None:
        x = torch.cat([token.view(1, 1, WIDTH), x], 1)
    x = x + (w["embeddings.position_embeddings"] if dino else w[start + "embeddings.position_embedding.weight"])
    if kind == "clip":
        x = norm(x, "pre_layrnorm")
    names = (
        ("norm1", "norm2", "attention.attention.", ("query", "key", "value"), "attention.output.dense")
        if dino
        else ("layer_norm1", "layer_norm2", "self_attn.", ("q_proj", "k_proj", "v_proj"), "self_attn.out_proj")
    )
    first, second, attention, projections, output = names
    found, path = {}, x
    for number in range(LAYERS):
        layer = f"encoder.layer.{number}." if dino else f"encoder.layers.{number}."
        scales = [w.get(layer + f"layer_scale{i}.lambda1", torch.tensor(1.0)) for i in (1, 2)]
        found["penultimate"] = x
        if number == LAYERS - 2:
            path = x
        q, k, v = (linear(norm(x, layer + first), layer + attention + name) for name in projections)
        if number >= LAYERS - 2:
            path = path + scales[0] * linear(attend(v, v, v), layer + output)
        x = x + scales[0] * linear(attend(q, k, v), layer + output)
        inner = linear(norm(x, layer + second), layer + "mlp.fc1")
        inner = inner * torch.sigmoid(1.702 * inner) if kind == "clip" else functional.gelu(inner)
        x = x + scales[1] * linear(inner, layer + "mlp.fc2")
    found["value-value"] = path
    found["last"] = x if kind == "clip" else norm(x, "layernorm" if dino else "post_layernorm")
    return found


def far(one: Tensor, other: Tensor) -> float:
    return float((one.cpu().float() - other).abs().max() / other.abs().max())


def said(**inputs: Any) -> str:
    try:
        RNGRMask.EXECUTE_NORMALIZED(**inputs)
    except P3SError as error:
        return str(error)
    return ""


def two_colours(width: int = 120, height: int = 90) -> Tensor:
    photo = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(1)) * 0.1
    photo[:, : width // 3, 0] += 0.8
    photo[:, -width // 3 :, 2] += 0.8
    return photo


def unasked() -> list[Any]:
    """A state with values that are not finite and that nobody has chosen: the tokens of a run; what is said when it is
    chosen."""
    model, photo, cache = model_of("clip"), two_colours(), clip_token_cache.ClipTokenCache()
    wanted = cache.tokens(photo, model)

    def broken(vision: Any, *args: Any) -> PatchVision:
        whole = patch_vision(vision, *args)

        def encode(picture: torch.Tensor, names: tuple[str, ...]) -> dict[str, torch.Tensor]:
            return {name: state / int(name != "value-value") for name, state in whole.encode(picture, names).items()}

        return replace(whole, encode=encode)

    clip_token_cache.patch_vision = broken
    try:
        cache = clip_token_cache.ClipTokenCache()
        same = torch.equal(cache.tokens(photo, model), wanted)
        penultimate = cache.patches(photo, model, clip_token_cache.Choice(features="penultimate")).grid
        try:
            cache.patches(photo, model, clip_token_cache.Choice(features="value-value"))
        except MaskError as error:
            return [same, penultimate, str(error)]
    finally:
        clip_token_cache.patch_vision = patch_vision
    return [same, penultimate, ""]


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    models = {kind: model_of(kind) for kind in CONFIGS}
    found: dict[str, Any] = {"far": {}, "half": {}, "grids": {}, "prefix": {}, "registers": registers()}
    for kind, vision in models.items():
        size = CONFIGS[kind]["image_size"]
        picture = torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(2))
        weights = {name: weight.clone() for name, weight in vision.model.state_dict().items()}
        expected = by_hand(kind, weights, picture)
        states = patch_vision(vision).encode(picture, FEATURES)
        found["far"][kind] = {name: far(states[name], expected[name]) for name in FEATURES}
        found["prefix"][kind] = states["last"].shape[1] - (size // PATCH[kind]) ** 2
        found["grids"][kind] = [patch_vision(vision).patches(two_colours(), "last", n).grid for n in (1, 2)]
        through_host = vision.encode_image(picture, crop=False)
        found[f"{kind}, the host's own"] = torch.equal(states["last"].cpu(), through_host["last_hidden_state"]) and (
            torch.equal(states["penultimate"].cpu(), through_host["penultimate_hidden_states"])
        )
        in_place = patch_vision_in_place(vision)
        found[f"{kind}, in place"] = in_place is None or all(
            torch.equal(in_place.encode(picture, (name,))[name], states[name]) for name in FEATURES
        )
        found[f"{kind}, no hook is left"] = not any(
            part._forward_hooks or part._forward_pre_hooks for part in vision.model.modules()
        )
    found["unasked"] = unasked()
    half = model_of("clip")
    half.model.half()
    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2))
    whole = {name: tensor.float() for name, tensor in half.model.state_dict().items()}
    expected = by_hand("clip", whole, picture)
    states = patch_vision(half).encode(picture, FEATURES)
    found["half"] = {name: far(states[name], expected[name]) for name in FEATURES}

    clip, dino = models["clip"], models["dinov2"]
    photo, points = two_colours(), PointSet([(0.15, 0.5)], [(0.85, 0.5)])
    kept = {"fill": ["smooth"], "fill_region": ["negative"], "value_range": ["clip"], "blur": [0.5], "grow": [0.0]}
    given = {"clip_vision": [clip], "image": [photo[None]], "points": [points], **kept}

    def run(**more: Any) -> Any:
        return RNGRMask.EXECUTE_NORMALIZED(**given, **more).args[0][0]

    plain = run()
    found["off is as before"] = equal(plain, run(features=["last"], tiles=[1], refine=["off"]))
    found["as the library"] = {}
    for name, model, features, tiles, refine in (
        ("dinov2", dino, "last", 1, "off"),
        ("siglip", models["siglip"], "penultimate", 2, "off"),
        ("value-value", None, "value-value", 1, "grabcut"),
        ("tiles", None, "penultimate", 3, "off"),
    ):
        linked = {} if model is None else {"mask_vision": [model]}
        settings = MaskSettings("clip", 0.5, "negative", 0.0, "smooth", features, tiles, refine)
        for _ in range(2):  # read, and from the cache
            made = run(features=[features], tiles=[tiles], refine=[refine], **linked)
            vision = patch_vision(model or clip)
            expected = make_reference(
                photo, points, clip_encoder(clip), settings, image_size=64, mask_vision=vision, tokens=None
            )
            found["as the library"][name] = equal(made, expected)
        found["as the library"][f"{name}, another mask"] = not torch.equal(made.similarity, plain.similarity)

    cache = ClipTokenCache()
    cache.tokens(photo, clip)
    reads: list[int] = []
    handle = clip.model.register_forward_pre_hook(lambda *_: reads.append(1))
    for features in FEATURES:
        cache.patches(photo, clip, Choice(False, features, 1))
    handle.remove()
    found["one pass reads all states"] = not reads

    toy = {**given, "clip_vision": [toy_world.Vision()]}
    found["said"] = {
        "features": said(**given, features=["deepest"]),
        "tiles": said(**given, tiles=[4]),
        "foreign": said(**given, mask_vision=[Foreign()], features=["value-value"]),
        "nothing linked": said(**given, mask_vision=[None]),
        "two models": said(**given, mask_vision=[dino, dino]),
        "odd tokens": said(**given, mask_vision=[Foreign()]),
        "any shape": said(**given, mask_vision=[NaFlex()]),
        "toy": said(**toy, features=["value-value"], tiles=[2]),
    }
    return found


class Foreign:
    image_size = 64

    def encode_image(self, image: Tensor, crop: object = True) -> dict[str, Tensor]:
        return {"last_hidden_state": torch.rand(1, 40, 8)}


class NaFlex(Foreign):
    image_size = -1
