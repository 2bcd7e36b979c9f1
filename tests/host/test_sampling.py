"""What a sampling run with subjects computes, shares, keeps and asks for, in the host's process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    arguments = {"topo": inside.model("sd15-topo"), "micro": inside.model("sd15-micro")}
    return inside.run(Path(__file__).with_name("inside_sampling.py"), arguments, timeout=900)


def test_masks_several_subjects_and_faster_settings_are_the_cores(facts: Any) -> None:
    found = facts["agreement"]
    rows = [found.pop(name) for name in list(found) if name.endswith("rows")]
    assert rows == [1.0, 1.0]
    assert len(found) == 11
    assert all(error < 1e-4 for error in found.values()), found


def test_what_the_halves_share_is_computed_once(facts: Any) -> None:
    sharing = facts["sharing"]
    assert sharing["branches"] == {"copy": [1, 1], "base": [1, 1]}
    assert sharing["batch of three"] == {"copy": [3, 3], "base": [3, 3]}
    assert sharing["no guidance"] == {"copy": [1, 1], "base": [1, 1]}
    assert sharing["another node"] == {"copy": [1, 1], "base": [2, 2]}
    assert sharing["crops"]["copy"] in ([2, 2], [1, 1, 1, 1])  # two crops of one call, or one each


def test_how_often_a_step_waits_for_the_gpu(facts: Any) -> None:
    """A step reads once more than the plain model does, whether its rows are equal, at a place where the sampler
    has just read its own. A window costs another one; the second counted is the schedule's own number, which never
    leaves the processor."""
    reads = facts["reads"]
    growth = {name[:-3]: (reads[name] - reads[f"{name[:-3]}, 2"]) / 4 for name in reads if name.endswith(", 6")}
    plain = growth.pop("plain")
    assert plain >= 1
    assert plain + 2 < growth.pop("window") < plain + 3  # the subject is off at the last steps
    once = ("subject", "two subjects and masks", "weight on attention", "isolated")
    assert growth == {**dict.fromkeys(once, plain + 1), "fast": plain}


def test_what_is_constant_is_computed_once_a_run_and_nothing_where_the_subject_is_off(facts: Any) -> None:
    assert facts["once"] == {
        "image latents": 1,
        "copies": 5,
        "copies, reuse 2": 3,
        "copies, reuse 3 of the conditional half": 2,
        "copies, early end": 3,
        "copies, off": 0,
        "copies, window": 3,
    }


def test_identities(facts: Any) -> None:
    broken = [name for name, holds in facts["identities"].items() if not holds]
    assert len(facts["identities"]) == 15
    assert not broken


def test_copies_are_shared_and_the_host_is_told_what_is_needed(facts: Any) -> None:
    memory = facts["memory"]
    asked, needed = memory.pop("asked for"), memory.pop("needed")
    row = asked["plain"] / 16  # whole rows of latents are asked for
    assert needed <= asked["one"] - asked["plain"] < needed + row
    assert 2 * needed <= asked["two"] - asked["plain"] < 2 * needed + row
    assert asked["same subject twice"] == asked["two"]
    assert all(memory.values()), memory


def test_the_price_of_subjects(facts: Any) -> None:
    """Relative figures of a small model; those of SD 1.5 are in benchmarks/README.md."""
    price = facts["price"]
    assert price["off"] == 1
    assert 1 < price["half masked"] < price["exact"] < price["two subjects, a half each"] < price["two subjects"]
