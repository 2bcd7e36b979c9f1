"""Records the picture of the editor that README and help show: with P3S_SCREENSHOTS=1 into docs/images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from browser.editor_page import EditorPage
from host.hosts import REPO
from PIL import Image

MOST_BYTES = 200_000


@pytest.fixture(params=[1, 2], ids=["1x", "2x"])
def sharp_page(chromium, server, renderer, pictures, request):
    context = chromium.new_context(viewport={"width": 1280, "height": 900}, device_scale_factor=request.param)
    page = EditorPage(context, server, renderer, pictures)
    page.open()
    page.fresh("photo.jpg")
    yield page, request.param
    context.close()


def test_screenshot(sharp_page, tmp_path: Path) -> None:
    editor_page, ratio = sharp_page
    page = editor_page.page
    editor_page.click(0.5, 0.35)
    editor_page.click(0.12, 0.2, button="right")
    page.mouse.click(250, 700)
    page.wait_for_timeout(500)
    stage = tmp_path / "stage.png"
    page.locator(".p3s-stage").screenshot(path=stage)
    with Image.open(stage) as image:
        pixels = np.asarray(image.convert("RGB"), dtype=int)
    # The marks are there, in their colours and at the sharpness of the screen.
    box = page.locator(".p3s-stage canvas").bounding_box()
    assert pixels.shape[1] == pytest.approx(box["width"] * ratio, abs=2)
    for colour in ((0x35, 0xD0, 0x7F), (0xFF, 0x6B, 0x6B)):
        found = np.abs(pixels - colour).max(axis=2) <= 3
        assert found.sum() > 60 * ratio**2
    backing = page.evaluate("() => document.querySelector('.p3s-stage canvas').width")
    assert backing == pytest.approx(box["width"] * ratio, abs=1)

    if os.environ.get("P3S_SCREENSHOTS") and ratio == 2 and editor_page.renderer == "nodes2":
        target = REPO / "docs" / "images" / "point_picker.png"
        target.parent.mkdir(exist_ok=True)
        whole = tmp_path / "node.png"
        page.locator("[data-node-id]").first.screenshot(path=whole)
        with Image.open(whole) as image:
            image.convert("RGB").quantize(200, dither=Image.Dither.FLOYDSTEINBERG).save(target, optimize=True)
        assert target.stat().st_size < MOST_BYTES
