"""Inside a subgraph: the editor works there, and what the subgraph promotes to its outside is what the editor shows."""

from __future__ import annotations

import json
from typing import Any

import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage

WRAP = """(id) => {
    const outer = app.graph.convertToSubgraph(new Set([app.graph.getNodeById(id)])).node;
    return outer.subgraph.nodes.map((node) => Number(node.id))[0];
}"""
ENTER = """() => {
    const outer = app.graph.nodes.find((node) => node.subgraph);
    app.canvas.openSubgraph(outer.subgraph, outer);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [0, 0];
    app.canvas.setDirty(true, true);
}"""
LEAVE = "() => app.canvas.setGraph(app.rootGraph ?? app.graph)"
# What "promote widget" and a wire from the subgraph's own input do.
PROMOTE = """([name, as]) => {
    const outer = app.graph.nodes.find((node) => node.subgraph);
    const inner = outer.subgraph.nodes.find((node) => node.widgets?.some((widget) => widget.name === name));
    const slot = inner.inputs.find((input) => input.name === name);
    if (!slot) return false;
    outer.subgraph.addInput(as, String(slot.type)).connect(slot, inner);
    return true;
}"""
SET_OUTSIDE = """([name, value]) => {
    const outer = (app.rootGraph ?? app.graph).nodes.find((node) => node.subgraph);
    const widget = outer.widgets.find((widget) => widget.name === name);
    widget.value = value;
    widget.callback?.(value);
}"""
INNER = """(kind) => {
    const outer = (app.rootGraph ?? app.graph).nodes.find((node) => node.subgraph);
    const node = outer.subgraph.nodes.find((node) => node.comfyClass === kind);
    return JSON.parse(JSON.stringify(node.serialize()));
}"""


@pytest.fixture
def inside(editor_page: EditorPage) -> EditorPage:
    """A picker with one point, wrapped in a subgraph; the view is inside."""
    editor_page.click(0.25, 0.5)
    shown = editor_page.add("PreviewImage", (900, 200))
    editor_page.connect(editor_page.id, shown, "images")
    editor_page.page.evaluate(WRAP, editor_page.id)
    enter(editor_page)
    editor_page.wait_for_picture("square.png")
    return editor_page


def enter(editor_page: EditorPage) -> None:
    editor_page.page.evaluate(ENTER)
    editor_page.looked_at_graph()
    editor_page.still()


def leave(editor_page: EditorPage) -> None:
    editor_page.page.evaluate(LEAVE)
    editor_page.still()


def points(editor_page: EditorPage) -> dict[str, Any]:
    return json.loads(editor_page.page.evaluate(INNER, "P3S_PointPicker")["widgets_values"][1])


def sent(editor_page: EditorPage) -> dict[str, Any]:
    output = editor_page.page.evaluate("async () => (await app.graphToPrompt()).output")
    (picker,) = [node for node in output.values() if node["class_type"] == "P3S_PointPicker"]
    return picker["inputs"]


def test_the_editor_works_inside_and_keeps_its_points(inside: EditorPage) -> None:
    inside.click(0.75, 0.25, button="right")
    inside.settle()
    value = points(inside)
    assert value["positive"] == [pytest.approx([0.25, 0.5], abs=0.006)]
    assert value["negative"] == [pytest.approx([0.75, 0.25], abs=0.006)]
    inside.press("Control+z")
    assert points(inside)["negative"] == []
    inside.press("Control+y")
    leave(inside)
    assert inside.page.locator(".p3s-stage canvas:visible").count() == 0
    assert json.loads(sent(inside)["points"]) == value
    enter(inside)
    inside.wait_for_picture("square.png")
    inside.click(0.5, 0.75)
    assert len(points(inside)["positive"]) == 2

    leave(inside)
    workflow = json.loads(json.dumps(inside.workflow()))
    inside.load(EMPTY_GRAPH)
    inside.load(workflow)
    assert json.loads(sent(inside)["points"]) == points(inside)
    assert len(points(inside)["positive"]) == 2


def test_a_promoted_file_name_is_the_picture_inside(inside: EditorPage) -> None:
    leave(inside)
    assert inside.page.evaluate(PROMOTE, ["image", "photo"])
    inside.page.evaluate(SET_OUTSIDE, ["photo", "wide.png"])
    assert sent(inside)["image"] == "wide.png"
    enter(inside)
    inside.wait_for_picture("wide.png")
    inside.page.evaluate(SET_OUTSIDE, ["photo", "tall.png"])
    inside.wait_for_picture("tall.png")


def test_a_load_image_inside_is_followed_also_when_its_file_is_promoted(editor_page: EditorPage) -> None:
    loader = editor_page.add("LoadImage", (60, 130), {"image": "tall.png"})
    editor_page.connect(loader, editor_page.id, "linked_image")
    preview = editor_page.add("PreviewImage", (900, 200))
    editor_page.connect(editor_page.id, preview, "images")
    editor_page.wait_for_picture("tall.png")
    editor_page.page.evaluate(
        """(ids) => {
            const nodes = ids.map((id) => app.graph.getNodeById(id));
            const outer = app.graph.convertToSubgraph(new Set(nodes)).node;
            if (outer.widgets.some((widget) => widget.name === 'image')) return; // newer frontends do it by themselves
            const inner = outer.subgraph.nodes.find((node) => node.comfyClass === 'LoadImage');
            const slot = inner.inputs.find((input) => input.name === 'image');
            outer.subgraph.addInput('image', String(slot.type)).connect(slot, inner);
        }""",
        [loader, editor_page.id],
    )
    enter(editor_page)
    editor_page.wait_for_picture("tall.png")
    editor_page.page.evaluate(SET_OUTSIDE, ["image", "wide.png"])
    editor_page.wait_for_picture("wide.png")


def test_the_points_themselves_stay_inside(inside: EditorPage) -> None:
    """No frontend shows a custom editor outside its node; so there is nothing to promote it by."""
    leave(inside)
    assert not inside.page.evaluate(PROMOTE, ["points", "points"])
    value = points(inside)
    assert json.loads(sent(inside)["points"]) == value


def test_promoted_numbers_of_the_schedule_are_shown_and_locked(editor_page: EditorPage) -> None:
    page = editor_page.page
    editor_page.load(EMPTY_GRAPH)
    node = editor_page.add("P3S_WeightSchedule", (420, 80), {"kind": "fixed", "value": 0.5})
    page.evaluate(WRAP, node)
    assert page.evaluate(PROMOTE, ["value", "weight"])
    page.evaluate(SET_OUTSIDE, ["weight", 0.25])
    enter(editor_page)
    page.wait_for_function(
        "() => document.querySelector('.p3s-curve-status')?.textContent.startsWith('weight 0.25')", timeout=30_000
    )
    page.locator(".p3s-curve .p3s-keys").focus()
    editor_page.press("Tab", "ArrowUp")
    editor_page.looked_at_graph()
    assert page.locator(".p3s-curve-status").text_content().startswith("weight 0.25")
