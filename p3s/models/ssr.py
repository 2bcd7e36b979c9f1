"""Training an SSR-Encoder on Stable Diffusion from files: the frozen models as its training takes them; its memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch

from ..errors import FamilyError, TrainingError
from ..network.unet import UNet
from ..network.unet_config import UNetConfig
from ..ssr.aligner import Aligner
from ..ssr.dataset import CaptionedPictures
from ..ssr.file import SSRModel
from ..ssr.layers import SubjectLayers, check_layers
from ..ssr.trainer import FrozenModels, RunSettings
from ..ssr.training import ADJUSTABLE, Batch, SSRTrainSettings, Trainee, step_loss
from ..ssr.vision import clip_vision
from ..subject.base_fingerprint import fingerprint
from ..training.memory_estimate import CPU, STATE, LiveBytes, MemoryEstimate, bytes_of, fill
from ..training.precision import DTYPES, autocast, normalise_in_32_bits
from .stable_diffusion import StableDiffusion

GIB = 2**30
MORE = "it needs a device with more memory"
CLOSE = 0.9  # share of the free memory up to which a training is expected to fit without being close


def check_fits(model: SSRModel, models: StableDiffusion) -> None:
    """Raise FamilyError unless an SSR-Encoder fits U-Net, text encoder and CLIP."""
    check_layers(model.layers, models.unet.config)
    model.aligner.check(clip_vision(models.clip, model.aligner.scales).zeros(), models.encode_texts([""]))


def frozen_models(models: StableDiffusion, precision: str, scales: int = 6) -> FrozenModels:
    """Stable Diffusion, with CLIP, for training an aligner of so many scales in a ``precision``, in which its U-Net is
    held from now on.

    Raises FamilyError for a U-Net that reads more than the latent.
    """
    config = models.unet.config
    if config.in_channels != config.out_channels:
        raise FamilyError(
            f"this U-Net reads {config.in_channels} channels and predicts {config.out_channels}, as inpainting models "
            "do: train on the ordinary model of the family"
        )
    base = models.unet.to(DTYPES[precision])
    vision = clip_vision(models.clip, scales)
    return FrozenModels(base, models.noise, models.encode_latent, models.encode_texts, vision, models.resolution)


def facts(
    models: StableDiffusion,
    data: CaptionedPictures,
    settings: SSRTrainSettings,
    run: RunSettings,
    begin: SSRModel | None = None,
) -> dict[str, str]:
    """What stays the same over a training, by names that users know. The U-Net is still in float32. ``begin``: the
    SSR-Encoder that it starts from."""
    values = {name: value for name, value in asdict(settings).items() if name not in ADJUSTABLE}
    values |= {"seed": run.seed, "resolution": models.resolution}
    if begin is not None:
        values["start"] = f"from {begin.sha256[:16]}"
    parts = {"the U-Net": models.unet, "the VAE": models.vae, "the text encoder": models.text_encoder}
    prints = {name: fingerprint(part.state_dict())[:16] for name, part in {**parts, "CLIP": models.clip}.items()}
    return {
        **{name: str(value) for name, value in values.items()},
        "the list of pictures": data.sha256[:16],
        **prints,
        "prediction": models.noise.prediction,
    }


def arithmetic(precision: str, device: torch.device) -> Callable[[], Any]:
    """What losses are computed in."""
    return partial(autocast, precision, device)


def estimate_memory(
    config: UNetConfig,
    batch: Mapping[str, tuple[int, ...]],
    trained: Aligner,
    run: RunSettings,
    others: int = 0,
    device: torch.device = CPU,
) -> MemoryEstimate:
    """The memory of a training on ``device``, on a base of ``config``, found by a step on tensors that have shapes but
    no values.

    Args:
        batch: shapes of the :class:`Batch`'s ``x``, ``context``, ``states`` and ``query``.
        trained: the aligner to train, of which only the sizes matter.
        others: bytes of the frozen models besides the U-Net. What they need while they work is not counted.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode  # slow to import

    base = UNet(config, device="meta").requires_grad_(False)
    trainee = Trainee(deepcopy(trained).to("meta"), SubjectLayers(config, device="meta"))
    with FakeTensorMode(), LiveBytes() as live:
        fill(base, DTYPES[run.precision])
        fill(trainee, torch.float32)
        base.checkpointing = run.checkpointing
        weights = bytes_of([*base.parameters(), *trainee.parameters()])
        if device.type != "cpu":
            for network in (base, trainee):
                normalise_in_32_bits(network)
        rows = {name: torch.empty(shape) for name, shape in batch.items()}
        steps = torch.empty(len(rows["x"]), dtype=torch.long)
        drawn = Batch(**rows, timesteps=steps, target=torch.empty_like(rows["x"]), bias=None)
        live.peak = live.now
        with autocast(run.precision, torch.device("cpu")):
            loss, *_ = step_loss(trainee, base, drawn, SSRTrainSettings())
        loss.backward()
    gradients = bytes_of([p.grad for p in trainee.parameters() if p.grad is not None])
    numbers = [p.numel() for p in trainee.parameters()]
    in_step = max(live.peak, weights + gradients + 4 * max(numbers))  # AdamW works through one weight after the other
    return MemoryEstimate(weights + others, gradients, STATE["adamw"] * sum(numbers), in_step - weights - gradients)


