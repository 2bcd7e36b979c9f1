"""What a training step costs: work, time, memory and files; beside DreamBooth and ComfyUI's own Train LoRA.

    python -m benchmarks.training                       all rows that the results lack, then the tables; hours, 20 GB
    python -m benchmarks.training --limit 1             one of them, then the tables
    python -m benchmarks.training --dry                 work and estimates alone of all rows, a minute
    python -m benchmarks.training --table               the tables alone
    python -m benchmarks.training --scale sdxl --dry --out benchmarks/results/training_sdxl.jsonl     those of SDXL
    python -m benchmarks.training --scale small --size 128 --out small.jsonl      a small network, a minute

Weights are random. Every row is measured in a process of its own, so that one row's memory is not another's; the rows
"in ComfyUI" run one after the other in one process of a ComfyUI that the tests find.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from host.hosts import find_hosts, host_at
from host.inside import Inside

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "training.jsonl"
GIB = 2**30
CHECKPOINTS = {"small": "sd15-micro", "full": "sd15-full"}
SIDES = {"full": 512, "sdxl": 1024, "small": 512}
PREFIXES = {"sdxl": "SDXL, ", "small": "small network, "}

STEPS: tuple[dict[str, Any], ...] = (
    *(
        {"kind": kind, "precision": precision, "checkpointing": checkpointing}
        for precision in ("fp32", "bf16")
        for kind in ("full", "lora", "dreambooth")
        for checkpointing in (False, True)
        if (kind, precision) != ("dreambooth", "bf16")
    ),
    {"kind": "full", "precision": "bf16", "checkpointing": True, "optimizer": "adamw8bit"},
)
SPARSE = {"kind": "lora", "precision": "bf16", "checkpointing": True, "depth_stride": 10}
#: What runs in ComfyUI, in turn: ours, and the peers.
INSIDE: tuple[dict[str, Any], ...] = tuple(
    {"inside": [name, "Train LoRA", "DreamBooth"], "checkpointing": checkpointing}
    for name in ("P3S lora", "P3S full")
    for checkpointing in (False, True)
)


def rows(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows that a run of these options is to have."""
    common = {"scale": args.scale, "size": args.size}
    common |= {"device": "cuda"} if args.dry else {}  # what is estimated alone, is for a GPU
    found = [{**row, **common} for row in steps(args.scale)]
    # Beside Train LoRA and DreamBooth, which would not fit with SDXL.
    compared = [] if args.scale == "sdxl" else INSIDE
    inside = [{**row, **common, "host": host.version} for row in compared for host in hosts(args)[:1]]
    return [row for row in [*found, *inside] if args.only in describe(row)]


def steps(scale: str) -> tuple[dict[str, Any], ...]:
    """The rows of one kind of network, in their order."""
    return (*STEPS, SPARSE) if scale == "sdxl" else STEPS


def hosts(args: argparse.Namespace) -> list[Any]:
    return [host_at(args.host.expanduser().absolute())] if args.host else find_hosts()


def describe(row: dict[str, Any]) -> str:
    again = ", checkpointed" if row["checkpointing"] else ""
    if "inside" in row:
        return f"{' beside '.join(row['inside'][:2])} in ComfyUI {row['host']}{again}"
    optimizer = ", adamw8bit" if row.get("optimizer") == "adamw8bit" else ""
    stride = f", depth_stride {row['depth_stride']}" if "depth_stride" in row else ""
    once = ", cached" if row.get("copy_input") == "cached" else ""
    prefix = PREFIXES.get(row.get("scale", ""), "")
    return f"{prefix}{row['kind']} {row['precision']}{optimizer}{again}{stride}{once}"


