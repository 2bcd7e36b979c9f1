"""The tables of a run, and a sheet of its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from p3s.demo.contact_sheet import Panel, Row, draw_sheet
from p3s.image_files import read_picture, write_png
from p3s.reference.overlay import overlay

from ...toyworld_metrics import interval
from ..protocol import as_it_is
from ..report import line, picture_name, rule
from .methods import METHODS, Setup
from .pairs import SIDES, Pair
from .run import PHOTOS, Run, Scores

COLUMNS = ("method", "nearer to the clicked one", "less than the first method", "cosine to it", "to the other one")
SHOWN = 12  # photos of a sheet
HEIGHT = 200


def table(
    name: str,
    results: Mapping[str, Scores],
    pairs: Sequence[Pair],
    methods: Sequence[str],
    encoders: Sequence[str],
    notes: Sequence[str],
) -> str:
    """Markdown: a table for each encoder, and the photos. ``results``: by the pair's name."""
    done = [pair for pair in pairs if pair.name in results]
    lines = [f"# Twins: {name}", "", *(f"- {note}" for note in notes)]
    lines.append(f"- {len(done)} of {len(pairs)} photos so far, each clicked twice")
    for encoder in encoders:
        lines += ["", f"## By {encoder}", "", line(*COLUMNS), rule(len(COLUMNS))]
        for row in (PHOTOS, *methods):
            found = [scores[row, encoder] for pair in done if (row, encoder) in (scores := results[pair.name])]
            if not found:
                continue
            first = [results[pair.name][methods[0], encoder] for pair in done]
            nearer = [[v for click in clicks for v in click.nearer] for clicks in found]
            less = ""
            if row not in (PHOTOS, methods[0]):
                of_first = [[v for click in clicks for v in click.nearer] for clicks in first]
                less = _cell(
                    [[a - b for a, b in zip(*both, strict=True)] for both in zip(of_first, nearer, strict=True)]
                )
            cosines = [
                _cell([[v for click in clicks for v in getattr(click, part)] for clicks in found], 3)
                for part in ("clicked", "other")
            ]
            count = len(found)
            title = f"real photos ({count} pairs)" if row == PHOTOS else row
            lines.append(line(title, _cell(nearer), less, *cosines))
    lines += ["", "## The photos", "", f"Nearer to the clicked one, by {encoders[0]}, for a click on a and on b:", ""]
    lines += [line("photo", "class", "a", "b", "photos of their own", *methods), rule(5 + len(methods))]
    for pair in done:
        shares = []
        for method in methods:
            clicks = results[pair.name][method, encoders[0]]
            shares.append(", ".join(f"{np.mean(click.nearer):.2f}" for click in clicks))
        own = ", ".join(str(len(twin.truth)) for twin in pair.twins)
        lines.append(line(pair.name, pair.case.kind, *(twin.name for twin in pair.twins), own, *shares))
    return "\n".join(lines) + "\n"


def _cell(photos: Sequence[Sequence[float]], places: int = 2) -> str:
    """The mean over photos of each one's mean, with its 95 % bootstrap interval; photos are redrawn whole."""
    values = [value for photo in photos for value in photo]
    groups = [number for number, photo in enumerate(photos) for _ in photo]
    low, high = interval(values, groups)
    mean = np.mean([np.mean(photo) for photo in photos])
    return f"{mean:.{places}f} [{low:.{places}f}, {high:.{places}f}]"


def write_sheet(path: Path, name: str, notes: Sequence[str], pairs: Sequence[Pair], run: Run) -> None:
    """Two rows for each of the first photos, one a click: what is selected, and each method's first picture."""
    rows = []
    for pair in pairs[:SHOWN]:
        for wanted, side in enumerate(SIDES):
            panels = _selected(run.setup, pair, wanted, run.methods)
            for method in run.methods:
                picture = read_picture(run.pictures_folder(pair, method, wanted) / picture_name(0, 0))
                panels.append(Panel(method, picture))
            heading = f"{pair.name}, click on {side} ({pair.twins[wanted].name}): {pair.case.prompt(0, '')}"
            rows.append(Row(heading, panels, HEIGHT))
    write_png(draw_sheet(f"Twins: {name}", notes, rows), path)


def _selected(setup: Setup, pair: Pair, wanted: int, methods: Sequence[str]) -> list[Panel]:
    """The photo with its points (and masks, where a method has some), and the clean reference."""
    photo = read_picture(pair.photo)
    if all(METHODS[method].blind for method in methods):
        return [Panel("photo", overlay(as_it_is(setup.models, photo, pair.clicks(wanted)), photo, 2 * HEIGHT))]
    reference = setup.reference(pair, wanted)
    return [Panel("selected", overlay(reference, photo, 2 * HEIGHT)), Panel("clean reference", reference.image)]