def shapes_of(models: FrozenModels, run: RunSettings, factor: int) -> dict[str, tuple[int, ...]]:
    """Of a batch's tensors. ``factor``: pixels per side of a latent's."""
    side, rows = models.resolution // factor, run.batch_size
    text = tuple(models.text([""]).shape[1:])
    return {
        "x": (rows, models.base.config.in_channels, side, side),
        "context": (rows, *text),
        "states": (rows, *models.vision.zeros().shape[1:]),
        "query": (rows, *text),
    }


def bytes_besides_the_unet(models: StableDiffusion) -> int:
    """Of VAE, text encoder and CLIP."""
    parts = (models.vae, models.text_encoder, models.clip)
    return sum(bytes_of(list(part.parameters())) for part in parts)


def described(estimate: MemoryEstimate) -> str:
    """An estimate in one line."""
    parts = {
        "frozen and trained weights": estimate.weights,
        "gradients": estimate.gradients,
        "AdamW's moments": estimate.optimizer,
        "activations": estimate.activations,
    }
    each = ", ".join(f"{name} {size / GIB:.2f}" for name, size in parts.items())
    return f"memory of a process, an estimate: {estimate.peak / GIB:.1f} GiB ({each})"


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still take on a device, where that is known."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii") if device.type == "cpu" else ""
        return next(1024 * int(line.split()[1]) for line in text.splitlines() if line.startswith("MemAvailable:"))
    except (OSError, ValueError, StopIteration):
        return None


def ways_to_save(run: RunSettings, begun: bool) -> str:
    """What a user can change so that a step needs less memory. ``begun``: and that a begun training may change."""
    ways = [f"a smaller --batch-size (now {run.batch_size})"] if run.batch_size > 1 else []
    ways += [] if run.checkpointing else ["--checkpointing"]
    ways += ["--precision bf16"] if run.precision == "fp32" else []
    ways += [] if begun else ["a smaller --resolution"]
    return f"try {', '.join(ways)}" if ways else MORE


def check_memory(
    estimate: MemoryEstimate, loaded: int, unet: int, free: int | None, run: RunSettings, begun: bool = False
) -> str | None:
    """A warning where memory is tight. ``loaded``: bytes of the estimate that the process holds already, ``unet`` of
    them for the U-Net; ``free``: what it can take besides; ``begun`` as of :func:`ways_to_save`. Raises TrainingError
    where not even weights, gradients and moments fit."""
    if free is None:
        return None
    missing = estimate.least - loaded
    if missing > free:
        spared = unet // 2 if run.precision == "fp32" else 0
        bf16 = f"use --precision bf16, which halves the U-Net's {unet / GIB:.1f} GiB"
        advice = bf16 if missing <= free + spared else MORE
        raise TrainingError(
            f"weights, gradients and AdamW's moments take {estimate.least / GIB:.1f} GiB, of which "
            f"{missing / GIB:.1f} are still needed, but the device has {free / GIB:.1f} GiB free: {advice}"
        )
    if estimate.peak - loaded > CLOSE * free:
        return (
            f"memory is tight: a step needs about {(estimate.peak - loaded) / GIB:.1f} GiB more, and "
            f"{free / GIB:.1f} GiB is free. If it fails, {ways_to_save(run, begun)}"
        )
    return None
