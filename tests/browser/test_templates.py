"""The example workflows as one sees them when they are opened: tidy, and complete."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from browser.editor_page import EditorPage
from host.hosts import REPO
from host.server import Server
from tools import tiny_models
from tools.template_models import CHECKPOINT, CONTROLNET, SDXL_SUBJECT, SOURCES, SUBJECT, SUBJECTS, VISION
from tools.templates import NEEDS, TEMPLATES, fits

FOLDER = REPO / "example_workflows"
WIDTH, HEIGHT = 1600, 1200
HEAD = 30  # a node's title lies above its place
# What is on the screen: each node's and each group's box, in the graph's own pixels.
BOXES = """() => {
    const inGraph = ([x, y, width, height]) => [x, y, x + width, y + height];
    const scale = app.canvas.ds.scale;
    const [left, top] = app.canvas.ds.offset;
    const node = (node) => {
        const element = document.querySelector(`[data-node-id='${node.id}']`);
        const title = node.title || node.type;
        if (!element) return { title, box: inGraph([...node.getBounding()]) };
        const { x, y, width, height } = element.getBoundingClientRect();
        const canvas = document.querySelector('#graph-canvas').getBoundingClientRect();
        const at = [(x - canvas.x) / scale - left, (y - canvas.y) / scale - top];
        return { title, box: inGraph([...at, width / scale, height / scale]) };
    };
    return {
        nodes: app.graph.nodes.map(node),
        groups: app.graph.groups.map((group) => ({ title: group.title, box: inGraph([...group._bounding]) }))
    };
}"""


@pytest.fixture(scope="module")
def wide_page(chromium: Any, server: Server, renderer: str, pictures: Any) -> Iterator[EditorPage]:
    """A page that was opened when all files that the workflows name were there."""
    for folder, file, model in (
        ("checkpoints", CHECKPOINT, "sd15-micro"),
        ("clip_vision", VISION, "clip-vision"),
        ("controlnet", CONTROLNET, "controlnet-micro"),
    ):
        place = server.base / "models" / folder / file
        place.parent.mkdir(parents=True, exist_ok=True)
        if not place.exists():
            place.symlink_to(tiny_models.make(model))
    for name, (_, folder) in SOURCES.items():  # of large models, and of SSR-Encoder: only listed
        file = server.base / "models" / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            file.touch()
    subjects = server.base / "models" / "p3s"
    subjects.mkdir(parents=True, exist_ok=True)
    for file in (SUBJECT, SDXL_SUBJECT, *SUBJECTS):
        shutil.copy(REPO / "tests" / "data" / "subject_v1.safetensors", subjects / file)
    shutil.copy(server.host.path / "input" / "example.png", server.base / "input" / "example.png")
    context = chromium.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    page = EditorPage(context, server, renderer, pictures)
    page.open()
    yield page
    context.close()


def fit(page: EditorPage) -> None:
    """Show all of the graph."""
    boxes = [group["box"] for group in page.page.evaluate(BOXES)["groups"]]
    left, top = (min(box[side] for box in boxes) for side in (0, 1))
    right, bottom = (max(box[side] for box in boxes) for side in (2, 3))
    free = [90, 120, WIDTH - 20, HEIGHT - 60]  # what the page's own bars leave
    scale = min((free[2] - free[0]) / (right - left), (free[3] - free[1]) / (bottom - top))
    page.page.evaluate(
        """([scale, x, y]) => {
            app.canvas.ds.scale = scale;
            app.canvas.ds.offset = [x, y];
            app.canvas.setDirty(true, true);
        }""",
        [scale, free[0] / scale - left, free[1] / scale - top],
    )
    page.still()


def open_template(page: EditorPage, name: str) -> dict[str, Any]:
    page.load(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    page.page.wait_for_function("(count) => app.graph.nodes.length >= count", arg=4)
    fit(page)
    return page.page.evaluate(BOXES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_workflow_opens_tidy(wide_page: EditorPage, name: str) -> None:
    if not fits(name, wide_page.server.client.object_info()):
        pytest.skip(f"this ComfyUI has no node {NEEDS[name][0]}")
    seen = open_template(wide_page, name)
    nodes, groups = seen["nodes"], seen["groups"]
    for i, node in enumerate(nodes):
        left, top, right, bottom = node["box"]
        for other in nodes[:i]:
            apart = right <= other["box"][0] or other["box"][2] <= left
            apart = apart or bottom <= other["box"][1] or other["box"][3] <= top
            assert apart, (node, other)
        homes = [
            group["title"]
            for group in groups
            if group["box"][0] <= left and group["box"][1] + HEAD <= top
            and right <= group["box"][2] and bottom <= group["box"][3]
        ]  # fmt: skip
        assert len(homes) == 1, (node, groups)
    for i, group in enumerate(groups):
        assert all(group["box"][0] >= other["box"][2] for other in groups[:i]), (group, groups)


def test_the_ssr_encoder_of_the_toy_world_draws_in_a_browser(wide_page: EditorPage) -> None:
    """As a user has it: open the template, press Run, and see heat maps and pictures."""
    open_template(wide_page, "try_ssr_without_downloads")
    outputs = wide_page.queue()["history"]["outputs"]
    nodes = wide_page.page.evaluate("() => app.graph.nodes.map(({ id, title, type }) => ({ id, title, type }))")
    shown = {
        (node["type"], node["title"]): len(outputs[str(node["id"])]["images"])
        for node in nodes
        if node["type"] in ("PreviewImage", "P3S_SSREncode")
    }
    assert shown == {
        (kind, title): count
        for kind, count in (("PreviewImage", 4), ("P3S_SSREncode", 1))
        for title in ("By the clicks", "By the word")
    }