def measure(row: dict[str, Any], counted: dict[str, Any] | None, args: argparse.Namespace) -> dict[str, Any]:
    """The figures of a row; ``counted`` are those that a dry run has found."""
    if "inside" in row:
        host = next(h for h in hosts(args) if h.version == row["host"])
        with tempfile.TemporaryDirectory() as folder:
            inside = Inside(host, Path(folder))
            arguments = {**row, "model": inside.model(CHECKPOINTS[args.scale]), "steps": args.steps}
            options = ["--cpu", "--use-pytorch-cross-attention"]
            return inside.run(Path(__file__).with_name("training_inside.py"), arguments, None, options)
    command = [
        sys.executable,
        "-m",
        "benchmarks.training_step",
        json.dumps({**row, "dry": args.dry, "counted": counted}),
    ]
    # glibc keeps freed memory below a threshold that grows; at a fixed one what a process holds is what it uses.
    environment = {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, check=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def tables(done: Sequence[dict[str, Any]]) -> str:
    """The results as Markdown."""
    trained = [entry for entry in done if "inside" not in entry["row"]]
    trained.sort(key=lambda entry: place(entry["row"]))
    relative = any("plain" in entry["found"] for entry in trained)
    titles = ["pixels", "TFLOP a step", *(["x a plain pass"] if relative else []), "x the need", "estimated GiB"]
    titles += ["peak GiB", "file MB", "seconds", "processor seconds"]
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    for entry in trained:
        row, found = entry["row"], entry["found"]
        estimated = f"{found['estimated'] / GIB:.2f}" if "estimated" in found else ""
        slow = row["precision"] != "fp32"  # see training_step.in_32_bits
        cells = [f"{row['size']}", f"{found['tflop']:.2f}"]
        cells += [f"{found['tflop'] / found['plain']:.2f}" if "plain" in found else ""] if relative else []
        cells += [f"{found['tflop'] / found['needed']:.2f}", estimated]
        cells.append(f"{found['peak'] / GIB:.2f}" if "peak" in found else "")
        size = found.get("file", found.get("stored"))
        cells.append("" if size is None else f"{size / 1e6:.0f}")
        timed = "peak" in found and not slow
        cells += [f"{found['seconds']:.0f}", f"{found['cpu_seconds']:.0f}"] if timed else ["", ""]
        lines.append(f"| {describe(row)} | {' | '.join(cells)} |")
    if len(trained) == len(done):
        return "\n".join(lines)
    lines += [
        "",
        "| in one process of ComfyUI | TFLOP a step | seconds a step | processor seconds | GFLOP/s | of Train LoRA's |",
        "|---|---|---|---|---|---|",
    ]
    for entry in done:
        if "inside" not in entry["row"]:
            continue
        peer = rate(entry["found"]["Train LoRA"])
        for name, found in entry["found"].items():
            again = ", checkpointed" if entry["row"]["checkpointing"] else ""
            cells = [f"{found['tflop']:.2f}", f"{found['seconds']:.1f}", f"{found['cpu_seconds']:.1f}"]
            cells += [f"{rate(found):.0f}", f"{rate(found) / peer:.2f}"]
            lines.append(f"| {name}{again} | {' | '.join(cells)} |")
    return "\n".join(lines)


def place(row: dict[str, Any]) -> tuple[int, int, int]:
    """Where a row stands: the full size and large pictures first, the rest as in their kind's steps."""
    kinds = [{**step, "scale": row["scale"], "size": row["size"]} for step in steps(row["scale"])]
    return (
        list(SIDES).index(row["scale"]),
        -row["size"],
        kinds.index({key: value for key, value in row.items() if key != "device"}),
    )


def rate(found: dict[str, float]) -> float:
    """GFLOP a second."""
    return 1e3 * found["tflop"] / found["seconds"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=str(__doc__).splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--size", type=int, help="side of the picture in pixels (512; of SDXL 1024)")
    parser.add_argument("--scale", default="full", choices=tuple(SIDES), help="SD 1.5, SDXL, or a small network")
    parser.add_argument("--steps", type=int, default=2, help="measured steps of each in ComfyUI")
    parser.add_argument("--host", type=Path, help="folder of a ComfyUI (default: the first that the tests find)")
    parser.add_argument("--only", default="", help="only rows whose name holds this text")
    parser.add_argument("--limit", type=int, default=1000, help="stop after so many new rows")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--dry", action="store_true", help="train nothing: count and estimate")
    parser.add_argument("--table", action="store_true", help="measure nothing")
    args = parser.parse_args()
    args.size = args.size or SIDES[args.scale]
    known = [
        entry["row"] for entry in load(args.out) if args.dry or "inside" in entry["row"] or "peak" in entry["found"]
    ]
    left = [row for row in rows(args) if row not in known and not (args.dry and "inside" in row)]
    for row in [] if args.table else left[: args.limit]:
        print(f"{describe(row)} ...", file=sys.stderr, flush=True)
        done = load(args.out)
        found = measure(row, next((entry["found"] for entry in done if entry["row"] == row), None), args)
        done = [entry for entry in done if entry["row"] != row]
        done.append({"row": row, "found": found})
        args.out.write_text("".join(json.dumps(entry) + "\n" for entry in done))
    print(tables(load(args.out)))


if __name__ == "__main__":
    main()
