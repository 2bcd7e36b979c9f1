"""The editor and the core must mean the same by a text and by a patch: both are asked about the same random cases."""

from __future__ import annotations

import json
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from p3s.errors import P3SError
from p3s.reference.framing import Frame
from p3s.reference.mask_preview import to_runs
from p3s.reference.points import PointSet
from p3s.reference.selection import Marks, Selection
from p3s.sampling.schedule import KINDS, Schedule, parse_keyframes

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
    drawn = [np.array([[rng.random() < 0.4 for _ in range(7)] for _ in range(5)]) for _ in range(30)]
    answer = ask_editor(
        {
            "saved": [some.to_json() for some in sets],
            "patches": patches,
            "areas": [(*size, 16) for size in SIZES],
            "masks": [(to_runs(mask), (7, 5)) for mask in drawn],
            "pasted": pasted,
        }
    )

    assert [PointSet.parse(text) for text in answer["saved"]] == sets
    for (point, width, height, grid), (column, row) in zip(patches, answer["patches"], strict=True):
        assert Frame(width, height).patch_at(*point, grid) == (row, column), (point, width, height)
    for (width, height), area in zip(SIZES, answer["areas"], strict=True):
        frame = Frame(width, height)
        for valid, start, length, edges in zip(
            frame.valid_patches(16), (frame.top, frame.left), (height, width), ("top bottom", "left right"), strict=True
        ):
            expected = [(edge * frame.side / 16 - start) / length for edge in (valid.start, valid.stop)]
            assert [area[name] for name in edges.split()] == pytest.approx(expected)
    for mask, pixels in zip(drawn, answer["masks"], strict=True):
        assert mask.ravel().tolist() == [bool(pixel) for pixel in pixels]
    for (text, width, height), editors in zip(pasted, answer["pasted"], strict=True):
        ours, theirs = PointSet.parse(text, size=(width, height)), PointSet.parse(editors)
        for sign in ("positive", "negative"):
            # The editor rounds to 6 digits.
            flat = [c for point in getattr(ours, sign) for c in point]
            assert [c for point in getattr(theirs, sign) for c in point] == pytest.approx(flat, abs=6e-7)


WRONG_SUBJECTS = [
    '{"v":2}',
    '{"v":2,"subjects":[]}',
    '{"v":2,"subjects":[{},{},{},{},{}]}',
    '{"v":2,"subjects":[{"boxes":[[0,0,1]]}]}',
    '{"v":2,"subjects":[{"boxes":[[0.5,0,0.5,1]]}]}',
    '{"v":2,"subjects":[{"boxes":[[0,0,1,1.5]]}]}',
    '{"v":2,"subjects":[{"positive":[[0.5]]}]}',
    '{"v":2,"subjects":[3]}',
    '{"v":2,"subjects":[{}],"seed":3}',
    '{"v":3,"subjects":[{}]}',
]


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_editor_and_core_read_the_same_subjects() -> None:
    rng = random.Random(7)

    def points(most: int) -> tuple[tuple[float, float], ...]:
        return tuple((round(rng.random(), 6), round(rng.random(), 6)) for _ in range(rng.randrange(most)))

    def box() -> tuple[float, float, float, float]:
        (left, right), (top, bottom) = (sorted(rng.sample(range(10**6 + 1), 2)) for _ in range(2))
        return left / 10**6, top / 10**6, right / 10**6, bottom / 10**6

    def marks() -> Marks:
        return Marks(PointSet(points(3), points(3)), tuple(box() for _ in range(rng.randrange(3))))

    chosen = [
        Selection(tuple(marks() for _ in range(rng.randrange(1, 5))), rng.choice(["", "", "1f"])) for _ in range(200)
    ]
    chosen += [Selection(), Selection(seed="1f"), Selection((Marks(), Marks()))]
    sizes = [(box(), *rng.choice(SIZES)) for _ in range(200)] + [((0.5, 0.25, 0.75, 1.0), 2, 2), ((0, 0, 1, 1), 1, 1)]
    answer = ask_editor({"subjects": [each.to_json() for each in chosen] + WRONG_SUBJECTS, "boxes": sizes})

    for selection, editors in zip(chosen, answer["subjects"][: len(chosen)], strict=True):
        assert Selection.parse(editors["text"]) == selection
        assert (json.loads(editors["text"])["v"]) == json.loads(selection.to_json())["v"]
        ours = [selection.points_of(index) for index in range(len(selection.subjects))]
        clicked = [(each, PointSet.parse(text)) for each, text in zip(ours, editors["points"], strict=True)]
        assert all(one == other for one, other in clicked if one.positive)
        assert editors["isUntouched"] == selection.is_untouched
    assert answer["subjects"][len(chosen) :] == [None] * len(WRONG_SUBJECTS)
    for text in WRONG_SUBJECTS:
        with pytest.raises(P3SError):
            Selection.parse(text)
    pixels = [Selection((Marks(boxes=(each,)),)).boxes_in_pixels(*size)[0] for each, *size in sizes]
    assert answer["boxes"] == pixels


