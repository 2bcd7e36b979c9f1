"""Run by test_toy_world.py inside a host: the toy world's models in the host's hands and in its own."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.sample
import comfyui_p3s
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_p3s.nodes.host import encoders, toy_world
from comfyui_p3s.nodes.host.base_model import noise_schedule, unet_config
from comfyui_p3s.p3s.toyworld.codec import CHANNELS

import nodes

assert comfyui_p3s


def threads() -> list[int]:
    """On how many threads torch computes within a call of the U-Net, between two, and when all is done."""
    model, clip = toy_world.model(), toy_world.Text()
    torch.set_num_threads(3)
    seen = []

    def look(executor: Any, *arguments: Any, **keywords: Any) -> Any:
        seen.append(torch.get_num_threads())
        return executor(*arguments, **keywords)

    model.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "look", look)
    model.add_wrapper_with_key(WrappersMP.CALC_COND_BATCH, "look", look)
    (text,) = nodes.CLIPTextEncode().encode(clip, "a photo of a dog on the beach")
    nodes.KSampler().sample(model, 1, 1, 1.0, "ddim", "normal", text, text, {"samples": toy_world.empty_latents(1)})
    return [*seen, torch.get_num_threads()]


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    if arguments.get("threads"):
        return {"threads": threads()}
    model, clip, vae, vision = toy_world.model(), toy_world.Text(), toy_world.Vae(), toy_world.Vision()
    world = toy_world.world()
    photo = toy_world.photo("dog", 4)
    picture = photo[0, ::8, ::8]
    latent = encoders.encode_latent(vae, model, photo[0], 384)

    (positive,) = nodes.CLIPTextEncode().encode(clip, "a photo of a dog on the beach")
    (negative,) = nodes.CLIPTextEncode().encode(clip, "")
    x = torch.randn(2, CHANNELS, 12, 12, generator=torch.Generator().manual_seed(0))
    sigmas = model.get_model_object("model_sampling").sigmas
    comfy.model_management.load_models_gpu([model])
    differences = []
    for t in (0, 500, 998):
        sigma = sigmas[t].repeat(2)
        context = positive[0][0].repeat(2, 1, 1)
        ours = world.unet(x, torch.tensor([t, t]), context)
        alpha = 1 / (1 + sigmas[t] ** 2)
        wanted = alpha.sqrt() * x - (1 - alpha).sqrt() * ours  # x_0 from v
        host = model.model.apply_model(x / alpha.sqrt(), sigma, c_crossattn=context)
        differences.append(((host - wanted).abs().max() / wanted.abs().max()).item())

    (made,) = nodes.KSampler().sample(
        model, 1, 25, 3.0, "ddim", "normal", positive, negative, {"samples": toy_world.empty_latents(4)}
    )
    pictures = vae.decode(made["samples"])
    small = pictures[:, ::8, ::8]
    judged = world.judge(small)
    factors, bias = toy_world.rgb_factors(world.codec)
    rough = (latent.permute(1, 2, 0) @ torch.tensor(factors) + torch.tensor(bias)) / 2 + 0.5
    blocks = picture.unflatten(0, (12, 4)).unflatten(2, (12, 4)).mean((1, 3))
    schedule = noise_schedule(model)
    return {
        "family": unet_config(model).family,
        "prediction": schedule.prediction,
        "schedule": (schedule.alphas_cumprod - world.noise.alphas_cumprod).abs().max().item(),
        "latent": (latent - world.encode_latent(picture)).abs().max().item() / latent.abs().max().item(),
        "tokens": list(vision.encode_image(picture[None])["last_hidden_state"].shape),
        "differences": differences,
        "shape": list(pictures.shape),
        "dogs": judged["animal"].argmax(1).tolist(),
        "beaches": judged["background"].argmax(1).tolist(),
        # A linear map of the latents tells colours roughly: the error, of that of the picture's mean colour.
        "preview": ((rough - blocks).abs().mean() / (blocks - blocks.mean((0, 1))).abs().mean()).item(),
    }
