"""The toy world of p3s/toyworld as ComfyUI's own kinds of models, so that a graph runs without any download."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import comfy.latent_formats
import comfy.model_base
import comfy.model_detection
import comfy.model_management
import comfy.model_patcher
import comfy.supported_models_base
import torch
import torch.nn.functional as F
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from ...p3s.arithmetic import few_threads
from ...p3s.reference.masks import FEATURES
from ...p3s.toyworld.codec import CHANNELS, Autoencoder
from ...p3s.toyworld.models import PATCH, words
from ...p3s.toyworld.scenes import SIDE, Scene, scene
from ...p3s.toyworld.world import ToyWorld, load_world, picture_of

ENLARGED = 8  # times; the world's pictures have 48 x 48 pixels, too small to click in


@lru_cache(maxsize=1)
def world() -> ToyWorld:
    """The world, loaded once (10 MB)."""
    with torch.inference_mode(False):
        return load_world()


class _Latents(comfy.latent_formats.LatentFormat):
    latent_channels = CHANNELS

    def __init__(self) -> None:
        self.latent_rgb_factors, self.latent_rgb_factors_bias = rgb_factors(world().codec)


class _Config(comfy.supported_models_base.BASE):
    unet_extra_config = {"num_heads": 1, "num_head_channels": -1}  # noqa: RUF012
    sampling_settings = {"zsnr": True}  # noqa: RUF012
    latent_format = _Latents

    def inpaint_model(self) -> bool:
        return False

    def model_type(self, state_dict: Any, prefix: str = "") -> comfy.model_base.ModelType:
        return comfy.model_base.ModelType.V_PREDICTION


def model() -> comfy.model_patcher.ModelPatcher:
    """The world's U-Net as a MODEL."""
    state = {key: value.clone() for key, value in world().unet.state_dict().items()}
    config = _Config(comfy.model_detection.detect_unet_config(state, ""))
    config.set_inference_dtype(torch.float32, None)
    made = config.get_model(state, "")
    last = made.diffusion_model.out[2]  # the host takes the first level to be as wide as the first layer
    channels = state["out.2.weight"].shape[1]
    made.diffusion_model.out[2] = type(last)(channels, last.out_channels, 3, padding=1, dtype=torch.float32)
    made.load_model_weights(state, "")
    made.diffusion_model.train(False)
    patcher = comfy.model_patcher.ModelPatcher(
        made,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    patcher.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "p3s_threads", _on_few_threads)
    return patcher


def _on_few_threads(executor: Any, *arguments: Any, **keywords: Any) -> Tensor:
    """Each call of the U-Net, with what other nodes wrap around it later, and not what the host does between them."""
    with few_threads(executor.class_obj):
        return executor(*arguments, **keywords)


class Text:
    """A CLIP for nodes that encode prompts."""

    def tokenize(self, text: str, **_: Any) -> str:
        return text

    def encode_from_tokens_scheduled(self, tokens: str, **_: Any) -> list[list[Any]]:
        """CONDITIONING [1, 14, 64]. Raises ValueError, which lists the known words, for others."""
        return [[world().encode_text(tokens)[None], {"pooled_output": None}]]

    def query(self, text: str) -> tuple[Tensor, slice | None]:
        """For SSR Encode: tokens [1, 14, 64], and which of them are words."""
        count = len(words(text))
        return world().encode_query(text)[None], slice(0, count) if count else None


class Vae:
    """A VAE between pictures [batch, height, width, 3] and latents [batch, 8, 12, 12]."""

    def encode(self, pixels: Tensor) -> Tensor:
        flat = F.interpolate(pixels[..., :3].float().cpu().movedim(-1, 1), (SIDE, SIDE), mode="area")
        return world().codec.encode(flat.movedim(1, -1))

    def decode(self, samples: Tensor) -> Tensor:
        return enlarged(world().codec.decode(samples.float().cpu()))


class Vision:
    """A CLIP_VISION whose patches are a twelfth of the picture."""

    image_size = SIDE
    image_mean = (0.5, 0.5, 0.5)

    def encode_image(self, image: Tensor, crop: object = True) -> dict[str, Tensor]:
        return {"last_hidden_state": self.encode_in_place(image)}

    def encode_in_place(self, image: Tensor) -> Tensor:
        """For ``clip_encoder_in_place``: this model never leaves the CPU."""
        return world().encode_clip(image.float().cpu())

    features = FEATURES

    def layer_states(self, picture: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """For ``patch_vision``: the states that Eq. 1 may compare, [batch, 145, 96] each."""
        return world().encode_clip_states(picture.float().cpu(), names)

    def layer_outputs(self, picture: Tensor) -> Tensor:
        """For SSR Encode: [batch, 3, 145, 96]."""
        return world().encode_clip_layers(picture.float().cpu())


def drawn(animal: str, number: int) -> Scene:
    """The scene of a number: two of a kind, in looks that no model was trained on."""
    return scene("heldout", number, "different", animal)


def photo(animal: str, number: int) -> Tensor:
    """The photo of a scene, [1, 384, 384, 3]."""
    return enlarged(picture_of(drawn(animal, number))[None])


def enlarged(pictures: Tensor) -> Tensor:
    """[batch, h, w, 3] to [batch, 8 h, 8 w, 3], pixel by pixel."""
    return pictures.repeat_interleave(ENLARGED, 1).repeat_interleave(ENLARGED, 2)


def empty_latents(count: int) -> Tensor:
    side = SIDE // PATCH
    return torch.zeros(count, CHANNELS, side, side)


def rgb_factors(codec: Autoencoder) -> tuple[list[list[float]], list[float]]:
    """What the host's quick previews, -1..1, multiply a latent pixel by: the mean colour of what it stands for."""
    *colours, constant = (codec.preview * 2).tolist()
    return colours, [level - 1 for level in constant]
