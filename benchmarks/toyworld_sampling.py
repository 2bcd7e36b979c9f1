"""Ways of sampling the same trained subjects of the toy world: faster settings, and two subjects in one picture.

    python -m benchmarks.toyworld_sampling speed --references 20 --out speed.jsonl
    python -m benchmarks.toyworld_sampling table speed.jsonl
    python -m benchmarks.toyworld_sampling two --references 20 --out two.jsonl
    python -m benchmarks.toyworld_sampling two-table two.jsonl

The subjects are trained as "p3s" of ``benchmarks.toyworld`` and kept in --subjects. All ways get the same prompts and
seeds. A row of the results is one reference (or pair of references) in one way; a run continues where it stopped.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3s.network.injection import EffectMask
from p3s.sampling.ddim import Over
from p3s.sampling.settings import FAST, STANDARD, SamplingSettings
from p3s.toyworld.scenes import BACKGROUNDS, CLASSES, IDENTIFIER, PLURALS, SIDE, prompt, scene
from p3s.toyworld.world import WEIGHTS, ToyWorld, load_world, picture_of

from .flops import Models, count
from .toyworld import Budget, prompts, reference_of, save_sheet
from .toyworld_methods import METHODS
from .toyworld_metrics import answers, carries, interval, preference, score
from .toyworld_ssr import embeds
from .toyworld_ssr import sampling as ssr_sampling
from .toyworld_trained import Trained, clicked, trained

COUNTED = ("selection", "preferred", "prompt", "one")

#: Alone, and together.
WAYS: dict[str, dict[str, Any]] = {
    "exact": {},
    "standard": asdict(STANDARD),
    "standard, gain 0.7": asdict(STANDARD) | {"gain": 0.7},
    "conditional half": {"branches": "conditional"},
    "reuse 2": {"branches": "conditional", "reuse": 2},
    "reuse 3": {"branches": "conditional", "reuse": 3},
    "reuse 4": {"branches": "conditional", "reuse": 4},
    "one to one": {"branches": "conditional", "pairing": "one_to_one"},
    "pool 2": {"branches": "conditional", "pool": 2},
    "end 0.8": {"branches": "conditional", "end": 0.8},
    "reuse 3, pool 2": {"branches": "conditional", "reuse": 3, "pool": 2},
    "reuse 2, one to one, pool 2": {"branches": "conditional", "reuse": 2, "pool": 2, "pairing": "one_to_one"},
    "reuse 2, end 0.6": {"branches": "conditional", "reuse": 2, "end": 0.6},
    "reuse 3, end 0.9": {"branches": "conditional", "reuse": 3, "end": 0.9},
    "reuse 2, end 0.75": {"branches": "conditional", "reuse": 2, "end": 0.75},
    "reuse 3, end 0.8": {"branches": "conditional", "reuse": 3, "end": 0.8},
    "reuse 4, end 0.8": {"branches": "conditional", "reuse": 4, "end": 0.8},
}

#: Two subjects in one picture: how they are kept apart. Each is on the side where it is in its photo, or on the other.
PAIRS: dict[str, dict[str, Any]] = {
    "standard": asdict(STANDARD),
    "standard, isolate 0.5": asdict(STANDARD) | {"isolate": 0.5},
    "standard, isolate 1": asdict(STANDARD) | {"isolate": 1.0},
    "standard, gain 1, isolate 1": asdict(STANDARD) | {"gain": 1.0, "isolate": 1.0},
    "standard, isolate 1, sides swapped": asdict(STANDARD) | {"isolate": 1.0, "swapped": True},
    "standard, isolate 1, soft edges": asdict(STANDARD) | {"isolate": 1.0, "soft": True},
    "exact": {},
    "exact, isolate 1": {"isolate": 1.0},
    "fast": asdict(FAST),
    "fast, isolate 1": asdict(FAST) | {"isolate": 1.0},
    "standard, no masks": asdict(STANDARD) | {"masks": False},
    "plain model": {"strength": 0.0},
    # SSR-Encoder with each photo's clean reference and mask: both subjects in one attention, or each in its own half.
    "ssr, one attention": {"ssr": True, "masks": False},
    "ssr, masks": {"ssr": True},
}
COUNTED_OF_TWO = ("right side", "preferred", "mixed", "prompt")


def speed_row(world: ToyWorld, subject: Trained, name: str, budget: Budget) -> tuple[dict[str, Any], list[Tensor]]:
    s, rows, shown = subject.scene, [], []
    for background in prompts(s, subject.number, budget.backgrounds):
        text = prompt(s.animal, background, IDENTIFIER)
        seeds = [1000 * subject.number + i for i in range(budget.seeds)]
        applied = subject.applied(settings=SamplingSettings(**WAYS[name]))
        pictures = world.sample(text, seeds, [applied], budget.sample_steps, budget.guidance)
        rows += score(world, pictures, subject.wanted, subject.other, s.animal, background)
        shown += list(pictures)
    return {key: [r[key] for r in rows] for key in COUNTED}, shown


def side_mask(right: bool, soft: bool) -> EffectMask:
    """One half of the picture, with a hard or a soft edge of a third of its width."""
    ramp = ((torch.arange(SIDE) + 0.5) / SIDE - 0.5) * (3 if soft else 1e9)
    share = (0.5 + ramp).clamp(0, 1)
    return EffectMask((share if right else 1 - share).expand(SIDE, SIDE))


def side(pictures: Tensor, right: bool) -> Tensor:
    """One half of each picture twice, side by side: two animals of one look, which the judge can tell."""
    half = pictures[:, :, SIDE // 2 :] if right else pictures[:, :, : SIDE // 2]
    return torch.cat([half, half], 2)


def two_row(
    world: ToyWorld, pair: tuple[Trained, Trained], name: str, budget: Budget
) -> tuple[dict[str, Any], list[Tensor]]:
    """Both subjects in one picture, the first on the left. Of every half of a picture, 0 or 1 each:

    right side  the colours are those of its subject
    preferred   its subject's appearance is more probable than the other subject's (0.5 by chance)
    mixed       the colours are those of the other subject
    prompt      class, number and background of the whole picture are those of the prompt
    """
    options = dict(PAIRS[name])
    soft, masks, strength = options.pop("soft", False), options.pop("masks", True), options.pop("strength", 1.0)
    isolate = options.pop("isolate", 0.0)
    ssr = options.pop("ssr", False)
    pair = (pair[1], pair[0]) if options.pop("swapped", False) else pair
    where = [side_mask(right, soft) if masks else None for right in (False, True)]
    how: dict[str, Any]
    if ssr:
        how = {"over": ssr_over(world, pair, where)}
    else:
        given = {"strength": strength, "settings": SamplingSettings(**options), "isolate": isolate}
        how = {"subjects": [t.applied(mask=mask, **given) for t, mask in zip(pair, where, strict=True)]}
    number, animal = min(pair, key=lambda t: t.number).number, pair[0].scene.animal
    found, shown = [], []
    for background in prompts(pair[0].scene, number, budget.backgrounds):
        text = f"a photo of two {'' if ssr else IDENTIFIER + ' '}{PLURALS[animal]} {BACKGROUNDS[background]}"
        seeds = [1000 * number + i for i in range(budget.seeds)]
        pictures = world.sample(text, seeds, steps=budget.sample_steps, guidance=budget.guidance, **how)
        fits = [(a["animal"], a["background"], a["count"]) == (animal, background, 2) for a in answers(world, pictures)]
        for right, own in enumerate(pair):
            other, half = pair[1 - right], side(pictures, bool(right))
            towards = preference(world, half, own.wanted) - preference(world, half, other.wanted)
            for answered, difference, fit in zip(answers(world, half), towards.tolist(), fits, strict=True):
                seen = (carries(answered, own.wanted), difference > 0, carries(answered, other.wanted), fit)
                found.append([float(value) for value in seen])
        shown += list(pictures)
    return {key: [row[i] for row in found] for i, key in enumerate(COUNTED_OF_TWO)}, shown


def ssr_over(world: ToyWorld, pair: Sequence[Trained], masks: Sequence[EffectMask | None]) -> Over:
    """Both subjects by SSR-Encoder, in one attention where there are no masks."""
    way, found = METHODS["ssr-clean-mask"].ssr, []
    for t in pair:
        reference = reference_of(world, t.scene, t.number % 2, True)
        found.append(embeds(world, way, picture_of(t.scene), reference, t.scene.animal, t.wanted))
    if masks[0] is None:
        return ssr_sampling(world, way, [found[0] + found[1]], [None])
    return ssr_sampling(world, way, found, masks)


def judge_of_halves(world: ToyWorld, scenes: int = 200) -> float:
    """How often the judge is right about one half of a real picture of two."""
    drawn = [scene("heldout", i, "different") for i in range(scenes)]
    pictures = torch.stack([picture_of(s) for s in drawn])
    right = 0
    for number in (0, 1):
        for s, told in zip(drawn, answers(world, side(pictures, bool(number))), strict=True):
            # Subjects are drawn in any order: the one on this side is meant.
            owner = sorted(s.subjects, key=lambda placed: placed.x)[number]
            right += carries(told, owner.look)
    return right / (2 * scenes)


Runner = Callable[[Any, str], tuple[dict[str, Any], list[Tensor]]]


def work_off(
    args: argparse.Namespace, ways: Iterable[str], things: Iterable[tuple[int, Callable[[], Any]]], runner: Runner
) -> None:
    """Append a row for every thing (its number, and how to get it) in every way that the results lack."""
    done = set()
    if args.out.exists():
        done = {(r["way"], r["reference"]) for r in map(json.loads, args.out.read_text().splitlines())}
    for number, get in things:
        missing = [way for way in ways if (way, number) not in done]
        thing = get() if missing else None
        sheet = []
        for way in missing if thing is not None else []:
            started = time.time()
            row, shown = runner(thing, way)
            with args.out.open("a") as file:
                file.write(json.dumps({"way": way, "reference": number, **row}) + "\n")
            told = {k: round(sum(v) / len(v), 2) for k, v in row.items()}
            print(f"{number:3} {way:28} {told} {time.time() - started:.1f} s", flush=True)
            sheet.append(torch.cat(shown, 1))
        if sheet and args.sheets:
            save_sheet(sheet, args.sheets / f"{args.out.stem}-{number:02}.png")


def numbers(args: argparse.Namespace) -> range:
    return range(args.first, args.first + args.references)


def speed(args: argparse.Namespace, world: ToyWorld, budget: Budget) -> None:
    ways = args.ways.split(";") if args.ways else list(WAYS)
    things = [(n, lambda n=n: trained(world, n, budget, args.subjects)) for n in numbers(args)]
    work_off(args, ways, things, lambda subject, way: speed_row(world, subject, way, budget))


def two(args: argparse.Namespace, world: ToyWorld, budget: Budget) -> None:
    print(f"the judge on halves of real pictures: {judge_of_halves(world):.3f}", flush=True)
    ways = args.ways.split(";") if args.ways else list(PAIRS)

    def pair(number: int) -> tuple[Trained, Trained] | None:
        """Two references of one class whose subjects share no colour; the first is on the left of its photo, the
        second on the right."""
        animal = CLASSES[number % len(CLASSES)]
        first = trained(world, number, budget, args.subjects, animal)
        for other in range(100 + number, 200):
            found = clicked(scene("heldout", other, "different", animal), other)
            if first is None or {found.look.body, found.look.mark} & {first.wanted.body, first.wanted.mark}:
                continue
            if (found.x < SIDE / 2) == first.left:
                continue
            second = trained(world, other, budget, args.subjects, animal)
            if second is not None:
                return (first, second) if first.left else (second, first)
        return None

    things = [(n, lambda n=n: pair(n)) for n in numbers(args)]
    work_off(args, ways, things, lambda thing, way: two_row(world, thing, way, budget))


def price(settings: SamplingSettings, models: Models, plain: float) -> float:
    """Floating-point work of a run on SD 1.5 in full size at 512 x 512, relative to the plain model."""
    return 1 + settings.end * (models.step(settings) / plain - 1)


def read(path: Path) -> tuple[dict[str, dict[int, dict[str, Any]]], list[int]]:
    """Rows by way and reference, and the references that all ways have."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for line in path.read_text().splitlines():
        row = json.loads(line)
        found.setdefault(row["way"], {})[row["reference"]] = row
    return found, sorted(set.intersection(*(set(rows) for rows in found.values())))


