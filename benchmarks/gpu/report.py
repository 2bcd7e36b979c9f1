"""The figures of a run as Markdown, with the targets beside them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.sampling import table as sampling_table

GIB = 2**30
PAPER_SECONDS, CACHED_TIME, EXACT_OVER_WORK = 30.0, 1.10, 1.15
LOSSES_APART, IMAGE_APART = 0.01, 0.05  # convolutions of a GPU round to 10 bits
RESUMED_APART = 0.1  # of how far the training moved a weight
LEAN_GB, ESTIMATE_APART = 12.0, 0.03


def report(run: Mapping[str, Any]) -> str:
    """All sections of a run, as ``python -m benchmarks.gpu`` stores it."""
    facts = ", ".join(
        f"{name} {run[name]}" for name in ("date", "card", "torch", "cuda", "python", "host") if run[name]
    )
    lines = [f"# {'Figures of a GPU' if run['card'] else 'No figures of a GPU: a run on a CPU'}", "", facts]
    for name, section in run["sections"].items():
        lines += ["", f"## {section['title']}", ""]
        if section.get("error"):
            lines += [f"ended early: {section['error'].strip().splitlines()[-1]}", ""]
        rows = {
            row: found for row, found in section["rows"].items() if "error" not in found and "left_out" not in found
        }
        if rows:
            lines.append(sampling_table(rows) if name.startswith("sampling") else plain_table(rows))
        infinite = [row for row, found in rows.items() if found.get("finite") is False]
        if infinite:
            lines.append(f"- not finite, so that these figures say nothing: {', '.join(infinite)}")
        for row, found in section["rows"].items():
            if row not in rows:
                lines.append(f"- {row}: {found.get('left_out') or 'failed, ' + found['error']}")
        lines.append(f"\n{section['seconds']:.0f} s")
    if run["left_out"]:
        lines += ["", "## Left out", "", *(f"- {name}: {why}" for name, why in run["left_out"].items())]
    return "\n".join([*lines, "", "## Targets", "", *targets(run)])


def plain_table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """One line for each row, and a column for each of its numbers."""
    flat = {name: dict(numbers(found)) for name, found in rows.items()}
    titles = list(dict.fromkeys(title for found in flat.values() for title in found))
    lines = ["| | " + " | ".join(titles) + " |", "|---" * (len(titles) + 1) + "|"]
    lines += [
        f"| {name} | " + " | ".join(found.get(title, "") for title in titles) + " |" for name, found in flat.items()
    ]
    return "\n".join(lines)


def numbers(found: Mapping[str, Any], above: str = "") -> list[tuple[str, str]]:
    """The numbers of a row, those inside it too, with their titles; bytes of memory as GiB, of files as MB."""
    cells: list[tuple[str, str]] = []
    for key, value in found.items():
        title = f"{above}{key}"
        if key in ("peak", "estimated") and value is not None:
            cells.append((f"{title}, GiB", f"{value / GIB:.2f}"))
        elif key in ("file", "stored"):
            cells.append((f"{title}, MB", f"{value / 1e6:.1f}"))
        elif isinstance(value, (bool, str)):
            cells.append((title, str(value)))
        elif isinstance(value, (int, float)):
            cells.append((title, f"{value:.4g}"))
        elif key in ("run again", "resumed"):
            cells += numbers(value, f"{title}: ")
    return cells


def targets(run: Mapping[str, Any]) -> list[str]:
    """What is wanted of one H200, and what was found. Nothing is said of a run on a CPU."""
    if not run["card"]:
        return ["not compared: they are for a GPU"]
    rows = {name: section["rows"] for name, section in run["sections"].items()}
    found = []
    for precision, row in rows.get("paper", {}).items():
        found.append(("the paper's setting", f"{PAPER_SECONDS:.0f} s", precision, row.get("seconds"), PAPER_SECONDS))
    for family in ("sampling", "sampling sdxl"):
        for name, row in rows.get(family, {}).items():
            if "time" in row and name.startswith("P3S, cached"):
                found.append((f"{family}, {name}: time", f"{CACHED_TIME}", "", row["time"], CACHED_TIME))
            if "time" in row and name == "P3S, exact":
                wanted = EXACT_OVER_WORK * row["own"]
                found.append((f"{family}, {name}: time", f"{EXACT_OVER_WORK} x its work", "", row["time"], wanted))
    for name, row in rows.get("training sdxl", {}).items():
        if name.endswith("checkpointed"):
            peak, estimated = row.get("peak"), row.get("estimated")
            found.append((f"{name}: peak, GB", f"{LEAN_GB:.0f}", "", peak and peak / 1e9, LEAN_GB))
            apart = peak and abs(peak / estimated - 1)
            found.append((f"{name}: peak apart from the estimate", f"{ESTIMATE_APART}", "", apart, ESTIMATE_APART))
    for name, row in rows.get("waits", {}).items():
        if not name.endswith("plain model"):
            found.append((f"waits for the GPU in a step, {name}", "none", "", row.get("waits"), 0))
    for name, row in rows.get("offloading", {}).items():
        for what, most in (("losses", LOSSES_APART), ("image", IMAGE_APART)):
            apart = row.get(f"{what}_apart")
            found.append((f"offloaded, {name}: {what} apart from the CPU's", f"{most}", "", apart, most))
    for name, row in rows.get("resumed", {}).items():
        apart, most = row.get("resumed", {}).get("weights"), RESUMED_APART * row.get("trained by", 0.0)
        title = f"resumed, {name}: weights apart from the uninterrupted"
        found.append((title, f"{RESUMED_APART} of what was trained", "", apart, most))
    lines = ["| | target | found | |", "|---|---|---|---|"]
    for what, target, more, value, most in found:
        verdict = "not measured" if value is None else "met" if value <= most else "missed"
        figure = "" if value is None else f"{value:.4g}"
        lines.append(f"| {what}{f', {more}' if more else ''} | {target} | {figure} | {verdict} |")
    return lines
