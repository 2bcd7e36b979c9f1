"""The editor in the real frontend: every gesture, and what is saved and sent because of it."""

from __future__ import annotations

import io
import json
from typing import Any

import numpy as np
import pytest
from browser.editor_page import EditorPage
from PIL import Image

NEAR = 0.006  # of the picture: a screen pixel is about 1/300 of it


def near(points: list[list[float]], expected: list[tuple[float, float]]) -> None:
    assert len(points) == len(expected), points
    for point, place in zip(points, expected, strict=True):
        assert point == pytest.approx(list(place), abs=NEAR)


def test_it_starts_empty_with_one_line_of_instruction(editor_page: EditorPage) -> None:
    assert editor_page.value == '{"v":1,"positive":[],"negative":[]}'
    assert editor_page.hint() == "Click the subject. Right-click what to leave out."
    editor_page.click(0.5, 0.5)
    editor_page.settle()
    assert editor_page.hint() == ""


def test_clicks_reach_the_workflow_the_prompt_and_the_run(editor_page: EditorPage) -> None:
    editor_page.click(0.25, 0.5)
    editor_page.click(0.75, 0.25, button="right")
    points = editor_page.points
    near(points["positive"], [(0.25, 0.5)])
    near(points["negative"], [(0.75, 0.25)])

    for slot in (2, 3):
        shown = editor_page.add("PreviewAny", (900, 100 + 200 * slot))
        editor_page.connect(editor_page.id, shown, "source", output=slot)
    sent = editor_page.queue()
    inputs = sent["prompt"][str(editor_page.id)]["inputs"]
    assert inputs["points"] == editor_page.value
    assert inputs["image"] == "square.png"
    assert sent["history"]["status"]["status_str"] == "success"
    texts = [output["text"][0] for output in sent["history"]["outputs"].values() if "text" in output]
    expected = [
        [{"x": round(x * 640), "y": round(y * 640)} for x, y in points[sign]] for sign in ("positive", "negative")
    ]
    assert sorted(texts) == sorted(json.dumps(points) for points in expected)


def test_the_toggle_alt_and_x_choose_the_sign(editor_page: EditorPage) -> None:
    editor_page.button("negative").click()
    assert editor_page.button("negative").get_attribute("aria-pressed") == "true"
    editor_page.click(0.2, 0.2)
    near(editor_page.points["negative"], [(0.2, 0.2)])
    editor_page.press("Escape", "x")
    editor_page.click(0.4, 0.2)
    near(editor_page.points["positive"], [(0.4, 0.2)])
    editor_page.page.keyboard.down("Alt")
    editor_page.click(0.6, 0.2)
    editor_page.page.keyboard.up("Alt")
    near(editor_page.points["negative"], [(0.2, 0.2), (0.6, 0.2)])
    editor_page.press("x")  # the selected point changes its sign
    near(editor_page.points["positive"], [(0.4, 0.2), (0.6, 0.2)])


def test_drag_moves_a_point_and_not_the_node(editor_page: EditorPage) -> None:
    editor_page.click(0.5, 0.5)
    place = editor_page.node()["pos"]
    editor_page.drag((0.5, 0.5), (0.2, 0.8))
    near(editor_page.points["positive"], [(0.2, 0.8)])
    editor_page.drag((0.7, 0.3), (0.9, 0.1))  # on the bare picture: placed where it is released
    near(editor_page.points["positive"], [(0.2, 0.8), (0.9, 0.1)])
    assert editor_page.node()["pos"] == place


def test_keys_act_on_points_and_not_on_the_graph(editor_page: EditorPage) -> None:
    editor_page.click(0.5, 0.5)
    before = editor_page.points["positive"][0]
    editor_page.press("ArrowRight", "Shift+ArrowDown")
    moved = editor_page.points["positive"][0]
    assert moved == pytest.approx([before[0] + 1 / 640, before[1] + 10 / 640], abs=2e-6)
    editor_page.click(0.2, 0.2, button="right")
    editor_page.press("Escape", "Tab")
    assert editor_page.status().startswith("+1 at ")
    editor_page.press("Tab")
    assert editor_page.status().startswith("−1 at ")
    editor_page.press("Delete")
    assert editor_page.points["negative"] == []
    editor_page.press("Delete", "Backspace", "Delete")  # nothing selected: the node must not go instead
    assert editor_page.node()["id"] == editor_page.id


