"""docs/ssr.md: what it names exists, and its defaults are the code's."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ssr_models import MODEL

from p3s.settings import settings_of
from p3s.ssr.attend import AppliedSSR
from p3s.ssr.embeds import SubjectEmbeds
from p3s.ssr.query import QuerySettings
from p3s.ssr.trainer import RunSettings
from p3s.ssr.training import SSRTrainSettings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "ssr.md").read_text(encoding="utf-8")
SETTINGS = {
    "QuerySettings": QuerySettings(),
    "AppliedSSR": AppliedSSR(SubjectEmbeds((), MODEL)),
    "SSRTrainSettings": SSRTrainSettings(),
    "RunSettings": RunSettings(),
}


def test_the_places_and_tests_exist() -> None:
    rows = "\n".join(line for line in PAGE.splitlines() if line.startswith("| "))
    places = re.findall(r"`(p3s/ssr/\w+\.py)` ([A-Za-z_.]+)", rows)
    assert len(places) >= 12
    for file, name in places:
        text = (ROOT / file).read_text(encoding="utf-8")
        assert all(re.search(rf"(def|class) {part}\b", text) for part in name.split(".")), f"{file}: {name}"
    tests = set(re.findall(r"`(test_\w+\.py)`", PAGE))
    assert {name for name in tests if not (ROOT / "tests" / name).is_file()} == set() and len(tests) >= 6


def decisions() -> list[tuple[str, str, str]]:
    """(class, setting, its default) of the last table."""
    found = []
    for line in PAGE.split("## Decisions")[1].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        named = re.findall(r"(\w+)\.(\w+)", cells[2]) if len(cells) == 4 else []
        named = [pair for pair in named if pair[0] in SETTINGS]
        found += [(*pair, bold) for pair, bold in zip(named, re.findall(r"\*\*(.+?)\*\*", cells[-1]), strict=True)]
    return found


@pytest.mark.parametrize(("kind", "name", "default"), decisions())
def test_the_defaults_are_those_of_the_code(kind: str, name: str, default: str) -> None:
    assert str(getattr(SETTINGS[kind], name)) == default


def test_every_choice_is_a_row() -> None:
    choices = {(kind, name) for kind in SETTINGS for name, s in settings_of(type(SETTINGS[kind])).items() if s.choices}
    assert choices <= {row[:2] for row in decisions()}
