"""Floating-point work of P3S and SSR-Encoder on SD 1.5 in full size, and of P3S on SDXL, relative to the plain model.
Needs no weights and no GPU.

    python benchmarks/flops.py [--size 512]
    python benchmarks/flops.py --family sdxl [--size 1024]

Counted by torch's FLOP counter on shapes alone (the meta device), so the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from p3s.network.copy_settings import CopySettings
from p3s.network.injection import Features, InjectionHooks
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet import UNet
from p3s.network.unet_config import SDXL, Layer, UNetConfig
from p3s.sampling.settings import EXACT, SamplingSettings, injection
from p3s.ssr.aligner import Aligner
from p3s.ssr.attend import AppliedSSR, SSRHooks, SubjectRun
from p3s.ssr.embeds import QUERY_TOKENS, Embed, SubjectEmbeds
from p3s.ssr.file import SSRModel
from p3s.ssr.layers import SubjectLayers
from p3s.training.settings import TrainSettings
from p3s.training.step import Batch, batch_losses

TOKENS, TEXT = 257, 77
#: The released SSR-Encoder's aligner.
ALIGNER = {"query": 768, "vision": 1024, "inner": 512, "heads": 8, "scales": 6}
FIRST = Layer("input", 1)
#: Of CopySettings.depth_stride, in the table of SDXL.
STRIDES = (1, 2, 5, 10)

#: Ways to a faster step, alone and together.
FASTER = tuple(
    SamplingSettings(**settings)
    for settings in (
        {"branches": "conditional"},
        {"branches": "conditional", "reuse": 2},
        {"branches": "conditional", "reuse": 3},
        {"branches": "conditional", "reuse": 4},
        {"branches": "conditional", "pairing": "one_to_one"},
        {"branches": "conditional", "pool": 2},
        {"branches": "conditional", "reuse": 3, "pool": 2},
        {"branches": "conditional", "reuse": 2, "pool": 2, "pairing": "one_to_one"},
        {"branches": "conditional", "reuse": 3, "pairing": "one_to_one"},
        {"branches": "conditional", "reuse": 3, "pool": 2, "pairing": "one_to_one"},
        {"branches": "conditional", "reuse": 5, "pool": 2},
    )
)


SDXL_STEPS = {"exact": EXACT, "conditional": FASTER[0], "reuse 3": FASTER[2]}


def count(run: Callable[[], Any]) -> float:
    """TFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


def describe(settings: SamplingSettings) -> str:
    """The settings that differ from the exact ones."""
    differ = {k: v for k, v in asdict(settings).items() if v != getattr(EXACT, k)}
    return ", ".join(f"{k} {v}" for k, v in differ.items()) or "exact"


class SharedHooks(InjectionHooks):
    """As the host adapter does it: in the first layer the rows of the guidance's branches are still equal, and so is
    what this self-attention gives."""

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        rows = min(len(i.features.self_attention.get(layer, z)) for i in self.injections)
        return super().self_attention(layer, z[:rows] if layer == FIRST else z, grid)


class Models:
    """SD 1.5, or a model of another ``config``, and its copy as shapes."""

    def __init__(self, size: int, config: UNetConfig | None = None, **settings: Any) -> None:
        config = config or UNetConfig.build()
        self.config = config
        self.base = UNet(config, device="meta").requires_grad_(False)
        self.copy = SubjectCopy(config, CopySettings(**settings), 1024, device="meta")
        self.size = size // 8

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    def inputs(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return (
            self.empty(rows, 4, self.size, self.size),
            self.empty(rows),
            self.empty(rows, TEXT, self.config.context_dim),
        )

    def label(self, rows: int) -> torch.Tensor | None:
        return self.empty(rows, self.config.label_dim) if self.config.label_dim else None

    @torch.no_grad()
    def plain(self, rows: int = 2) -> None:
        self.base(*self.inputs(rows), label=self.label(rows))

    @torch.no_grad()
    def features(self, rows: int = 2, shared: bool = True) -> Features:
        """The copy's part of a step. ``shared``: the rows are both sides of guidance and read one x_t."""
        x, t, context = self.inputs(rows)
        one = slice(0, 1 if shared else rows)
        condition = self.empty(1, 4, self.size, self.size)
        return self.copy(x[one], t[one], context, condition, self.label(rows))

    @torch.no_grad()
    def injected(self, features: Features, rows: int = 2, settings: SamplingSettings = EXACT) -> None:
        """The frozen U-Net's part of a step."""
        hooks = SharedHooks(injection(self.copy, features, 0.9, settings=settings))
        self.base(*self.inputs(rows), hooks, label=self.label(rows))

    def step(self, settings: SamplingSettings = EXACT) -> float:
        """TFLOP of a step with guidance, on average over the steps at which the subject is on."""
        rows = 2 if settings.branches == "both" else 1
        features = self.features(rows)
        parts = [count(lambda: self.features(rows)) / settings.reuse]
        parts += [count(lambda: self.injected(features, rows, settings))]
        return sum(parts) + (count(lambda: self.plain(1)) if rows == 1 else 0.0)

    def ssr(self, subjects: int = 1, steps: int = 2) -> list[float]:
        """TFLOP of each of the first steps of a run with SSR-Encoder's subjects, chained: the first makes K and V."""
        with torch.device("meta"):
            aligner, layers = Aligner(**ALIGNER), SubjectLayers(self.base.config)
        tokens = ALIGNER["scales"] * QUERY_TOKENS
        embeds = [Embed(self.empty(1, tokens, 768), self.empty(1, tokens, 768)) for _ in range(subjects)]
        applied = AppliedSSR(SubjectEmbeds(tuple(embeds), SSRModel(aligner, layers.state_dict(), "")))
        hooks = SSRHooks([SubjectRun(applied, layers)], (False, True))

        @torch.no_grad()
        def step() -> None:
            self.base(*self.inputs(2), hooks)

        return [count(step) for _ in range(steps)]

    def literal(self) -> float:
        """TFLOP of a step when nothing is shared between the branches."""
        features = self.features(shared=False)
        return count(lambda: self.features(shared=False)) + count(lambda: self.injected(features))

    def train(self, layers: str = "last") -> None:
        x, t, context = self.inputs(1)
        source = (self.empty(*x.shape[1:]), self.empty(TOKENS, 1024))
        batch = Batch(x, t, x, context, (source,), torch.ones_like(x[:, :1]), label=self.label(1))
        denoising, consistency = batch_losses(self.base, self.copy, batch, TrainSettings(attention_layers=layers))
        (denoising + consistency).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, help="side of the image in pixels (default 512; 1024 for SDXL)")
    parser.add_argument("--family", choices=("sd15", "sdxl"), default="sd15")
    arguments = parser.parse_args()
    if arguments.family == "sdxl":
        report_sdxl(arguments.size or 1024)
    else:
        report_sd15(arguments.size or 512)


