"""The paper's tables in miniature: P3S, its ablations and the users' alternatives on held-out scenes of two animals.

    python -m benchmarks.toyworld run --table main --references 20 --out results.jsonl --sheets sheets
    python -m benchmarks.toyworld table results.jsonl --table main
    python -m benchmarks.toyworld --help

Each reference is a held-out scene with two animals of one class; one of them is clicked. Every method trains on it
from the same caption ("a photo of a sks dog on the beach") with the same floating-point work, and generates the same
prompts, on other backgrounds, from the same seeds. A row of the results is one reference under one method; a run
continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3s.errors import MaskError, PointError
from p3s.network.copy_start import start_copy
from p3s.network.subject_copy import SubjectCopy
from p3s.reference.rngr import Reference
from p3s.sampling.application import Application, AppliedSubject
from p3s.toyworld.scenes import BACKGROUNDS, IDENTIFIER, Scene, prompt, scene
from p3s.toyworld.world import WEIGHTS, ToyWorld, click, load_world, picture_of
from p3s.training.examples import Example, examples_of
from p3s.training.key import TrainingInputs
from p3s.training.loop import train
from p3s.training.settings import TrainSettings
from p3s.training.step import batch_losses, draw_batch

from .reference_only import reference_only
from .toyworld_methods import METHODS, RATE, TABLES, Method
from .toyworld_metrics import clip_scores, interval, portraits, score
from .toyworld_rivals import rival_work, tune
from .toyworld_ssr import embeds
from .toyworld_ssr import sampling as ssr_sampling

COUNTED = ("selection", "preferred", "leaked", "prompt", "one", "clip_i", "clip_t")
#: The world to sample in, further arguments of its ``sample``, and figures for the row of results.
Trained = tuple[ToyWorld, dict[str, Any], dict[str, Any]]


@dataclass(frozen=True)
class Budget:
    """What all methods share. ``steps`` are those of P3S as it is by default; a method whose step costs less (or more)
    floating-point work takes more (or fewer) of them. A batch holds the one reference ``batch`` times, with other
    noise."""

    steps: int = 100
    batch: int = 4
    rate: float = RATE
    backgrounds: int = 2
    seeds: int = 2
    guidance: float = 3.0
    sample_steps: int = 25


def reference_of(world: ToyWorld, s: Scene, wanted: int, rngr: bool) -> Reference | None:
    """The clean reference, or the photo as it is without RNGR; None where the points give no mask (a failure of the
    method: all its pictures count as wrong)."""
    photo, points = picture_of(s), click(s, wanted)
    if not rngr:
        nothing = torch.zeros(photo.shape[:2])
        return Reference(photo, world.encode_clip(photo[None])[0], nothing, nothing, nothing, points, "")
    try:
        return world.reference(photo, points)
    except (MaskError, PointError):
        return None


def prompts(s: Scene, number: int, count: int) -> list[str]:
    """``count`` backgrounds other than the scene's own, in turn."""
    others = [name for name in BACKGROUNDS if name != s.background]
    return [others[(number * count + i) % len(others)] for i in range(count)]


def settings_of(method: Method, budget: Budget, seed: int, steps: int = 1) -> TrainSettings:
    values = {"batch_size": budget.batch, "learning_rate": budget.rate * method.rate, "seed": seed, "steps": steps}
    return TrainSettings(**values | method.train)


def batch_of(examples: Sequence[Example], size: int) -> list[Example]:
    """Every view as often as fills a whole number of batches."""
    return [example for example in examples for _ in range(size)]


def copy_of(world: ToyWorld, method: Method, settings: TrainSettings) -> SubjectCopy:
    width = world.clip.position.shape[1]
    return start_copy(world.unet.state_dict(), method.copy, width, settings.zero_init, settings.seed)


def work(world: ToyWorld, method: Method, budget: Budget, example: Example) -> int:
    """Floating-point operations of a training step."""
    from torch.utils.flop_counter import FlopCounterMode

    settings = settings_of(method, budget, 0)
    batch = draw_batch(
        [example],
        [0] * budget.batch,
        world.encode_text(""),
        world.noise,
        settings,
        torch.Generator().manual_seed(0),
    )
    if method.kind != "p3s":
        return rival_work(world, method.kind, batch)
    copy = copy_of(world, method, settings)
    with FlopCounterMode(display=False) as counter:
        denoising, consistency = batch_losses(world.unet, copy, batch, settings)
        (denoising + consistency).backward()
    return counter.get_total_flops()


