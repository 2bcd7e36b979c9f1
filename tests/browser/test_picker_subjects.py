"""Several subjects, boxes, points from other nodes and frames of a batch, in the real frontend."""

from __future__ import annotations

import json
import os
from typing import Any

import pytest
from browser.editor_page import EditorPage

NEAR = 0.006
EMPTY = '{"v":1,"positive":[],"negative":[]}'
FOUND = '{"v":1,"positive":[[0.25,0.25]],"negative":[[0.75,0.75]]}'
OTHER = '{"v":1,"positive":[[0.5,0.75]],"negative":[]}'


def saved(page: EditorPage) -> list[dict[str, Any]]:
    """The subjects as the graph saves them."""
    content = json.loads(page.value)
    return [content] if content["v"] == 1 else content["subjects"]


def near(points: list[list[float]], *expected: tuple[float, ...]) -> None:
    assert len(points) == len(expected), points
    for point, place in zip(points, expected, strict=True):
        assert point == pytest.approx(list(place), abs=NEAR)


def text_node(page: EditorPage, value: str) -> int:
    return page.add("PrimitiveString", (60, 130), {"value": value})


def picture_of(page: EditorPage, name: str) -> None:
    """To be looked at: P3S_LOOK names a folder."""
    if folder := os.environ.get("P3S_LOOK"):
        page.page.locator(".p3s-picker").first.screenshot(path=f"{folder}/{name}_{page.renderer}.png")


def draw(page: EditorPage, start: tuple[float, float], end: tuple[float, float]) -> None:
    page.page.locator(".p3s-keys").focus()
    page.page.keyboard.down("b")
    page.drag(start, end)
    page.page.keyboard.up("b")
    page.settle()


def test_two_subjects_in_tabs_reach_the_prompt_and_their_outputs(editor_page: EditorPage) -> None:
    page = editor_page
    page.click(0.25, 0.5)
    page.button("addSubject").click()
    page.click(0.75, 0.25)
    page.click(0.8, 0.4)
    first, second = saved(page)
    near(first["positive"], (0.25, 0.5))
    near(second["positive"], (0.75, 0.25), (0.8, 0.4))
    picture_of(page, "subjects")
    page.button("subject1").click()
    page.settle()
    assert page.button("subject1").get_attribute("aria-pressed") == "true"
    assert page.status().startswith("Subject 1. − from other tabs: 2.")
    picture_of(page, "subjects_first")

    texts = [page.add("PreviewAny", (900, 100 + 200 * i)) for i in range(2)]
    for slot, shown in zip((2, 3), texts, strict=True):
        page.connect(page.id, shown, "source", output=slot)
    sent = page.queue()
    assert sent["prompt"][str(page.id)]["inputs"]["points"] == page.value
    outputs = sent["history"]["outputs"]
    shown = [json.loads(outputs[str(node)]["text"][0]) for node in texts]
    assert [len(points) for points in shown] == [1, 2], "the other subject's points are what to leave out"


def test_the_keyboard_alone_adds_chooses_and_removes_subjects(editor_page: EditorPage) -> None:
    page = editor_page
    page.page.locator(".p3s-keys").focus()
    page.press("Enter", "2", "-", "+", "Enter", "Shift+ArrowLeft")
    assert len(saved(page)) == 2
    near(saved(page)[1]["positive"], (0.5 - 10 / 640, 0.5))
    page.press("1", "Delete")  # nothing is selected: neither point nor node goes
    near(saved(page)[0]["positive"], (0.5, 0.5))
    page.press("2", "Shift+Delete")
    assert json.loads(page.value)["v"] == 1
    page.press("Control+z")
    assert len(saved(page)) == 2
    assert page.button("subject2").get_attribute("aria-pressed") == "true"


def test_the_graphs_undo_comes_back_to_the_subject_that_it_changes(editor_page: EditorPage) -> None:
    page = editor_page
    page.click(0.25, 0.5)
    page.button("addSubject").click()
    page.click(0.75, 0.25)
    page.settle()
    before = page.value
    page.click(0.8, 0.5)
    page.settle()
    after = page.value
    page.page.mouse.click(250, 700)
    page.settle()
    page.press("Control+z")
    page.becomes(lambda: page.value, before)
    page.becomes(lambda: page.button("subject2").get_attribute("aria-pressed"), "true")
    page.press("Control+y")
    page.becomes(lambda: page.value, after)


