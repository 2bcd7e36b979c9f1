"""Keys and clicks in an editor mean the editor: its node is the selected one, and none of them removes a node."""

from __future__ import annotations

from typing import Any

import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage
from browser.test_weight_schedule import Curve

EMPTY_PLACE = (1000, 800)


def selected(page: EditorPage) -> list[int]:
    return page.page.evaluate("() => Object.values(app.canvas.selected_nodes).map((node) => Number(node.id))")


def nodes(page: EditorPage) -> list[int]:
    return sorted(node["id"] for node in page.workflow()["nodes"])


def select(page: EditorPage, id: int) -> None:
    page.page.evaluate("(id) => app.canvas.selectItems([app.graph.getNodeById(id)])", id)


def focused(page: EditorPage) -> str:
    """The class or command of what has the focus; '' outside of the editors."""
    return page.page.evaluate(
        """() => {
            const active = document.activeElement;
            if (!active.closest('.p3s-picker, .p3s-curve')) return '';
            return active.dataset.command ?? (active.className || active.tagName);
        }"""
    )


@pytest.fixture
def beside(editor_page: EditorPage) -> tuple[EditorPage, int]:
    """A picker, and another node that was selected before."""
    other = editor_page.add("P3S_RNGRMask", (60, 130))
    select(editor_page, other)
    return editor_page, other


@pytest.mark.parametrize("button", ["left", "right"])
def test_a_click_in_the_picture_selects_its_node_alone(beside: tuple[EditorPage, int], button: str) -> None:
    page, other = beside
    assert selected(page) == [other]
    page.click(0.5, 0.5, button=button)
    page.settle()
    assert selected(page) == [page.id]
    assert len(page.points["positive"] + page.points["negative"]) == 1
    page.page.evaluate("(ids) => app.canvas.selectItems(ids.map((id) => app.graph.getNodeById(id)))", [other, page.id])
    page.click(0.2, 0.5)
    page.settle()
    assert selected(page) == [page.id], "of several, only the one that was clicked stays"


@pytest.mark.parametrize("place", [".p3s-status", ".p3s-bar", ".p3s-warning"])
def test_delete_beside_the_picture_takes_points_and_never_a_node(beside: tuple[EditorPage, int], place: str) -> None:
    page, _ = beside
    page.click(0.5, 0.5)
    page.page.evaluate(
        """([id, name]) => {
            const widget = app.graph.getNodeById(id).widgets.find((widget) => widget.name === 'image');
            widget.value = name;
        }""",
        [page.id, "wide.png"],
    )
    page.wait_for_picture("wide.png")
    page.page.mouse.click(*EMPTY_PLACE)  # the graph has the keys
    page.settle()
    before = nodes(page)
    box = page.page.locator(f".p3s-picker {place}").bounding_box()
    page.page.mouse.click(box["x"] + box["width"] * 0.45, box["y"] + box["height"] / 2)
    page.settle()
    assert focused(page) == "p3s-keys"
    assert selected(page) == [page.id]
    page.press("Delete")
    assert page.points["positive"] == []
    page.press("Delete", "Backspace", "Delete")
    assert nodes(page) == before


def test_tab_goes_around_in_the_editor_and_no_key_on_its_way_reaches_the_graph(beside: tuple[EditorPage, int]) -> None:
    page, _ = beside
    page.click(0.3, 0.5)
    page.click(0.7, 0.5, button="right")
    before, seen = nodes(page), []
    page.page.evaluate(
        """() => {
            window.reached = [];
            window.addEventListener('keydown', ({ key }) => window.reached.push(key));
        }"""
    )
    page.press("Escape", "Tab", "Tab")
    assert page.status().startswith("−1 at ")
    for _ in range(30):
        page.press("Tab")
        seen.append(focused(page))
        if seen[-1] == "p3s-keys":
            break
    assert seen[:3] == ["subject1", "addSubject", "positive"] and seen[-2:] == ["clearNegative", "p3s-keys"]
    assert "" not in seen
    page.press("Tab")
    assert page.status().startswith("+1 at ")
    page.press("Shift+Tab", "Shift+Tab")
    assert focused(page) == "clearPositive" or focused(page) == "clearNegative"
    page.press("Delete", "Backspace")
    page.press("Tab", "Delete")
    assert nodes(page) == before
    assert not {"Tab", "Delete", "Backspace"} & set(page.page.evaluate("() => window.reached"))


def test_escape_leaves_the_editor_and_nothing_is_selected_then(beside: tuple[EditorPage, int]) -> None:
    page, _ = beside
    page.click(0.5, 0.5)
    before = nodes(page)
    page.press("Escape")
    assert focused(page) == "p3s-keys", "first the point is deselected"
    page.press("Escape")
    assert focused(page) == ""
    assert selected(page) == []
    page.press("Delete", "Backspace")
    assert nodes(page) == before
    assert len(page.points["positive"]) == 1
    page.button("grid").focus()
    page.press("Escape")
    assert focused(page) == "p3s-keys", "from a button to the picture"


def test_the_curve_keeps_its_keys_too(frontend: EditorPage) -> None:
    frontend.errors.clear()
    curve = Curve(frontend, kind="keyframes")
    other = frontend.add("P3S_RNGRMask", (60, 130))
    select(frontend, other)
    before = nodes(frontend)
    curve.page.mouse.click(*curve.at(0.5, 1))
    frontend.settle()
    assert selected(frontend) == [curve.id]
    box: Any = curve.page.locator(".p3s-curve-status").bounding_box()
    select(frontend, other)
    curve.page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    frontend.settle()
    assert (selected(frontend), focused(frontend)) == ([curve.id], "p3s-keys")
    frontend.press("Escape")
    curve.page.locator(".p3s-curve .p3s-keys").focus()
    seen = []
    for _ in range(5):
        frontend.press("Tab")
        seen.append(focused(frontend))
    assert seen == ["p3s-keys", "p3s-keys", "p3s-keys", "INPUT", "p3s-keys"]
    frontend.press("Delete", "Backspace")
    assert nodes(frontend) == before
    frontend.press("Escape", "Escape")
    assert (focused(frontend), selected(frontend)) == ("", [])
    frontend.press("Delete")
    assert nodes(frontend) == before
    frontend.load(EMPTY_GRAPH)
    assert frontend.errors == []
