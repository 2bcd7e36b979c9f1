"""ComfyUI makes new nodes while the page lives: its own undo and redo, another tab, a subgraph, the other renderer.

After each the editor of the new node must be the one that is shown, and it must take clicks.
"""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from browser.conftest import FRONTENDS_WITHOUT_NODES2
from browser.editor_page import EditorPage
from browser.test_point_picker_in_graph import shown
from browser.test_weight_schedule import Curve
from host.hosts import Host

EMPTY_PLACE = (1000, 800)
REMEMBER = "() => { app.canvas.emitBeforeChange(); app.canvas.emitAfterChange() }"
MOVE = """([id, position]) => {
    app.canvas.emitBeforeChange();
    app.graph.getNodeById(id).pos = position;
    app.canvas.emitAfterChange();
    app.graph.setDirtyCanvas(true, true);
}"""
VISIBLE = ".p3s-picker:visible"


def remember(editor_page: EditorPage) -> None:
    """What the tests have done to the graph so far is no part of the next step of its undo."""
    editor_page.settle()
    editor_page.page.evaluate(REMEMBER)


def host_key(editor_page: EditorPage, key: str) -> None:
    """Press a key while the focus is on the graph, not in the editor; wait until ComfyUI has done what it does."""
    editor_page.page.mouse.click(*EMPTY_PLACE)
    editor_page.press(key)
    editor_page.looked_at_graph()
    editor_page.still()


def lives(editor_page: EditorPage, before: int) -> None:
    """One picker is shown, it shows the node's points, and a click adds one; the keys are the editor's."""
    editor_page.wait_for_picture("square.png")
    assert editor_page.page.locator(VISIBLE).count() == 1
    assert len(editor_page.points["positive"]) == before
    assert shown(editor_page) == [f"+{number}" for number in range(1, before + 1)]
    editor_page.click(0.3 + 0.1 * before, 0.8)
    editor_page.settle()
    assert len(editor_page.points["positive"]) == before + 1
    pressed = editor_page.button("grid").get_attribute("aria-pressed")
    editor_page.press("g")
    assert editor_page.button("grid").get_attribute("aria-pressed") != pressed
    editor_page.press("g")


def test_after_the_graphs_undo_and_redo_the_picker_shows_its_points_and_takes_clicks(editor_page: EditorPage) -> None:
    remember(editor_page)
    editor_page.click(0.25, 0.5)
    editor_page.press("m")
    host_key(editor_page, "Control+z")
    assert editor_page.points["positive"] == []
    lives(editor_page, 0)
    host_key(editor_page, "Control+z")
    assert editor_page.points["positive"] == []
    host_key(editor_page, "Control+Shift+z")
    lives(editor_page, 1)


def test_each_of_two_pickers_gets_its_own_editor_back(editor_page: EditorPage) -> None:
    page = editor_page.page
    first = editor_page.id
    second = editor_page.add("P3S_PointPicker", (830, 130), {"image": "wide.png"})
    page.wait_for_function("() => document.querySelectorAll('.p3s-picker').length === 2")
    editor_page.looked_at_graph()
    remember(editor_page)
    page.evaluate(MOVE, [second, [840, 140]])
    host_key(editor_page, "Control+z")
    assert page.locator(VISIBLE).count() == 2
    for index, node in enumerate((first, second)):
        box = page.locator(".p3s-stage canvas").nth(index).bounding_box()
        page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        editor_page.settle()
        assert len(json.loads(editor_page.node(node)["widgets_values"][1])["positive"]) == 1


def test_the_same_workflow_loaded_over_itself(editor_page: EditorPage) -> None:
    editor_page.click(0.25, 0.5)
    workflow = editor_page.workflow()
    editor_page.click(0.75, 0.5)
    editor_page.load(workflow)
    editor_page.still()
    lives(editor_page, 1)


def test_a_visit_to_another_tab(editor_page: EditorPage) -> None:
    page = editor_page.page
    editor_page.click(0.25, 0.5)
    editor_page.settle()
    page.evaluate("() => { window.here = app.extensionManager.workflow.activeWorkflow.path }")
    workflow = editor_page.workflow()
    page.evaluate("async (other) => { await app.loadGraphData(other, true, true, null) }", workflow)  # a copy of it
    editor_page.looked_at_graph()
    lives(editor_page, 1)
    page.evaluate("() => app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    editor_page.becomes(
        lambda: page.evaluate("() => app.extensionManager.workflow.activeWorkflow.path === window.here"), True
    )
    editor_page.still()
    lives(editor_page, 1)


def test_undo_inside_a_subgraph(editor_page: EditorPage) -> None:
    page = editor_page.page
    editor_page.click(0.25, 0.5)
    page.evaluate(
        """(id) => {
            const outer = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])).node;
            app.canvas.openSubgraph(outer.subgraph, outer);
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [0, 0];
        }""",
        editor_page.id,
    )
    editor_page.looked_at_graph()
    editor_page.still()
    read = """() => {
        const graph = app.canvas.graph;
        const node = graph.nodes.find((node) => node.comfyClass === 'P3S_PointPicker');
        return JSON.parse(node.widgets.find((widget) => widget.name === 'points').value).positive.length;
    }"""
    editor_page.wait_for_picture("square.png")
    remember(editor_page)
    editor_page.click(0.75, 0.5)
    editor_page.settle()
    assert page.evaluate(read) == 2
    host_key(editor_page, "Control+z")
    editor_page.wait_for_picture("square.png")
    assert page.locator(VISIBLE).count() == 1
    before = page.evaluate(read)
    editor_page.click(0.5, 0.8)
    editor_page.settle()
    assert page.evaluate(read) == before + 1
    page.evaluate("() => app.canvas.setGraph(app.rootGraph ?? app.graph)")


