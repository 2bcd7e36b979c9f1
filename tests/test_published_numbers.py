"""The figures that README and benchmarks/README.md print are those of the committed results."""

from __future__ import annotations

import json
import re
import sys
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

import pytest
from published import EARLIER_PAGE, PAGE, README, RESULTS, ROOT, cells, numbers, variants

from benchmarks import flops, operations, toyworld, toyworld_sampling, training, training_step
from benchmarks.dreambench.report import PAPER
from benchmarks.toyworld_metrics import interval
from benchmarks.training_work import TOKEN_DIM
from p3s.network.copy_settings import CopySettings
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet_config import SDXL, UNetConfig

RIVALS = ("dreambooth-rngr", "lora-rngr")
#: Tables of the toy world: the page, the results and the tables' names.
TOY_TABLES = (
    (PAGE, "toyworld.jsonl", ("main", "weight", "shipped", "twice", "cached")),
    (PAGE, "toyworld_cheaper.jsonl", ("cheaper",)),
    (EARLIER_PAGE, "toyworld_2026-11-21.jsonl", ("start", "consistency", "data", "learned", "structure", "kind")),
)


def training_rows() -> dict[tuple[str, int], dict[str, Any]]:
    rows = training.load(RESULTS / "training.jsonl")
    return {
        (training.describe(entry["row"]), entry["row"]["size"]): entry["found"]
        for entry in rows
        if "inside" not in entry["row"]
    }


# README


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


@pytest.mark.parametrize(
    ("row", "names"),
    [
        ("one sampling step with guidance, plain model", ["plain model"]),
        ("Apply P3S (on average", ["P3S, standard"]),
        ("Apply P3S, `mode` fast", ["P3S, fast"]),
        ("Apply P3S, `mode` exact |", ["P3S, exact"]),
        ("Apply P3S, `mode` exact, `guidance` conditional", ["P3S, exact, conditional half"]),
        ("Apply SSR, one subject; two", ["SSR-Encoder", "SSR-Encoder, two subjects"]),
        (
            "for comparison: ControlNet; IPAdapter-plus; reference-only",
            ["ControlNet", "IPAdapter-plus", "reference-only"],
        ),
        ("two subjects, half of", ["P3S, exact, two subjects, a half each", "P3S, fast, two subjects, a half each"]),
        ("steps outside", ["P3S, off"]),
    ],
)
def test_the_work_of_a_sampling_step(row: str, names: list[str]) -> None:
    counted = variants("sampling.json")
    assert numbers(cells(README, row)[1]) == [round(counted[name]["work"], 2) for name in names]


def test_the_work_of_a_training_step_relative_to_a_plain_pass() -> None:
    plain = variants("sampling.json")["plain model"]["tflop"] / 2  # its step has two passes
    (said,) = numbers(cells(README, "one training step of one photo")[1])
    assert said == round(training_rows()["full fp32", 512]["tflop"] / plain, 2)


#: Of the timed sampling step: how the README and the page call each variant.
TIMED = {
    "P3S, standard": (r"([\d.]+) times the plain model in the mode \*standard\*", "**P3S, `mode` standard**"),
    "P3S, fast": (r"([\d.]+) in \*fast\*", "**P3S, `mode` fast**"),
    "P3S, exact": (r"([\d.]+) in \*exact\*", "**P3S, `mode` exact**"),
    "P3S, cached, standard": (
        r"([\d.]+) for a subject trained with `copy_input` cached",
        "**P3S, a subject network that runs once, `mode` standard**",
    ),
    "ControlNet": (r"([\d.]+) for ControlNet", "ControlNet"),
}


@pytest.mark.parametrize("name", TIMED)
def test_the_time_of_a_sampling_step(name: str) -> None:
    said, row = TIMED[name]
    timed = variants("sampling_wall.json")[name]
    (line,) = re.findall("In time, measured on a CPU.*", README)
    assert re.findall(said, line) == [f"{timed['time']:.2f}"]
    table = PAGE[PAGE.index("**Wall time**") :]
    written = "{:.3f} | {:.2f} ({:.2f}-{:.2f}) |".format(timed["own"], timed["time"], *timed["times"])
    assert f"\n| {row} | {written}" in table


