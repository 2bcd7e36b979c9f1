"""What other programs on the same cores do to a training step of the toy world, on one thread and on several.

``python -m benchmarks.threads``: medians of a step's time, alone and beside as many busy programs as there are cores.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise

VARIANTS = {
    "one thread, as a training of a small model has": (True, {}),
    "torch's own number of threads": (False, {}),
    "the same, with OMP_WAIT_POLICY=PASSIVE": (False, {"OMP_WAIT_POLICY": "PASSIVE"}),
}
TIME = 30  # seconds after which a variant's training ends


def steps(limit: bool) -> list[float]:
    """Seconds of each step of a short training, but for the first."""
    from p3s import arithmetic
    from p3s.demo.chain import SCENE, TRAINING, WANTED
    from p3s.models.pipeline import train_subject
    from p3s.network.copy_settings import CopySettings
    from p3s.toyworld.scenes import scene
    from p3s.toyworld.world import click, load_world, picture_of
    from p3s.training.step import StepReport

    if not limit:
        arithmetic.SMALL = 0
    world, drawn = load_world(), scene("heldout", SCENE, "different", "dog")
    reference = world.reference(picture_of(drawn), click(drawn, WANTED))
    ends: list[float] = []

    def look(report: StepReport) -> bool:
        ends.append(time.perf_counter())
        return report.step < 21 and ends[-1] - ends[0] < TIME

    train_subject(world, [reference], "a photo of a sks dog", TRAINING, CopySettings(), callback=look)
    return [after - before for before, after in pairwise(ends)]


@contextmanager
def busy(programs: int) -> Iterator[None]:
    """Within, so many other programs compute all the time."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(programs)]
    try:
        yield
    finally:
        for program in started:
            program.kill()
            program.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["limited", "unlimited"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        print(statistics.median(steps(options.only == "limited")))
        return
    cores = os.cpu_count() or 1
    print(f"| {cores} cores, ms a step | alone | beside {cores} busy programs |\n|---|---|---|")
    for name, (limit, variables) in VARIANTS.items():
        environment = {k: v for k, v in os.environ.items() if not k.startswith("OMP_")} | variables
        command = [sys.executable, "-m", "benchmarks.threads", "--only", "limited" if limit else "unlimited"]
        cells = []
        for programs in (0, cores):
            with busy(programs):
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            cells.append(f"{1000 * float(done.stdout.split()[-1]):.0f}")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
