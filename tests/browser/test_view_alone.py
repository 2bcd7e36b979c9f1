"""The editor's own files in a bare page, without ComfyUI: the gestures still do what they say."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser.pictures import write_pictures
from host.hosts import REPO
from PIL import Image

PAGE = """<!doctype html><body style="margin: 30px">
<div id="outer" style="width: 420px; height: 460px; transform: scale(0.8); transform-origin: 0 0"></div>
<script type="module">
  import { PickerView } from '/picker/view.js'
  window.changes = []
  window.view = new PickerView({ change: (text) => changes.push(text), askMasks: async () => window.answer })
  outer.append(view.element)
  view.attach()
  window.ready = await view.showPicture('/square.png')
</script>"""


@pytest.fixture
def page(chromium: Any, tmp_path: Path) -> Iterator[Any]:
    yield from open_alone(chromium, tmp_path)


def open_alone(chromium: Any, folder: Path, script: str = "", **options: Any) -> Iterator[Any]:
    """A page with the editor on square.png; it may load other pictures of the folder. ``script`` runs before it."""
    write_pictures(folder)
    context = chromium.new_context(viewport={"width": 800, "height": 700}, **options)
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.add_init_script(script)

    def serve(route: Any) -> None:
        path = route.request.url.removeprefix("http://picker.test/")
        if not path:
            route.fulfill(body=PAGE, content_type="text/html")
            return
        file = folder / path if path.endswith((".png", ".jpg")) else REPO / "web" / path
        if file.is_file():
            route.fulfill(path=file)
        else:
            route.fulfill(status=404)

    page.route("http://picker.test/**", serve)
    page.goto("http://picker.test/")
    page.wait_for_function("() => window.ready === true")
    yield page
    context.close()
    assert errors == []


def points(page: Any) -> dict[str, Any]:
    return json.loads(page.evaluate("() => view.value"))


def test_click_drag_keys_and_undo(page: Any) -> None:
    box = page.locator("canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(x, y)
    assert points(page)["positive"] == [pytest.approx([0.5, 0.5], abs=0.01)]
    page.mouse.click(x + 60, y, button="right")
    assert len(points(page)["negative"]) == 1
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 60, y, steps=4)
    page.mouse.up()
    assert points(page)["positive"][0][0] < 0.4
    page.keyboard.press("Delete")
    assert points(page)["positive"] == []
    for _ in range(4):
        page.keyboard.press("Control+z")
    assert points(page) == {"v": 1, "positive": [], "negative": []}
    assert json.loads(page.evaluate("() => changes.at(-1)")) == points(page)


def test_detached_it_does_nothing_and_attached_again_it_works(page: Any) -> None:
    box = page.locator("canvas").bounding_box()
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.evaluate("() => view.detach()")
    page.mouse.click(*middle)
    assert points(page)["positive"] == []
    page.evaluate("() => { view.attach(); view.attach() }")
    page.mouse.click(*middle)
    assert len(points(page)["positive"]) == 1
    assert page.evaluate("() => changes.length") == 1


def test_a_failed_picture_leaves_its_text_and_a_late_one_does_not_win(page: Any) -> None:
    assert page.evaluate("() => view.showPicture('/none.png', { emptyText: 'no such picture' })") is False
    page.wait_for_function("() => document.querySelector('.p3s-hint').textContent === 'no such picture'")
    loaded = page.evaluate("async () => Promise.all([view.showPicture('/wide.png'), view.showPicture('/tiny.png')])")
    assert loaded == [False, True]
    assert page.evaluate("() => view.picture") == {"width": 32, "height": 32}


def test_the_grid_is_that_of_the_clip_model(page: Any) -> None:
    def stage() -> np.ndarray:
        page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
        return np.asarray(Image.open(io.BytesIO(page.locator("canvas").screenshot())).convert("RGB"), dtype=int)

    def lines(grid: np.ndarray) -> int:
        """How many lines run from top to bottom."""
        at = np.flatnonzero((abs(grid - plain).max(2) > 8).mean(0) > 0.6)
        return int((np.diff(at, prepend=-100) > 6).sum())  # a line is some pixels wide

    page.evaluate("() => { window.answer = { state: 'unread' }; view.setMaskSource({ image: 'a', settings: {} }) }")
    plain = stage()
    page.locator("[data-command=grid]").click()
    assert lines(stage()) == 17
    page.evaluate("() => { answer = { state: 'problem', message: 'no point', grid: 12 }; view.refreshMasks() }")
    page.wait_for_timeout(500)
    assert lines(stage()) == 13
    assert "no point" not in page.locator(".p3s-picker").inner_text(), "nobody asked for the masks"
