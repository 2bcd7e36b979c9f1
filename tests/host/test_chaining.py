"""Apply P3S and Apply SSR with other nodes and ways of sampling, on every host; ``chaining.py`` writes a page of it."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from host.chaining import CASES, NOTHING, groups, keep_results
from host.hosts import PEERS, peer
from host.inside import Inside

pytestmark = pytest.mark.slow
MODELS = ("sd15-micro", "sd15-wide", "sd15-slim", "sd15-topo", "sd15-inpaint-micro", "sd15-ic-micro", "sd15-animate")
MODELS += ("sd15-slim-scaled-fp8", "motion-moves", "motion-still", "controlnet-micro", "controlnet-topo", "lora-micro")
SDXL_MODELS = ("sdxl-slim", "sdxl-wide", "sdxl-topo", "sdxl-inpaint-slim", "sdxl-slim-scaled-fp8", "sdxl-refiner")
SDXL_MODELS += ("controlnet-sdxl-slim", "controlnet-sdxl-topo", "lora-sdxl-slim")


def commit(pack: Path) -> str:
    done = subprocess.run(["git", "-C", str(pack), "log", "-1", "--format=%h"], capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture(scope="module")
def outcomes(inside: Inside) -> Callable[[str], dict[str, dict[str, str]]]:
    def run(group: str) -> dict[str, dict[str, str]]:
        """How the cases of a group went, but those whose peer is not there."""
        cases = {name: CASES[name] for name in groups()[group] if CASES[name].fits(inside.host.version)}
        there = {case.peer: folder for case in cases.values() if case.peer and (folder := peer(case.peer, inside.host))}
        sdxl = {"sdxl-" in name for name in cases}
        models = [
            name for is_sdxl, names in ((False, MODELS), (True, SDXL_MODELS)) if is_sdxl in sdxl for name in names
        ]
        arguments: dict[str, Any] = {name: inside.model(name) for name in models}
        arguments |= {
            "cases": {name: case.orders for name, case in cases.items() if not case.peer or case.peer in there},
            "peers": [str(folder) for folder in there.values()],
        }
        found = inside.run(Path(__file__).with_name("inside_chaining.py"), arguments, timeout=3600)
        keep_results(inside.host.version, found, {name: commit(folder) for name, folder in there.items()})
        return found

    @cache
    def tried(group: str) -> dict[str, dict[str, str]] | AssertionError:
        try:
            return run(group)
        except AssertionError as error:
            return error

    def outcomes_of(group: str) -> dict[str, dict[str, str]]:
        """Raises, for each of its cases, what a group that failed as a whole has raised: it takes minutes."""
        found = tried(group)
        if isinstance(found, AssertionError):
            raise found
        return found

    return outcomes_of


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, names in groups().items() for name in names])
def test_it_works_or_says_why_not(
    outcomes: Callable[[str], dict[str, dict[str, str]]], inside: Inside, group: str, name: str
) -> None:
    case = CASES[name]
    if not case.fits(inside.host.version):
        pytest.skip(f"needs ComfyUI {case.minimum}")
    if case.peer and peer(case.peer, inside.host) is None:
        pytest.skip(f"{case.peer} is not in {PEERS}; P3S_PEERS names another folder")
    expected = case.expected if case.expected in ("works", NOTHING) else f"refused: {case.expected}"
    found = outcomes(group)[name]
    assert list(found) == list(case.orders)
    for order, told in found.items():
        assert told.startswith(expected), f"{order or name}: {told}"
