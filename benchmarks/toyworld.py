"""The paper's tables in miniature: P3S, its ablations and the users' alternatives on held-out scenes of two animals.

    python -m benchmarks.toyworld run --methods p3s,no-rngr,plain --references 20 --out results.jsonl
    python -m benchmarks.toyworld table results.jsonl
    python -m benchmarks.toyworld --help

Each reference is a held-out scene with two animals of one class; one of them is clicked. Every method trains on it from
the same caption ("a photo of a sks dog on the beach") and generates the same prompts, on other backgrounds, from the
same seeds. A row of the results is one reference under one method; a run continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3s.errors import MaskError, PointError
from p3s.rngr import Reference
from p3s.schedule import Schedule
from p3s.subject_copy import CopySettings, SubjectCopy
from p3s.toyworld.scenes import BACKGROUNDS, IDENTIFIER, Scene, prompt, scene
from p3s.toyworld.world import WEIGHTS, ToyWorld, click, load_world, picture_of
from p3s.training import TrainSettings, train

from .toyworld_metrics import interval, score
from .toyworld_rivals import tune

COUNTED = ("selection", "look", "preferred", "leaked", "prompt", "one")


@dataclass(frozen=True)
class Method:
    """``kind``: "p3s", "plain" (nothing is trained), "dreambooth" or "lora". ``rngr``: whether it trains on the clean
    reference, or on the photo as it is. ``train``: changes to the default settings of training."""

    kind: str = "p3s"
    rngr: bool = True
    copy: CopySettings = field(default_factory=CopySettings)
    train: dict[str, Any] = field(default_factory=dict)
    weight: Schedule = field(default_factory=Schedule)


def _p3s(**train: Any) -> Method:
    return Method(train=train)


METHODS: dict[str, Method] = {
    "plain": Method("plain"),
    "p3s": Method(),
    "no-rngr": Method(rngr=False),
    "zero-start": _p3s(zero_init="zero"),
    "identity-start": _p3s(zero_init="identity"),
    "no-lac": _p3s(attention_layers="none"),
    "lac-all": _p3s(attention_layers="all"),
    "lac-sum": _p3s(attention_norm="sum"),
    "fixed": Method(weight=Schedule("fixed")),
    "fixed-1.2": Method(weight=Schedule("fixed", value=1.2)),
    "increasing": Method(weight=Schedule("increasing")),
    "decreasing": Method(weight=Schedule("decreasing")),
    "no-cross": Method(copy=CopySettings(cross_attention=False)),
    "attn1-feature": Method(copy=CopySettings(feature="attn1")),
    "one-to-one": Method(copy=CopySettings(pairing="one_to_one")),
    "reference-input": Method(copy=CopySettings(copy_input="reference")),
    "dreambooth": Method("dreambooth", rngr=False),
    "dreambooth-rngr": Method("dreambooth"),
    "lora": Method("lora", rngr=False),
    "lora-rngr": Method("lora"),
}


@dataclass(frozen=True)
class Budget:
    """What all methods share. ``caption``: whether the training caption names the reference's "background", or just
    the "class". A batch holds the one example ``batch`` times, with other noise."""

    steps: int = 300
    batch: int = 4
    rate: float = 5e-4
    zero_init: str = "identity"
    caption: str = "background"
    backgrounds: int = 2
    seeds: int = 2
    guidance: float = 3.0
    sample_steps: int = 25


def reference_of(world: ToyWorld, s: Scene, wanted: int) -> Reference | None:
    """The clean reference, or None where the points give no mask (counted as a failure of the method)."""
    try:
        return world.reference(picture_of(s), click(s, wanted))
    except (MaskError, PointError):
        return None


def prompts(s: Scene, number: int, count: int) -> list[str]:
    """``count`` backgrounds other than the scene's own, in turn."""
    others = [name for name in BACKGROUNDS if name != s.background]
    return [others[(number * count + i) % len(others)] for i in range(count)]


