"""The run's table, the papers' numbers below it, and a sheet of the run's pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from p3s.demo.contact_sheet import Panel, Row, draw_sheet
from p3s.image_files import read_picture, write_png

from ..toyworld_metrics import interval
from .data import Case
from .metrics import Scores, summary
from .ssr import P3S

COLUMNS = ("CLIP-I", "CLIP-T", "DINOv2", "CLIP-Iv", "DINO-v")
#: The columns that are means, by what they are called in ``Scores``.
MEANS = {"clip_i": "CLIP-I", "clip_t": "CLIP-T", "dino": "DINOv2"}
#: Tables II and III give no variances. The last decimals are the paper's.
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
USO = {
    "photos against themselves": "0.885  0.774",
    "DreamBooth": "0.803 0.305 0.668",
    "Textual Inversion": "0.780 0.255 0.569",
    "BLIP-Diffusion": "0.805 0.302 0.670",
    "ELITE": "0.772 0.296 0.647",
    "Re-Imagen": "0.740 0.270 0.600",
    "SSR-Encoder": "0.821 0.308 0.612",
}
#: Quoted numbers by their source, with its columns. One source, one table.
QUOTED = {
    "Tables I to III of the P3S paper (arXiv 2412.19533)": (COLUMNS, PAPER),
    "Table 5 of USO (arXiv 2508.18966), at second hand": (("CLIP-I", "CLIP-T", "DINO"), USO),
}
SHOWN_PROMPTS = 6


def table(
    name: str, names: Mapping[str, str], results: Mapping[str, Mapping[str, Scores]], notes: Sequence[str]
) -> str:
    """Markdown: this run's rows, their differences, this run by subject, and the quoted tables.

    ``names``: of the rows, by method; ``results``: by method and subject, of the same subjects and prompts in all.
    """
    lines = [f"# DreamBench: {name}", "", *(f"- {note}" for note in notes)]
    lines += ["", line("method", *COLUMNS), rule(len(COLUMNS) + 1)]
    for method, subjects in results.items():
        pictures = sum(len(scores.clip_i) for scores in subjects.values())
        title = f"**{names[method]}** ({len(subjects)} subjects, {pictures} pictures)"
        lines.append(line(title, *_cells(summary(subjects.values()))))
        lines.append(line("95 % intervals, subjects redrawn", *_intervals(subjects.values()), "", ""))
    lines.append("")
    if P3S in results:
        lines += [text for other in results if other != P3S for text in _compared(other, names, results)]
    lines += ["By subject:", "", line("subject", "method", *COLUMNS), rule(len(COLUMNS) + 2)]
    for subject in next(iter(results.values())):
        for method, subjects in results.items():
            lines.append(line(subject, method, *_cells(summary([subjects[subject]]))))
    lines += [
        "",
        "## Quoted, not run here",
        "",
        "Each table has photos, prompts and encoders of its own: do not rank numbers of one among those of another.",
    ]
    for source, (columns, rows) in QUOTED.items():
        lines += ["", f"### {source}", "", line("method", *columns), rule(len(columns) + 1)]
        for method, numbers in rows.items():
            cells = numbers.split(" ")
            lines.append(line(method, *cells, *[""] * (len(columns) - len(cells))))
    return "\n".join(lines) + "\n"


def _compared(other: str, names: Mapping[str, str], results: Mapping[str, Mapping[str, Scores]]) -> list[str]:
    """By how much P3S is above another method, picture by picture, and whether the paper's order holds."""
    gaps = {subject: _gap(scores, results[other][subject]) for subject, scores in results[P3S].items()}
    means = summary(gaps.values())
    cells = [f"{means[column]:+.4f}" for column in MEANS.values()]
    pictures = [value for gap in gaps.values() for value in gap.dino]
    low, high = interval(pictures, [i for i, gap in enumerate(gaps.values()) for _ in gap.dino])
    verdict = "is not decided, for the interval contains 0"
    if len(gaps) < 2:
        verdict = "is not decided by one subject"
    elif low > 0:
        verdict = "holds"
    elif high < 0:
        verdict = "is reversed"
    paper = [PAPER[method].split()[COLUMNS.index("DINOv2")] for method in ("P3S", "SSR-Encoder")]
    return [
        line(f"{names[P3S]}, less {names[other]}", *MEANS.values()),
        rule(len(MEANS) + 1),
        line("", *cells),
        line("95 % intervals, subjects redrawn", *_intervals(gaps.values())),
        "",
        f"The paper's Table I has P3S above SSR-Encoder on DINOv2, {paper[0]} to {paper[1]}. Here the difference from "
        f"{names[other]} is {means['DINOv2']:+.4f} [{low:+.4f}, {high:+.4f}] over {len(gaps)} subjects: the order "
        f"{verdict}.",
        "",
    ]


def _gap(one: Scores, two: Scores) -> Scores:
    """Of every picture, how much more the first method scores than the second with the same prompt and seed."""
    return Scores(
        *(tuple(a - b for a, b in zip(getattr(one, name), getattr(two, name), strict=True)) for name in MEANS)
    )


def _cells(row: Mapping[str, float]) -> list[str]:
    return [f"{row[column]:.4f}" for column in COLUMNS]


def _intervals(subjects: Iterable[Scores]) -> list[str]:
    """Bootstrap intervals of the means, over subjects."""
    cells = []
    subjects = list(subjects)
    groups = [i for i, scores in enumerate(subjects) for _ in scores.clip_i]
    for name in MEANS:
        low, high = interval([value for scores in subjects for value in getattr(scores, name)], groups)
        cells.append(f"{low:.4f} to {high:.4f}")
    return cells


def line(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def rule(columns: int) -> str:
    return "|---" * columns + "|"


def write_sheet(
    path: Path,
    name: str,
    notes: Sequence[str],
    cases: Sequence[Case],
    names: Mapping[str, str],
    folder: Callable[[Case, str], Path],
) -> None:
    """A row for each subject and method: the subject's first photo, and the first picture of some prompts, which lie in
    the ``folder`` of both."""
    rows = []
    for case in cases:
        count = min(SHOWN_PROMPTS, len(case.prompts))
        numbers = [i * len(case.prompts) // count for i in range(count)]
        for method, title in names.items():
            panels = [Panel(case.name, read_picture(case.photos[0]))]
            for number in numbers:
                picture = read_picture(folder(case, method) / picture_name(number, 0))
                panels.append(Panel(_caption(case, number), picture))
            rows.append(Row(title.replace("`", "") if len(names) > 1 else "", panels, height=224))
    write_png(draw_sheet(f"DreamBench: {name}", notes, rows), path)


def picture_name(prompt: int, image: int) -> str:
    """File of a generated picture in its subject's folder."""
    return f"{prompt:02}-{image}.png"


def _caption(case: Case, number: int) -> str:
    """The prompt, short enough for a panel."""
    text = case.prompt(number, "").removeprefix(f"a {case.kind} ")
    return text if len(text) <= 26 else f"{text[:25].rstrip()}…"