def cells(rows: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[str]:
    """Means with 95 % bootstrap intervals (references are redrawn whole)."""
    made = []
    for key in keys:
        values = [v for r in rows for v in r[key]]
        low, high = interval(values, [r["reference"] for r in rows for _ in r[key]])
        made.append(f"{sum(values) / len(values):.3f} [{low:.3f}, {high:.3f}]")
    return made


def table(args: argparse.Namespace) -> None:
    found, shared = read(args.results)
    models = Models(512)
    plain = count(models.plain)
    print(f"{len(shared)} references; the price is of a run on SD 1.5 at 512 x 512, in floating-point work.\n")
    print("| way | price | " + " | ".join(COUNTED) + " | selection less than exact | prompt less than exact |")
    print("|---" * (len(COUNTED) + 4) + "|")
    exact = found["exact"]
    for name, rows in found.items():
        kept = [rows[n] for n in shared]
        lost = [{"reference": n} | {key: less(exact[n][key], rows[n][key]) for key in COUNTED} for n in shared]
        columns = cells(kept, COUNTED) + (["", ""] if name == "exact" else cells(lost, ("selection", "prompt")))
        print(f"| {name} | {price(SamplingSettings(**WAYS[name]), models, plain):.2f} | " + " | ".join(columns) + " |")


def less(a: Sequence[float], b: Sequence[float]) -> list[float]:
    return [x - y for x, y in zip(a, b, strict=True)]


def two_table(args: argparse.Namespace) -> None:
    found, shared = read(args.results)
    print(f"{len(shared)} pairs of subjects\n\n| way | " + " | ".join(COUNTED_OF_TWO) + " |")
    print("|---" * (len(COUNTED_OF_TWO) + 1) + "|")
    for name, rows in found.items():
        print(f"| {name} | " + " | ".join(cells([rows[n] for n in shared], COUNTED_OF_TWO)) + " |")


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.toyworld_sampling", description=str(__doc__).splitlines()[0]
    )
    commands = parser.add_subparsers(required=True)
    for name, runner, ways in (("speed", speed, WAYS), ("two", two, PAIRS)):
        command = commands.add_parser(name, help="train, sample and score; appends to --out")
        command.add_argument("--ways", help=f"some of, between semicolons: {'; '.join(ways)}")
        command.add_argument("--references", type=int, default=20)
        command.add_argument("--first", type=int, default=0)
        command.add_argument("--out", type=Path, required=True)
        command.add_argument("--subjects", type=Path, default=Path("toyworld-subjects"), help="folder of the trained")
        command.add_argument("--sheets", type=Path, help="folder for a picture sheet per reference")
        command.add_argument("--weights", type=Path, default=WEIGHTS)
        command.add_argument("--threads", type=int, default=0)
        for field, spec in Budget.__dataclass_fields__.items():
            command.add_argument(f"--{field.replace('_', '-')}", type=type(spec.default), default=spec.default)
        command.set_defaults(call=runner)
    for name, teller in (("table", table), ("two-table", two_table)):
        command = commands.add_parser(name, help="print the table of a results file")
        command.add_argument("results", type=Path)
        command.set_defaults(call=teller)
    args = parser.parse_args()
    if args.call in (table, two_table):
        args.call(args)
        return
    if args.threads:
        torch.set_num_threads(args.threads)
    budget = Budget(**{k: v for k, v in vars(args).items() if k in Budget.__dataclass_fields__})
    args.call(args, load_world(args.weights), budget)


if __name__ == "__main__":
    main()
