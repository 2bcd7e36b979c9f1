"""Run by benchmarks/training.py, in a process of its own for every row: one training step, measured.

    python -m benchmarks.training_step '{"kind": "lora", "precision": "fp32", "checkpointing": false, "size": 512}'

The last line it prints is the row as JSON; "counted" holds what of it is known. The first step, on a picture of 64
pixels, brings the optimiser to what it keeps between steps; the second one, in full size, is measured. With "dry"
nothing is trained: the work is counted and the memory estimated, which needs neither.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.append(str(Path(__file__).parents[1]))

from benchmarks.random_weights import fill
from benchmarks.training_work import TEXT, TOKEN_DIM, TOKENS, Step
from p3s.network.copy_settings import CopySettings
from p3s.network.unet import UNet
from p3s.network.unet_config import SDXL, UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.subject.file import save_subject
from p3s.subject.info import SubjectInfo
from p3s.training.driver import new_copy, subject_of
from p3s.training.examples import Example
from p3s.training.key import TrainingInputs
from p3s.training.loop import train
from p3s.training.memory_estimate import estimate_memory
from p3s.training.precision import DTYPES
from p3s.training.settings import TrainSettings
from p3s.training.step import epoch_batches

CONFIGS = {
    "full": UNetConfig.build(),
    "sdxl": UNetConfig.build(**SDXL),
    "small": UNetConfig.build(model_channels=64, channel_mult=(1, 2), transformer_depth=(1, 1)),
    "small sdxl": UNetConfig.build(64, **{**SDXL, "channel_mult": (1, 1, 2), "transformer_depth": (0, 1, 2)}),
}
FIRST = 64  # pixels


def measured(row: dict[str, Any]) -> dict[str, Any]:
    """The figures of a row: {"kind", "precision", "checkpointing", "size", "scale", "depth_stride", "copy_input",
    "threads", "device", "steps"}. Of several steps in full size the first does not count in the times."""
    torch.set_num_threads(row.get("threads") or torch.get_num_threads())
    config = CONFIGS[row.get("scale", "full")]
    first, shown = (example(config, side // 8, row.get("copy_input") == "cached") for side in (FIRST, row["size"]))
    examples = [first, *[shown] * row.get("steps", 1)]
    settings = train_settings(row, examples)
    found: dict[str, Any] = row.get("counted") or counted(row, config, examples, settings)
    if row.get("dry") or (settings.optimizer == "adamw8bit" and find_spec("bitsandbytes") is None):
        return found
    # Steps that a library takes once, and the code that it loads for it, are not the training's.
    F.conv2d(torch.randn(1, 8, 8, 8), torch.randn(8, 8, 3, 3)) @ torch.randn(6, 6)
    clock = Clock(torch.device(row.get("device", "cpu")))
    run = dreambooth if row["kind"] == "dreambooth" else p3s
    with torch.inference_mode(False), in_32_bits(settings.precision):
        found["file"] = run(config, examples, settings, row, clock)
    return found | clock.found


def counted(
    row: dict[str, Any], config: UNetConfig, examples: list[Example], settings: TrainSettings
) -> dict[str, Any]:
    """What is known of a row without training; its "work" may be given."""
    found: dict[str, Any] = dict(row.get("work") or {})
    if not found:
        subject = examples[-1].subject_tokens
        work = Step(config, row["size"], row["kind"], row["checkpointing"], row.get("depth_stride", 1), subject)
        found = {"tflop": work.computed(), "needed": work.needed(), "plain": work.plain(), "stored": work.stored()}
    if row["kind"] != "dreambooth":
        device = torch.device(row.get("device", "cpu"))
        found["estimated"] = estimate_memory(config, examples, copy_settings(row), settings, device).peak
    return found


class Clock:
    """Time and memory of the steps in full size; memory is what the process holds beyond what it held before there were
    any networks, or on a GPU what its tensors take."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.before = held("VmRSS") if device.type == "cpu" else 0
        self.marks: list[tuple[float, float]] = []
        self.peak = 0

    def start(self) -> None:
        """Before the first of them."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # forget the peak
        self.lap()

    def lap(self) -> None:
        """After each."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        self.marks.append((time.perf_counter(), time.process_time()))
        self.peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else held("VmHWM") - self.before

    @property
    def found(self) -> dict[str, Any]:
        steps = list(pairwise(self.marks))
        wall, cpu = ([b[i] - a[i] for a, b in steps[min(1, len(steps) - 1) :]] for i in (0, 1))
        return {"seconds": median(wall), "cpu_seconds": median(cpu), "peak": self.peak}


