"""The run's table beside the paper's numbers, and a sheet of its pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from p3s.demo.contact_sheet import Panel, Row, draw_sheet
from p3s.image_files import read_picture, write_png

from ..toyworld_metrics import interval
from .data import Case
from .metrics import Scores, summary

COLUMNS = ("CLIP-I", "CLIP-T", "DINOv2", "CLIP-Iv", "DINO-v")
#: Tables I to III of arXiv 2412.19533; II and III give no variances. The last decimals are the paper's.
PAPER = {
    "DreamBooth": "0.7511 0.2541 0.4737 0.0078 0.0280",
    "CustomDiffusion": "0.6832 0.2762 0.3869 0.0066 0.0188",
    "BLIP-Diffusion": "0.7428 0.2207 0.5121 0.0046 0.0127",
    "SSR-Encoder": "0.7793 0.2355 0.5323 0.0032 0.0140",
    "P3S": "0.7748 0.2383 0.5491 0.0045 0.0187",
    "P3S, fixed weight": "0.7596 0.2420 0.5390 0.0049 0.0177",
    "P3S, L_ac on the whole U-Net": "0.6474 0.2564 0.3762 0.0050 0.0144",
    "P3S, without L_ac": "0.7099 0.2506 0.4783 0.0056 0.0161",
    "P3S, without RNGR": "0.7117 0.2602 0.4632",
    "P3S, increasing weight": "0.6991 0.2553 0.4531",
    "P3S, decreasing weight": "0.7025 0.2393 0.4530",
}
SHOWN_PROMPTS = 6


def table(name: str, results: Mapping[str, Scores], notes: Sequence[str]) -> str:
    """Markdown: the paper's rows, this run's, and this run by subject."""
    pictures = sum(len(scores.clip_i) for scores in results.values())
    lines = [f"# DreamBench: {name}", "", *(f"- {note}" for note in notes), ""]
    lines += [line("method", *COLUMNS), rule(len(COLUMNS) + 1)]
    for method, numbers in PAPER.items():
        cells = numbers.split()
        lines.append(line(f"paper: {method}", *cells, *[""] * (len(COLUMNS) - len(cells))))
    lines.append(line(f"**{name}** ({len(results)} subjects, {pictures} pictures)", *_cells(summary(results.values()))))
    lines.append(line("95 % intervals, subjects redrawn", *_intervals(results.values()), "", ""))
    lines += ["", "By subject:", "", line("subject", *COLUMNS), rule(len(COLUMNS) + 1)]
    lines += [line(subject, *_cells(summary([scores]))) for subject, scores in results.items()]
    return "\n".join(lines) + "\n"


def _cells(row: Mapping[str, float]) -> list[str]:
    return [f"{row[column]:.4f}" for column in COLUMNS]


def _intervals(subjects: Iterable[Scores]) -> list[str]:
    """Bootstrap intervals of the means, over subjects."""
    cells = []
    subjects = list(subjects)
    groups = [i for i, scores in enumerate(subjects) for _ in scores.clip_i]
    for name in ("clip_i", "clip_t", "dino"):
        low, high = interval([value for scores in subjects for value in getattr(scores, name)], groups)
        cells.append(f"{low:.4f} to {high:.4f}")
    return cells


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return "|---" * columns + "|"


def write_sheet(path: Path, name: str, notes: Sequence[str], cases: Sequence[Case], folder: Path) -> None:
    """A row for each subject: its first photo, and the first picture of some prompts."""
    rows = []
    for case in cases:
        count = min(SHOWN_PROMPTS, len(case.prompts))
        numbers = [i * len(case.prompts) // count for i in range(count)]
        panels = [Panel(case.name, read_picture(case.photos[0]))]
        for number in numbers:
            picture = read_picture(folder / case.name / picture_name(number, 0))
            panels.append(Panel(_caption(case, number), picture))
        rows.append(Row("", panels, height=224))
    write_png(draw_sheet(f"DreamBench: {name}", notes, rows), path)


def picture_name(prompt: int, image: int) -> str:
    """File of a generated picture in its subject's folder."""
    return f"{prompt:02}-{image}.png"


def _caption(case: Case, number: int) -> str:
    """The prompt, short enough for a panel."""
    text = case.prompt(number, "").removeprefix(f"a {case.kind} ")
    return text if len(text) <= 26 else f"{text[:25].rstrip()}…"
