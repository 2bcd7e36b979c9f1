"""Random gestures with a real mouse and keyboard, against a model of what each may do.

No point is ever lost or invented; undo to the start and redo to the end give the same texts. P3S_FUZZ_SEED and
P3S_FUZZ_SECONDS make another or a longer run.
"""

from __future__ import annotations

import json
import math
import os
import random
import time
from collections.abc import Callable

import pytest
from browser.editor_page import EditorPage
from browser.test_point_picker import touch

SEED = int(os.environ.get("P3S_FUZZ_SEED", "1"))
SECONDS = float(os.environ.get("P3S_FUZZ_SECONDS", "25"))
APART = 40 / 350  # of the picture: further than any press reaches, touch included
NEAR = 0.008

Point = list[float]
Points = dict[str, list[Point]]  # of a subject, by sign, and its boxes
SIGNS = ("positive", "negative")


class Walk:
    """One run; ``subjects`` are the points and boxes that there must be."""

    def __init__(self, editor_page: EditorPage, seed: int) -> None:
        self.editor_page, self.page = editor_page, editor_page.page
        self.rng = random.Random(seed)
        self.session = editor_page.context.new_cdp_session(self.page)
        self.sign = "positive"
        self.subjects = [self.nothing()]
        self.active = 0
        self.gestures: list[Callable[[], None]] = [
            self.place, self.place, self.place, self.drag, self.drag, self.nudge, self.remove, self.flip, self.choose,
            self.look, self.abort, self.back_and_forth, self.tap, self.pinch, self.view_keys, self.select,
            self.box, self.go, self.remove_subject,
        ]  # fmt: skip

    @staticmethod
    def nothing() -> Points:
        return {"positive": [], "negative": [], "boxes": []}

    @property
    def expected(self) -> Points:
        return self.subjects[self.active]

    # where

    def all(self) -> list[tuple[str, int, Point]]:
        return [(sign, i, point) for sign in SIGNS for i, point in enumerate(self.expected[sign])]

    def free_place(self) -> Point | None:
        for _ in range(50):
            place = [self.rng.uniform(0.03, 0.97), self.rng.uniform(0.03, 0.97)]
            if all(math.dist(place, point) > APART for _, _, point in self.all()):
                return place
        return None

    def lone_point(self) -> tuple[str, int, Point] | None:
        """A point that a press takes for certain."""
        lone = [
            entry
            for entry in self.all()
            if min(entry[2]) > 0.02 and max(entry[2]) < 0.98
            and all(other is entry or math.dist(entry[2], other[2]) > APART for other in self.all())
        ]  # fmt: skip
        return self.rng.choice(lone) if lone else None

    @staticmethod
    def other(sign: str) -> str:
        return "negative" if sign == "positive" else "positive"

    # gestures

    def place(self) -> None:
        place, other = self.free_place(), self.rng.random() < 0.4
        if place is None:
            return
        self.editor_page.click(*place, button="right" if other else "left")
        self.expected[self.other(self.sign) if other else self.sign].append(place)

    def tap(self) -> None:
        place = self.free_place()
        if place is None:
            return
        touch(self.page, self.session, "touchStart", self.editor_page.at(*place))
        touch(self.page, self.session, "touchEnd")
        self.expected[self.sign].append(place)

    def drag(self) -> None:
        found, place = self.lone_point(), self.free_place()
        if found is None or place is None:
            return
        sign, index, point = found
        self.editor_page.drag((point[0], point[1]), (place[0], place[1]))
        self.expected[sign][index] = place

    def select(self) -> None:
        for _ in range(self.rng.randrange(1, 4)):
            self.editor_page.press(self.rng.choice(["Tab", "Shift+Tab"]))
            if not self.page.evaluate("() => document.activeElement.className === 'p3s-keys'"):
                self.page.locator(".p3s-keys").focus()

    def nudge(self) -> None:
        found = self.lone_point()
        if found is None:
            return
        sign, index, point = found
        self.editor_page.click(*point)
        key, dx, dy = self.rng.choice(
            [("ArrowLeft", -1, 0), ("ArrowRight", 1, 0), ("ArrowUp", 0, -1), ("ArrowDown", 0, 1)]
        )
        far = self.rng.random() < 0.5
        self.editor_page.press(f"Shift+{key}" if far else key)
        width, height = self.editor_page.size
        step = 10 if far else 1
        moved = [point[0] + dx * step / width, point[1] + dy * step / height]
        self.expected[sign][index] = [min(1.0, max(0.0, c)) for c in moved]

    def remove(self) -> None:
        found = self.lone_point()
        if found is None or self.rng.random() < 0.4:
            return
        sign, index, point = found
        self.editor_page.click(*point)
        self.editor_page.press(self.rng.choice(["Delete", "Backspace"]))
        del self.expected[sign][index]

    def flip(self) -> None:
        found = self.lone_point()
        if found is None:
            return
        sign, index, point = found
        if self.rng.random() < 0.5:
            self.editor_page.click(*point, button="right")
        else:
            self.editor_page.click(*point)
            self.editor_page.press("x")
        self.expected[self.other(sign)].append(self.expected[sign].pop(index))

    def choose(self) -> None:
        self.sign = self.rng.choice(["positive", "negative"])
        if self.rng.random() < 0.5:
            self.editor_page.button(self.sign).click()
        else:
            self.editor_page.press("+" if self.sign == "positive" else "-")

    def look(self) -> None:
        x, y = self.editor_page.at(self.rng.uniform(0.1, 0.9), self.rng.uniform(0.1, 0.9))
        self.page.mouse.move(x, y)
        self.page.mouse.wheel(0, self.rng.choice([-500, -200, 200]))
        self.page.mouse.down(button="middle")
        self.page.mouse.move(x + self.rng.uniform(-60, 60), y + self.rng.uniform(-60, 60), steps=3)
        self.page.mouse.up(button="middle")

    def abort(self) -> None:
        found = self.lone_point()
        place = found[2] if found and self.rng.random() < 0.6 else self.free_place()
        if place is None:
            return
        self.page.mouse.move(*self.editor_page.at(*place))
        self.page.mouse.down()
        self.page.mouse.move(*self.editor_page.at(self.rng.random(), self.rng.random()), steps=4)
        self.editor_page.press("Escape")
        self.page.mouse.up()

    def back_and_forth(self) -> None:
        steps = self.rng.randrange(3)
        done = 0
        for _ in range(steps):
            done += self.editor_page.button("undo").is_enabled()
            self.editor_page.press("Control+z")
        for _ in range(done):
            self.editor_page.press(self.rng.choice(["Control+Shift+z", "Control+y"]))
        pressed = self.page.locator(".p3s-tabs button[aria-pressed=true]").get_attribute("data-command")
        self.active = int(str(pressed)[-1]) - 1  # a step shows the subject that it changes

    def pinch(self) -> None:
        x, y = self.editor_page.at(self.rng.uniform(0.3, 0.7), self.rng.uniform(0.3, 0.7))
        apart, to = self.rng.uniform(20, 60), self.rng.uniform(20, 120)
        touch(self.page, self.session, "touchStart", (x - apart, y))
        touch(self.page, self.session, "touchStart", (x - apart, y), (x + apart, y))
        for step in range(1, 4):
            now = apart + (to - apart) * step / 3
            touch(self.page, self.session, "touchMove", (x - now, y), (x + now, y))
        touch(self.page, self.session, "touchEnd")

    def view_keys(self) -> None:
        self.editor_page.press(self.rng.choice(["g", "m", "Escape"]))

    def box(self) -> None:
        """Drawn anywhere, over points, too; one at a time, since a press may take another one."""
        if self.expected["boxes"]:
            self.editor_page.button("clearBoxes").click()
            self.expected["boxes"] = []
            return
        left, top = (self.rng.uniform(0.05, 0.6) for _ in range(2))
        right, bottom = left + self.rng.uniform(0.1, 0.3), top + self.rng.uniform(0.1, 0.3)
        self.page.keyboard.down("b")
        self.editor_page.drag((left, bottom), (right, top))
        self.page.keyboard.up("b")
        self.expected["boxes"].append([left, top, right, bottom])

    def go(self) -> None:
        number = self.rng.randrange(1, len(self.subjects) + 2)
        if number > 4 or (number > 2 and self.rng.random() < 0.7):
            return
        if number > len(self.subjects):
            self.subjects.append(self.nothing())
            self.editor_page.press(str(number))
        else:
            self.editor_page.button(f"subject{number}").click()
        self.active = number - 1

    def remove_subject(self) -> None:
        if self.rng.random() < 0.7:
            return
        self.editor_page.press("Shift+Delete")
        if 0 < self.active == len(self.subjects) - 1:
            del self.subjects[self.active]
            self.active -= 1
        else:
            self.subjects[self.active] = self.nothing()

    # checks

    def read(self) -> list[Points]:
        content = json.loads(self.editor_page.value)
        subjects = [content] if content["v"] == 1 else content["subjects"]
        return [{sign: each.get(sign, []) for sign in self.nothing()} for each in subjects]

    def check(self, name: str) -> None:
        self.page.locator(".p3s-keys").focus()
        self.editor_page.press("f")
        found = self.read()
        assert len(found) == len(self.subjects), f"{name}: {found}, expected {self.subjects}"
        for number, (points, wanted) in enumerate(zip(found, self.subjects, strict=True), start=1):
            for sign, expected in wanted.items():
                where = f"{name}: subject {number}, {sign}"
                assert len(points[sign]) == len(expected), f"{where} {points[sign]}, expected {expected}"
                for point, place in zip(points[sign], expected, strict=True):
                    assert point == pytest.approx(place, abs=NEAR), where
        self.subjects = found  # exactly, so that small differences do not add up


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_random_gestures_neither_lose_nor_invent_points(editor_page: EditorPage, seed: int) -> None:
    walk = Walk(editor_page, seed)
    editor_page.page.locator(".p3s-keys").focus()
    start = editor_page.value
    place = editor_page.node()["pos"]
    end, steps = time.monotonic() + SECONDS / 2, 0
    while time.monotonic() < end:
        gesture = walk.rng.choice(walk.gestures)
        steps += 1
        gesture()
        walk.check(f"seed {seed}, step {steps}, {gesture.__name__}")
    print(f"seed {seed}: {steps} gestures, {len(walk.subjects)} subjects")
    assert editor_page.node()["pos"] == place
    assert len(editor_page.workflow()["nodes"]) == 1

    last = editor_page.value
    seen = [last]
    while editor_page.button("undo").is_enabled():
        editor_page.press("Control+z")
        seen.append(editor_page.value)
        assert len(seen) < 500
    assert seen[-1] == start
    for value in seen[-2::-1]:
        editor_page.press("Control+Shift+z")
        assert editor_page.value == value
    assert not editor_page.button("redo").is_enabled()
    assert editor_page.value == last
    sent = editor_page.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert sent[str(editor_page.id)]["inputs"]["points"] == last
    assert walk.read() == walk.subjects
