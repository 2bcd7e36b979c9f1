"""The figures of sampling in README, benchmarks/README.md and other texts are those of the committed results."""

from __future__ import annotations

import json
import re

import pytest
from published import PAGE, README, RESULTS, ROOT, cells, numbers, variants

from benchmarks import flops, operations


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


def test_the_profile_of_a_step() -> None:
    rows = json.loads((RESULTS / "profile.json").read_text())["rows"]
    assert [line for line in operations.table(rows).splitlines() if line not in PAGE.splitlines()] == []


def test_what_was_timed_gave_numbers() -> None:
    """Of pictures that are none, the times say nothing."""
    files = sorted(file.name for file in RESULTS.glob("sampling_wall*.json"))
    assert len(files) == 3
    assert [(file, name) for file in files for name, row in variants(file).items() if not row["finite"]] == []


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
