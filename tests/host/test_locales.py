"""The texts of locales/: English is what the schemas say, every other language has a text of its own for each."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from host.hosts import REPO
from host.inside import Inside
from host.schemas import english, inputs_of, read_schemas

LOCALES = REPO / "locales"
LANGUAGES = sorted(folder.name for folder in LOCALES.iterdir())
# Kana or Han characters; names of formulas stay as the paper has them.
OWN_SCRIPT = {"ja": r"[\u3040-\u30ff\u4e00-\u9fff]", "zh": r"[\u4e00-\u9fff]"}
SAME_EVERYWHERE = {"VAE", "alpha", "beta", "k", "gamma", "lambda", "Sigmas"}


def read(language: str) -> dict[str, Any]:
    return json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8"))


def texts(tree: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from texts(value, (*path, key))
        else:
            yield ".".join((*path, key)), value


@pytest.fixture(scope="module")
def schemas(inside: Inside) -> dict[str, Any]:
    return read_schemas(inside)


def test_english_is_what_the_schemas_say(schemas: dict[str, Any]) -> None:
    assert read("en") == english(schemas), "run `python tests/tools/generate.py locales`"


def test_chinese_and_japanese_are_there() -> None:
    assert ["en", *sorted(OWN_SCRIPT)] == LANGUAGES


@pytest.mark.parametrize("language", sorted(OWN_SCRIPT))
def test_a_language_has_every_text_and_no_other(language: str) -> None:
    own, source = dict(texts(read(language))), dict(texts(read("en")))
    assert sorted(source.keys() - own.keys()) == []
    assert sorted(own.keys() - source.keys()) == []
    foreign = {key: text for key, text in own.items() if not re.search(OWN_SCRIPT[language], text)}
    assert set(foreign.values()) <= SAME_EVERYWHERE, foreign


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_text_holds_what_the_editor_takes_as_its_own_syntax(language: str) -> None:
    """vue-i18n reads braces, @ and | in a message: a text with them is shown wrong, or not at all."""
    assert [text for _, text in texts(read(language)) if re.search(r"[{}@|]", text)] == []


@pytest.mark.parametrize("language", sorted(OWN_SCRIPT))
def test_choices_that_a_tooltip_explains_keep_their_spelling(schemas: dict[str, Any], language: str) -> None:
    own = read(language)
    for node, info in schemas.items():
        for name, _, kind, options in inputs_of(info):
            choices = kind if isinstance(kind, list) else options.get("options") or []
            explained = [choice for choice in choices if f"{choice}: " in options["tooltip"]]
            text = own[node]["inputs"][name]["tooltip"]
            assert [choice for choice in explained if choice not in text] == [], (node, name)