def test_keyboard_alone_is_enough(editor_page: EditorPage) -> None:
    editor_page.button("clearNegative").focus()
    editor_page.button("positive").focus()
    editor_page.page.locator(".p3s-keys").focus()
    editor_page.press("Enter", "Shift+ArrowLeft", "-", "Enter")
    near(editor_page.points["positive"], [(0.5 - 10 / 640, 0.5)])
    near(editor_page.points["negative"], [(0.5, 0.5)])


def test_undo_and_redo_are_the_editors_while_it_has_the_focus(editor_page: EditorPage) -> None:
    page = editor_page.page
    page.evaluate("(id) => { window.same = app.graph.getNodeById(id) }", editor_page.id)
    values = [editor_page.value]
    for x in (0.2, 0.4, 0.6):
        editor_page.click(x, 0.5)
        values.append(editor_page.value)
    for value in reversed(values[:-1]):
        editor_page.press("Control+z")
        editor_page.stays(lambda: editor_page.value, value, 0.15)  # the graph's undo may not interfere
    editor_page.press("Control+z")
    editor_page.stays(lambda: editor_page.value, values[0])
    assert page.evaluate("(id) => app.graph.getNodeById(id) === window.same", editor_page.id)
    for value in values[1:]:
        editor_page.press("Control+Shift+z")
        assert editor_page.value == value
    editor_page.press("Control+z", "Control+y")
    assert editor_page.value == values[-1]
    editor_page.button("undo").click()
    assert editor_page.value == values[-2]


def test_the_graphs_undo_takes_back_points_too(editor_page: EditorPage) -> None:
    editor_page.click(0.2, 0.5)
    editor_page.settle()
    first = editor_page.value
    editor_page.click(0.6, 0.5)
    editor_page.settle()
    second = editor_page.value
    editor_page.page.mouse.click(250, 700)  # the bare graph takes the focus
    editor_page.settle()
    editor_page.press("Control+z")
    editor_page.becomes(lambda: editor_page.value, first)
    editor_page.press("Control+y")
    editor_page.becomes(lambda: editor_page.value, second)


def test_clear_buttons_take_one_sign(editor_page: EditorPage) -> None:
    editor_page.click(0.2, 0.5)
    editor_page.click(0.6, 0.5, button="right")
    editor_page.button("clearPositive").click()
    assert editor_page.points["positive"] == []
    near(editor_page.points["negative"], [(0.6, 0.5)])
    editor_page.button("clearNegative").click()
    assert editor_page.points["negative"] == []
    editor_page.press("Control+z")  # a pressed button leaves the keys to the stage
    near(editor_page.points["negative"], [(0.6, 0.5)])


def test_wheel_zooms_the_picture_when_focused_and_the_graph_when_not(editor_page: EditorPage) -> None:
    page = editor_page.page
    page.mouse.click(250, 700)
    page.mouse.move(*editor_page.at(0.3, 0.3))
    before = editor_page.view_of_graph()
    page.mouse.wheel(0, 120)
    editor_page.becomes(lambda: editor_page.view_of_graph()[0] < before[0], True)
    assert editor_page.zoom() == 100
    page.mouse.wheel(0, -120)
    editor_page.becomes(lambda: editor_page.view_of_graph()[0] > 0.99 * before[0], True)
    editor_page.still()

    editor_page.click(0.3, 0.3)
    before = editor_page.view_of_graph()
    where = editor_page.at(0.3, 0.3)
    page.mouse.move(*where)
    page.mouse.wheel(0, -400)
    editor_page.becomes(lambda: editor_page.zoom() > 150, True)
    assert editor_page.view_of_graph() == before
    # What was under the pointer still is: the point that was clicked.
    page.mouse.move(where[0] + 3, where[1])
    editor_page.settle()
    assert editor_page.status().startswith("+1 at ")


def test_control_wheel_zooms_without_focus(editor_page: EditorPage) -> None:
    page = editor_page.page
    page.mouse.click(250, 700)
    before = editor_page.view_of_graph()
    page.mouse.move(*editor_page.at(0.5, 0.5))
    page.keyboard.down("Control")
    page.mouse.wheel(0, -300)
    page.keyboard.up("Control")
    editor_page.becomes(lambda: editor_page.zoom() > 120, True)
    assert editor_page.view_of_graph() == before