def test_what_less_of_a_cached_subject_costs() -> None:
    section = " ".join(PAGE[PAGE.index("### `cheaper`") : PAGE.index("### SSR-Encoder")].split())
    counted = variants("sampling.json")
    ways = ("", ", pool 2", ", one to one", ", without input layers", ", without output layers")
    whole, pooled, single, inputs, outputs = (f"{counted[f'P3S, cached, standard{way}']['work']:.3f}" for way in ways)
    assert single == inputs
    assert (
        f"{whole} times the plain model's work with all of them, {pooled} with pooled keys, {single} *one to one* or "
        f"without the input layers, {outputs} without the output layers"
    ) in section


def test_what_compiling_costs_and_gives() -> None:
    found = json.loads((RESULTS / "compiled.json").read_text())["found"]
    section = " ".join(PAGE[PAGE.index("### torch.compile") : PAGE.index("### Training on SDXL")].split())
    assert f"Compiling took {found['compiling']:.0f} s." in section
    low, high = found["times"]
    assert f"A step then took {found['time']:.2f} times as long ({low:.2f}-{high:.2f};" in section
    low, high = found["processors"]
    assert f"of the processor's time {found['processor']:.2f}, {low:.2f}-{high:.2f})" in section
    assert f"losses equal to {found['apart']:.0e}" in section


def test_the_profile_of_a_step() -> None:
    rows = json.loads((RESULTS / "profile.json").read_text())["rows"]
    assert [line for line in operations.table(rows).splitlines() if line not in PAGE.splitlines()] == []


def test_what_was_timed_gave_numbers() -> None:
    """Of pictures that are none, the times say nothing."""
    files = sorted(file.name for file in RESULTS.glob("sampling_wall*.json"))
    assert len(files) == 3
    assert [(file, name) for file in files for name, row in variants(file).items() if not row["finite"]] == []


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_table_of_training(kind: str, precision: str) -> None:
    name = f"{kind} {precision}"
    rows = training_rows()
    plain, checkpointed = rows[name, 512], rows[f"{name}, checkpointed", 512]

    def memory(found: dict[str, float]) -> float:
        return round(found.get("peak", found["estimated"]) / 2**30, 1)  # that of full bf16 is estimated

    said = cells(README, f"{kind}, {precision}")[1:]
    assert numbers(said[0]) == [round(plain["tflop"], 2)]
    assert numbers(said[1]) == [memory(plain)]
    assert numbers(said[2]) == [round(checkpointed["tflop"], 2)]
    eight = rows["full bf16, adamw8bit, checkpointed", 512]
    more = [memory(eight), 8] if name == "full bf16" else []  # the 8 of adamw8bit's name
    assert numbers(said[3]) == [memory(checkpointed), *more]
    size = rows[f"{kind} fp32", 512]["file"]
    assert said[4] == (f"{size / 1e9:.2f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB")


def test_what_more_a_gpu_takes_in_16_bits() -> None:
    """Most in this row: full has larger weights, and with checkpointing fewer numbers are kept."""
    row = {"kind": "lora", "precision": "bf16", "checkpointing": False, "size": 512, "dry": True}
    cpu, gpu = (training_step.measured({**row, "device": device})["estimated"] for device in ("cpu", "cuda"))
    assert f"on a GPU *bf16* takes up to {(gpu - cpu) / 2**30:.1f} GiB more" in README


def test_what_is_counted_on_shapes_alone() -> None:
    """Of which no results are kept."""
    models, lean = flops.Models(512), flops.Models(512, cross_attention=False)
    (said,) = numbers(cells(README, "`mode` exact, trained without `cross_attention`")[1])
    assert said == round(lean.step() / flops.count(models.plain), 2)
    assert f"has {sum(p.numel() for p in models.copy.parameters()) / 1e6:.1f} million trained parameters" in README


def test_the_work_in_the_comparison_with_other_methods() -> None:
    names = cells(README, "| IPAdapter | SSR-Encoder")
    row = dict(zip(names, cells(README, "work of a sampling step, x plain"), strict=True))
    counted = variants("sampling.json")
    assert numbers(row["IPAdapter"]) == [round(counted["IPAdapter-plus"]["work"], 2)]
    assert numbers(row["SSR-Encoder"]) == [round(counted["SSR-Encoder"]["work"], 2)]
    assert numbers(row["P3S"]) == [round(counted[name]["work"], 2) for name in ("P3S, standard", "P3S, fast")]