def sdxl(size: int, stride: int) -> dict[str, float]:
    """TFLOP of a plain step with guidance, and of steps with P3S relative to it; of a training step, relative to a
    plain forward pass, and how many million numbers a low-rank subject has."""
    config = UNetConfig.build(**SDXL)
    models = Models(size, config, depth_stride=stride, kind="lora")
    models.copy.borrow(models.base)
    plain = count(models.plain)
    return {
        "plain": plain,
        **{name: models.step(settings) / plain for name, settings in SDXL_STEPS.items()},
        "training": 2 * count(models.train) / plain,
        "millions": sum(p.numel() for p in models.copy.parameters()) / 1e6,
        "layers": len(models.copy.map.reads),
    }


def report_sdxl(size: int) -> None:
    print(f"SDXL at {size} x {size}, a subject of kind lora, rank 16; a step with guidance relative to the plain model")
    print("| depth_stride | layers that read | exact | conditional | + reuse 3 | training step | file, 16 bits |")
    print("|---|---|---|---|---|---|---|")
    for stride in STRIDES:
        found = sdxl(size, stride)
        steps = " | ".join(f"{found[name]:.2f}" for name in (*SDXL_STEPS, "training"))
        print(f"| {stride} | {found['layers']} of 70 | {steps} | {2 * found['millions']:.0f} MB |")
    print(f"The plain step: {found['plain']:.2f} TFLOP; a training step is relative to one plain forward pass.")


def report_sd15(size: int) -> None:
    default, lean = Models(size), Models(size, cross_attention=False)
    plain = count(default.plain)
    rows = [
        ("plain model, conditional + unconditional", plain),
        ("P3S, nothing shared between the branches", default.literal()),
        ("P3S (exact)", default.step()),
        ("P3S without the cross-attention part", lean.step()),
        ("P3S at weight 0 (the copy is not run)", plain),
    ]
    rows += [(f"P3S, {describe(s)}", default.step(s)) for s in FASTER]
    for subjects, name in ((1, "SSR-Encoder"), (2, "SSR-Encoder, two subjects")):
        first, following = default.ssr(subjects)
        rows += [(name, following), (f"{name}: the first step, which makes K and V", first)]
    print(f"{f'one sampling step at {size} x {size}':62} TFLOP   x plain")
    for name, tflop in rows:
        print(f"{name:62} {tflop:6.3f}   {tflop / plain:6.3f}")
    one = count(lambda: default.plain(1))
    print(f"\none training step, batch 1                 TFLOP   x one plain forward pass ({one:.3f})")
    for name, layers in (("P3S", "last"), ("P3S without L_ac", "none"), ("P3S, L_ac on all layers", "all")):
        tflop = count(partial(default.train, layers))
        print(f"{name:42} {tflop:6.3f}   {tflop / one:6.3f}")
    copy = default.copy
    parts = {"copy of the U-Net": copy.unet, "zero convolutions, self": copy.zero_self}
    parts |= {"zero convolutions, cross": copy.zero_cross, "image latent": copy.image_latent}
    print("\ntrained parameters                      millions   MB in a file (16 bits)")
    for name, part in {**parts, "all": copy}.items():
        n = sum(p.numel() for p in part.parameters()) / 1e6
        print(f"{name:38} {n:10.2f}   {2 * n:8.1f}")


if __name__ == "__main__":
    main()
