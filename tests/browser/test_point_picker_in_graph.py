"""The editor as a part of a workflow: where its picture comes from, how its points are kept, how it ends."""

from __future__ import annotations

import json

import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage
from host.hosts import REPO

TWO_POINTS = '{"v":1,"positive":[[0.25,0.5]],"negative":[[0.75,0.125]]}'


def with_points(workflow: dict, value: str, node: int) -> dict:
    found = next(entry for entry in workflow["nodes"] if entry["id"] == node)
    found["widgets_values"][1] = value
    return workflow


def shown(editor_page: EditorPage) -> list[str]:
    """The points that the editor shows, as Tab visits them."""
    seen = []
    editor_page.page.locator(".p3s-keys").focus()
    editor_page.press("Escape")  # deselects, or leaves
    editor_page.page.locator(".p3s-keys").focus()
    for _ in range(10):
        editor_page.press("Tab")
        status = editor_page.status()
        if " at " not in status or not editor_page.page.evaluate(
            "() => document.activeElement.className === 'p3s-keys'"
        ):
            return seen
        seen.append(status.split("%")[0].split(" at ")[0])
    return seen


def test_points_survive_saving_and_loading(editor_page: EditorPage) -> None:
    editor_page.click(0.25, 0.5)
    editor_page.click(0.75, 0.125, button="right")
    value, workflow = editor_page.value, editor_page.workflow()
    assert workflow["nodes"][0]["widgets_values"][:2] == ["square.png", value]
    editor_page.load(EMPTY_GRAPH)
    editor_page.load(json.loads(json.dumps(workflow)))
    editor_page.wait_for_picture("square.png")
    assert editor_page.value == value
    assert shown(editor_page) == ["+1", "−1"]
    assert "base64" not in json.dumps(editor_page.workflow())


def test_points_survive_a_reload_of_the_page(editor_page: EditorPage) -> None:
    editor_page.click(0.2513, 0.5)
    value = editor_page.value
    # The frontend keeps its draft a moment after a change.
    kept = "(text) => Object.values({ ...localStorage, ...sessionStorage }).some((entry) => entry.includes(text))"
    editor_page.page.wait_for_function(kept, arg=str(editor_page.points["positive"][0][0]), timeout=30_000)
    editor_page.open()
    editor_page.wait_for_picture("square.png")
    assert editor_page.value == value


