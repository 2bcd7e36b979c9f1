"""The example workflows as one sees them when they are opened: tidy, and complete.

With P3S_SCREENSHOTS=1 their thumbnails are recorded into example_workflows/; that of the toy world after a run.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser.editor_page import EditorPage
from host.hosts import REPO
from host.server import Server
from PIL import Image
from tools import tiny_models
from tools.template_parts import CHECKPOINT, CONTROLNET, SUBJECT, SUBJECTS, VISION
from tools.templates import TEMPLATES

FOLDER = REPO / "example_workflows"
WIDTH, HEIGHT = 1600, 1200
# What a thumbnail shows, where it is not all: a group, and with which photo and points.
SHOWN = {
    "train_and_generate": "2  Subject",
    "two_similar_subjects": "2  One photo, pointed at twice",
    "external_inpainting": "2  Subject",
    "try_without_downloads": "4  Generate",
}
PHOTO = REPO / "docs" / "images" / "two_dogs.jpg"
POINTS = '{"v":1,"positive":[[0.26,0.42]],"negative":[[0.75,0.45]]}'
SWAPPED = '{"v":1,"positive":[[0.75,0.45]],"negative":[[0.26,0.42]]}'
THUMBNAIL = 560  # pixels of the longer side
MOST_BYTES = 60_000
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

CLICK = """([photo, points, swapped]) => {
    for (const node of app.graph.nodes.filter((node) => node.type === 'P3S_PointPicker')) {
        const linked = node.inputs.some((input) => input.name === 'linked_image' && input.link != null);
        for (const [name, value] of [['image', photo], ['points', linked ? swapped : points]]) {
            node.widgets.find((widget) => widget.name === name).value = value;
        }
    }
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
    subjects = server.base / "models" / "p3s"
    subjects.mkdir(parents=True, exist_ok=True)
    for file in (SUBJECT, *SUBJECTS):
        shutil.copy(REPO / "tests" / "data" / "subject_v1.safetensors", subjects / file)
    shutil.copy(PHOTO, server.base / "input" / PHOTO.name)
    shutil.copy(server.host.path / "input" / "example.png", server.base / "input" / "example.png")
    context = chromium.new_context(viewport={"width": WIDTH, "height": HEIGHT})
    page = EditorPage(context, server, renderer, pictures)
    page.open()
    yield page
    context.close()


def fit(page: EditorPage, only: str | None = None) -> list[float]:
    """Show all of the graph, or a group; returns the part of the screen that it takes (left, top, right, bottom)."""
    boxes = [group["box"] for group in page.page.evaluate(BOXES)["groups"] if only in (None, group["title"])]
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
    canvas = page.page.locator("#graph-canvas").bounding_box()
    shown = [free[0], free[1], free[0] + (right - left) * scale, free[1] + (bottom - top) * scale]
    return [value + canvas["xy"[i % 2]] for i, value in enumerate(shown)]


def open_template(page: EditorPage, name: str) -> dict[str, Any]:
    page.load(json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8")))
    page.page.wait_for_function("(count) => app.graph.nodes.length >= count", arg=4)
    fit(page)
    return page.page.evaluate(BOXES)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_workflow_opens_tidy(wide_page: EditorPage, name: str, tmp_path: Path) -> None:
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
    record(wide_page, name, tmp_path)


def record(page: EditorPage, name: str, tmp_path: Path) -> None:
    recording = bool(os.environ.get("P3S_SCREENSHOTS"))
    if recording and page.renderer != "nodes2":
        return
    if recording and name == "train_and_generate":
        return  # shows a run with CLIP, from before
    if recording and name == "try_without_downloads":
        assert page.queue(timeout=1200)["history"]["status"]["status_str"] == "success"
    elif name in SHOWN:
        page.page.evaluate(CLICK, [PHOTO.name, POINTS, SWAPPED])
        page.looked_at_graph()
    left, top, right, bottom = fit(page, SHOWN.get(name))
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    target = (FOLDER if recording else tmp_path) / f"{name}.jpg"
    with Image.open(io.BytesIO(page.page.screenshot(clip=clip))) as image:
        small = image.convert("RGB")
        small.thumbnail((THUMBNAIL, THUMBNAIL), Image.Resampling.LANCZOS)
        small.save(target, quality=85, optimize=True)
    assert target.stat().st_size < MOST_BYTES
