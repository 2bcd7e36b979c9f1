"""Random models of true shapes, made in the memory of a host's process: there is no file to write or to read."""

from __future__ import annotations

from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_detection
import comfy.model_management as management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.network.unet_config import UNetConfig
from random_weights import fill

PREFIX = "model.diffusion_model."


def host_config(config: UNetConfig, dtype: torch.dtype) -> tuple[Any, dict[str, torch.Tensor]]:
    """The host's own configuration of a U-Net, and the shapes that it was recognised by."""
    shapes = {PREFIX + k: v for k, v in UNet(config, device="meta").state_dict().items()}
    found = comfy.model_detection.model_config_from_unet(shapes, PREFIX)
    found.set_inference_dtype(dtype, None)
    return found, shapes


def bare_model(config: UNetConfig, dtype: torch.dtype, device: torch.device) -> Any:
    """The host's model of a U-Net, whose weights hold whatever was in memory."""
    known, shapes = host_config(config, dtype)
    return known.get_model(shapes, PREFIX, device)


def bare_control(config: UNetConfig, dtype: torch.dtype, device: torch.device) -> Any:
    """The host's ControlNet for such a U-Net."""
    known, _ = host_config(config, dtype)
    sizes = {key: value for key, value in known.unet_config.items() if key != "out_channels"}
    factory = {"operations": comfy.ops.manual_cast, "dtype": dtype, "device": device}
    return comfy.cldm.cldm.ControlNet(**sizes | factory, hint_channels=3)


def computed_in() -> torch.dtype:
    """The type that the host would compute a U-Net in: 16 bits on a GPU."""
    return torch.float16 if management.get_torch_device().type == "cuda" else torch.float32


def random_model(config: UNetConfig, disable_dynamic: bool = False) -> Any:
    """A MODEL, as a checkpoint of these shapes gives it. ``disable_dynamic``: given by a host that makes it again."""
    place, rest = management.get_torch_device(), management.unet_offload_device()
    with torch.inference_mode(False), torch.no_grad():
        model = bare_model(config, computed_in(), rest)
        fill(model.diffusion_model.requires_grad_(False))
    found = ModelPatcher(model, place, rest)
    found.cached_patcher_init = (random_model, (config,))  # by which newer hosts make another of it
    return found


def random_control(config: UNetConfig) -> Any:
    """A CONTROL_NET for it."""
    with torch.inference_mode(False), torch.no_grad():
        control = fill(bare_control(config, computed_in(), torch.device("cpu")).requires_grad_(False))
    return comfy.controlnet.ControlNet(control, load_device=management.get_torch_device())