def test_subjects_and_boxes_survive_saving_copying_and_a_reload(editor_page: EditorPage) -> None:
    page = editor_page
    page.click(0.25, 0.5)
    draw(page, (0.1, 0.3), (0.4, 0.7))
    page.button("addSubject").click()
    page.click(0.75, 0.25)
    value = page.value
    page.load(page.workflow())
    page.wait_for_picture("square.png")
    assert page.value == value
    page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            app.canvas.selectItems ? app.canvas.selectItems([node]) : app.canvas.selectNode(node);
            app.canvas.copyToClipboard();
            app.canvas.pasteFromClipboard();
        }""",
        page.id,
    )
    page.settle()
    values = [node["widgets_values"][1] for node in page.workflow()["nodes"]]
    assert values == [value, value]


def test_boxes_are_drawn_moved_resized_and_removed(editor_page: EditorPage) -> None:
    page = editor_page
    place = page.node()["pos"]
    draw(page, (0.2, 0.3), (0.6, 0.7))
    near(saved(page)[0]["boxes"], (0.2, 0.3, 0.6, 0.7))
    page.button("boxes").click()
    page.settle()
    assert page.button("boxes").get_attribute("aria-pressed") == "true"
    page.drag((0.4, 0.5), (0.5, 0.6))
    near(saved(page)[0]["boxes"], (0.3, 0.4, 0.7, 0.8))
    page.drag((0.7, 0.8), (0.9, 0.9))
    near(saved(page)[0]["boxes"], (0.3, 0.4, 0.9, 0.9))
    page.drag((0.3, 0.6), (0.2, 0.6))
    near(saved(page)[0]["boxes"], (0.2, 0.4, 0.9, 0.9))
    assert page.status().startswith("Box 1: ")
    picture_of(page, "box")
    page.button("positive").click()
    page.click(0.5, 0.6)  # a box is no obstacle to points
    near(saved(page)[0]["positive"], (0.5, 0.6))
    page.press("Tab", "ArrowRight", "Control+ArrowDown")
    left, top, right, bottom = saved(page)[0]["boxes"][0]
    assert (left, bottom) == pytest.approx((0.2 + 1 / 640, 0.9 + 1 / 640), abs=NEAR)
    page.press("Delete")
    assert json.loads(page.value)["v"] == 1
    page.press("Control+z")
    assert saved(page)[0]["boxes"] == [[left, top, right, bottom]]
    page.button("clearBoxes").click()
    assert json.loads(page.value)["v"] == 1
    assert page.node()["pos"] == place


def test_b_alone_changes_the_tool_and_reaches_no_shortcut_of_the_graph(editor_page: EditorPage) -> None:
    """With Ctrl, ComfyUI's own B bypasses the selected node."""
    page = editor_page
    mode = page.node()["mode"]
    page.page.locator(".p3s-keys").focus()
    page.press("b")
    assert page.button("boxes").get_attribute("aria-pressed") == "true"
    page.press("b")
    assert page.button("boxes").get_attribute("aria-pressed") == "false"
    assert page.node()["mode"] == mode


def fed(page: EditorPage) -> int:
    """Connect a text with points to points_in, and show the output positive_coords; the id of the text's node."""
    text = text_node(page, FOUND)
    page.connect(text, page.id, "points_in")
    shown = page.add("PreviewAny", (900, 100))
    page.connect(page.id, shown, "source", output=2)
    return text


def test_points_come_in_and_edits_afterwards_stay(editor_page: EditorPage) -> None:
    page = editor_page
    fed(page)
    page.looked_at_graph()
    assert page.hint() == "The points from points_in appear here after a run. Or click your own."
    page.queue()
    page.becomes(lambda: "from points_in" in page.status(), True)
    assert page.status().startswith("+ 1   − 1")
    assert page.value == EMPTY, "what is only shown is not the user's"
    picture_of(page, "points_in")

    page.click(0.5, 0.5)
    near(saved(page)[0]["positive"], (0.25, 0.25), (0.5, 0.5))
    near(saved(page)[0]["negative"], (0.75, 0.75))
    edited = page.value
    sent = page.queue()
    (texts,) = [output["text"][0] for output in sent["history"]["outputs"].values() if "text" in output]
    assert len(json.loads(texts)) == 2
    assert page.value == edited
    assert not page.page.locator(".p3s-news").is_visible()


def test_other_points_are_offered_and_taken_by_a_button(editor_page: EditorPage) -> None:
    page = editor_page
    text = fed(page)
    page.queue()
    page.becomes(lambda: "from points_in" in page.status(), True)
    page.click(0.5, 0.5)
    edited = page.value
    page.page.evaluate("([id, value]) => { app.graph.getNodeById(id).widgets[0].value = value }", [text, OTHER])
    page.queue()
    page.page.locator(".p3s-news").wait_for(state="visible", timeout=10_000)
    assert page.value == edited
    picture_of(page, "news")
    page.button("take").click()
    assert page.value == EMPTY
    page.becomes(lambda: page.page.locator(".p3s-news").is_visible(), False)
    page.click(0.2, 0.2)
    near(saved(page)[0]["positive"], (0.5, 0.75), (0.2, 0.2))
    page.press("Control+z", "Control+z")
    assert page.value == edited