@pytest.mark.parametrize("how", ["space", "middle"])
def test_pan_moves_the_picture_and_not_the_graph(editor_page: EditorPage, how: str) -> None:
    page = editor_page.page
    editor_page.click(0.5, 0.5)
    value = editor_page.value
    page.mouse.wheel(0, -500)
    editor_page.settle()
    before = editor_page.view_of_graph()
    x, y = editor_page.at(0.5, 0.5)
    if how == "space":
        page.keyboard.down(" ")
    page.mouse.move(x, y)
    page.mouse.down(button="middle" if how == "middle" else "left")
    page.mouse.move(x + 40, y + 25, steps=5)
    page.mouse.up(button="middle" if how == "middle" else "left")
    if how == "space":
        page.keyboard.up(" ")
    page.mouse.move(x + 42, y + 25)
    editor_page.settle()
    assert editor_page.status().startswith("+1 at ")  # the point came along and lies under the pointer
    assert editor_page.view_of_graph() == before
    assert editor_page.value == value


def test_double_click_fits_and_adds_nothing(editor_page: EditorPage) -> None:
    page = editor_page.page
    editor_page.click(0.5, 0.5)
    value = editor_page.value
    page.mouse.wheel(0, -500)
    editor_page.settle()
    assert editor_page.zoom() > 150
    x, y = editor_page.at(0.5, 0.5)
    page.mouse.dblclick(x + 80, y + 60)
    editor_page.settle()
    assert editor_page.zoom() == 100
    assert editor_page.value == value


def touch(page: Any, session: Any, kind: str, *places: tuple[float, float]) -> None:
    points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
    session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})


def test_touch_places_drags_and_pinches(editor_page: EditorPage) -> None:
    page = editor_page.page
    session = editor_page.context.new_cdp_session(page)
    touch(page, session, "touchStart", editor_page.at(0.3, 0.3))
    touch(page, session, "touchEnd")
    near(editor_page.points["positive"], [(0.3, 0.3)])
    touch(page, session, "touchStart", editor_page.at(0.3, 0.3))
    for step in range(1, 6):
        touch(page, session, "touchMove", editor_page.at(0.3 + 0.06 * step, 0.3 + 0.04 * step))
    touch(page, session, "touchEnd")
    near(editor_page.points["positive"], [(0.6, 0.5)])

    before = editor_page.view_of_graph()
    left, right = editor_page.at(0.4, 0.8), editor_page.at(0.6, 0.8)
    touch(page, session, "touchStart", left)
    touch(page, session, "touchStart", left, right)
    for step in range(1, 6):
        touch(page, session, "touchMove", (left[0] - 8 * step, left[1]), (right[0] + 8 * step, right[1]))
    touch(page, session, "touchEnd")
    editor_page.becomes(lambda: editor_page.zoom() > 130, True)
    assert len(editor_page.points["positive"]) == 1
    assert editor_page.view_of_graph() == before


@pytest.mark.parametrize("graph_zoom", [0.5, 1.7])
def test_clicks_land_right_in_a_zoomed_graph(editor_page: EditorPage, graph_zoom: float) -> None:
    editor_page.show(graph_zoom, (-260, -60))
    editor_page.click(0.25, 0.3)
    editor_page.click(0.7, 0.6, button="right")
    points = editor_page.points
    assert points["positive"][0] == pytest.approx([0.25, 0.3], abs=0.01)
    assert points["negative"][0] == pytest.approx([0.7, 0.6], abs=0.01)


@pytest.mark.parametrize("picture", ["wide.png", "tall.png", "tiny.png"])
def test_pictures_of_other_shapes(editor_page: EditorPage, picture: str) -> None:
    editor_page.fresh(picture)
    editor_page.click(0.25, 0.75)
    assert editor_page.points["positive"][0] == pytest.approx([0.25, 0.75], abs=0.02)
    box, (x, _) = editor_page.box(), editor_page.at(0, 0)
    if x - box["x"] > 20:  # the empty border beside a tall picture
        editor_page.page.mouse.click(box["x"] + 8, box["y"] + 8)
        assert len(editor_page.points["positive"]) == 1


