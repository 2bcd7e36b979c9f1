"""Turning what comes over the wires (CLIP_VISION, VAE, CONDITIONING) into the tensors that the core works with."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from comfy.clip_vision import ClipVisionModel
from torch import Tensor

from ...p3s.errors import TrainingError
from ...p3s.network.label import SIZES_DIM
from ...p3s.reference.rngr import Encode
from ...p3s.training.examples import Pooled, training_size


def clip_encoder(clip_vision: Any) -> Encode:
    """The encoder of RNGR on the host's CLIP vision model: [1, S, S, 3] in 0..1 to [1, 1 + patches, width]."""

    def encode(image: Tensor) -> Tensor:
        # The picture has the model's size already, so that the host's own resizing has nothing to do.
        return clip_vision.encode_image(image, crop=False)["last_hidden_state"]

    return encode


def clip_encoder_in_place(clip_vision: Any) -> Encode | None:
    """The same with the weights where they lie: no model is loaded or moved, so the host's own thread is not disturbed.

    None unless all of them lie on the device that computes, and stay there meanwhile (with the host's dynamic memory
    they come and go). Of models of other classes than the host's that is not known; they may offer
    ``encode_in_place(image)``.
    """
    if (own := getattr(clip_vision, "encode_in_place", None)) is not None:
        return own
    if type(clip_vision) is not ClipVisionModel:
        return None
    dynamic = getattr(clip_vision.patcher, "is_dynamic", bool)  # 0.3.64 has none
    if dynamic() or any(weight.device != clip_vision.load_device for weight in clip_vision.model.parameters()):
        return None

    return lambda image: last_hidden_state(clip_vision, image)


def last_hidden_state(clip_vision: Any, image: Tensor) -> Tensor:
    """That of the host's ClipVisionModel, where it lies, for a picture [1, S, S, 3] of the model's own size."""
    # As the host does with such a picture, but also for DINOv3, with which encode_image fails.
    device = clip_vision.load_device
    pixels = torch.clip(255.0 * image.to(device).movedim(-1, 1), 0, 255).round() / 255.0
    mean, std = (
        torch.tensor(values, device=device)[:, None, None] for values in (clip_vision.image_mean, clip_vision.image_std)
    )
    return clip_vision.model(pixel_values=((pixels - mean) / std).float(), intermediate_output=-2)[0]


def clip_image_size(clip_vision: Any) -> int:
    """Side of the square picture that a CLIP vision model reads, in pixels."""
    return int(getattr(clip_vision, "image_size", 224))


def encode_latent(vae: Any, model: Any, image: Tensor, resolution: int) -> Tensor:
    """A photo [H, W, 3] in 0..1 as a scaled VAE latent [channels, h, w], float32 on the CPU.

    The photo is resized to about ``resolution`` squared in area, with its proportions and never cropped.
    """
    height, width = training_size(image.shape[0], image.shape[1], resolution)
    pixels = F.interpolate(image.movedim(-1, 0)[None], size=(height, width), mode="bicubic", antialias=True)
    latent = vae.encode(pixels.clamp(0, 1).movedim(1, -1))
    latent = model.get_model_object("latent_format").process_in(latent)
    if latent.ndim != 4:
        raise TrainingError(
            f"this VAE gives latents of the shape {tuple(latent.shape)}; expected the VAE of the MODEL's own checkpoint"
        )
    return _normal(latent[0])


def prompts(conditioning: Any, count: int, name: str) -> list[Tensor]:
    """The text conditioning [text tokens, width] of ``count`` references, from one CONDITIONING.

    One entry serves all references; as many entries as references are taken in their order. Raises TrainingError for
    another number, and where hooks change the MODEL for a prompt, of which a training would not see anything.
    """
    if len(conditioning) not in (1, count):
        raise TrainingError(
            f"{name} holds {len(conditioning)} entries for {count} reference(s): give one prompt for "
            "all of them, or one for each"
        )
    hooks = [hook for entry in conditioning for hook in getattr(entry[1].get("hooks"), "hooks", ())]
    if any(getattr(hook, "strength_model", 0) for hook in hooks):
        raise TrainingError(
            f"{name} carries a hook that changes the MODEL (Create Hook LoRA?), which training would not see: use Load "
            "LoRA instead, or set the hook's strength_model to 0"
        )
    texts = [_normal(entry[0][0]) for entry in conditioning]
    return texts * count if len(texts) == 1 else texts


def pooled(positive: Any, empty: Any, count: int, label_dim: int) -> list[Pooled] | None:
    """The pooled texts of ``count`` references for a model that reads a label of ``label_dim`` numbers; None for others
    (0). Raises TrainingError for conditionings of another model's CLIP.
    """
    if not label_dim:
        return None
    width = label_dim - SIZES_DIM

    def texts(conditioning: Any, name: str) -> list[Tensor]:
        found = [entry[1].get("pooled_output") for entry in conditioning]
        for text in found:
            if text is None or text.shape[-1] != width:
                came = "none" if text is None else f"one of {text.shape[-1]} numbers"
                raise TrainingError(
                    f"{name} must hold a pooled text embedding of {width} numbers for this model, and holds {came}: "
                    "encode it with the CLIP of the model's own checkpoint (both text encoders of SDXL)"
                )
        return [_normal(text[0]) for text in found]

    given = texts(positive, "positive")
    (without,) = texts(empty, "empty")
    return [Pooled(text, without) for text in (given * count if len(given) == 1 else given)]


def equally_long(texts: list[Tensor]) -> list[Tensor]:
    """Make prompts equally long by repeating each, as the host does: attention is unchanged by that."""
    length = math.lcm(*(len(t) for t in texts))
    return [t.repeat(length // len(t), 1) for t in texts]


def _normal(tensor: Tensor) -> Tensor:
    """A float32 copy on the CPU that autograd may use: what nodes are given was made in inference mode."""
    with torch.inference_mode(False):
        return tensor.detach().to("cpu", torch.float32, copy=True)