def test_points_that_came_in_are_shown_after_a_reload_and_not_without_the_wire(editor_page: EditorPage) -> None:
    page = editor_page
    fed(page)
    page.queue()
    page.becomes(lambda: "from points_in" in page.status(), True)
    page.load(page.workflow())
    page.wait_for_picture("square.png")
    page.becomes(lambda: "from points_in" in page.status(), True)
    page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            node.disconnectInput(node.inputs.findIndex(({ name }) => name === 'points_in'));
        }""",
        page.id,
    )
    page.becomes(lambda: page.status().startswith("+ 0   − 0"), True)


def test_a_frame_of_a_batch_shows_after_the_run(editor_page: EditorPage) -> None:
    page = editor_page
    pictures = [
        page.add("LoadImage", (60, 130 + 340 * i), {"image": name})
        for i, name in enumerate(("square.png", "square.png"))
    ]
    batch = page.add("ImageBatch", (60, 800))
    for node, name in zip(pictures, ("image1", "image2"), strict=True):
        page.connect(node, batch, name)
    page.connect(batch, page.id, "linked_image")
    preview = page.add("PreviewImage", (900, 400))
    page.connect(page.id, preview, "images")
    page.queue()
    page.becomes(lambda: page.status().startswith("First of 2 pictures."), True)

    def set_frame(value: int) -> None:
        page.page.evaluate(
            """([id, value]) => {
                app.graph.getNodeById(id).widgets.find(({ name }) => name === 'frame').value = value;
            }""",
            [page.id, value],
        )

    set_frame(1)
    page.becomes(page.hint, "The linked picture appears here after a run.")
    page.queue()
    page.becomes(lambda: page.status().startswith("Frame 1 of 2, counted from 0."), True)
    set_frame(0)
    page.becomes(page.hint, "The linked picture appears here after a run.")


def test_frame_takes_room_on_the_canvas_only_with_a_linked_picture(editor_page: EditorPage) -> None:
    if editor_page.renderer == "nodes2":
        pytest.skip("Nodes 2.0 folds advanced inputs away by itself")
    hidden = """(id) => app.graph.getNodeById(id).widgets.find(({ name }) => name === 'frame').hidden"""
    page = editor_page
    assert page.page.evaluate(hidden, page.id)
    page.connect(page.add("LoadImage", (60, 130), {"image": "square.png"}), page.id, "linked_image")
    assert not page.page.evaluate(hidden, page.id)


def test_the_masks_of_a_tab_are_those_of_the_node_at_its_output(editor_page: EditorPage) -> None:
    page = editor_page
    for slot, blur in ((1, 0.5), (4, 2.5)):
        node = page.add("P3S_RNGRMask", (900, 100 + 100 * slot), {"blur": blur})
        page.connect(page.id, node, "image")
        page.connect(page.id, node, "points", output=slot)
    asked: list[dict[str, Any]] = []
    page.page.on("request", lambda r: asked.append(r.post_data_json) if r.url.endswith("/p3s/masks") else None)

    def last() -> tuple[float, int, int] | None:
        if not asked:
            return None
        points = json.loads(asked[-1]["points"])
        return asked[-1]["settings"]["blur"], len(points["positive"]), len(points["negative"])

    page.click(0.25, 0.5)
    page.press("2")
    page.click(0.75, 0.25)
    page.click(0.75, 0.5)
    page.looked_at_graph()
    page.press("m")
    page.becomes(last, (2.5, 2, 1))
    page.press("1")
    page.becomes(last, (0.5, 1, 2))


def test_a_tab_whose_output_goes_nowhere_says_which(editor_page: EditorPage) -> None:
    page = editor_page
    page.press("Escape")
    page.page.locator(".p3s-keys").focus()
    page.press("2", "Enter", "m")
    page.becomes(page.hint, "Connect “points_2” to RNGR Mask: the masks appear here once it has run.")


def test_a_further_subject_without_an_rngr_mask_is_said_in_the_status_line(editor_page: EditorPage) -> None:
    page, lack = editor_page, "“points_2” needs its own RNGR Mask."
    page.click(0.25, 0.5)
    assert "RNGR Mask" not in page.status(), "the first subject's points may be for other nodes"
    page.button("addSubject").click()
    assert "RNGR Mask" not in page.status()
    page.click(0.75, 0.25)
    page.becomes(lambda: lack in page.status(), True)
    picture_of(page, "lack")
    whole = page.page.locator(".p3s-status span").all()
    assert [span.get_attribute("title") for span in whole] == [span.text_content() for span in whole]
    assert page.page.locator(".p3s-lack").evaluate("(span) => span.scrollWidth <= span.clientWidth"), "it is not cut"
    page.press("1")
    assert lack not in page.status()
    page.press("2")
    page.connect(page.id, page.add("P3S_RNGRMask", (900, 100)), "points", output=4)
    page.becomes(lambda: lack in page.status(), False)


@pytest.mark.parametrize(("more", "frame"), [(["image"], 0), ([], 0), (["image", 3], 3), ([3, "image"], 3)])
def test_saved_values_are_read_whatever_frontend_wrote_them(
    editor_page: EditorPage, more: list[Any], frame: int
) -> None:
    """Older versions had no frame, and saved a text of the upload button in its place."""
    page = editor_page
    page.click(0.25, 0.5)
    workflow, value = page.workflow(), page.value
    workflow["nodes"][0]["widgets_values"] = ["square.png", value, *more]
    page.load(workflow)
    page.wait_for_picture("square.png")
    inputs = page.page.evaluate("async () => (await app.graphToPrompt()).output")[str(page.id)]["inputs"]
    assert (inputs["image"], inputs["points"], inputs["frame"]) == ("square.png", value, frame)