def test_pasted_strings_of_kjnodes_and_our_own(editor_page: EditorPage) -> None:
    page = editor_page.page

    def paste(text: str) -> None:
        page.locator(".p3s-keys").focus()
        page.evaluate(
            """(text) => {
                const data = new DataTransfer();
                data.setData('text/plain', text);
                document.activeElement.dispatchEvent(
                    new ClipboardEvent('paste', { clipboardData: data, bubbles: true, cancelable: true }));
            }""",
            text,
        )
        editor_page.settle()

    nodes = len(editor_page.workflow()["nodes"])
    paste('[{"x": 64, "y": 319.5}]')
    assert editor_page.points == {"positive": [[0.100781, 0.5]], "negative": []}  # the pixel's middle, 64.5 / 640
    paste('{"positive": [{"x": 319.5, "y": 319.5}], "negative": [{"x": 0, "y": 640}]}')
    assert editor_page.points == {"positive": [[0.5, 0.5]], "negative": [[0.000781, 1]]}
    paste('[{"x": 999, "y": 320}]')
    assert "outside" in editor_page.status()
    assert editor_page.points["positive"] == [[0.5, 0.5]]
    paste('{"v":1,"positive":[[0.2,0.3]],"negative":[]}')
    assert editor_page.points == {"positive": [[0.2, 0.3]], "negative": []}
    page.evaluate('() => navigator.clipboard.writeText(\'[{"x": 319.5, "y": 63.5}]\')')
    editor_page.press("Control+v")
    editor_page.becomes(lambda: editor_page.points["positive"], [[0.5, 0.1]])
    editor_page.press("a", "Control+a")  # nothing is typed, selected or added
    assert page.locator(".p3s-keys").input_value() == ""
    assert len(editor_page.workflow()["nodes"]) == nodes


def test_the_grid_is_shown_on_demand_and_changes_no_value(editor_page: EditorPage) -> None:
    value = editor_page.value
    stage = editor_page.page.locator(".p3s-stage")
    bare = stage.screenshot()
    editor_page.button("grid").click()
    editor_page.settle()
    assert editor_page.button("grid").get_attribute("aria-pressed") == "true"
    assert stage.screenshot() != bare
    assert editor_page.value == value


def test_labels_for_screen_readers(editor_page: EditorPage) -> None:
    page = editor_page.page
    keys = page.locator(".p3s-keys")
    assert keys.get_attribute("role") == "application"
    assert keys.get_attribute("aria-label")
    assert "Tab" in keys.get_attribute("aria-description")
    for button in page.locator(".p3s-picker button:not([hidden])").all():
        assert button.get_attribute("aria-label")
    editor_page.click(0.5, 0.25)
    editor_page.settle()
    assert page.locator(".p3s-picker [aria-live]").text_content() == "Positive point 1 at 320, 160"


def test_a_loupe_shows_the_place_while_a_point_is_carried(editor_page: EditorPage) -> None:
    page, gap, radius = editor_page.page, 16, 46

    def around_loupe() -> np.ndarray:
        """The place above the point: where the loupe's middle is."""
        editor_page.settle()
        x, y = editor_page.at(0.5, 0.75)
        clip = {"x": x - radius / 2, "y": y - gap - 1.5 * radius, "width": radius, "height": radius}
        with Image.open(io.BytesIO(page.screenshot(clip=clip, scale="css"))) as image:
            return np.asarray(image.convert("RGB"), dtype=int)

    bare = around_loupe()
    page.mouse.move(*editor_page.at(0.25, 0.25))
    page.mouse.down()
    page.mouse.move(*editor_page.at(0.5, 0.75), steps=4)
    carried = around_loupe()
    page.mouse.up()
    page.mouse.move(5, 700)
    # Red is the place from left to right, green from top to bottom: in the loupe they are those of the point.
    middle = carried[:10, :10].reshape(-1, 3).mean(0)
    assert middle[:2] == pytest.approx([0.5 * 255, 0.75 * 255], abs=12)
    assert bare[:10, :10].reshape(-1, 3).mean(0)[1] < 0.75 * 255 - 20
    after = around_loupe()
    np.testing.assert_allclose(after, bare, atol=2)
    near(editor_page.points["positive"], [(0.5, 0.75)])


def test_a_pen_places_and_drags_without_a_key(editor_page: EditorPage) -> None:
    session = editor_page.context.new_cdp_session(editor_page.page)

    def pen(kind: str, place: tuple[float, float]) -> None:
        x, y = editor_page.at(*place)
        pressed = {"button": "left", "buttons": 1, "clickCount": 1, "pointerType": "pen", "force": 0.5}
        session.send("Input.dispatchMouseEvent", {"type": kind, "x": x, "y": y, **pressed})

    for start, end in (((0.3, 0.3), (0.3, 0.3)), ((0.3, 0.3), (0.6, 0.5))):
        pen("mousePressed", start)
        pen("mouseMoved", end)
        pen("mouseReleased", end)
    editor_page.settle()
    near(editor_page.points["positive"], [(0.6, 0.5)])