def test_a_copied_node_has_its_own_points(editor_page: EditorPage) -> None:
    editor_page.click(0.25, 0.5)
    value = editor_page.value
    copy = editor_page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            app.canvas.selectNode(node);
            app.canvas.copyToClipboard();
            app.canvas.pasteFromClipboard();
            return Number(app.graph.nodes.find((other) => other !== node).id);
        }""",
        editor_page.id,
    )
    editor_page.page.evaluate("(id) => { app.graph.getNodeById(id).pos = [850, 130] }", copy)
    editor_page.page.wait_for_function("() => document.querySelectorAll('.p3s-picker').length === 2")
    editor_page.looked_at_graph()
    assert editor_page.node(copy)["widgets_values"][1] == value
    editor_page.page.evaluate("(id) => app.graph.remove(app.graph.getNodeById(id))", copy)
    editor_page.page.wait_for_function("() => document.querySelectorAll('.p3s-picker').length === 1")
    editor_page.click(0.6, 0.6)
    assert len(editor_page.points["positive"]) == 2


def test_a_text_that_cannot_be_read_is_kept_and_named(editor_page: EditorPage) -> None:
    newer = '{"v":9,"positive":[[0.5,0.5]],"negative":[],"more":1}'
    editor_page.load(with_points(editor_page.workflow(), newer, editor_page.id))
    editor_page.wait_for_picture("square.png")
    assert "version 9" in editor_page.warning()
    assert editor_page.value == newer
    editor_page.click(0.5, 0.5)
    editor_page.settle()
    assert editor_page.warning() == ""
    assert editor_page.points == {"positive": [pytest.approx([0.5, 0.5], abs=0.01)], "negative": []}


def test_points_survive_in_a_subgraph(editor_page: EditorPage) -> None:
    editor_page.click(0.25, 0.5)
    value = editor_page.value
    shown_by = editor_page.add("PreviewImage", (900, 200))
    editor_page.connect(editor_page.id, shown_by, "images")
    sent = editor_page.page.evaluate(
        """async (id) => {
            const node = app.graph.getNodeById(id);
            app.graph.convertToSubgraph(new Set([node]));
            return (await app.graphToPrompt()).output;
        }""",
        editor_page.id,
    )
    pickers = [entry for entry in sent.values() if entry["class_type"] == "P3S_PointPicker"]
    assert [entry["inputs"]["points"] for entry in pickers] == [value]
    assert [entry["inputs"]["image"] for entry in pickers] == ["square.png"]


def test_another_file_shows_at_once_and_a_changed_shape_is_said(editor_page: EditorPage) -> None:
    page = editor_page.page
    editor_page.click(0.25, 0.5)
    value = editor_page.value
    choose = """([id, name]) => {
        const widget = app.graph.getNodeById(id).widgets.find((widget) => widget.name === 'image');
        widget.value = name;
        widget.callback?.(name);
    }"""
    page.evaluate(choose, [editor_page.id, "wide.png"])
    editor_page.wait_for_picture("wide.png")
    assert "640 × 640 to 900 × 300" in editor_page.warning()
    assert editor_page.value == value
    page.evaluate(choose, [editor_page.id, "tiny.png"])  # the old shape again
    editor_page.wait_for_picture("tiny.png")
    assert editor_page.warning() == ""


def test_the_picture_is_drawn_once_and_only_in_the_editor(editor_page: EditorPage) -> None:
    names = editor_page.page.evaluate("(id) => app.graph.getNodeById(id).widgets.map((w) => w.name)", editor_page.id)
    editor_page.looked_at_graph()
    assert [name for name in names if name != "upload"] == ["image", "points", "frame"]
    assert editor_page.page.locator(".image-preview img, .p3s-picker ~ img").count() == 0


def test_a_missing_file_is_said(editor_page: EditorPage) -> None:
    workflow = editor_page.workflow()
    workflow["nodes"][0]["widgets_values"][0] = "gone.png"
    editor_page.load(workflow)
    editor_page.becomes(lambda: "cannot be loaded" in editor_page.hint(), True)
    editor_page.page.mouse.click(editor_page.box()["x"] + 50, editor_page.box()["y"] + 50)
    assert editor_page.points == {"positive": [], "negative": []}
    editor_page.errors.clear()  # some frontends complain about the file themselves


def test_a_linked_load_image_shows_before_any_run(editor_page: EditorPage) -> None:
    loader = editor_page.add("LoadImage", (60, 130), {"image": "tall.png"})
    reroute = editor_page.add("Reroute", (300, 60))
    editor_page.connect(loader, reroute, "")
    editor_page.connect(reroute, editor_page.id, "linked_image")
    editor_page.wait_for_picture("tall.png")
    editor_page.page.evaluate("(id) => { app.graph.getNodeById(id).widgets[0].value = 'wide.png' }", loader)
    editor_page.wait_for_picture("wide.png")
    editor_page.page.evaluate("(id) => app.graph.getNodeById(id).disconnectInput(0)", editor_page.id)
    editor_page.wait_for_picture("square.png")


def test_a_computed_picture_shows_after_the_run_and_after_a_reload(editor_page: EditorPage) -> None:
    source = editor_page.add("EmptyImage", (60, 130), {"width": 320, "height": 160, "batch_size": 3, "color": 0x3366AA})
    editor_page.connect(source, editor_page.id, "linked_image")
    editor_page.becomes(editor_page.hint, "The linked picture appears here after a run.")
    preview = editor_page.add("PreviewImage", (900, 200))
    editor_page.connect(editor_page.id, preview, "images")
    sent = editor_page.queue()
    assert sent["history"]["status"]["status_str"] == "success"
    assert len(sent["history"]["outputs"][str(preview)]["images"]) == 1  # the first of the batch
    editor_page.wait_for_picture((320, 160))
    assert editor_page.status().startswith("First of 3 pictures.")
    editor_page.click(0.5, 0.5)
    assert editor_page.points["positive"][0] == pytest.approx([0.5, 0.5], abs=0.01)

    workflow = editor_page.workflow()
    assert "base64" not in json.dumps([workflow, sent["history"]])
    editor_page.load(workflow)
    editor_page.wait_for_picture((320, 160))
    same = editor_page.queue()  # nothing changed: the picture's reference must not make the workflow differ
    assert same["history"]["status"]["status_str"] == "success"
    assert editor_page.workflow()["nodes"][1]["properties"] == workflow["nodes"][1]["properties"]

    # A restarted server has emptied its temp folder: the points stay, and the picture is said to come with a run.
    value = editor_page.value
    for file in (editor_page.server.base / "temp").glob("p3s_*"):
        file.unlink()
    editor_page.load(EMPTY_GRAPH)
    editor_page.load(workflow)
    editor_page.becomes(editor_page.hint, "The linked picture appears here after a run.")
    assert editor_page.value == value
    editor_page.server.client.free()
    editor_page.queue()  # writes the same file again
    editor_page.wait_for_picture((320, 160))


def test_dropped_and_pasted_pictures_are_uploaded(editor_page: EditorPage) -> None:
    page = editor_page.page
    transfer = """async ([event, name]) => {
        const canvas = document.createElement('canvas');
        canvas.width = 200; canvas.height = 100;
        canvas.getContext('2d').fillRect(0, 0, 100, 100);
        const blob = await new Promise((done) => canvas.toBlob(done));
        const data = new DataTransfer();
        data.items.add(new File([blob], name, { type: 'image/png' }));
        document.querySelector('.p3s-keys').focus();
        const target = document.querySelector(event === 'drop' ? '.p3s-stage canvas' : '.p3s-keys');
        const options = { bubbles: true, cancelable: true, clientX: 500, clientY: 400 };
        if (event === 'drop') {
            target.dispatchEvent(new DragEvent('dragover', { ...options, dataTransfer: data }));
            target.dispatchEvent(new DragEvent('drop', { ...options, dataTransfer: data }));
        } else target.dispatchEvent(new ClipboardEvent('paste', { ...options, clipboardData: data }));
    }"""
    for event in ("drop", "paste"):
        editor_page.fresh("square.png")
        page.evaluate(transfer, [event, f"by_{event}.png"])
        editor_page.wait_for_picture((200, 100))
        assert f"by_{event}" in editor_page.node()["widgets_values"][0]
        assert len(editor_page.workflow()["nodes"]) == 1


def test_a_removed_node_lets_go_of_everything(editor_page: EditorPage) -> None:
    page = editor_page.page
    editor_page.load(EMPTY_GRAPH)
    page.wait_for_function("() => !document.querySelector('.p3s-picker')")
    before = page.evaluate("() => window.countHolds()")
    for _ in range(3):
        editor_page.add_picker("square.png")
        editor_page.click(0.5, 0.5)
        page.mouse.move(*editor_page.at(0.4, 0.4))
        during = page.evaluate("() => window.countHolds()")
        assert during["intervals"] > before["intervals"]
        assert during["listeners"] > before["listeners"]
        page.evaluate("(id) => app.graph.remove(app.graph.getNodeById(id))", editor_page.id)
        page.wait_for_function("() => !document.querySelector('.p3s-picker')")
    for kind in ("intervals", "listeners"):
        held = before[kind]
        editor_page.becomes(lambda kind=kind, held=held: page.evaluate("() => window.countHolds()")[kind] <= held, True)


def test_two_pickers_do_not_disturb_each_other(editor_page: EditorPage) -> None:
    page = editor_page.page
    first = editor_page.id
    editor_page.click(0.25, 0.5)
    second = editor_page.add("P3S_PointPicker", (830, 130), {"image": "wide.png"})
    page.wait_for_function(
        "() => [...document.querySelectorAll('.p3s-status')].some((line) => line.textContent.endsWith('900 × 300'))"
    )
    editor_page.still()
    box = page.locator(".p3s-stage canvas").nth(1).bounding_box()
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    values = [json.loads(editor_page.node(id)["widgets_values"][1]) for id in (first, second)]
    assert values[0]["positive"] == [pytest.approx([0.25, 0.5], abs=0.006)]
    assert values[1]["positive"] == [pytest.approx([0.5, 0.5], abs=0.006)]
    page.keyboard.press("Delete")
    editor_page.settle()
    assert json.loads(editor_page.node(first)["widgets_values"][1])["positive"] == values[0]["positive"]
    assert json.loads(editor_page.node(second)["widgets_values"][1])["positive"] == []


def test_a_linked_picker_names_no_file_that_may_be_missing(editor_page: EditorPage) -> None:
    """ComfyUI asks for missing files as soon as a workflow is opened, whether it uses them or not."""
    (editor_page.server.base / "input" / "example.png").unlink(missing_ok=True)
    failed: list[str] = []
    editor_page.page.on("response", lambda answer: failed.append(answer.url) if answer.status >= 400 else None)
    editor_page.load(json.loads((REPO / "example_workflows" / "try_without_downloads.json").read_text()))
    editor_page.looked_at_graph()
    editor_page.still()
    assert not [url for url in failed if "/view?" in url]
    assert "missing" not in editor_page.page.evaluate("() => document.body.innerText").lower()


def test_a_new_picker_asks_for_a_picture(editor_page: EditorPage) -> None:
    editor_page.load(EMPTY_GRAPH)
    editor_page.add("P3S_PointPicker", (420, 130))
    editor_page.looked_at_graph()
    assert "Choose, drop or paste a picture." in editor_page.hint()
    editor_page.still()
    stage = editor_page.page.locator(".p3s-stage canvas").bounding_box()
    assert stage is not None
    middle = stage["x"] + stage["width"] / 2, stage["y"] + stage["height"] / 3
    # Counted where the host asks the browser: not every chooser of an input outside the page is told to tests.
    editor_page.page.evaluate(
        "() => { window.choosers = 0; window.HTMLInputElement.prototype.click ="
        "function () { if (this.type === 'file') window.choosers += 1 } }"
    )
    editor_page.page.mouse.click(*middle)
    assert editor_page.page.evaluate("() => window.choosers") == 1
    editor_page.page.mouse.click(*middle, button="right")
    assert editor_page.page.evaluate("() => window.choosers") == 1
    assert editor_page.points == {"positive": [], "negative": []}
    editor_page.page.evaluate("() => { delete window.HTMLInputElement.prototype.click }")  # inherited again


def test_a_new_picker_is_wide_enough_for_one_row_of_buttons(editor_page: EditorPage) -> None:
    tops = editor_page.page.evaluate(
        "() => [...document.querySelectorAll('.p3s-bar button')].map((button) => button.getBoundingClientRect().y)"
    )
    assert len(tops) == 10
    assert len(set(tops)) == 1