def run_one(
    world: ToyWorld, name: str, number: int, budget: Budget, trained: dict[str, Trained]
) -> tuple[dict[str, Any], list[Tensor]]:
    """One reference under one method: a row of results, and the pictures. ``trained`` keeps what was trained on this
    reference, for methods that differ in sampling alone."""
    method, s, wanted = METHODS[name], scene("heldout", number, "different"), number % 2
    reference = reference_of(world, s, wanted, method.rngr)
    row: dict[str, Any] = {"method": name, "reference": number, "masked": reference is not None}
    if reference is None:
        count = budget.backgrounds * budget.seeds
        return row | {key: [float(key == "leaked")] * count for key in COUNTED} | {"train_seconds": 0, "steps": 0}, []
    key = repr(method.trained)
    if key not in trained:
        trained[key] = train_one(world, method, number, budget, s, reference)
    used, sampling, figures = trained[key]
    if "subjects" in sampling:
        how = Application(method.weight, **method.applied)
        sampling = {"subjects": [replace(s, application=how) for s in sampling["subjects"]]}
    looks = s.subjects[wanted].look, s.subjects[1 - wanted].look
    truth = portraits(s, wanted)
    scores, shown = [], [picture_of(s), reference.image]
    for background in prompts(s, number, budget.backgrounds):
        text = prompt(s.animal, background, "" if method.kind in ("plain", "ssr") else IDENTIFIER)
        seeds = [1000 * number + i for i in range(budget.seeds)]
        pictures = used.sample(text, seeds, steps=budget.sample_steps, guidance=budget.guidance, **sampling)
        told = clip_scores(world, pictures, truth, prompt(s.animal, background))
        for a, b in zip(score(world, pictures, *looks, s.animal, background), told, strict=True):
            scores.append(a | b)
        shown += list(pictures)
    return row | figures | {key: [round(r[key], 4) for r in scores] for key in COUNTED}, shown


def train_one(world: ToyWorld, method: Method, number: int, budget: Budget, s: Scene, reference: Reference) -> Trained:
    """The world to sample in, what its ``sample`` takes besides, and figures of the training."""
    settings = settings_of(method, budget, number)
    examples = examples_of(
        reference,
        world.encode_text(prompt(s.animal, s.background, IDENTIFIER)),
        world.encode_latent,
        world.resolution,
        settings,
        torch.Generator().manual_seed(settings.seed),
        masked=method.copy.cached,
    )
    figures: dict[str, Any] = {"train_seconds": 0.0}
    if method.kind == "plain":
        return world, {}, figures
    if method.kind == "reference-only":
        caption = prompt(s.animal, s.background)
        return world, {"over": reference_only(world, reference.image, caption, method.copy.lam)}, figures
    if method.kind == "ssr":
        found = embeds(world, method.ssr, picture_of(s), reference, s.animal, s.subjects[number % 2].look)
        return world, {"over": ssr_sampling(world, method.ssr, [found], [None])}, figures
    own = work(world, method, budget, examples[0])
    equal = budget.steps * method.work * work(world, METHODS["p3s"], budget, examples[0]) / own
    steps = method.train.get("steps") or max(1, round(equal))
    settings = replace(settings, steps=steps)
    figures |= {"steps": steps, "step_gflop": round(own / 1e9, 2)}
    repeated, started = batch_of(examples, budget.batch), time.time()
    used, sampling = world, {}
    if method.kind == "p3s":
        copy, empty = copy_of(world, method, settings), world.encode_text("")
        inputs = TrainingInputs("", ("",), repeated, empty, world.noise, method.copy, settings)
        result = train(world.unet, copy, inputs)
        tail = result.reports[-50:]
        figures["loss"] = sum(r.denoising for r in tail) / len(tail)
        figures["consistency"] = [sum(r.consistency for r in part) / len(part) for part in (result.reports[:50], tail)]
        condition = copy.condition(examples[0].latent[None], reference.tokens[None])
        sampling = {"subjects": [AppliedSubject(copy, condition, subject=examples[0].subject_tokens)]}
    else:
        used = replace(world, unet=tune(world, method.kind, repeated, settings))
    return used, sampling, figures | {"train_seconds": round(time.time() - started, 1)}


