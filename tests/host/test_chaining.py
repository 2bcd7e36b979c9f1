"""Apply P3S with other nodes and ways of sampling, on every host; ``chaining.py`` writes a page from the results."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from host.chaining import CASES, results_file
from host.inside import Inside

pytestmark = pytest.mark.slow
#: Folder with the repositories of the packs that cases name as their peer. One that a host is too old for lies, in an
#: older version, in a folder named by the host's version there.
PEERS = Path(os.environ.get("P3S_PEERS") or Path.home() / "comfy" / "peers")
MODELS = {
    "slim": "sd15-slim",
    "topo": "sd15-topo",
    "micro": "sd15-micro",
    "inpaint": "sd15-inpaint-micro",
    "controlnet": "controlnet-slim",
}


def peer(name: str, inside: Inside) -> Path | None:
    """Where another pack is."""
    folders = (PEERS / inside.host.version / name, PEERS / name)
    return next((folder for folder in folders if (folder / "__init__.py").is_file()), None)


@pytest.fixture(scope="module")
def found(inside: Inside) -> dict[str, dict[str, str]]:
    there = {case.peer: folder for case in CASES.values() if case.peer and (folder := peer(case.peer, inside))}
    cases = {name: case.orders for name, case in CASES.items() if not case.peer or case.peer in there}
    inside.model("lora-slim")
    arguments = {key: inside.model(name) for key, name in MODELS.items()}
    arguments |= {"cases": cases, "peers": [str(folder) for folder in there.values()]}
    results = inside.run(Path(__file__).with_name("inside_chaining.py"), arguments, timeout=1800)
    told = {name: {order: text.split(":")[0] for order, text in orders.items()} for name, orders in results.items()}
    results_file(inside.host.version).write_text(json.dumps(told, indent=1))
    return results


@pytest.mark.parametrize("name", CASES)
def test_it_works_or_says_why_not(found: dict[str, dict[str, str]], name: str) -> None:
    case = CASES[name]
    if case.peer and name not in found:
        pytest.skip(f"{case.peer} is not in {PEERS}; P3S_PEERS names another folder")
    expected: Any = case.expected if case.expected == "works" else f"refused: {case.expected}"
    assert list(found[name]) == list(case.orders)
    for order, told in found[name].items():
        assert told.startswith(expected), order
