"""The curve of Weight Schedule in the real frontend: it shows the node's settings and sets them."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage
from PIL import Image

from p3s.sampling.schedule import Schedule, parse_keyframes

NAMES = ["kind", "alpha", "beta", "k", "value", "keyframes"]
CANVAS = ".p3s-plot canvas"
MARGIN = {"left": 30, "right": 12, "top": 10, "bottom": 20}
TOP = 1.5  # of the scale while no weight is above 1.4


class Curve:
    """A Weight Schedule on an empty graph."""

    def __init__(self, editor_page: EditorPage, **settings: Any) -> None:
        self.editor_page, self.page = editor_page, editor_page.page
        editor_page.load(EMPTY_GRAPH)
        self.id = editor_page.add("P3S_WeightSchedule", (420, 80), settings)
        self.page.wait_for_selector(CANVAS)
        self.ready()

    def ready(self) -> None:
        """Wait until the curve shows the node's settings, at its final place."""
        self.editor_page.looked_at_graph()
        self.editor_page.still()

    @property
    def settings(self) -> dict[str, Any]:
        return dict(zip(NAMES, self.editor_page.node(self.id)["widgets_values"], strict=False))

    def at(self, percent: float, weight: float) -> tuple[float, float]:
        box = self.page.locator(CANVAS).bounding_box()
        zoom = self.page.evaluate("() => app.canvas.ds.scale")
        left, right, top, bottom = (MARGIN[name] * zoom for name in ("left", "right", "top", "bottom"))
        x = box["x"] + left + percent * (box["width"] - left - right)
        return x, box["y"] + top + (1 - weight / TOP) * (box["height"] - top - bottom)

    def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down()
        self.page.mouse.move(*self.at(*end), steps=5)
        self.page.mouse.up()
        self.editor_page.settle()

    def set(self, name: str, value: Any) -> None:
        self.page.evaluate(
            """([id, name, value]) => {
                const widget = app.graph.getNodeById(id).widgets.find((widget) => widget.name === name);
                widget.value = value;
                widget.callback?.(value);
            }""",
            [self.id, name, value],
        )
        self.editor_page.looked_at_graph()

    def status(self) -> str:
        return self.page.locator(".p3s-curve-status").text_content() or ""

    def wait_for_status(self, start: str) -> None:
        self.page.wait_for_function(
            "(start) => document.querySelector('.p3s-curve-status')?.textContent.startsWith(start)",
            arg=start,
            timeout=20_000,
        )

    def pixels(self) -> np.ndarray:
        self.editor_page.settle()
        with Image.open(io.BytesIO(self.page.locator(".p3s-plot").screenshot())) as image:
            return np.asarray(image.convert("RGB"), dtype=int)


@pytest.fixture
def empty_page(frontend: EditorPage) -> Any:
    frontend.errors.clear()
    frontend.load(EMPTY_GRAPH)
    frontend.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0] }")
    yield frontend
    assert frontend.errors == []


def test_it_shows_the_curve_and_the_weights_at_the_steps(empty_page: EditorPage) -> None:
    curve = Curve(empty_page)
    assert curve.status() == "weight 0.70 at the first step, 1.20 at the last"
    paper = curve.pixels()
    assert (np.abs(paper - (0x60, 0xB0, 0xFF)).max(2) < 20).sum() > 100
    steps = curve.page.locator(".p3s-curve-row input")
    steps.fill("5")
    curve.page.mouse.move(*curve.at(0.5, 0.3))
    empty_page.settle()
    assert curve.status() == f"step 3 of 5: weight {Schedule().weight(499.5):.3f}"
    curve.set("kind", "decreasing")
    assert (curve.pixels() != paper).any()
    curve.page.mouse.move(*curve.at(1.0, 0.3))
    empty_page.settle()
    assert curve.status() == "step 5 of 5: weight 0.000"
    curve.set("kind", "learned")
    assert "stored in its file" in (curve.page.locator(".p3s-plot-hint").text_content() or "")
    curve.set("kind", "keyframes")
    curve.set("keyframes", "0:1, half:2")
    assert 'Keyframe 2: "half:2"' in (curve.page.locator(".p3s-plot-hint").text_content() or "")


