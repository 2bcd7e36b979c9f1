"""Whether torch.compile pays in training: the same steps with networks as they are and compiled, in turn.

    python -m benchmarks.compiled                             a small network, some minutes
    python -m benchmarks.compiled --scale full --size 256     SD 1.5: 24 GB

Compiled are the parts that no hook reaches into: residual blocks and feed-forward layers. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median

import torch

from benchmarks.training_step import CONFIGS, TEXT, copy_settings, example, network, train_settings
from p3s.network.unet import FeedForward, ResBlock
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.driver import new_copy
from p3s.training.key import TrainingInputs
from p3s.training.loop import train
from p3s.training.step import StepReport

STEPS = 4  # of a round


@dataclass
class Steps:
    """Seconds of each step, on the wall and of the processor, and its loss."""

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)


class Training:
    """A training that can be repeated."""

    def __init__(self, scale: str, size: int, kind: str, compiled: bool) -> None:
        config = CONFIGS[scale]
        examples = [example(config, size // 8)] * STEPS
        row = {"kind": kind, "precision": "fp32", "checkpointing": False}
        text, noise = torch.zeros(TEXT, config.context_dim), NoiseSchedule.stable_diffusion()
        settings = train_settings(row, examples)
        self.inputs = TrainingInputs("", ("",) * STEPS, examples, text, noise, copy_settings(row), settings)
        self.base = network(config)
        self.copy = new_copy(self.base.state_dict(), self.inputs)
        self.start = {key: weight.clone() for key, weight in self.copy.state_dict().items()}
        for part in (*self.base.modules(), *self.copy.unet.modules()):
            if compiled and isinstance(part, (ResBlock, FeedForward)):
                part.compile()

    def steps(self) -> Steps:
        self.copy.load_state_dict(self.start)
        found, before = Steps(), [time.perf_counter(), time.process_time()]

        def told(report: StepReport) -> None:
            now = [time.perf_counter(), time.process_time()]
            found.wall.append(now[0] - before[0])
            found.processor.append(now[1] - before[1])
            found.losses.append(report.loss)
            before[:] = now

        result = train(self.base, self.copy, self.inputs, told)
        if not result.completed:
            raise SystemExit(f"the training did not reach its end: {result.error}")
        return found


def relative(compiled: Sequence[float], plain: Sequence[float]) -> str:
    ratios = [a / b for a, b in zip(compiled, plain, strict=True)]
    return f"{median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--scale", default="small", choices=("small", "full"))
    parser.add_argument("--size", type=int, default=256, help="side of the photo in pixels")
    parser.add_argument("--kind", default="lora", choices=("full", "lora"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    plain, compiled = (Training(args.scale, args.size, args.kind, of) for of in (False, True))
    first, whole = compiled.steps(), plain.steps()
    apart = max(abs(a - b) / abs(b) for a, b in zip(first.losses, whole.losses, strict=True))
    wall: dict[bool, list[float]] = {True: [], False: []}
    processor: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(args.rounds):
        for is_compiled, training in ((False, plain), (True, compiled)):
            found = training.steps()
            wall[is_compiled].append(median(found.wall))
            processor[is_compiled].append(median(found.processor))
    print(f"to compile: {first.wall[0] - median(wall[True]):.0f} s")
    print(f"a step, compiled relative to plain: {relative(wall[True], wall[False])} in time", end=", ")
    print(f"{relative(processor[True], processor[False])} of the processor; losses apart by {apart:.1g}")


if __name__ == "__main__":
    main()
