"""The editor as one sees it: sharp marks, and the pictures that README and help pages show.

With P3S_SCREENSHOTS=1 the pictures are recorded into the repository. Their masks come from the tests' stand-in for
CLIP, which compares colours.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage
from browser.test_masks import wait_for_live
from host.hosts import REPO
from host.server import Server
from PIL import Image

MOST_BYTES = 200_000
TWO_DOGS = REPO / "docs" / "images" / "two_dogs.jpg"


@pytest.fixture(params=[1, 2], ids=["1x", "2x"])
def sharp_page(chromium, server, renderer, pictures, request) -> Iterator[tuple[EditorPage, int]]:
    context = chromium.new_context(viewport={"width": 1280, "height": 1100}, device_scale_factor=request.param)
    page = EditorPage(context, server, renderer, pictures)
    page.open()
    yield page, request.param
    context.close()


def test_marks_are_drawn_at_the_sharpness_of_the_screen(sharp_page: tuple[EditorPage, int], tmp_path: Path) -> None:
    editor_page, ratio = sharp_page
    page = editor_page.page
    editor_page.fresh("photo.jpg")
    editor_page.click(0.5, 0.35)
    editor_page.click(0.12, 0.2, button="right")
    page.mouse.click(250, 700)
    page.wait_for_timeout(500)
    with Image.open(io.BytesIO(page.locator(".p3s-stage").screenshot())) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    box = page.locator(".p3s-stage canvas").bounding_box()
    assert pixels.shape[1] == pytest.approx(box["width"] * ratio, abs=2)
    for colour in ((0x35, 0xD0, 0x7F), (0xFF, 0x6B, 0x6B)):
        found = np.abs(pixels - colour).max(axis=2) <= 3
        assert found.sum() > 60 * ratio**2
    backing = page.evaluate("() => document.querySelector('.p3s-stage canvas').width")
    assert backing == pytest.approx(box["width"] * ratio, abs=1)


def record(tmp_path: Path, target: Path, screenshot: bytes) -> None:
    """Write a picture beside the documentation if that is wanted, else just try."""
    target = target if os.environ.get("P3S_SCREENSHOTS") else tmp_path / target.name
    with Image.open(io.BytesIO(screenshot)) as image:
        if target.suffix == ".jpg":
            image.convert("RGB").save(target, quality=85, optimize=True)
        else:
            image.convert("RGB").quantize(200, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
    assert target.stat().st_size < MOST_BYTES


def test_the_pictures_of_readme_and_help(sharp_page: tuple[EditorPage, int], server: Server, tmp_path: Path) -> None:
    editor_page, ratio = sharp_page
    if editor_page.renderer != "nodes2" or ratio != 2:
        pytest.skip("they show Nodes 2.0, sharply")
    page = editor_page.page
    server.client.upload_image(TWO_DOGS, TWO_DOGS.name)
    editor_page.load(EMPTY_GRAPH)
    editor_page.pictures[TWO_DOGS.name] = (1024, 512)
    editor_page.add_picker(TWO_DOGS.name)
    vision = editor_page.add("CLIPVisionLoader", (40, 700), {"clip_name": server.model("clip-vision")})
    mask = editor_page.add("P3S_RNGRMask", (540, 80))
    clean = editor_page.add("PreviewImage", (540, 640))
    editor_page.connect(vision, mask, "clip_vision")
    editor_page.connect(editor_page.id, mask, "image")
    editor_page.connect(editor_page.id, mask, "points", output=1)
    editor_page.connect(mask, clean, "images", output=1)
    page.evaluate(
        """(places) => {
            for (const [id, x, y, width, height] of places) {
                const node = app.graph.getNodeById(id);
                node.pos = [x, y];
                node.setSize([width, height]);
            }
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [0, 0];
            app.canvas.setDirty(true, true);
        }""",
        [
            [editor_page.id, 100, 100, 460, 480],
            [vision, 100, 760, 400, 60],
            [mask, 620, 100, 400, 560],
            [clean, 620, 740, 400, 300],
        ],
    )
    page.wait_for_timeout(800)
    editor_page.click(0.26, 0.42)
    editor_page.click(0.75, 0.45, button="right")
    editor_page.queue()
    editor_page.press("m")
    wait_for_live(editor_page, "Subject: ")
    editor_page.press("Escape")
    page.mouse.move(5, 500)
    page.wait_for_timeout(1500)
    picker = page.locator(f"[data-node-id='{editor_page.id}']")
    record(tmp_path, REPO / "web" / "docs" / "point_picker.png", picker.screenshot())
    boxes = [page.locator(f"[data-node-id='{id}']").bounding_box() for id in (editor_page.id, mask, clean)]
    left, top = min(box["x"] for box in boxes) - 12, min(box["y"] for box in boxes) - 12
    right = max(box["x"] + box["width"] for box in boxes) + 12
    bottom = max(box["y"] + box["height"] for box in boxes) + 12
    clip = {"x": left, "y": top, "width": right - left, "height": min(bottom, 1100) - top}
    record(tmp_path, REPO / "docs" / "images" / "select_subject.jpg", page.screenshot(clip=clip, scale="css"))

    editor_page.load(EMPTY_GRAPH)
    schedule = editor_page.add("P3S_WeightSchedule", (100, 100), {"kind": "keyframes"})
    page.wait_for_selector(".p3s-plot canvas")
    page.locator(".p3s-curve .p3s-keys").focus()
    editor_page.press("Tab", "Tab")
    page.wait_for_timeout(800)
    node = page.locator(f"[data-node-id='{schedule}']")
    record(tmp_path, REPO / "web" / "docs" / "weight_schedule.png", node.screenshot())