def test_the_work_of_a_sampling_step_in_other_texts() -> None:
    counted = variants("sampling.json")
    exact, conditional, standard, fast = (
        counted[name]["work"] for name in ("P3S, exact", "P3S, exact, conditional half", "P3S, standard", "P3S, fast")
    )
    defs = json.loads((ROOT / "locales" / "en" / "nodeDefs.json").read_text(encoding="utf-8"))
    said = {
        defs["P3S_Apply"]["inputs"]["mode"]["tooltip"]: (
            rf"denoising; {standard:.1f} times .* exact: .* {exact:.1f} times\. fast: .* {fast:.1f} times"
        ),
        (ROOT / "web" / "docs" / "P3S_Apply.md").read_text(encoding="utf-8"): (
            rf"A step costs {exact:.1f} times .* \({conditional:.1f} times with .* {standard:.1f} times in the mode "
            rf"\*standard\* and {fast:.1f} times in the mode "
        ),
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"): rf"A step costs {standard:.2f} times the plain",
    }
    for text, expected in said.items():
        assert re.search(expected, text), expected


def test_the_work_of_ssr_encoders_steps_in_the_texts() -> None:
    counted = variants("sampling.json")
    one, two = counted["SSR-Encoder"], counted["SSR-Encoder, two subjects"]
    firsts = [each["first"] / counted["plain model"]["tflop"] for each in (one, two)]
    said = {
        PAGE: rf"first step of a run .* {firsts[0]:.3f} times .* with one subject, {firsts[1]:.3f} with two",
        (ROOT / "docs" / "ssr.md").read_text(encoding="utf-8"): (
            rf"counted as {one['work']:.3f} times .* as {firsts[0]:.3f}; two subjects as {two['work']:.3f} and "
            rf"{firsts[1]:.3f} "
        ),
        (ROOT / "web" / "docs" / "P3S_ApplySSR.md").read_text(encoding="utf-8"): (
            rf"costs {one['work']:.2f} times .* one subject, {two['work']:.2f} with two .* {firsts[0]:.2f} with one"
        ),
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"): rf"SSR-Encoder too: {one['work']:.2f} times",
    }
    for text, expected in said.items():
        assert re.search(expected, " ".join(text.split())), expected


def test_the_work_of_a_subject_network_that_runs_once_in_the_texts() -> None:
    counted = variants("sampling.json")
    plain = counted["plain model"]["tflop"]
    standard, exact, whole = (
        counted[f"P3S, cached, {name}"] for name in ("standard", "exact", "standard, it fills the photo")
    )
    firsts = [each["first"] / plain for each in (standard, exact, whole)]
    run = (standard["first"] + 24 * standard["tflop"]) / 25 / plain
    assert numbers(cells(README, "Apply P3S, a subject trained with `copy_input` cached")[1]) == [
        round(standard["work"], 2),
        round(firsts[0], 2),
    ]
    said = {
        PAGE: (
            rf"for {firsts[0]:.3f} times .* \({firsts[1]:.3f} in the .* {firsts[2]:.3f} where .* costs {run:.3f} times"
        ),
        (ROOT / "web" / "docs" / "P3S_Apply.md").read_text(encoding="utf-8"): (
            rf"\*cached\*, {standard['work']:.2f} times in any mode .* {whole['work']:.2f} times where it fills .* "
            rf"first step {firsts[0]:.1f} to {firsts[2]:.1f} times"
        ),
        (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"): (
            rf"A picture then costs {standard['work']:.2f} times the plain model's work"
        ),
    }
    assert round(standard["work"], 2) == round(exact["work"], 2)  # "in any mode"
    for text, expected in said.items():
        assert re.search(expected, " ".join(text.split())), expected


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


def test_memory_in_the_text() -> None:
    found = re.search(
        r"about ([\d.]+) GiB of GPU memory .*, or ([\d.]+) GiB with .*\*lora\*: ([\d.]+) GiB, or ([\d.]+) GiB with "
        r"\*bf16\*; `checkpointing` lowers these to ([\d.]+) and ([\d.]+) GiB",
        README,
    )
    assert found is not None
    rows = training_rows()
    names = [
        "full fp32",
        "full bf16",
        *(f"lora {kind}{more}" for more in ("", ", checkpointed") for kind in ("fp32", "bf16")),
    ]
    peaks = [rows[name, 512].get("peak", rows[name, 512]["estimated"]) for name in names]  # full bf16 is estimated
    assert [float(number) for number in found.groups()] == [round(peak / 2**30, 1) for peak in peaks]


