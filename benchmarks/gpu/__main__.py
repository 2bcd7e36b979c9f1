"""All figures of a GPU in one command, in eight minutes on an H100 or H200; and what it carries.

    python -m benchmarks.gpu pack --comfyui ~/comfy/ComfyUI --out gpu-kit   where there is a package registry
    python -m benchmarks.gpu                                                where there is a GPU; needs torch alone
    python -m benchmarks.gpu --size tiny                                    small models, on a CPU, a minute or two
    python -m benchmarks.gpu table                                          the figures that are stored

A kit is for one version of Python (--python). Without one a run takes the first ComfyUI that the tests find. Each
section runs in a process of its own and is stored when it ends; one that fails, or that is stopped, costs no other.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))

from benchmarks.gpu import kit
from benchmarks.gpu.sections import SECTIONS, SIZES, Section, Size

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "gpu.json"
KIT = ROOT / "gpu-kit"
SHORTEST = 5.0  # seconds that are worth the start of a section


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu",
        description=str(__doc__).splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("command", nargs="?", default="run", choices=("run", "pack", "table"))
    parser.add_argument("--size", default="full", choices=tuple(SIZES), help="true shapes, or tiny models on a CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="sections that do not fit into these are left out")
    parser.add_argument("--only", default="", help=f"some sections, between commas: {', '.join(SECTIONS)}")
    parser.add_argument("--kit", type=Path, help=f"folder of a kit (default: {KIT.name}, if it is there)")
    parser.add_argument("--comfyui", type=Path, help="folder of a ComfyUI: to pack, or to run without a kit")
    parser.add_argument("--python", default=f"3.{sys.version_info.minor}", help="pack: for this version")
    parser.add_argument("--out", type=Path, help=f"JSON file of a run ({RESULTS.name} for a GPU), folder of a kit")
    args = parser.parse_args(argv)
    if args.command == "pack":
        packed(args)
    elif args.command == "table":
        from benchmarks.gpu.report import report

        print(report(json.loads((args.out or RESULTS).read_text())))
    else:
        run(args)


def packed(args: argparse.Namespace) -> None:
    out = args.out or KIT
    if args.comfyui is None or out.exists():
        raise SystemExit("pack needs --comfyui FOLDER" if args.comfyui is None else f"{out} is there already")
    from host.hosts import host_at, peer

    host = host_at(args.comfyui.expanduser().absolute())
    if host is None:
        raise SystemExit(f"{args.comfyui} holds no ComfyUI")
    adapter = peer("ComfyUI_IPAdapter_plus", host)
    facts = kit.pack(host, adapter, out, args.python)
    print(f"{out}: ComfyUI {facts['host']} for Python {facts['python']}, {kit.size_of(out) / 2**20:.0f} MiB")
    if adapter is None:
        print("without ComfyUI_IPAdapter_plus, which is in neither $P3S_PEERS nor ~/comfy/peers")


def run(args: argparse.Namespace) -> None:
    started, size = time.monotonic(), SIZES[args.size]
    folder = args.kit or (KIT if KIT.exists() and args.comfyui is None else None)
    wanted = [name.strip() for name in args.only.split(",") if name.strip()] or list(SECTIONS)
    if unknown := [name for name in wanted if name not in SECTIONS]:
        raise SystemExit(f"there is no section {', '.join(unknown)}; there are {', '.join(SECTIONS)}")
    given: AbstractContextManager[Any] = kit.opened(folder) if folder else nullcontext()
    with given:
        host = host_of(folder, args.comfyui)
        result: dict[str, Any] = {**facts(host, size), "size": args.size, "sections": {}, "left_out": {}}
        out = args.out or (RESULTS if result["card"] else None)
        for name in wanted:
            left = 60 * args.minutes - (time.monotonic() - started)
            section = SECTIONS[name]
            if section.gpu_alone and size.device == "cpu":
                result["left_out"][name] = section.gpu_alone
            elif left < SHORTEST:
                result["left_out"][name] = f"the {args.minutes:g} minutes were over"
            else:
                print(f"{section.title} ...", file=sys.stderr, flush=True)
                result["sections"][name] = measured(name, section, size, host, left)
            if out is not None:
                out.write_text(json.dumps(result, indent=1) + "\n")
        from benchmarks.gpu.report import report  # with a kit's packages

        print(report(result))


def host_of(folder: Path | None, comfyui: Path | None) -> Any:
    """The host of a kit, of a folder, or the first that is found."""
    from host.hosts import find_hosts, host_at

    path = folder / "host" if folder else comfyui
    host = host_at(path.expanduser().absolute()) if path else next(iter(find_hosts()), None)
    if host is None:
        raise SystemExit(f"no ComfyUI in {path}" if path else "no kit and no ComfyUI: name one with --kit or --comfyui")
    return host


PROBE = """
import json, torch
there = torch.cuda.is_available()
print(json.dumps({"torch": torch.__version__, "cuda": torch.version.cuda if there else None,
                  "card": torch.cuda.get_device_name() if there else None}))
"""


def facts(host: Any, size: Size) -> dict[str, Any]:
    """Of the machine and the programs. Exits where a GPU is wanted and there is none."""
    done = subprocess.run([str(host.python), "-c", PROBE], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    if size.device == "cuda" and not found["card"]:
        raise SystemExit("torch finds no GPU; --size tiny runs small models on the CPU")
    if size.device == "cpu":
        found |= {"card": None, "cuda": None}
    now = datetime.now(timezone.utc).strftime("%Y-%m-%d")
    return {"date": now, **found, "python": platform.python_version(), "host": f"ComfyUI {host.version}"}


def measured(name: str, section: Section, size: Size, host: Any, left: float) -> dict[str, Any]:
    """The rows of a section, in at most ``left`` seconds; those that there are, with the error, where it ends early."""
    from host.hosts import peer
    from host.inside import Inside

    started, found, error = time.monotonic(), {}, ""
    with tempfile.TemporaryDirectory() as base:
        inside = Inside(host, Path(base))
        partial = Path(base) / "partial.json"
        adapter = peer("ComfyUI_IPAdapter_plus", host)
        common = {"tiny": size.tiny, "partial": str(partial), "peers": [str(adapter)] if adapter else []}
        arguments = {**section.arguments(size), **common}
        try:
            if name == "offloading":
                found = offloaded(inside, section, arguments, size, left)
            else:
                found = inside.run(section.script, arguments, left, ["--cpu"] if size.device == "cpu" else [])
        except subprocess.TimeoutExpired:
            error = f"stopped after {left:.0f} s"
        except AssertionError as failed:
            error = str(failed)
        if error and partial.exists():
            found = json.loads(partial.read_text())
    seconds = time.monotonic() - started
    return {"title": section.title, "seconds": seconds, "rows": found, **({"error": error} if error else {})}


def offloaded(inside: Any, section: Section, arguments: dict[str, Any], size: Size, left: float) -> dict[str, Any]:
    """First on the CPU, then on the device with all weights offloaded, in 32 bits."""
    first = str(inside.base / "first.pt")
    inside.run(section.script, {**arguments, "against": "", "out": first}, left, ["--cpu", "--force-fp32"])
    place = ["--cpu"] if size.device == "cpu" else ["--novram"]
    return inside.run(section.script, {**arguments, "against": first, "out": ""}, left, [*place, "--force-fp32"])


if __name__ == "__main__":
    main()
