"""The paper's protocol on real weights: DreamBench's subjects, 25 prompts of 4 pictures each.

    python -m benchmarks.dreambench --data DREAMBENCH --model sd15.safetensors --clip clip-vit-large-patch14 \\
        --dino dinov2-base --out results

Trains every subject, generates its pictures with DDIM, and scores them: CLIP-I, CLIP-T, DINOv2 and the variances
CLIP-Iv and DINO-v. With --ssr, SSR-Encoder does the same without training. Writes <out>/table.md, the papers' numbers
below, and <out>/sheet.png. A run that was killed resumes where it stopped when it is started again."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from p3s.commands.models import check_folder, open_stable_diffusion
from p3s.errors import P3SError
from p3s.reference.points import PointSet
from p3s.ssr.file import SSRModel

from .data import CENTRE, LIST, Case, read_cases, read_points
from .metrics import Encoders, Scores
from .options import (
    add_base,
    add_generating,
    add_method,
    add_ssr,
    changes,
    chosen_methods,
    ended,
    left_out,
    open_ssr,
    protocol_of,
)
from .protocol import Protocol, Run, write_text
from .report import table, write_sheet
from .ssr import AUTHORS, METHODS, P3S, STRENGTH, WAYS


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the protocol; the exit status."""
    return ended("dreambench", _run, _parser().parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    cases, absent = read_cases(options.data, options.subjects, options.prompts)
    points = read_points(options.points, cases)
    protocol, ssr = protocol_of(options, Protocol()), open_ssr(options)
    methods = chosen_methods(options, ssr)
    if not STRENGTH.allows(options.ssr_strength):
        raise P3SError(f"--ssr-strength must be {STRENGTH.expected}; got {options.ssr_strength:g}")
    _check_clicked(methods, cases, points)
    check_folder("--dino", options.dino, "facebook/dinov2-base")
    check_folder("--score-clip", options.score_clip or options.clip, "a CLIP")
    models = open_stable_diffusion(options)
    encoders = Encoders(Path(options.score_clip or options.clip), Path(options.dino), str(models.device))
    points_name = hashlib.sha256(options.points.read_bytes()).hexdigest() if options.points else "centre"
    run = Run(protocol, models, encoders, points, points_name, options.out, methods, ssr, options.ssr_strength)
    run.check(cases)
    run.claim_folder()

    notes = [
        f"{len(cases)} subjects"
        + (f" (of {len(cases) + len(absent)} in the list)" if absent else "")
        + f", {len(cases[0].prompts)} prompts, {protocol.images} pictures each; DDIM, {protocol.sample_steps} steps, "
        f"guidance {protocol.guidance:g}",
        f"points: {options.points.name}"
        if options.points
        else "points: the middle of every photo, none negative: nothing is removed from the photos",
        *_about_ssr(options, methods, ssr),
        *left_out(options, methods),
        *_changes(protocol),
    ]
    if absent:
        print(f"without photos in {options.data}, left out: {', '.join(absent)}")
    names = {method: options.name if method == P3S else f"SSR-Encoder, `{method}`" for method in methods}
    results: dict[str, dict[str, Scores]] = {method: {} for method in methods}
    for number, case in enumerate(cases, 1):
        print(f"{number} of {len(cases)}: {case.name}", flush=True)
        for method in methods:
            results[method][case.name] = run.scores(case, method)
        write_text(options.out / "table.md", table(options.name, names, results, notes))
    write_sheet(options.out / "sheet.png", options.name, notes, cases, names, run.pictures_folder)
    print(f"wrote {options.out / 'table.md'} and {options.out / 'sheet.png'}")


def _check_clicked(methods: Sequence[str], cases: Sequence[Case], points: Mapping[Path, PointSet]) -> None:
    """Raise P3SError for methods that need clicks on photos without any."""
    needing = [method for method in methods if method != P3S and WAYS[method].clean]
    without = [f"{case.name}/{case.photos[0].name}" for case in cases if points[case.photos[0]] is CENTRE]
    if needing and without:
        raise P3SError(
            f"{' and '.join(needing)}: expected a --points file with the first photo of every subject; points are "
            f"missing on {len(without)} of them, such as {without[0]}"
        )


def _about_ssr(options: argparse.Namespace, methods: Sequence[str], ssr: SSRModel | None) -> list[str]:
    """What a reader of SSR-Encoder's rows has to know."""
    ways = {method: WAYS[method] for method in methods if method != P3S}
    if not ways or ssr is None:
        return []
    notes = [
        f"SSR-Encoder ({ssr.sha256[:12]}), strength {options.ssr_strength:g}: asked for the class in a subject's first "
        "photo, without training and identifier; P3S is trained on all photos"
    ]
    if clean := [method for method, way in ways.items() if way.clean]:
        notes.append(f"{' and '.join(clean)}: the clean reference of the points, whose subject mask selects as well")
    if authors := [method for method, way in ways.items() if way.authors]:
        notes.append(f"{' and '.join(authors)}: UniPC, {AUTHORS.steps} steps, guidance {AUTHORS.guidance:g}")
    return notes


def _changes(protocol: Protocol) -> list[str]:
    """What differs from the paper's settings."""
    changed = changes(protocol, Protocol())
    return [f"other than the paper's settings: {', '.join(changed)}"] if changed else []


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.dreambench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help=f"DreamBench, with its {LIST}")
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for all results; a later run resumes there"
    )
    parser.add_argument("--name", default="P3S, this repository", help="of the row in the table (default: %(default)s)")
    parser.add_argument("--subjects", nargs="+", default=[], metavar="NAME", help="only these (default: all)")
    parser.add_argument(
        "--points",
        type=Path,
        metavar="FILE",
        help='JSON: {"dog": {"00.jpg": {"positive": [[0.4, 0.5]], "negative": [[0.8, 0.5]]}}}, in 0..1 of width and '
        "height. Photos that it leaves out: the middle is positive, and nothing is removed",
    )
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=[P3S, "ssr"],
        metavar="METHOD",
        help=f"rows of the table, of {', '.join(METHODS)} (default: p3s ssr). ssr is SSR-Encoder by the same protocol; "
        "authors: sampled as its authors do; clean-mask: on the clean reference of --points",
    )
    models = add_base(parser)
    add_ssr(models)
    models.add_argument(
        "--ssr-strength",
        type=float,
        default=STRENGTH.default,
        metavar="X",
        help="how strongly its subject acts, 0..2 (default: %(default)s)",
    )
    models.add_argument("--dino", required=True, metavar="FOLDER", help="DINOv2, such as facebook/dinov2-base")
    models.add_argument("--score-clip", metavar="FOLDER", help="another CLIP for the scores (default: that of --clip)")
    work = add_generating(parser, "generating and scoring", Protocol())
    work.add_argument("--prompts", type=int, metavar="N", help="only the first N of each subject (default: all 25)")
    work.add_argument("--score-identifier", action="store_true", help="CLIP-T scores prompts with the identifier")
    add_method(parser, Protocol())
    return parser


if __name__ == "__main__":
    sys.exit(main())
