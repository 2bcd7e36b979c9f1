"""What the scripts that run inside a host share: subjects for its models, and sampling with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import comfy.sample
import comfy.sd
import torch
from comfyui_p3s.nodes.host import apply_subject, base_model
from comfyui_p3s.p3s.errors import P3SError
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.copy_start import start_copy
from comfyui_p3s.p3s.sampling.application import Application
from comfyui_p3s.p3s.sampling.schedule import Schedule
from comfyui_p3s.p3s.subject.file import Subject, SubjectReference
from comfyui_p3s.p3s.subject.info import SubjectInfo

FIXED = Schedule("fixed")
GENERATOR = torch.Generator()


def load(path: str) -> Any:
    """The MODEL of a checkpoint."""
    return comfy.sd.load_checkpoint_guess_config(path, output_vae=False, output_clip=False)[0]


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR.manual_seed(seed))


def subject_for(model: Any, seed: int = 1, **settings: Any) -> Subject:
    """A subject whose zero convolutions are no longer zero, as after some training."""
    chosen = CopySettings(**settings)
    with torch.inference_mode(False):
        copy = start_copy(base_model.base_weights(model), chosen, 20)
        for i, zero in enumerate([*copy.zero_self.values(), *copy.zero_cross.values()]):
            drawn = zero.up if chosen.kind == "lora" else zero
            drawn.weight.data = draw(*drawn.weight.shape, seed=seed * 100 + i) * drawn.weight.shape[1] ** -0.5
        mask = torch.zeros(16, 16) if chosen.cached else None
        if mask is not None:
            mask[3:10, 4 : 8 + seed] = 1
        reference = SubjectReference(draw(4, 16, 16, seed=seed), draw(17, 20, seed=seed), mask)
    config = base_model.unet_config(model)
    info = SubjectInfo(
        config.family, base_model.base_fingerprint(model), chosen.to_dict(), {}, ("",), ("",), 1, True, "", ""
    )
    return Subject({k: v.detach() for k, v in copy.state_dict().items()}, (reference,), info)


def apply(model: Any, subject: Subject, strength: float = 1.0, schedule: Schedule = FIXED, **application: Any) -> Any:
    """A MODEL with a subject applied."""
    return apply_subject.apply_subject(model, subject, 0, Application(schedule, strength, **application))[0]


def inputs(rows: int = 2, size: int = 16) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return draw(rows, 4, size, size), torch.full((rows,), 500.0), draw(rows, 77, 768, seed=1)


def call(model: Any, x: torch.Tensor, t: torch.Tensor, context: torch.Tensor, **more: Any) -> torch.Tensor:
    """One U-Net call with a model's wrappers and patches, as the sampler makes it. ``more``: of its options."""
    options = dict(model.model_options["transformer_options"])
    options["wrappers"] = model.wrappers
    options["cond_or_uncond"] = [1, 0][: len(x)]
    options["uuids"] = ["a", "b"][: len(x)]
    options |= more
    return model.model.diffusion_model(x, t, context, transformer_options=options)


def conditioning(seed: int, tokens: int = 77, model: Any = None, **options: Any) -> list[Any]:
    """A prompt as wide as the MODEL reads it, or as SD 1.5 does; with the pooled text that SDXL reads beside it."""
    config = {} if model is None else model.model.model_config.unet_config
    if config.get("adm_in_channels"):
        options = {"pooled_output": draw(1, 1280, seed=seed), **options}
    return [[draw(1, tokens, config.get("context_dim", 768), seed=seed), options]]


def sample(
    model: Any,
    cfg: float = 7.0,
    steps: int = 2,
    sampler: str = "euler",
    positive: Sequence[Any] | None = None,
    negative: Sequence[Any] | None = None,
    batch: int = 1,
    size: tuple[int, int] = (16, 16),
    latent: torch.Tensor | None = None,
    noise: torch.Tensor | None = None,
    **options: Any,
) -> torch.Tensor:
    """KSampler on seeded noise; the latents [batch, 4, height, width]."""
    arguments = {"denoise": 1.0, "seed": 3, "disable_pbar": True, **options}
    torch.manual_seed(0)  # some nodes draw from the global generator
    return comfy.sample.sample(
        model,
        draw(batch, 4, *size, seed=5) if noise is None else noise,
        steps,
        cfg,
        sampler,
        "normal",
        positive or conditioning(1, model=model),
        negative or conditioning(2, model=model),
        torch.zeros(batch, 4, *size) if latent is None else latent,
        **arguments,
    )


def difference(a: torch.Tensor, b: torch.Tensor) -> float:
    """Largest difference, relative to the size of ``b``."""
    return ((a - b).abs().max() / b.std()).item()


def message(run: Any) -> str:
    """The text of the error that something raises, with its type."""
    try:
        run()
    except P3SError as error:
        return f"{type(error).__name__}: {error}"
    return "no error"
