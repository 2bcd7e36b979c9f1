"""The toy world's figures in README, benchmarks/README.md and docs/method.md are those of the committed results."""

from __future__ import annotations

import json
import re
import sys
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from published import EARLIER_PAGE, PAGE, README, RESULTS, ROOT, cells, numbers

from benchmarks import toyworld, toyworld_sampling
from benchmarks.dreambench.report import PAPER
from benchmarks.toyworld_metrics import interval

RIVALS = ("dreambooth-rngr", "lora-rngr")

#: Tables of the toy world: the page, the results and the tables' names.
TOY_TABLES = (
    (PAGE, "toyworld.jsonl", ("main", "weight", "shipped", "twice", "cached")),
    (PAGE, "toyworld_cheaper.jsonl", ("cheaper",)),
    (EARLIER_PAGE, "toyworld_2026-11-21.jsonl", ("start", "consistency", "data", "learned", "structure", "kind")),
)


def test_what_the_toy_world_says_of_selection() -> None:
    """README's sentence against the table `main`, whose cells are those of the results (below)."""
    found = re.search(
        r"come out right in (\d+) % of the pictures \(95 % interval (\d+) to (\d+); (\d+) photos\), and class and "
        r"background of the prompt in (\d+) %\. .* DreamBooth has (\d+) % and (\d+) %, a LoRA (\d+) % and (\d+) %; the "
        r"plain model, which never saw the photo, (\d+) %\. SSR-Encoder, .* has (\d+) % and (\d+) %\. .* "
        r"in (\d+) % of P3S's pictures, and in (\d+) % of the plain",
        README,
    )
    assert found is not None
    section = PAGE.split("### `main`:")[1].split("\n### ")[0]
    header = cells(section, "method |")

    def percent(method: str, column: str) -> list[int]:
        return [round(100 * number) for number in numbers(cells(section, f"{method} |")[header.index(column)])]

    rivals = [percent(name, column)[0] for name in RIVALS for column in ("selection", "prompt")]
    expected = [
        *percent("p3s", "selection"),
        int(re.findall(r"(\d+) references; every row", section)[0]),
        percent("p3s", "prompt")[0],
        *rivals,
        percent("plain", "selection")[0],
        *(percent("ssr-clean-mask", column)[0] for column in ("selection", "prompt")),
        percent("p3s", "preferred")[0],
        percent("plain", "preferred")[0],
    ]
    assert [int(number) for number in found.groups()] == expected


def test_what_the_readme_quotes_from_table_i() -> None:
    for method, pattern in (
        ("P3S", r"CLIP-I ([\d.]+), CLIP-T ([\d.]+), DINOv2 ([\d.]+) for P3S"),
        ("SSR-Encoder", r"([\d.]+), ([\d.]+), ([\d.]+) for SSR-Encoder"),
        ("DreamBooth", r"([\d.]+), ([\d.]+), ([\d.]+) for DreamBooth"),
    ):
        found = re.search(pattern, README)
        assert found is not None
        assert [Decimal(cell) for cell in found.groups()] == [
            Decimal(cell).quantize(Decimal("0.001"), ROUND_HALF_UP) for cell in PAPER[method].split()[:3]
        ]


@pytest.mark.parametrize(
    ("page", "file", "name"), [pytest.param(p, f, name, id=name) for p, f, names in TOY_TABLES for name in names]
)
def test_a_table_of_the_toy_world(
    page: str, file: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["toyworld", "table", str(RESULTS / file), "--table", name])
    toyworld.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(printed) > 2
    assert [line for line in printed if line not in page.splitlines()] == []


def test_the_table_of_two_subjects(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["sampling", "two-table", str(RESULTS / "toyworld_two.jsonl")])
    toyworld_sampling.main()
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(printed) > 10
    assert [line for line in printed if line not in PAGE.splitlines()] == []
    header, standard = ([cell.strip() for cell in line.strip("|").split("|")] for line in (printed[0], printed[2]))
    assert standard[0] == "standard"
    preferred = float(standard[header.index("preferred")].split()[0])
    said = re.search(
        r"each side showed its own subject rather than the other in (\d+) of 100 pictures",
        (ROOT / "web" / "docs" / "P3S_Apply.md").read_text(encoding="utf-8"),
    )
    assert said is not None and int(said[1]) == round(100 * preferred)


def test_the_encoder_of_the_toy_world_selects_by_looks_and_clicks_and_not_by_class() -> None:
    """*preferred* of the rows without training, against chance."""
    rows = [json.loads(line) for line in (RESULTS / "toyworld.jsonl").read_text().splitlines()]

    def bounds(method: str) -> tuple[float, float]:
        mine = [row for row in rows if row["method"] == method]
        assert len(mine) >= 40
        return interval(
            [v for r in mine for v in r["preferred"]], [r["reference"] for r in mine for _ in r["preferred"]]
        )

    for method in ("ssr-look", "ssr-mask", "ssr-clean", "ssr-clean-mask"):
        assert bounds(method)[0] > 0.5, method
    low, high = bounds("ssr-word")
    assert low < 0.5 < high


def test_cached_beside_exact_on_the_same_references() -> None:
    rows = [json.loads(line) for line in (RESULTS / "toyworld.jsonl").read_text().splitlines()]

    def of(method: str) -> dict[int, dict[str, Any]]:
        return {row["reference"]: row for row in rows if row["method"] == method}

    def more(method: str, column: str) -> str:
        mine, exact = of(method), of("p3s-exact")
        assert mine.keys() == exact.keys() and len(mine) == 40
        apart = {n: [a - b for a, b in zip(mine[n][column], exact[n][column], strict=True)] for n in mine}
        values, groups = [d for each in apart.values() for d in each], [n for n, each in apart.items() for _ in each]
        low, high = interval(values, groups)
        return f"{sum(values) / len(values):+.2f} [{low:.2f}, {high:.2f}]"

    expected = [more(method, column) for method in ("cached", "cached-exact") for column in ("preferred", "prompt")]
    said = re.search(
        r"\*cached\* has \*preferred\* (.*) and \*prompt\* (.*), \*cached-exact\* (.*) and (.*)\. So", PAGE
    )
    assert said is not None and list(said.groups()) == expected


def test_the_figures_that_decided_defaults() -> None:
    """docs/method.md quotes *selection* from the tables."""
    page = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if "table `" in line]
    assert len(rows) == 4
    for line in rows:
        (name,) = re.findall(r"table `(\w+)`", line)
        text = next(page for page, _, names in TOY_TABLES if name in names)
        table = re.split(r"\n##+ ", re.split(rf"\n##+ `{name}`:", text)[1])[0]
        said = dict(re.findall(r"`([\w-]+)` (0\.\d\d)", line))
        said["p3s"] = re.findall(r"\*selection\* (0\.\d\d);", line)[0]
        assert len(said) > 1
        for method, figure in said.items():
            assert cells(table, f"{method} |")[1].split()[0] == figure, method
