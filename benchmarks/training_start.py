"""How long Train P3S takes from its inputs to its first step, with SD 1.5 in 16 bits in a real ComfyUI.

    python -m benchmarks.training_start          random weights in full size: 12 GB, a minute

Beside the parts of the start stand the estimate of the memory, which is made only where its bound does not fit into the
free memory, and what the weights would take if they were all widened to 32 bits and rounded from there, as those with a
LoRA are.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from host.hosts import chosen_host
from host.inside import Inside


def main() -> None:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--host", type=Path, help="folder of a ComfyUI (default: the first that the tests find)")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    host = chosen_host(args.host)
    with tempfile.TemporaryDirectory() as base:
        script = Path(__file__).with_name("training_start_inside.py")
        found = Inside(host, Path(base)).run(script, {"rounds": args.rounds}, timeout=None)
    parts = list(next(iter(found.values())))
    print(f"\nComfyUI {host.version}, seconds: median of {args.rounds} rounds\n")
    print("| | " + " | ".join(parts) + " |\n" + "|---" * (len(parts) + 1) + "|")
    for name, row in found.items():
        print(f"| {name} | " + " | ".join(f"{row[part]:.2f}" for part in parts) + " |")


if __name__ == "__main__":
    main()
