"""``benchmarks.sampling`` on the smallest model: what it times is what it counts."""

from __future__ import annotations

from host.hosts import REPO
from host.inside import Inside

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
