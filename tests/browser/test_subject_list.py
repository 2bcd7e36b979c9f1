"""Load P3S Subject in the real frontend offers the files that there are, without a refresh."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage
from subjects import make_subject

from p3s.subject.file import save_subject

FILES = "(id) => app.graph.getNodeById(id).widgets.find((w) => w.name === 'subject_file').options.values"
LABELS = """(id) => {
    const { options } = app.graph.getNodeById(id).widgets.find((w) => w.name === 'subject_file');
    return options.values.map(options.getOptionLabel);
}"""
NODE = {"id": 1, "type": "P3S_LoadSubject", "pos": [420, 80], "size": [300, 80], "flags": {}, "order": 0, "mode": 0}
NODE |= {"inputs": [], "outputs": [], "properties": {}, "widgets_values": ["gone.safetensors"]}


@pytest.fixture
def folder(frontend: EditorPage) -> Iterator[Path]:
    folder = frontend.server.base / "models" / "p3s"
    for file in folder.glob("*"):
        file.unlink()
    frontend.errors.clear()
    yield folder
    assert frontend.errors == []


def test_a_new_subject_is_offered_without_a_refresh(frontend: EditorPage, folder: Path) -> None:
    def files(node: int) -> list[str]:
        return frontend.page.evaluate(FILES, node)

    def chosen(node: int) -> str:
        return frontend.node(node)["widgets_values"][0]

    save_subject(make_subject(), folder / "dog.safetensors")
    frontend.load({**EMPTY_GRAPH, "nodes": [NODE], "last_node_id": 1})
    frontend.becomes(lambda: (files(1), chosen(1)), (["dog.safetensors"], "dog.safetensors"))

    save = frontend.add("P3S_SaveSubject", (800, 80), {"filename": "cat"})
    frontend.connect(1, save, "subject")
    frontend.queue()
    frontend.becomes(lambda: sorted(files(1)), ["cat.safetensors", "dog.safetensors"])
    assert chosen(1) == "dog.safetensors"
    labels = frontend.page.evaluate(LABELS, 1)
    assert sorted(labels) == ["cat.safetensors (SD 1.x)", "dog.safetensors (SD 1.x)"]

    new = frontend.add("P3S_LoadSubject", (420, 300))
    frontend.becomes(lambda: sorted(files(new)), ["cat.safetensors", "dog.safetensors"])
    frontend.page.evaluate("(id) => app.graph.remove(app.graph.getNodeById(id))", save)
    frontend.load({**EMPTY_GRAPH, "nodes": [NODE], "last_node_id": 1})
    frontend.becomes(lambda: sorted(files(1)), ["cat.safetensors", "dog.safetensors"])
    assert chosen(1) == "gone.safetensors"  # which of the two is meant nobody can tell
