"""``benchmarks.sampling`` and ``benchmarks.profile_steps`` on the smallest model."""

from __future__ import annotations

import json

import pytest
from host.hosts import REPO
from host.inside import Inside

from benchmarks.operations import KINDS, OUTSIDE, REST

FILES = {"sd15": "sampling.json", "sdxl": "sampling_sdxl.json"}
SAMPLED = ("P3S, exact", "P3S, standard", "P3S, fast", "P3S, cached, standard")
ARGUMENTS = {
    "family": "sd15",
    "tiny": True,
    "checkpoint": "",
    "controlnet": "",
    "peers": [],
    "threads": 1,
    "size": 64,
    "work_size": 64,
    "steps": 2,
    "rounds": 1,
}


def test_a_cached_subject_is_timed_on_real_tensors(inside: Inside) -> None:
    """Beside one that is not cached, which counts and times in the same process."""
    script = REPO / "benchmarks" / "sampling_inside.py"
    found = inside.run(script, {**ARGUMENTS, "only": "P3S, cached, standard;P3S, exact"}, timeout=600)
    assert list(found) == ["plain model", "P3S, exact", "P3S, cached, standard"]
    for row in found.values():
        low, high = row["times"]
        assert row["finite"] and 0 < low <= row["time"] <= high and row["own"] == row["work"]
    plain, exact, cached = found.values()
    assert 1 == plain["work"] < cached["work"] < exact["work"]
    assert cached["tflop"] < cached["first"] < exact["tflop"] + plain["tflop"]


@pytest.mark.slow
@pytest.mark.parametrize(("family", "size"), [("sd15", 512), ("sdxl", 1024)])
def test_the_stored_work_is_what_this_host_does(inside: Inside, family: str, size: int) -> None:
    script = REPO / "benchmarks" / "sampling_inside.py"
    stored = json.loads((REPO / "benchmarks" / "results" / FILES[family]).read_text())["variants"]
    names = ["plain model", "P3S, exact", "P3S, fast", "P3S, cached, standard"]
    arguments = {**ARGUMENTS, "family": family, "tiny": False, "work_size": size, "rounds": 0, "only": ";".join(names)}
    found = inside.run(script, arguments, timeout=900)
    assert {name: row["tflop"] for name, row in found.items()} == pytest.approx(
        {name: stored[name]["tflop"] for name in found}, rel=1e-3
    )


@pytest.mark.slow
def test_the_profile_of_a_step(inside: Inside) -> None:
    script = REPO / "benchmarks" / "profile_steps_inside.py"
    found = inside.run(script, {"preset": "small", "size": 64, "threads": 1}, timeout=900)
    assert list(found) == ["plain model", *SAMPLED, "training, full", "training, lora"]
    seconds = {name: sum(row["seconds"].values()) for name, row in found.items()}
    assert seconds["plain model"] < seconds["P3S, exact"] < seconds["training, full"]
    for row in found.values():
        assert list(row["seconds"]) == [*KINDS, REST, OUTSIDE]
        assert row["operations"] >= found["plain model"]["operations"] > 100