def test_dragged_keyframes_reach_the_workflow_the_prompt_and_the_run(empty_page: EditorPage) -> None:
    curve = Curve(empty_page, kind="keyframes")
    place = empty_page.node(curve.id)["pos"]
    curve.drag((0.5, 1), (0.25, 0.4))
    pairs = parse_keyframes(curve.settings["keyframes"])
    assert pairs[1] == pytest.approx((0.25, 0.4), abs=0.02)
    assert (pairs[0], pairs[2]) == ((0, 0.7), (1, 1.2))
    curve.drag((0.75, 0.2), (0.8, 1.0))  # added where it is pressed, placed where it is released
    pairs = parse_keyframes(curve.settings["keyframes"])
    assert pairs[2] == pytest.approx((0.8, 1.0), abs=0.02)
    curve.page.mouse.click(*curve.at(0.8, 1.0), button="right")
    empty_page.settle()
    assert len(parse_keyframes(curve.settings["keyframes"])) == 3
    assert empty_page.node(curve.id)["pos"] == place

    empty_page.connect(curve.id, empty_page.add("PreviewImage", (900, 160)), "images", output=1)
    sent = empty_page.queue()
    assert sent["prompt"][str(curve.id)]["inputs"] == curve.settings  # and no value of the curve itself
    assert sent["history"]["status"]["status_str"] == "success"
    workflow = json.loads(json.dumps(empty_page.workflow()))
    empty_page.load(EMPTY_GRAPH)
    empty_page.load(workflow)
    curve.ready()
    assert curve.settings == dict(zip(NAMES, workflow["nodes"][0]["widgets_values"], strict=False))
    curve.page.mouse.move(*curve.at(*pairs[1]))
    empty_page.settle()
    assert parse_keyframes(curve.settings["keyframes"])[1] == pairs[1]


def test_the_number_of_steps_is_kept_with_the_workflow(empty_page: EditorPage) -> None:
    curve = Curve(empty_page)
    curve.page.locator(".p3s-curve-row input").fill("7")
    workflow = json.loads(json.dumps(empty_page.workflow()))
    empty_page.load(EMPTY_GRAPH)
    empty_page.load(workflow)
    read = curve.page.locator(".p3s-curve-row input").input_value
    empty_page.becomes(read, "7")


