"""Floating-point work of P3S on SD 1.5 in full size, relative to the plain model. Needs no weights and no GPU.

    python benchmarks/flops.py [--size 512]

Counted by torch's FLOP counter on shapes alone (the meta device), so the figures are the same on every machine.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1]))

from p3s.injection import InjectionHooks
from p3s.subject_copy import CopySettings, SubjectCopy
from p3s.training import Batch, TrainSettings, losses
from p3s.unet import UNet
from p3s.unet_config import UNetConfig

TOKENS, TEXT = 257, 77


def count(run: Callable[[], Any]) -> float:
    """TFLOP of a call."""
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e12


class Models:
    """SD 1.5 and its copy as shapes."""

    def __init__(self, size: int, **settings: Any) -> None:
        config = UNetConfig.build()
        self.base = UNet(config, device="meta").requires_grad_(False)
        self.copy = SubjectCopy(config, CopySettings(**settings), 1024, device="meta")
        self.size = size // 8

    def empty(self, *shape: int) -> torch.Tensor:
        return torch.empty(shape, device="meta")

    def inputs(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return self.empty(rows, 4, self.size, self.size), self.empty(rows), self.empty(rows, TEXT, 768)

    @torch.no_grad()
    def plain(self, rows: int = 2) -> None:
        self.base(*self.inputs(rows))

    @torch.no_grad()
    def subject(self, rows: int = 2) -> None:
        condition = self.copy.condition(self.empty(1, 4, self.size, self.size), self.empty(1, TOKENS, 1024))
        features = self.copy(*self.inputs(rows), condition)
        self.base(*self.inputs(rows), InjectionHooks(features, self.copy.settings.lam))

    def conditional(self) -> None:
        self.subject(1)
        self.plain(1)

    def train(self, layers: str = "last") -> None:
        x, t, context = self.inputs(1)
        source = (self.empty(*x.shape[1:]), self.empty(TOKENS, 1024))
        batch = Batch(x, t, x, context, (source,))
        denoising, consistency = losses(self.base, self.copy, batch, TrainSettings(attention_layers=layers))
        (denoising + consistency).backward()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=512, help="side of the image in pixels (default 512)")
    size = parser.parse_args().size
    default, lean = Models(size), Models(size, cross_attention=False)
    one_to_one = Models(size, pairing="one_to_one")
    plain = count(default.plain)
    rows = [
        ("plain model, conditional + unconditional", plain),
        ("P3S", count(default.subject)),
        ("P3S, conditional half only", count(default.conditional)),
        ("P3S without the cross-attention part", count(lean.subject)),
        ("  the same, conditional half only", count(lean.conditional)),
        ("P3S, one_to_one pairing", count(one_to_one.subject)),
        ("P3S at weight 0 (the copy is not run)", plain),
    ]
    print(f"one sampling step at {size} x {size}          TFLOP   x plain")
    for name, tflop in rows:
        print(f"{name:42} {tflop:6.3f}   {tflop / plain:6.3f}")
    one = count(lambda: default.plain(1))
    print(f"\none training step, batch 1                 TFLOP   x one plain forward pass ({one:.3f})")
    for name, layers in (("P3S", "last"), ("P3S without L_ac", "none"), ("P3S, L_ac on all layers", "all")):
        tflop = count(lambda layers=layers: default.train(layers))
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