def random_text(rng: random.Random) -> str:
    """A keyframe text, in one of its forms; some are wrong."""
    places = sorted(rng.sample(range(101), rng.randrange(1, 6)))
    pairs = [(place / 100, round(rng.random() * 3, 3)) for place in places]
    rng.shuffle(pairs)
    if rng.random() < 0.3:
        return json.dumps(pairs)
    text = rng.choice([", ", ";", "\n", ",\n "]).join(f"{percent}:{weight}" for percent, weight in pairs)
    return text if rng.random() < 0.7 else text.replace(rng.choice("0:.1,"), rng.choice("x-: 1"), 1)


WRONG_TEXTS = ["", " ", "half:1", "0:1, 0:2", "1.5:1", "0:-1", "[[0]]", "[[0, 1], 2]", "[", "[null]", '[["0", 1]]']
WRONG_TEXTS += [
    "0:1:2",
    "0:inf",
    "0:nan",
    ":1",
    "0:",
    "0:0x1",
    "[[true, 1]]",
    "0 : 1e-1 ,, .5:+1.",
    "[]",
    "[[0, 1e999]]",
]


@pytest.mark.skipif(NODE is None, reason="node is not installed")
def test_curve_and_core_have_the_same_weights() -> None:
    rng = random.Random(6)
    texts = WRONG_TEXTS + [random_text(rng) for _ in range(300)]

    def parsed(text: str) -> list[list[float]] | None:
        try:
            return [list(pair) for pair in parse_keyframes(text)]
        except P3SError:
            return None

    cases = []
    for kind in KINDS:
        for _ in range(60):
            settings = {
                "kind": kind,
                "alpha": rng.choice([0.5, rng.uniform(-5, 5)]),
                "beta": rng.choice([0.2, rng.uniform(-5, 5)]),
                "k": rng.choice([0, 1, 2, rng.uniform(0, 10)]),
                "value": rng.uniform(0, 10),
                "keyframes": rng.choice(texts),
            }
            timesteps = [0.0, 999.0, 1000.0, *(rng.uniform(0, 1000) for _ in range(20))]
            cases.append((settings, timesteps))

    def weights(settings: dict, timesteps: list[float]) -> list[float] | None:
        pairs = parsed(settings["keyframes"]) if settings["kind"] == "keyframes" else ()
        try:
            schedule = Schedule(**{**settings, "keyframes": tuple(pairs)}) if pairs is not None else None
            return schedule and [schedule.weight(t) for t in timesteps]
        except P3SError:
            return None

    answer = ask_editor({"curves": cases, "keyframes": texts})
    assert answer["keyframes"] == [parsed(text) for text in texts]
    for (settings, timesteps), curve in zip(cases, answer["curves"], strict=True):
        expected = weights(settings, timesteps)
        assert (curve is None) == (expected is None), settings
        assert curve is None or curve == pytest.approx(expected, abs=1e-6, rel=1e-9), settings
    with_curve = {settings["kind"] for (settings, _), curve in zip(cases, answer["curves"], strict=True) if curve}
    assert with_curve == set(KINDS) - {"learned"}, "a learned curve is in the subject's file"
