"""The price of a sampling step in a real ComfyUI: P3S and SSR-Encoder next to ControlNet, IPAdapter-plus and
reference-only.

    python -m benchmarks.sampling --rounds 0                       work alone: needs no weights
    python -m benchmarks.sampling --family sdxl --rounds 0         that of SDXL
    python -m benchmarks.sampling                                  and time, of small random models
    python -m benchmarks.sampling --preset full --size 512         and time of SD 1.5 with random weights: 14 GB
    python -m benchmarks.sampling --preset full --size 512 --device gpu

All variants run in one process in turn, round after round; the wall time is the median ratio to the plain model of the
same round. Floating-point work is that of SD 1.5 or SDXL in full size, counted by torch on shapes in the host's own
code; it is the same on every machine. Beside times stands the work of the models that were timed. IPAdapter-plus needs
its pack (ComfyUI_IPAdapter_plus) in $P3S_PEERS or ~/comfy/peers.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from host.hosts import chosen_host
from host.inside import Inside

NAMES = {"sd15": "SD 1.5", "sdxl": "SDXL"}
SIDES = {"sd15": 512, "sdxl": 1024}
PEERS = Path(os.environ.get("P3S_PEERS") or Path.home() / "comfy" / "peers")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--host", type=Path, help="folder of a ComfyUI (default: the first that the tests find)")
    parser.add_argument("--family", default="sd15", choices=tuple(NAMES))
    parser.add_argument("--preset", default="slim", choices=("slim", "topo", "full"), help="size of the random models")
    parser.add_argument("--size", type=int, default=256, help="side of the image in pixels")
    parser.add_argument("--steps", type=int, default=4, help="sampling steps of a run, with guidance")
    parser.add_argument("--work-size", type=int, help="side of the image whose work is counted (512; of SDXL 1024)")
    parser.add_argument("--rounds", type=int, default=3, help="0: count the work and measure nothing")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as torch takes")
    parser.add_argument("--device", default="cpu", choices=("cpu", "gpu"))
    parser.add_argument("--only", default="", help="some variants: names or parts of them, between semicolons")
    parser.add_argument("--compiled", action="store_true", help="time the plain model and P3S compiled, too")
    parser.add_argument("--out", type=Path, help="a JSON file for the figures")
    args = parser.parse_args()
    args.work_size = args.work_size or SIDES[args.family]
    if args.rounds and (args.family, args.preset) == ("sdxl", "full"):
        parser.error("--preset full: there are no random weights of SDXL in full size; choose slim or topo")
    host = chosen_host(args.host)
    pack = PEERS / "ComfyUI_IPAdapter_plus"
    with tempfile.TemporaryDirectory() as base:
        inside = Inside(host, Path(base))
        arguments = {
            "checkpoint": args.rounds and inside.model(f"{args.family}-{args.preset}"),
            "controlnet": args.rounds and args.family == "sd15" and inside.model(f"controlnet-{args.preset}"),
            "peers": [str(pack)] if (pack / "__init__.py").is_file() else [],
            **{key: getattr(args, key) for key in ("family", "size", "work_size", "steps")},
            **{key: getattr(args, key) for key in ("rounds", "threads", "only", "compiled")},
        }
        script = Path(__file__).with_name("sampling_inside.py")
        found = inside.run(script, arguments, timeout=None, options=["--cpu"] if args.device == "cpu" else [])
    counted = f"{NAMES[args.family]} at {args.work_size} x {args.work_size}"
    print(f"\nComfyUI {host.version}, work of a step of {counted}", end="")
    timed = f"; time of the {args.preset} models at {args.size} x {args.size}, {args.steps} steps, {args.rounds} rounds"
    print(timed if args.rounds else "")
    print(f"\n{table(found)}")
    if args.out:
        facts = {k: getattr(args, k) for k in ("family", "preset", "size", "work_size", "steps", "rounds", "device")}
        args.out.write_text(json.dumps({"host": host.version, **facts, "variants": found}, indent=1) + "\n")


def table(variants: dict[str, Any]) -> str:
    """The figures of the variants as Markdown, those with the least work first."""
    timed = any("times" in row for row in variants.values())
    measured = any(row.get("memory") for row in variants.values())
    worked = any("processor" in row for row in variants.values())
    titles = ["", "TFLOP a step", "work"]
    titles += ["work of the timed model", "wall time", "seconds a step"] if timed else []
    titles += ["processor time"] if worked else []
    titles += ["GiB"] if measured else []
    lines = ["| " + " | ".join(titles) + " |", "|---" * len(titles) + "|"]
    for name, row in sorted(variants.items(), key=lambda item: item[1]["work"]):
        cells = [name, f"{row['tflop']:.3f}", f"{row['work']:.3f}"]
        if row.get("finite") is False:  # its times are those of nothing
            lines.append("| " + " | ".join([*cells, f"{row['own']:.3f}", "not finite"]) + " |")
            continue
        if "times" in row:
            low, high = row["times"]
            cells += [f"{row['own']:.3f}", f"{row['time']:.2f} ({low:.2f}-{high:.2f})", f"{row['seconds']:.3f}"]
        if "processor" in row:
            low, high = row["processors"]
            cells += [f"{row['processor']:.2f} ({low:.2f}-{high:.2f})"]
        cells += [f"{row['memory']:.1f}"] if row.get("memory") else []
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
