"""A frame of a drag, handler and drawing together, takes less than a screen's 16 milliseconds, whatever the picture.

The editor alone in a bare page, so that only its own work is measured. Drawing is forced to its end by reading a pixel
back, since a canvas else draws after the frame's code. The machine may be busy with other things: the best of a few
drags counts, and of that all frames but the slowest twentieth. With masks, frames in which new ones come take longer;
there the usual frame counts.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browser.pictures import gradient
from browser.test_view_alone import open_alone
from PIL import Image

from p3s.reference.mask_preview import to_runs

FRAME = 16.0  # milliseconds
DRAGS = 4
MOVES = 60
SIZES = {"large": (6000, 4000), "tiny": (32, 32), "portrait": (1500, 4500), "panorama": (8000, 1200)}

#: Times what a frame's listeners and its painting take.
MEASURE = """
(() => {
  window.frames_ = [];
  let handlers = 0;
  const add = EventTarget.prototype.addEventListener;
  EventTarget.prototype.addEventListener = function (name, handler, options) {
    if (!name.startsWith('pointer')) return add.call(this, name, handler, options);
    return add.call(this, name, (event) => {
      const start = performance.now();
      handler(event);
      handlers += performance.now() - start;
    }, options);
  };
  const request = window.requestAnimationFrame;
  window.requestAnimationFrame = (paint) => request((time) => {
    const start = performance.now();
    paint(time);
    const canvas = document.querySelector('.p3s-stage canvas');
    canvas.getContext('2d').getImageData(0, 0, 1, 1);
    window.frames_.push(handlers + performance.now() - start);
    handlers = 0;
  });
})();
"""


def masks(width: int, height: int) -> dict[str, Any]:
    """An answer of the server of the largest size that it gives."""
    scale = min(1, 768 / max(width, height))
    size = [max(1, round(width * scale)), max(1, round(height * scale))]
    y, x = np.mgrid[: size[1], : size[0]] / np.array(size)[::-1, None, None]
    regions = {name: np.hypot(x - at, y - 0.5) < 0.2 for name, at in (("subject", 0.3), ("removed", 0.75))}
    return {
        "state": "ready",
        "size": size,
        **{name: to_runs(region) for name, region in regions.items()},
        "grid": 16,
        "similarity": np.random.default_rng(0).random((16, 16)).tolist(),
        "warnings": [],
    }


@pytest.fixture(params=[1, 2], ids=["1x", "2x"])
def page(chromium: Any, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    yield from open_alone(chromium, tmp_path, MEASURE, device_scale_factor=request.param)


@pytest.mark.parametrize("overlay", [False, True], ids=["plain", "masks"])
@pytest.mark.parametrize("name", SIZES)
def test_a_drag_is_smooth(page: Any, tmp_path: Path, name: str, overlay: bool) -> None:
    small = Image.fromarray(gradient(*(min(side, 600) for side in SIZES[name])))
    small.resize(SIZES[name]).save(tmp_path / "drawn.jpg")
    assert page.evaluate("() => view.showPicture('/drawn.jpg')")
    box = page.locator("canvas").bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.click(x, y)
    if overlay:
        page.evaluate("(answer) => { window.answer = answer }", masks(*SIZES[name]))
        page.keyboard.press("m")
        page.evaluate("() => view.setMaskSource({ image: 'drawn.jpg', settings: {} })")
        page.wait_for_function("() => document.querySelector('[aria-live]').textContent.startsWith('Subject')")

    drags = []
    for _ in range(DRAGS):
        page.mouse.move(x, y)
        page.mouse.down()
        page.evaluate("() => { window.frames_.length = 0 }")
        for step in range(MOVES):
            away = 80 * np.sin(2 * np.pi * step / MOVES)
            page.mouse.move(x + away, y + away / 4)
        frames = page.evaluate("() => window.frames_")
        page.mouse.move(x, y)
        page.mouse.up()
        assert len(frames) > MOVES / 4
        drags.append((float(np.percentile(frames, 95)), statistics.median(frames)))
    slowest, median = min(drags)
    print(f"{name} {SIZES[name]}{' with masks' if overlay else ''}: median {median:.1f} ms, 95 % {slowest:.1f} ms")
    assert (median if overlay else slowest) < FRAME