def held(what: str) -> int:
    """Bytes that this process holds now (VmRSS), or has held at most (VmHWM), on Linux."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(what))


def p3s(config: UNetConfig, examples: list[Example], settings: TrainSettings, row: dict[str, Any], clock: Clock) -> int:
    """Train; the bytes of the subject's file."""
    base = network(config, DTYPES[settings.precision], clock.device)
    text, noise = torch.zeros(TEXT, config.context_dim), NoiseSchedule.stable_diffusion()
    inputs = TrainingInputs("", ("",) * len(examples), examples, text, noise, copy_settings(row), settings)
    copy = new_copy(base.state_dict(), inputs).to(clock.device)

    def told(report: Any) -> None:
        clock.start() if report.step == 1 else clock.lap()

    result = train(base, copy, inputs, told)
    if not result.completed:
        raise SystemExit(f"the training did not reach its end: {result.error}")
    if result.warnings:
        raise SystemExit(f"not the training that was asked for: {result.warnings[0]}")
    info = SubjectInfo("", "", copy.settings.to_dict(), {}, ("",) * 2, ("",) * 2, len(examples), True, "", "")
    with tempfile.TemporaryDirectory() as folder:
        return save_subject(subject_of(copy, examples, info), Path(folder) / "subject.safetensors").stat().st_size


def dreambooth(
    config: UNetConfig, examples: list[Example], settings: TrainSettings, row: dict[str, Any], clock: Clock
) -> int:
    """Train all weights of the U-Net on the denoising loss; the bytes of its weights in 16 bits."""
    net = network(config, device=clock.device)
    net.checkpointing = settings.checkpointing
    optimizer = torch.optim.AdamW(net.parameters(), lr=settings.learning_rate)
    noise, generator = NoiseSchedule.stable_diffusion(), torch.Generator().manual_seed(0)
    for number, shown in enumerate(examples):
        if number == 1:
            clock.start()
        elif number:
            clock.lap()
        latent = shown.latent[None]
        t, eps = torch.randint(1000, (1,), generator=generator), torch.randn(latent.shape, generator=generator)
        given = noise.add_noise(latent, eps, t), t, shown.prompt[None], noise.target(latent, eps, t)
        x, timesteps, prompt, target = (tensor.to(clock.device) for tensor in given)
        label = None if shown.label is None else shown.label[None].to(clock.device)
        F.mse_loss(net(x, timesteps, prompt, label=label), target).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    clock.lap()
    return 2 * sum(p.numel() for p in net.parameters())


def network(config: UNetConfig, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu") -> UNet:
    """A U-Net with random weights."""
    net = UNet(config, device="meta").to(dtype).to_empty(device=device)
    fill(net)
    return net


def copy_settings(row: dict[str, Any]) -> CopySettings:
    names = ("kind", "depth_stride", "copy_input")
    return CopySettings(**{name: row[name] for name in names if name in row})


def example(config: UNetConfig, side: int, masked: bool = False) -> Example:
    """``masked``: where the subject is, is known; it fills a quarter of the photo."""
    generator = torch.Generator().manual_seed(side)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    drawn = draw(config.in_channels, side, side), draw(TOKENS, TOKEN_DIM), draw(TEXT, config.context_dim)
    label = draw(config.label_dim) if config.label_dim else None
    mask = torch.zeros(side, side)
    mask[: side // 2, : side // 2] = 1
    return Example(*drawn, label=label, label_without_prompt=label, subject_mask=mask if masked else None)


def train_settings(row: dict[str, Any], examples: list[Example]) -> TrainSettings:
    """A step for each example, with a seed whose first epoch begins with the first one."""
    seed = next(s for s in range(100) if epoch_batches(examples, 1, torch.Generator().manual_seed(s))[0] == [0])
    names = ("precision", "checkpointing", "optimizer")
    return TrainSettings(
        steps=len(examples), seed=seed, pairs="self", **{name: row[name] for name in names if name in row}
    )


def in_32_bits(precision: str) -> Any:
    """Arithmetic of 16 bits where the processor has none: computed in 32 bits, one operation after the other, and
    rounded. It is many times as fast there, and needs an operation's tensors in 32 bits besides."""
    native = precision == "bf16" and "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    return nullcontext() if precision == "fp32" or native or torch.cuda.is_available() else _In32Bits()


class _In32Bits(TorchDispatchMode):
    OPS: tuple[Callable[..., Any], ...] = (
        torch.ops.aten.convolution.default,
        torch.ops.aten.convolution_backward.default,
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
        torch.ops.aten.bmm.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward.default,
    )

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        half = next(
            (a.dtype for a in args if isinstance(a, Tensor) and a.dtype in (torch.bfloat16, torch.float16)), None
        )
        if function not in self.OPS or half is None:
            return function(*args, **kwargs)
        wide = function(*(a.float() if isinstance(a, Tensor) and a.dtype is half else a for a in args), **kwargs)
        # The logarithms that attention keeps for its backward pass stay in 32 bits, as they always are.
        attention = function is self.OPS[-2]
        if isinstance(wide, Tensor):
            return wide.to(half)
        return tuple(r if r is None or (attention and i) else r.to(half) for i, r in enumerate(wide))


if __name__ == "__main__":
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    print(json.dumps(measured(json.loads(sys.argv[1]))))