def run_one(world: ToyWorld, name: str, number: int, budget: Budget) -> tuple[dict[str, Any], list[Tensor]]:
    """One reference under one method: a row of results, and the pictures."""
    method, s, wanted = METHODS[name], scene("heldout", number, "different"), number % 2
    reference = reference_of(world, s, wanted) if method.rngr or method.kind == "plain" else None
    photo = picture_of(s)
    row: dict[str, Any] = {"method": name, "reference": number, "masked": reference is not None or not method.rngr}
    shown = [photo, reference.image if reference is not None else photo]
    started = time.time()
    picture = shown[1]
    tokens = world.encode_clip(picture[None])[0]
    named = s.background if budget.caption == "background" else None
    example = world.example(picture, tokens, prompt(s.animal, named, IDENTIFIER))
    settings = TrainSettings(
        **{
            "steps": budget.steps,
            "batch_size": budget.batch,
            "learning_rate": budget.rate,
            "zero_init": budget.zero_init,
            "seed": number,
            **method.train,
        }
    )
    used, sampling = world, {}
    if method.kind == "p3s":
        copy = SubjectCopy.from_base(
            world.unet.state_dict(), method.copy, tokens.shape[-1], settings.zero_init, settings.seed
        )
        result = train(world.unet, copy, [example] * budget.batch, world.encode_text(""), world.noise, settings)
        tail = result.reports[-50:]
        row["loss"] = sum(r.denoising for r in tail) / len(tail)
        row["consistency"] = [sum(r.consistency for r in part) / len(part) for part in (result.reports[:50], tail)]
        condition = copy.condition(example.latent[None], example.tokens[None])
        sampling = {"copy": copy, "condition": condition, "weight": method.weight}
    elif method.kind != "plain":
        used = replace(world, unet=tune(world, method.kind, example, settings))
    row["train_seconds"] = round(time.time() - started, 1)
    looks = s.subjects[wanted].look, s.subjects[1 - wanted].look
    scores = []
    for background in prompts(s, number, budget.backgrounds):
        text = prompt(s.animal, background, "" if method.kind == "plain" else IDENTIFIER)
        seeds = [1000 * number + i for i in range(budget.seeds)]
        pictures = used.sample(text, seeds, steps=budget.sample_steps, guidance=budget.guidance, **sampling)
        scores += score(world, pictures, *looks, s.animal, background)
        shown += list(pictures)
    row |= {key: [r[key] for r in scores] for key in COUNTED}
    row["seconds"] = round(time.time() - started, 1)
    return row, shown


def run(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    world = load_world(args.weights)
    budget = Budget(**{k: v for k, v in vars(args).items() if k in Budget.__dataclass_fields__})
    done = set()
    if args.out.exists():
        done = {(r["method"], r["reference"]) for r in map(json.loads, args.out.read_text().splitlines())}
    for number in range(args.first, args.first + args.references):
        sheet = []
        for name in args.methods.split(","):
            if (name, number) in done:
                continue
            row, shown = run_one(world, name, number, budget)
            with args.out.open("a") as file:
                file.write(json.dumps(row | {"budget": asdict(budget)}) + "\n")
            told = {k: round(sum(row[k]) / len(row[k]), 2) for k in COUNTED}
            print(f"{number:3} {name:16} {told} {row['seconds']} s", flush=True)
            sheet.append(torch.cat(shown, 1))
        if sheet and args.sheets:
            save_sheet(sheet, args.sheets / f"reference-{number:02}.png")


def save_sheet(rows: list[Tensor], path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (torch.cat(rows) * 255).byte().numpy()
    Image.fromarray(pixels).resize((pixels.shape[1] * 3, pixels.shape[0] * 3), Image.Resampling.NEAREST).save(path)


def table(args: argparse.Namespace) -> None:
    """A Markdown table: means over references with 95 % bootstrap intervals (references are redrawn whole)."""
    rows: dict[str, list[dict[str, Any]]] = {}
    for line in args.results.read_text().splitlines():
        row = json.loads(line)
        rows.setdefault(row["method"], []).append(row)
    print("| method | references | " + " | ".join(COUNTED) + " | training s |")
    print("|---" * (len(COUNTED) + 3) + "|")
    for name, found in rows.items():
        cells = []
        for key in COUNTED:
            values = [v for r in found for v in r[key]]
            groups = [r["reference"] for r in found for _ in r[key]]
            low, high = interval(values, groups)
            cells.append(f"{sum(values) / len(values):.2f} [{low:.2f}, {high:.2f}]")
        seconds = sum(r["train_seconds"] for r in found) / len(found)
        print(f"| {name} | {len(found)} | " + " | ".join(cells) + f" | {seconds:.0f} |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toyworld", description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run", help="train and generate; appends to --out")
    runner.add_argument("--methods", default="plain,p3s,no-rngr", help=f"of: {', '.join(METHODS)}")
    runner.add_argument("--references", type=int, default=20)
    runner.add_argument("--first", type=int, default=0, help="number of the first reference")
    runner.add_argument("--out", type=Path, required=True)
    runner.add_argument("--sheets", type=Path, help="folder for a picture sheet per reference")
    runner.add_argument("--weights", type=Path, default=WEIGHTS)
    runner.add_argument("--threads", type=int, default=0)
    for name, spec in Budget.__dataclass_fields__.items():
        runner.add_argument(f"--{name.replace('_', '-')}", type=type(spec.default), default=spec.default)
    runner.set_defaults(call=run)
    teller = commands.add_parser("table", help="print the table of a results file")
    teller.add_argument("results", type=Path)
    teller.set_defaults(call=table)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
