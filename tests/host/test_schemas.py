"""Workflows of a release stay valid: its node schemas, stored in tests/data, are the beginning of today's."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from host.hosts import REPO
from host.inside import Inside
from host.schemas import inputs_of, read_schemas, snapshot

import p3s

RELEASES = sorted((REPO / "tests" / "data").glob("schemas_*.json"))


def gone_or_moved(release: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """What of a release's schemas is no longer at its place. Appended inputs, outputs, choices and nodes are fine, and
    a required input that has become optional at its place."""
    problems = [f"{node} is gone" for node in release if node not in now]
    for node in release.keys() & now.keys():
        for part in ("inputs", "outputs"):
            before, after = release[node][part], now[node][part]
            for i, old in enumerate(before):
                new = after[i] if i < len(after) else None
                kept = old.keys() - {"choices"} - ({"required"} if old.get("required") else set())
                if new is None or any(new.get(key) != old[key] for key in kept):
                    problems.append(f"{node}: {part[:-1]} {i} was {old}, is {new}")
                elif missing := [choice for choice in old.get("choices", ()) if choice not in new.get("choices", ())]:
                    problems.append(f"{node}: {old['name']} has lost {missing}")
        for new in now[node]["inputs"][len(release[node]["inputs"]) :]:
            if new["required"]:
                problems.append(f"{node}: {new['name']} is new and required")
    return problems


@pytest.mark.parametrize("file", RELEASES, ids=lambda file: file.stem)
def test_nothing_of_the_release_is_gone_or_moved(inside: Inside, file: Any) -> None:
    assert gone_or_moved(json.loads(file.read_text(encoding="utf-8")), snapshot(read_schemas(inside))) == []


def test_this_version_is_stored() -> None:
    assert REPO / "tests" / "data" / f"schemas_{p3s.__version__}.json" in RELEASES


def release() -> dict[str, Any]:
    return json.loads(RELEASES[0].read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda s: s.pop("P3S_Apply"), "P3S_Apply is gone"),
        (lambda s: s["P3S_Apply"]["inputs"].pop(2), "P3S_Apply: input 2 was"),
        (lambda s: s["P3S_Apply"]["inputs"].reverse(), "P3S_Apply: input 0 was"),
        (lambda s: s["P3S_Apply"]["inputs"][2].update(name="power"), "P3S_Apply: input 2 was"),
        (lambda s: s["P3S_Apply"]["inputs"][2].update(type="INT"), "P3S_Apply: input 2 was"),
        (lambda s: s["P3S_Apply"]["inputs"][2].update(default=0.5), "P3S_Apply: input 2 was"),
        (lambda s: s["P3S_Apply"]["inputs"][5]["choices"].remove("both"), "guidance has lost ['both']"),
        (lambda s: s["P3S_Apply"]["inputs"][-1].update(required=True), "P3S_Apply: input"),
        (lambda s: s["P3S_Train"]["outputs"].pop(), "P3S_Train: output 2 was"),
        (
            lambda s: s["P3S_SaveSubject"]["inputs"].append({"name": "x", "required": True, "type": "INT"}),
            "x is new and required",
        ),
    ],
)
def test_a_break_is_noticed(change: Any, problem: str) -> None:
    broken = copy.deepcopy(release())
    change(broken)
    assert problem in "\n".join(gone_or_moved(release(), broken))


def test_appending_is_no_break() -> None:
    more = copy.deepcopy(release())
    more["P3S_Apply"]["inputs"].append({"name": "x", "required": False, "type": "INT", "default": 0})
    more["P3S_Apply"]["inputs"][5]["choices"].append("negative")
    more["P3S_New"] = {"inputs": [], "outputs": []}
    more["P3S_Apply"]["inputs"][0]["required"] = False
    assert gone_or_moved(release(), more) == []


def test_every_frontend_is_given_which_inputs_are_advanced(inside: Inside) -> None:
    schemas = read_schemas(inside)
    assert advanced(schemas["P3S_Apply"]) == ["reference_index", "layer_strengths", "weight_on", "isolate"]
    assert {"gamma", "licence", "views", "resume"} < set(advanced(schemas["P3S_Train"]))
    assert not {"name", "steps", "precision", "kind", "retrain"} & set(advanced(schemas["P3S_Train"]))


def advanced(info: dict[str, Any]) -> list[str]:
    return [name for name, _, _, options in inputs_of(info) if options.get("advanced") is True]
