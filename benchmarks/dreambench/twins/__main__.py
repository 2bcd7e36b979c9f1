"""The wrong dog, which the paper's table cannot see: photos of two similar subjects, one of which is clicked.

    python -m benchmarks.dreambench.twins --data DREAMBENCH --model sd15.safetensors --clip clip-vit-large-patch14 \\
        --encoder nearid=nearid-siglip2 --encoder dino=dinov2-base --out results

Clicks on either subject of a photo, draws it by every method, and says how often the picture is nearer to the clicked
one than to the other. Writes <out>/table.md and <out>/sheet.png. A run that was killed resumes when it is started
again."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from p3s.commands.models import check_folder, open_stable_diffusion
from p3s.commands.options import add_mask_settings, chosen
from p3s.errors import P3SError
from p3s.reference.masks import MaskSettings
from p3s.training.settings import TrainSettings

from ..data import LIST, read_cases
from ..metrics import ImageEncoder
from ..options import (
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
from ..protocol import Protocol, write_text
from .methods import METHODS, Setup
from .pairs import Pair, read_pairs, twosomes, write_twosomes
from .report import table, write_sheet
from .run import Run, Scores

#: This repository's defaults, and the steps that they advise for a single photo.
STANDARD = Protocol(TrainSettings(steps=250), images=2)
PROMPTS = 5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the protocol; the exit status."""
    return ended("twins", _run, _parser().parse_args(arguments))


def _run(options: argparse.Namespace) -> None:
    for name in ("prompts", "photos", "images"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise P3SError(f"--{name} must be 1 or more; got {value}")
    protocol, masks = protocol_of(options, STANDARD), chosen(options, MaskSettings())
    folders = _encoders(options.encoder)
    # What can be wrong without any model is found before one is loaded.
    found = twosomes(read_cases(options.data, options.subjects)[0])[: options.photos] if options.data else None
    pairs = read_pairs(options.twins)[: options.photos] if options.twins else []
    ssr = open_ssr(options)
    methods = chosen_methods(options, ssr)
    models = open_stable_diffusion(options)
    encoders = {name: ImageEncoder(folder, str(models.device)) for name, folder in folders.items()}
    run = Run(Setup(protocol, models, masks, ssr), methods, encoders, options.prompts, options.out)
    if found is not None:
        write_twosomes(found, options.out / "pairs")
        pairs = read_pairs(options.out / "pairs")
    run.check(pairs)
    run.claim_folder(pairs)

    notes = _notes(options, protocol, masks, methods, pairs)
    results: dict[str, Scores] = {}
    for number, pair in enumerate(pairs, 1):
        print(f"{number} of {len(pairs)}: {pair.name}", flush=True)
        results[pair.name] = run.scores(pair)
        write_text(options.out / "table.md", table(options.name, results, pairs, methods, list(encoders), notes))
    write_sheet(options.out / "sheet.png", options.name, notes, pairs, run)
    print(f"wrote {options.out / 'table.md'} and {options.out / 'sheet.png'}")


def _encoders(given: Sequence[str]) -> dict[str, Path]:
    """The folder of each encoder by its name. Raises P3SError for another text than NAME=FOLDER."""
    folders: dict[str, Path] = {}
    for text in given:
        name, separator, folder = text.partition("=")
        if not (name and separator and folder) or name in folders:
            raise P3SError(f"--encoder {text}: expected NAME=FOLDER, with another name for every encoder")
        check_folder(f"--encoder {name}", folder, "an image encoder for transformers")
        folders[name] = Path(folder)
    return folders


def _notes(
    options: argparse.Namespace,
    protocol: Protocol,
    masks: MaskSettings,
    methods: Sequence[str],
    pairs: Sequence[Pair],
) -> list[str]:
    """What a reader of the tables has to know."""
    count = min(options.prompts, *(len(pair.case.prompts) for pair in pairs))
    notes = [
        f"{count} prompts, {protocol.images} pictures each; DDIM, {protocol.sample_steps} steps, guidance "
        f"{protocol.guidance:g}; intervals are 95 % bootstrap intervals over photos",
        f"photos of two DreamBench subjects side by side, a point in the middle of each, in {options.out / 'pairs'}"
        if options.data
        else f"photos and points of {options.twins}",
    ]
    if any(not pair.twins[0].truth for pair in pairs):
        notes.append(
            "photos without photos of their own: the truth is a crop of the very photo, and copying it is best"
        )
    if blind := [method for method in methods if METHODS[method].blind]:
        notes.append(f"clicks change nothing in {' and '.join(blind)}: the same pictures for both, so 0.5 by symmetry")
    notes += left_out(options, methods)
    changed = changes(protocol, STANDARD) + [
        f"{name} = {value}" for name, value in vars(masks).items() if value != getattr(MaskSettings(), name)
    ]
    return notes + ([f"other than the defaults: {', '.join(changed)}"] if changed else [])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.dreambench.twins",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--twins", type=Path, metavar="FOLDER", help="photos and their pairs.json, as in the README")
    source.add_argument(
        "--data",
        type=Path,
        metavar="FOLDER",
        help=f"DreamBench, with its {LIST}: photos of every two subjects of one class are put side by side",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FOLDER", help="for all results; a later run resumes there"
    )
    parser.add_argument("--name", default="this repository", help="of the tables (default: %(default)s)")
    parser.add_argument("--subjects", nargs="+", default=[], metavar="NAME", help="with --data: only these")
    parser.add_argument("--photos", type=int, metavar="N", help="only the first N photos of two")
    parser.add_argument(
        "--methods",
        nargs="+",
        choices=list(METHODS),
        default=list(METHODS),
        metavar="METHOD",
        help=f"rows of the tables, of {', '.join(METHODS)} (default: all)",
    )
    models = add_base(parser)
    models.add_argument(
        "--encoder",
        action="append",
        required=True,
        metavar="NAME=FOLDER",
        help="what scores: NearID, DINOv2, CLIP, SigLIP or another image encoder in a folder for transformers; may be "
        "repeated",
    )
    add_ssr(models)
    work = add_generating(parser, "generating", STANDARD)
    work.add_argument(
        "--prompts", type=int, default=PROMPTS, metavar="N", help="the first N of each class (default: %(default)s)"
    )
    add_mask_settings(parser)
    add_method(parser, STANDARD)
    return parser


if __name__ == "__main__":
    sys.exit(main())