def test_sizes_of_files_in_the_text() -> None:
    rows = training_rows()
    full, low_rank = rows["full fp32", 512]["file"], rows["lora fp32", 512]["file"]
    assert f"stored in 16 bits: {full / 1e9:.2f} GB" in README
    assert README.count(f"about {full / 1e9:.1f} GB in 16 bits, or {low_rank / 1e6:.0f} MB") == 1


def test_sizes_on_sdxl_and_of_states_in_the_text() -> None:
    """A number takes 2 bytes in a subject's file, and 12 in a state: it and what the optimiser keeps, in 32 bits."""

    def count(config: UNetConfig, kind: str) -> int:
        copy = SubjectCopy(config, CopySettings(kind=kind), TOKEN_DIM, device="meta")
        return sum(p.numel() for p in copy.parameters())

    def state(config: UNetConfig) -> tuple[str, str]:
        low_rank = round(12 * count(config, "lora") / 1e6, -1)
        return f"{12 * count(config, 'full') / 1e9:.0f} GB", f"{low_rank:.0f} MB"

    sd15, sdxl = UNetConfig.build(), UNetConfig.build(**SDXL)
    help_page = (ROOT / "web" / "docs" / "P3S_Train.md").read_text(encoding="utf-8")
    file = f"{2 * count(sdxl, 'full') / 1e9:.1f} GB", f"{2 * count(sdxl, 'lora') / 1e6:.0f} MB"
    assert README.count("; on SDXL {}, or {}".format(*file)) == 2
    assert "on SDXL {} and {}".format(*file) in help_page
    (full, low_rank), (full_xl, low_rank_xl) = state(sd15), state(sdxl)
    assert f"(up to {full}, on SDXL up to {full_xl})" in README
    assert f"{full} with *full*, {low_rank} with *lora* (on SDXL {full_xl} and {low_rank_xl})" in help_page


# benchmarks/README.md


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


def test_the_tables_of_training() -> None:
    printed = training.tables(training.load(RESULTS / "training.jsonl")).splitlines()
    assert len(printed) > 30
    assert [line for line in printed if line not in PAGE.splitlines()] == []


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ("plain model |", "plain model"),
        ("P3S at weight 0", "P3S, off"),
        ("IPAdapter-plus (16 tokens)", "IPAdapter-plus"),
        ("SSR-Encoder |", "SSR-Encoder"),
        ("SSR-Encoder, two subjects in one softmax", "SSR-Encoder, two subjects"),
        ("**P3S, a subject network that runs once, `mode` standard**", "P3S, cached, standard"),
        ("P3S, a subject network that runs once, exact", "P3S, cached, exact"),
        ("P3S, a subject network that runs once, standard, its", "P3S, cached, standard, it fills the photo"),
        ("**P3S, `mode` fast**", "P3S, fast"),
        ("**P3S, `mode` standard**", "P3S, standard"),
        ("P3S, fast, two subjects, half", "P3S, fast, two subjects, a half each"),
        ("ControlNet |", "ControlNet"),
        ("P3S, exact, `guidance` conditional", "P3S, exact, conditional half"),
        ("P3S, exact, a mask of half", "P3S, exact, masked to a half"),
        ("**P3S, `mode` exact**", "P3S, exact"),
        ("P3S, exact, a low-rank subject", "P3S, exact, a low-rank subject"),
        ("reference-only (a second pass", "reference-only"),
        ("P3S, exact, two subjects, half", "P3S, exact, two subjects, a half each"),
        ("P3S, exact, two subjects |", "P3S, exact, two subjects"),
    ],
)
def test_the_price_of_a_step(row: str, name: str) -> None:
    found = variants("sampling.json")[name]
    table = PAGE[PAGE.index("### The price of a step") : PAGE.index("**Wall time**")]
    said = [numbers(cell)[0] for cell in cells(table, row)[1:]]
    assert said == [round(found["tflop"], 3), round(found["work"], 3)]