def test_the_steps_of_linked_sigmas_are_marked_after_a_run(empty_page: EditorPage) -> None:
    curve = Curve(empty_page, kind="increasing", k=1.0)
    page = curve.page
    steps = page.locator(".p3s-curve-row input")
    sigmas = empty_page.add("KarrasScheduler", (60, 160), {"steps": 4})
    empty_page.connect(sigmas, curve.id, "sigmas")
    curve.wait_for_status("The steps are marked once the workflow has run")
    assert steps.is_disabled()
    assert (np.abs(curve.pixels() - (0x60, 0xB0, 0xFF)).max(2) < 20).sum() > 100, "the curve is shown all the same"
    empty_page.connect(curve.id, empty_page.add("PreviewImage", (900, 160)), "images", output=1)
    sent = empty_page.queue()
    assert sent["history"]["status"]["status_str"] == "success"
    timesteps = sent["history"]["outputs"][str(curve.id)]["p3s_timesteps"]
    assert len(timesteps) == 4
    weights = [Schedule("increasing", k=1.0).weight(t) for t in timesteps]
    curve.wait_for_status(f"weight {weights[0]:.2f} at the first step, {weights[-1]:.2f} at the last")
    assert steps.input_value() == "4"
    page.mouse.move(*curve.at(1 - timesteps[1] / 999, 0.3))
    curve.wait_for_status(f"step 2 of 4: weight {weights[1]:.3f}")
    assert abs(timesteps[1] - 666) > 20, "not as if they were evenly spaced"

    workflow = json.loads(json.dumps(empty_page.workflow()))
    empty_page.load(EMPTY_GRAPH)
    empty_page.load(workflow)
    page.mouse.move(5, 5)
    curve.wait_for_status(f"weight {weights[0]:.2f} at the first step, {weights[-1]:.2f} at the last")
    page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            node.disconnectInput(node.inputs.findIndex((input) => input.name === 'sigmas'));
        }""",
        curve.id,
    )
    page.wait_for_function("() => !document.querySelector('.p3s-curve-row input').disabled")
    assert steps.input_value() == "20"


def test_the_ends_of_the_papers_curve_set_alpha_and_beta(empty_page: EditorPage) -> None:
    curve = Curve(empty_page)
    curve.drag((1, 1.2), (1, 1.0))
    settings = curve.settings
    assert settings["beta"] == pytest.approx(0.0, abs=0.03)
    assert 1 - settings["alpha"] * 0.999**2 + settings["beta"] == pytest.approx(0.7, abs=0.02)
    assert settings["kind"] == "paper"


def test_keys_undo_and_the_graphs_undo(empty_page: EditorPage) -> None:
    curve = Curve(empty_page, kind="keyframes")
    start = curve.settings["keyframes"]
    curve.page.mouse.click(*curve.at(0.5, 1))
    empty_page.press("ArrowUp", "ArrowUp", "Shift+ArrowRight")
    moved = curve.settings["keyframes"]
    assert parse_keyframes(moved)[1] == pytest.approx((0.6, 1.02))
    empty_page.press("Delete", "Delete", "Delete", "Delete")
    assert empty_page.node(curve.id)["id"] == curve.id
    assert len(parse_keyframes(curve.settings["keyframes"])) == 1
    empty_page.press("Control+z", "Control+z")
    assert curve.settings["keyframes"] == moved
    empty_page.press("Control+z")
    assert curve.settings["keyframes"] == start
    empty_page.press("Control+Shift+z")
    assert curve.settings["keyframes"] == moved
    curve.page.mouse.click(250, 750)  # the bare graph takes the focus
    empty_page.settle()
    for _ in range(8):
        if curve.settings["keyframes"] == start:
            break
        empty_page.press("Control+z")
        empty_page.still()
    assert curve.settings["keyframes"] == start


@pytest.mark.parametrize("graph_zoom", [0.6, 1.6])
def test_a_zoomed_graph(empty_page: EditorPage, graph_zoom: float) -> None:
    curve = Curve(empty_page, kind="keyframes")
    empty_page.show(graph_zoom, (-300, -60))
    curve.drag((0.5, 1), (0.3, 0.5))
    assert parse_keyframes(curve.settings["keyframes"])[1] == pytest.approx((0.3, 0.5), abs=0.03)


def test_touch_drags_a_keyframe_and_not_the_graph(empty_page: EditorPage) -> None:
    curve = Curve(empty_page, kind="keyframes")
    before = empty_page.view_of_graph()
    session = empty_page.context.new_cdp_session(curve.page)

    def touch(kind: str, *places: tuple[float, float]) -> None:
        points = [{"x": x, "y": y, "id": 0} for x, y in places]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", curve.at(0.5, 1))
    for i in range(1, 6):
        touch("touchMove", curve.at(0.5 + 0.04 * i, 1 - 0.1 * i))
    touch("touchEnd")
    empty_page.settle()
    assert parse_keyframes(curve.settings["keyframes"])[1] == pytest.approx((0.7, 0.5), abs=0.03)
    assert empty_page.view_of_graph() == before


def test_a_removed_node_lets_go_of_everything(empty_page: EditorPage) -> None:
    page = empty_page.page
    page.wait_for_function("() => !document.querySelector('.p3s-curve')")
    before = page.evaluate("() => window.countHolds()")
    for _ in range(3):
        curve = Curve(empty_page)
        page.mouse.move(*curve.at(0.5, 0.5))
        assert page.evaluate("() => window.countHolds()")["intervals"] > before["intervals"]
        page.evaluate("(id) => app.graph.remove(app.graph.getNodeById(id))", curve.id)
        page.wait_for_function("() => !document.querySelector('.p3s-curve')")
    for kind in ("intervals", "listeners"):
        held = before[kind]
        empty_page.becomes(lambda kind=kind, held=held: page.evaluate("() => window.countHolds()")[kind] <= held, True)


def test_labels_for_screen_readers(empty_page: EditorPage) -> None:
    curve = Curve(empty_page, kind="keyframes")
    keys = curve.page.locator(".p3s-curve .p3s-keys")
    assert keys.get_attribute("role") == "application"
    assert "Tab" in keys.get_attribute("aria-description")
    keys.focus()
    empty_page.press("Tab")
    assert curve.page.locator(".p3s-curve [aria-live]").text_content() == "Keyframe 1: 0 %, weight 0.70"
