"""Which models a command runs on: the toy world, or Stable Diffusion 1.5 from files."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import P3SError
from ..models.pipeline import ModelBundle
from ..models.stable_diffusion import StableDiffusion, load_stable_diffusion
from ..settings import settings_of
from ..toyworld.scenes import SIDE
from ..toyworld.world import ToyWorld, load_world
from ..training.settings import RESOLUTION, TrainSettings
from .paths import check_folder

TOY = "toy"


def add_models(parser: argparse.ArgumentParser, precision: bool = False) -> None:
    """--model and what belongs to it. ``precision``: as an option of its own, where training has none."""
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model",
        "--world",
        default=TOY,
        metavar="MODELS",
        help=f"toy (default): small models of drawn animals, which need no download; photos are squeezed to {SIDE} x "
        f"{SIDE} pixels, prompts use its few words. Or Stable Diffusion 1.5: a .safetensors checkpoint, or a folder as "
        "diffusers writes it (needs: pip install diffusers transformers). --world is an older name of this option",
    )
    group.add_argument(
        "--clip",
        metavar="FOLDER",
        help="with Stable Diffusion: openai/clip-vit-large-patch14; its vision tower reads the photos, and a "
        "checkpoint also needs its tokenizer",
    )
    add_computing(group)
    if precision:
        group.add_argument(
            "--precision",
            choices=settings_of(TrainSettings)["precision"].choices,
            default=StableDiffusion.precision,
            help="with Stable Diffusion: arithmetic of sampling (default: %(default)s)",
        )


def add_computing(group: argparse._ArgumentGroup) -> None:
    """--device and --resolution, for Stable Diffusion."""
    group.add_argument("--device", metavar="NAME", help="of Stable Diffusion (default: cuda if there is one, else cpu)")
    group.add_argument(
        "--resolution",
        type=int,
        default=StableDiffusion.resolution,
        metavar="PIXELS",
        help=f"with Stable Diffusion: the side of its pictures. {RESOLUTION.help} (default: %(default)s)",
    )


def open_models(options: argparse.Namespace) -> ModelBundle:
    """The models that the user asked for."""
    return load_world() if options.model == TOY else open_stable_diffusion(options)


def open_stable_diffusion(options: argparse.Namespace) -> StableDiffusion:
    """Stable Diffusion from the files that the user named. Raises P3SError for files or a device that are not there."""
    if not os.path.exists(options.model):
        raise P3SError(
            f"--model {options.model}: there is no such file or folder; expected Stable Diffusion 1.5, as a "
            ".safetensors checkpoint or a folder for diffusers. Check the path"
        )
    if options.clip is not None:
        check_folder("--clip", options.clip, "openai/clip-vit-large-patch14")
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise P3SError(f"--device {device} cannot be used: {str(error).splitlines()[0]}") from None
    precision = getattr(options, "precision", StableDiffusion.precision)
    return load_stable_diffusion(options.model, options.clip, device, options.resolution, precision)


def fit_photo(models: ModelBundle, photo: Tensor) -> Tensor:
    """A photo [H, W, 3], or a mask [H, W, 1], of the size that ``models`` takes: squeezed for the toy world, whose
    pictures have one size."""
    if not isinstance(models, ToyWorld):
        return photo
    small = functional.interpolate(photo.movedim(-1, 0)[None], (SIDE, SIDE), mode="bicubic", antialias=True)
    return small[0].movedim(0, -1).clamp(0, 1)


def check_prompts(models: ModelBundle, prompts: Iterable[str]) -> None:
    """Raise P3SError, before anything takes time, for a prompt that ``models`` cannot read."""
    for prompt in prompts:
        try:
            models.encode_text(prompt)
        except ValueError as error:
            raise P3SError(f"prompt {prompt!r}: {error}") from None
