"""The editor and the core must mean the same by a text and by a patch: both are asked about the same random cases."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from p3s.framing import Frame
from p3s.points import PointSet

NODE = shutil.which("node")
SIZES = [(768, 768), (640, 427), (301, 1000), (6000, 333), (32, 31), (5, 900)]


def ask_editor(cases: dict[str, list]) -> dict[str, list]:
    script = Path(__file__).with_name("same_as_python.mjs")
    answer = subprocess.run([NODE, script], input=json.dumps(cases), capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    return json.loads(answer.stdout)


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_editor_and_core_read_the_same() -> None:
    rng = random.Random(5)

    def points(count: int) -> list[tuple[float, float]]:
        return [(round(rng.random(), 6), round(rng.random(), 6)) for _ in range(count)]

    sets = [PointSet(tuple(points(rng.randrange(5))), tuple(points(rng.randrange(5)))) for _ in range(50)]
    patches = [(rng.choice([points(1)[0], (0.0, 1.0), (1.0, 0.5)]), *rng.choice(SIZES), 16) for _ in range(300)]
    pasted = []
    for some in sets:
        width, height = rng.choice(SIZES)
        positive, negative = (json.loads(text) for text in some.to_pixels(width, height))
        if positive:
            pasted.append((json.dumps({"positive": positive, "negative": negative}), width, height))
            pasted.append((json.dumps(positive), width, height))
    answer = ask_editor({"saved": [some.to_json() for some in sets], "patches": patches, "pasted": pasted})

    assert [PointSet.parse(text) for text in answer["saved"]] == sets
    for (point, width, height, grid), (column, row) in zip(patches, answer["patches"], strict=True):
        assert Frame(width, height).patch_at(*point, grid) == (row, column), (point, width, height)
    for (text, width, height), editors in zip(pasted, answer["pasted"], strict=True):
        ours, theirs = PointSet.parse(text, size=(width, height)), PointSet.parse(editors)
        for sign in ("positive", "negative"):
            # The editor rounds to 6 digits.
            flat = [c for point in getattr(ours, sign) for c in point]
            assert [c for point in getattr(theirs, sign) for c in point] == pytest.approx(flat, abs=6e-7)
