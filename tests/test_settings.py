"""Every setting is described once: its check, the command line and the nodes follow the description.

What the nodes' schemas and the help pages make of it is in ``host/test_settings_of_nodes.py``.
"""

from __future__ import annotations

import argparse
import ast
import math
import re
from collections.abc import Iterator
from dataclasses import fields, replace
from typing import Any

import pytest
from ssr_models import MODEL
from tools.import_graph import REPO

from p3s.commands import generate, mask, train
from p3s.errors import P3SError
from p3s.network.copy_settings import CopySettings
from p3s.reference.masks import MaskSettings
from p3s.sampling.application import EFFECT_MASK, MODE, Application
from p3s.sampling.layer_strengths import LAYER_STRENGTHS
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import SamplingSettings
from p3s.settings import Setting, settings_of
from p3s.ssr.attend import AppliedSSR
from p3s.ssr.embeds import WEIGHT, SubjectEmbeds
from p3s.ssr.query import QuerySettings
from p3s.subject.file import REFERENCE_INDEX
from p3s.subject.info import IDENTIFIER, LICENCE
from p3s.training.settings import RESOLUTION, TrainSettings

#: A valid object of every class of settings, and its fields that no user sets.
CLASSES: list[tuple[Any, set[str]]] = [
    (TrainSettings(), set()),
    (CopySettings(), set()),
    (MaskSettings(), set()),
    (SamplingSettings(), set()),
    (Schedule(keyframes=((0.0, 1.0),)), {"learned"}),
    # What is made of other inputs; the text for ``layers`` is LAYER_STRENGTHS.
    (Application(), {"schedule", "settings", "mask", "layers"}),
    (QuerySettings(), set()),
    (AppliedSSR(SubjectEmbeds((), MODEL)), {"embeds", "mask", "layers"}),
]
SINGLE = [LAYER_STRENGTHS, EFFECT_MASK, MODE, REFERENCE_INDEX, IDENTIFIER, LICENCE, RESOLUTION, WEIGHT]
SETTINGS: list[tuple[Any, str, Setting]] = [
    (object, name, known) for object, _ in CLASSES for name, known in settings_of(type(object)).items()
]
each_setting = pytest.mark.parametrize(
    ("object", "name", "known"), [pytest.param(*s, id=f"{type(s[0]).__name__}.{s[1]}") for s in SETTINGS]
)


@pytest.mark.parametrize(("object", "others"), CLASSES, ids=lambda value: type(value).__name__)
def test_every_field_that_a_user_sets_is_described(object: Any, others: set[str]) -> None:
    assert settings_of(type(object)).keys() == {f.name for f in fields(object)} - others


def outside(known: Setting) -> Iterator[Any]:
    """Values that a setting may not have, the nearest ones beyond a range among them."""
    yield from (None, [known.default])
    if known.choices:
        yield from ("", known.choices[0].upper(), ", ".join(known.choices))
    elif isinstance(known.default, bool):
        yield from (0, 1, "true")
    else:
        yield from (True, str(known.default), math.nan, math.inf, -math.inf)
        if isinstance(known.default, int):
            yield from (known.low - 1, known.high + 1, float(known.default))
        else:
            yield from (math.nextafter(known.low, -math.inf), math.nextafter(known.high, math.inf))


@each_setting
def test_its_class_accepts_the_range_or_choices_and_nothing_else(object: Any, name: str, known: Setting) -> None:
    if name == "keyframes":
        return  # a text of pairs, see test_schedule.py
    allowed = known.choices or ((True, False) if isinstance(known.default, bool) else (known.low, known.high))
    window = isinstance(object, (Schedule, AppliedSSR))
    others = {"start": {"end": 1.0}, "end": {"start": 0.0}}.get(name, {}) if window else {}
    for value in allowed:
        assert getattr(replace(object, **{name: value}, **others), name) == value
    for value in outside(known):
        with pytest.raises(P3SError, match=re.escape(f"{name} must be {known.expected}; got ")):
            replace(object, **{name: value})


@each_setting
def test_its_default_is_one_that_it_allows(object: Any, name: str, known: Setting) -> None:
    assert known.allows(known.default)
    assert {f.name: f.default for f in fields(object)}[name] == known.default
    number = isinstance(known.default, (int, float)) and not isinstance(known.default, bool)
    assert number == math.isfinite(known.low) == math.isfinite(known.high)


ALL = [known for _, _, known in SETTINGS] + SINGLE


@pytest.mark.parametrize("known", ALL, ids=lambda known: known.help[:40])
def test_its_help_is_sentences_and_says_what_the_choices_are(known: Setting) -> None:
    assert known.help.endswith(".") and len(known.help) > 15
    assert "  " not in known.help and "`" not in known.help  # plain text: tooltips and terminals show it as it is


def texts(folder: str) -> list[str]:
    """All texts in the code of a folder, those in several pieces as one."""
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in sorted((REPO / folder).rglob("*.py"))]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    return [node.value for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)]


def test_no_help_is_written_twice() -> None:
    written = [text.lower().rstrip(".") for folder in ("p3s", "nodes", "benchmarks") for text in texts(folder)]
    counts = {known.help: sum(known.help.lower().rstrip(".") in text for text in written) for known in ALL}
    assert {help: count for help, count in counts.items() if count != 1} == {}


def test_no_node_gives_a_setting_a_range_or_choices_of_its_own() -> None:
    """Every input of a node that is called as a setting is made from it by ``input_of``."""
    names = {name for _, name, _ in SETTINGS}
    own = []
    for file in sorted((REPO / "nodes").rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and (given := [a.value for a in node.args if isinstance(a, ast.Constant)]):
                ranged = {k.arg for k in node.keywords} & {"min", "max", "step", "options"}
                if ranged and given[0] in names and file.name != "toy_world.py":
                    own.append((file.name, given[0]))
    assert own == []


# The command line

#: command -> the settings that are its options, and the names of those with other names.
OPTIONS: list[tuple[Any, list[type], dict[str, str]]] = [
    (train, [TrainSettings, CopySettings, MaskSettings], {}),
    (mask, [MaskSettings], {}),
    (generate, [Schedule], generate.SCHEDULE_NAMES),
]


@pytest.mark.parametrize(("command", "classes", "renamed"), OPTIONS, ids=lambda value: getattr(value, "__name__", ""))
def test_every_setting_is_an_option_with_its_help(command: Any, classes: list[type], renamed: dict[str, str]) -> None:
    parser = argparse.ArgumentParser()
    command.add_options(parser)
    options = {action.dest: action for action in parser._actions}
    for kind in classes:
        for name, known in settings_of(kind).items():
            option = options[renamed.get(name, name)]
            assert (option.help or "").replace("%%", "%").startswith(f"{known.help} (default: ")
            if known.choices:
                assert option.metavar == "{" + ",".join(known.choices) + "}"
