"""The words that users try in the search box list the node that they want."""

from __future__ import annotations

from typing import Any

import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage
from host.server import Server

OURS = {
    "Point Picker",
    "RNGR Mask",
    "Train P3S",
    "Apply P3S",
    "Weight Schedule",
    "Load P3S Subject",
    "Save P3S Subject",
    "Toy World",
}


@pytest.fixture(scope="module")
def search_box(frontend: EditorPage, server: Server) -> Any:
    if "search_aliases" not in server.client.object_info("P3S_PointPicker"):
        pytest.skip("this ComfyUI searches names only")
    frontend.load(EMPTY_GRAPH)
    frontend.still()
    frontend.page.mouse.dblclick(700, 600)
    box = frontend.page.get_by_placeholder("Add a node...")
    box.wait_for()
    yield box
    frontend.page.keyboard.press("Escape")


def found(frontend: EditorPage, search_box: Any, word: str) -> list[str]:
    """The titles listed for a word. What is typed before it empties the list, which is therefore this word's."""
    items = frontend.page.get_by_test_id("result-item")
    search_box.fill("no such node anywhere")
    items.first.wait_for(state="detached")
    search_box.fill(word)
    items.first.wait_for()
    return [item.split("\n")[0] for item in items.all_inner_texts()]


@pytest.mark.parametrize(
    ("word", "node"),
    [
        ("points", "Point Picker"),
        ("click", "Point Picker"),
        ("select", "Point Picker"),
        ("segment", "RNGR Mask"),
        ("sam", "RNGR Mask"),
        ("dreambooth", "Train P3S"),
        ("reference", "Train P3S"),
        ("ipadapter", "Apply P3S"),
    ],
)
def test_a_word_lists_the_node_before_our_others(frontend: EditorPage, search_box: Any, word: str, node: str) -> None:
    """Nodes with the word in their own names come first: the host ranks by names, and by aliases only after them."""
    listed = found(frontend, search_box, word)
    assert next((title for title in listed if title in OURS), None) == node, listed
    if not any(word in title.lower() for title in listed):
        assert listed[0] == node, listed