def test_fresh_node_definitions(editor_page: EditorPage) -> None:
    editor_page.click(0.25, 0.5)
    editor_page.settle()
    host_key(editor_page, "r")
    lives(editor_page, 1)


@pytest.fixture
def other_renderer(editor_page: EditorPage, host: Host) -> Iterator[EditorPage]:
    if host.version in FRONTENDS_WITHOUT_NODES2:
        pytest.skip("this ComfyUI has no Nodes 2.0 that draws custom widgets")
    yield editor_page
    editor_page.use_renderer(editor_page.renderer)


def test_undo_before_and_after_the_other_renderer(other_renderer: EditorPage) -> None:
    editor_page = other_renderer
    other = "classic" if editor_page.renderer == "nodes2" else "nodes2"
    remember(editor_page)
    editor_page.click(0.25, 0.5)
    editor_page.click(0.75, 0.5)
    host_key(editor_page, "Control+z")
    editor_page.use_renderer(other)
    lives(editor_page, 1)
    host_key(editor_page, "Control+z")
    lives(editor_page, 1)
    editor_page.use_renderer(editor_page.renderer)
    lives(editor_page, 2)


def test_after_the_graphs_undo_the_curve_shows_its_settings_and_is_dragged(editor_page: EditorPage) -> None:
    curve = Curve(editor_page, kind="fixed", value=0.5)
    remember(editor_page)
    curve.drag((0.5, 0.5), (0.5, 1.0))
    assert curve.settings["value"] == pytest.approx(1.0, abs=0.03)
    host_key(editor_page, "Control+z")
    assert curve.settings["value"] == 0.5
    assert editor_page.page.locator(".p3s-curve:visible").count() == 1
    curve.wait_for_status("weight 0.50")
    curve.drag((0.5, 0.5), (0.5, 0.8))
    value = curve.settings["value"]
    assert value == pytest.approx(0.8, abs=0.03)
    host_key(editor_page, "Control+z")
    curve.wait_for_status("weight 0.50")
    host_key(editor_page, "Control+Shift+z")
    assert curve.settings["value"] == value
    curve.wait_for_status(f"weight {value:.2f}")


def test_the_run_picture_stays_over_the_graphs_undo_and_goes_with_its_link(editor_page: EditorPage) -> None:
    page = editor_page.page
    empty = {"height": 160, "batch_size": 1, "color": 0x3366AA}
    first = editor_page.add("EmptyImage", (60, 130), {"width": 320, **empty})
    second = editor_page.add("EmptyImage", (60, 430), {"width": 240, **empty})
    preview = editor_page.add("PreviewImage", (900, 200))
    editor_page.connect(editor_page.id, preview, "images")
    remember(editor_page)
    editor_page.connect(first, editor_page.id, "linked_image")
    remember(editor_page)
    editor_page.becomes(editor_page.hint, "The linked picture appears here after a run.")
    editor_page.queue()
    editor_page.wait_for_picture((320, 160))
    page.evaluate(MOVE, [preview, [920, 220]])
    host_key(editor_page, "Control+z")
    editor_page.wait_for_picture((320, 160))
    editor_page.stays(editor_page.hint, "Click the subject. Right-click what to leave out.", 1)
    # What is shown must not have made a step that ends the redo. ComfyUI's own preview makes one at the next click, or
    # where the keys are up again before ComfyUI has looked at them.
    page.keyboard.press("Control+Shift+z", delay=200)
    editor_page.looked_at_graph()
    assert editor_page.node(preview)["pos"][0] == 920
    editor_page.wait_for_picture((320, 160))
    editor_page.click(0.5, 0.5)
    assert len(editor_page.points["positive"]) == 1

    editor_page.connect(second, editor_page.id, "linked_image")
    remember(editor_page)
    editor_page.queue()
    editor_page.wait_for_picture((240, 160))
    page.evaluate(MOVE, [preview, [940, 240]])
    host_key(editor_page, "Control+z")
    editor_page.wait_for_picture((240, 160))
    origin = """(id) => {
        const node = app.graph.getNodeById(id);
        const slot = node.inputs.findIndex((input) => input.name === 'linked_image');
        return Number(node.getInputNode(slot)?.id);
    }"""
    for _ in range(4):  # some of the steps are ComfyUI's own
        if page.evaluate(origin, editor_page.id) == first:
            break
        editor_page.press("Control+z")
        editor_page.looked_at_graph()
    editor_page.wait_for_picture((320, 160))  # the first link's own


def test_no_warning_of_a_shape_where_no_picture_is(editor_page: EditorPage) -> None:
    choose = """([id, name]) => {
        const widget = app.graph.getNodeById(id).widgets.find((widget) => widget.name === 'image');
        widget.value = name;
        widget.callback?.(name);
    }"""
    editor_page.click(0.25, 0.5)
    editor_page.page.evaluate(choose, [editor_page.id, "wide.png"])
    editor_page.wait_for_picture("wide.png")
    editor_page.becomes(lambda: "640 × 640 to 900 × 300" in editor_page.warning(), True)
    editor_page.page.evaluate(choose, [editor_page.id, ""])
    editor_page.becomes(editor_page.hint, "Choose, drop or paste a picture.")
    editor_page.becomes(editor_page.warning, "")
    editor_page.page.evaluate(choose, [editor_page.id, "wide.png"])
    editor_page.wait_for_picture("wide.png")
    editor_page.becomes(lambda: "640 × 640 to 900 × 300" in editor_page.warning(), True)
