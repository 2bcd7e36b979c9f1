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
    editor_page.still()
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


@pytest.fixture
def ready_page(chromium, server: Server, renderer, pictures) -> Iterator[EditorPage]:
    """A sharp page of Nodes 2.0, opened when the photo and the model are in their folders: it lists them at its start,
    and a node whose file it does not know gets a red frame."""
    if renderer != "nodes2":
        pytest.skip("the pictures show Nodes 2.0")
    server.model("clip-vision")
    server.client.upload_image(TWO_DOGS, TWO_DOGS.name)
    context = chromium.new_context(viewport={"width": 1280, "height": 1200}, device_scale_factor=2)
    page = EditorPage(context, server, renderer, {**pictures, TWO_DOGS.name: (1024, 512)})
    page.open()
    yield page
    context.close()


def place(page: EditorPage, places: dict[int, tuple[int, int, int, int]]) -> None:
    """Nodes to (x, y, width, height). The page's own bars cover what lies left of 80 or above 130."""
    page.page.evaluate(
        """(places) => {
            for (const [id, [x, y, width, height]] of places) {
                const node = app.graph.getNodeById(id);
                node.pos = [x, y];
                node.setSize([width, height]);
            }
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [0, 0];
            app.canvas.deselectAll?.();
            app.canvas.setDirty(true, true);
        }""",
        [[id, place] for id, place in places.items()],
    )
    page.still()


def part(page: EditorPage, ids: list[int]) -> bytes:
    """The part of the page that holds these nodes."""
    boxes = [page.page.locator(f"[data-node-id='{id}']").bounding_box() for id in ids]
    left, top = (min(box[side] for box in boxes) - 12 for side in ("x", "y"))
    right = max(box["x"] + box["width"] for box in boxes) + 12
    bottom = max(box["y"] + box["height"] for box in boxes) + 12
    assert left > 60 and top > 100 and right < 1280 and bottom < 1200, (left, top, right, bottom)
    clip = {"x": left, "y": top, "width": right - left, "height": bottom - top}
    return page.page.screenshot(clip=clip, scale="css")


def test_the_pictures_of_readme_and_help(ready_page: EditorPage, server: Server, tmp_path: Path) -> None:
    page = ready_page.page
    ready_page.load(EMPTY_GRAPH)
    ready_page.add_picker(TWO_DOGS.name)
    vision = ready_page.add("CLIPVisionLoader", (40, 700), {"clip_name": server.model("clip-vision")})
    mask = ready_page.add("P3S_RNGRMask", (540, 80))
    clean = ready_page.add("PreviewImage", (540, 640))
    ready_page.connect(vision, mask, "clip_vision")
    ready_page.connect(ready_page.id, mask, "image")
    ready_page.connect(ready_page.id, mask, "points", output=1)
    ready_page.connect(mask, clean, "images", output=1)
    place(
        ready_page,
        {
            ready_page.id: (100, 170, 460, 480),
            vision: (100, 860, 400, 60),
            mask: (620, 170, 400, 520),
            clean: (620, 885, 400, 220),
        },
    )
    ready_page.click(0.26, 0.42)
    ready_page.click(0.75, 0.45, button="right")
    assert ready_page.queue()["history"]["status"]["status_str"] == "success"
    ready_page.press("m")
    wait_for_live(ready_page, "Subject: ", timeout=20_000)
    ready_page.press("Escape")
    page.mouse.move(1200, 1150)
    for id in (mask, clean):
        page.wait_for_function(
            "(id) => document.querySelector(`[data-node-id='${id}'] img`)?.naturalWidth > 0", arg=id, timeout=20_000
        )
    ready_page.still()
    assert page.locator("text=Error").count() == 0
    picker = page.locator(f"[data-node-id='{ready_page.id}']")
    record(tmp_path, REPO / "web" / "docs" / "point_picker.png", picker.screenshot())
    select_subject = part(ready_page, [ready_page.id, mask, clean])
    record(tmp_path, REPO / "docs" / "images" / "select_subject.jpg", select_subject)

    ready_page.load(EMPTY_GRAPH)
    schedule = ready_page.add("P3S_WeightSchedule", (100, 170), {"kind": "keyframes"})
    page.wait_for_selector(".p3s-plot canvas")
    page.locator(".p3s-curve .p3s-keys").focus()
    ready_page.press("Tab", "Tab")
    ready_page.still()
    node = page.locator(f"[data-node-id='{schedule}']")
    record(tmp_path, REPO / "web" / "docs" / "weight_schedule.png", node.screenshot())
