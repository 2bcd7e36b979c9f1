"""Whether torch.compile pays in training: the same steps with networks as they are and compiled, in turn.

    python -m benchmarks.compiled                             a small network, some minutes
    python -m benchmarks.compiled --scale full --size 256     SD 1.5: 24 GB

Compiled are the parts that no hook reaches into: residual blocks and feed-forward layers. The first round, which does
not count, is the one that compiles. Needs a C++ compiler.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.append(str(Path(__file__).parent))

from rounds import measure

from benchmarks.training_step import CONFIGS, TEXT, copy_settings, example, network, train_settings
from p3s.network.unet import FeedForward, ResBlock
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.driver import new_copy
from p3s.training.key import TrainingInputs
from p3s.training.loop import train

STEPS = 6  # of a run
PLAIN, COMPILED = "as they are", "compiled"


class Training:
    """A training that starts anew with each run."""

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

    def run(self) -> Tensor:
        """The losses of its steps, [STEPS]."""
        self.copy.load_state_dict(self.start)
        result = train(self.base, self.copy, self.inputs)
        if not result.completed:
            raise SystemExit(f"the training did not reach its end: {result.error}")
        return torch.tensor([report.loss for report in result.reports])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--scale", default="small", choices=("small", "full"))
    parser.add_argument("--size", type=int, default=256, help="side of the photo in pixels")
    parser.add_argument("--kind", default="lora", choices=("full", "lora"))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs = {name: Training(args.scale, args.size, args.kind, name == COMPILED).run for name in (PLAIN, COMPILED)}
    seconds: list[float] = []

    def clocked() -> Tensor:
        """A compiled run, of which the first one compiles."""
        started = time.perf_counter()
        losses = runs[COMPILED]()
        seconds.append(time.perf_counter() - started)
        return losses

    timed = {**runs, COMPILED: clocked}
    found: dict[str, dict[str, Any]] = {}
    for figures in measure(timed, PLAIN, args.rounds, torch.device("cpu")):
        found = figures
    row = found[COMPILED] | {"compiling": seconds[0] - min(seconds)}
    print(f"compiling took {row['compiling']:.0f} s")
    print(f"{STEPS} steps compiled, relative to networks as they are, {args.rounds} rounds:")
    for title, key in (("time", "time"), ("time of the processor", "processor")):
        low, high = row[f"{key}s"]
        print(f"{title} {row[key]:.2f} ({low:.2f}-{high:.2f})")
    compiled, plain = (run() for run in (runs[COMPILED], runs[PLAIN]))
    row["apart"] = ((compiled - plain).abs() / plain.abs()).max().item()
    print(f"losses apart by {row['apart']:.1g}")
    if args.out:
        facts = {key: getattr(args, key) for key in ("scale", "size", "kind", "rounds", "threads")}
        args.out.write_text(
            json.dumps({"torch": torch.__version__, **facts, "steps": STEPS, "found": row}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
