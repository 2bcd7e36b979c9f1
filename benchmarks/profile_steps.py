"""Where the time of a step goes, in sampling and in training, by kinds of operations, from torch's profiler.

    python -m benchmarks.profile_steps --preset full --size 256       SD 1.5 in full size: 12 GB, some minutes

Random weights, in a real ComfyUI. Figures are shares of the row's own time; benchmarks.sampling and benchmarks.training
measure rows beside each other.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from benchmarks.operations import table

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from host.hosts import chosen_host
from host.inside import Inside


def main() -> None:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--host", type=Path, help="folder of a ComfyUI (default: the first that the tests find)")
    parser.add_argument("--preset", default="small", choices=("small", "full"), help="size of the random models")
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    host = chosen_host(args.host)
    arguments = {key: getattr(args, key) for key in ("preset", "size", "threads")}
    with tempfile.TemporaryDirectory() as base:
        script = Path(__file__).with_name("profile_steps_inside.py")
        rows = Inside(host, Path(base)).run(script, arguments, timeout=None)
    print(f"\nComfyUI {host.version}, {args.preset} models at {args.size} x {args.size}\n\n{table(rows)}")
    if args.out:
        args.out.write_text(json.dumps({"host": host.version, **arguments, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
