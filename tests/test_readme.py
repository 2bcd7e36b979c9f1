"""What the README says of files and defaults is so."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from p3s.network.copy_settings import CopySettings
from p3s.reference.masks import MaskSettings
from p3s.sampling.schedule import Schedule
from p3s.training.settings import TrainSettings

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted((ROOT / "web" / "docs").glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def row(name: str) -> list[str]:
    """The cells of the row of "What the paper leaves open" with this letter."""
    (line,) = re.findall(rf"^\| {name} \|.*$", README, re.MULTILINE)
    return [cell.strip() for cell in line.strip("|").split("|")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_local_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text(encoding="utf-8")):
        if not target.startswith(("https://", "http://")):
            assert (page.parent / target).exists(), target


def test_every_open_question_has_a_row() -> None:
    assert "".join(re.findall(r"^\| ([a-p]) \|", README, re.MULTILINE)) == "abcdefghijklmnop"


@pytest.mark.parametrize(
    ("letter", "settings", "name"),
    [
        ("a", CopySettings(), "feature"),
        ("b", CopySettings(), "pairing"),
        ("c", CopySettings(), "copy_input"),
        ("d", TrainSettings(), "zero_init"),
        ("e", TrainSettings(), "attention_norm"),
        ("f", MaskSettings(), "fill_region"),
        ("g", MaskSettings(), "value_range"),
        ("k", CopySettings(), "image_dim"),
        ("l", CopySettings(), "cross_attention"),
        ("m", TrainSettings(), "prompt_dropout"),
        ("n", TrainSettings(), "pairs"),
    ],
)
def test_the_defaults_are_those_of_the_code(letter: str, settings: object, name: str) -> None:
    cell = row(letter)[2]
    assert f"`{name}`" in cell
    value = getattr(settings, name)
    default = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)
    assert f"**{default}**" in cell.split(f"`{name}`")[1]


def test_the_schedules_ends_are_as_said() -> None:
    assert (Schedule().weight(1000.0), Schedule().weight(0.0)) == (pytest.approx(0.7), pytest.approx(1.2))
    assert README.count("0.7 at the first step, 1.2 at the last") == 1


def test_every_template_is_named() -> None:
    assert [file.stem for file in (ROOT / "example_workflows").glob("*.json") if f"**{file.stem}**" not in README] == []