def run(args: argparse.Namespace) -> None:
    if args.threads:
        torch.set_num_threads(args.threads)
    world = load_world(args.weights)
    budget = Budget(**{k: v for k, v in vars(args).items() if k in Budget.__dataclass_fields__})
    names = args.methods.split(",") if args.methods else TABLES[args.table]
    done = set()
    if args.out.exists():
        done = {(r["method"], r["reference"]) for r in map(json.loads, args.out.read_text().splitlines())}
    for number in range(args.first, args.first + args.references):
        sheet: list[Tensor] = []
        trained: dict[str, Trained] = {}
        for name in names:
            if (name, number) in done:
                continue
            row, shown = run_one(world, name, number, budget, trained)
            with args.out.open("a") as file:
                file.write(json.dumps(row | {"budget": asdict(budget)}) + "\n")
            told = {k: round(sum(row[k]) / len(row[k]), 2) for k in COUNTED}
            print(
                f"{number:3} {name:16} {told} {row.get('steps', 0)} steps {row['train_seconds']} s",
                flush=True,
            )
            if shown:
                sheet.append(torch.cat(shown, 1))
        if sheet and args.sheets:
            save_sheet(sheet, args.sheets / f"reference-{number:02}.png")


def save_sheet(rows: list[Tensor], path: Path) -> None:
    """One row a method: the photo, what was trained on, and the generated pictures."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = (torch.cat(rows) * 255).byte().numpy()
    Image.fromarray(pixels).resize((pixels.shape[1] * 2, pixels.shape[0] * 2), Image.Resampling.NEAREST).save(path)


def table(args: argparse.Namespace) -> None:
    """A Markdown table: means over references with 95 % bootstrap intervals (references are redrawn whole)."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for line in args.results.read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["method"], {})[row["reference"]] = row
    names = [name for name in TABLES[args.table] if name in found] if args.table else list(found)
    shared = set.intersection(*(set(found[name]) for name in names))
    print(f"{len(shared)} references; every row is of the same ones.\n")
    print(
        "| method | selection | less than the first row | preferred | less | leaked | prompt | one animal | CLIP-I "
        "| CLIP-T | CLIP-I var. | steps | training s |"
    )
    print("|---" * 13 + "|")
    first = found[names[0]]
    for name in names:
        rows = [found[name][n] for n in sorted(shared)]
        groups = [r["reference"] for r in rows for _ in r["selection"]]

        def cell(values: Sequence[float], places: int = 2, groups: Sequence[int] = groups) -> str:
            low, high = interval(values, groups)
            return f"{sum(values) / len(values):.{places}f} [{low:.{places}f}, {high:.{places}f}]"

        def of(key: str, rows: Sequence[dict[str, Any]] = rows) -> list[float]:
            return [v for r in rows for v in r[key]]

        def lost(key: str, name: str = name, rows: Sequence[dict[str, Any]] = rows) -> str:
            pairs = ((first[r["reference"]][key], r[key]) for r in rows)
            less = [a - b for pair in pairs for a, b in zip(*pair, strict=True)]
            return "" if name == names[0] else cell(less)

        variance = [float(torch.tensor(r["clip_i"]).var()) for r in rows]
        cells = [
            *(text for key in ("selection", "preferred") for text in (cell(of(key)), lost(key))),
            *(cell(of(key)) for key in ("leaked", "prompt", "one")),
            cell(of("clip_i"), 3),
            cell(of("clip_t"), 3),
            f"{sum(variance) / len(variance):.4f}",
            f"{rows[0].get('steps', 0)}",
            f"{sum(r['train_seconds'] for r in rows) / len(rows):.0f}",
        ]
        print(f"| {name} | " + " | ".join(cells) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.toyworld", description=str(__doc__).splitlines()[0])
    commands = parser.add_subparsers(required=True)
    runner = commands.add_parser("run", help="train and generate; appends to --out")
    runner.add_argument("--table", choices=TABLES, default="main", help="the methods of a table")
    runner.add_argument("--methods", help=f"instead of a table, some of: {', '.join(METHODS)}")
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
    teller.add_argument("--table", choices=TABLES, help="only the methods of this table; default: all there are")
    teller.set_defaults(call=table)
    args = parser.parse_args()
    args.call(args)


if __name__ == "__main__":
    main()
