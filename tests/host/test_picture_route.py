"""GET /p3s/picture on a real server: an editor shows what a run gives, whatever the file."""

from __future__ import annotations

import http.client
import io
import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest
from browser.pictures import gradient
from host.client import Client
from host.graphs import Graphs
from host.server import Server
from PIL import Image

ORIENTATION = 0x0112
NODES = ("P3S_PointPicker", "LoadImage")


def show(client: Client, **query: Any) -> tuple[int, Any, dict[str, Any]]:
    """Status; the picture as uint8 [H, W, 3], or the error's text; what the header says."""
    connection = http.client.HTTPConnection(urlsplit(client.url).netloc, timeout=60)
    try:
        connection.request("GET", f"/p3s/picture?{urlencode(query)}")
        response = connection.getresponse()
        body = response.read()
        if response.status != 200:
            return response.status, json.loads(body)["error"], {}
        assert (response.getheader("Content-Type"), response.getheader("Cache-Control")) == ("image/jpeg", "no-store")
        pixels = np.asarray(Image.open(io.BytesIO(body)))
        return 200, pixels, json.loads(response.getheader("X-P3S-Picture") or "")
    finally:
        connection.close()


def given(client: Client, node: str, **inputs: Any) -> np.ndarray:
    """The picture that a run gives, uint8 [H, W, 3]."""
    g = Graphs()
    if node == "P3S_PointPicker":
        inputs["points"] = '{"v":1,"positive":[[0.5,0.5]],"negative":[]}'
    made = g.add(node, **inputs)
    saved = g.add("SaveImage", images=made[4] if node == "P3S_ToyWorld" else made, filename_prefix="given")
    return client.run_ok(g.graph).images(saved.id)[0][..., :3]


def photo(width: int = 120, height: int = 80) -> Image.Image:
    return Image.fromarray(gradient(width, height))


def cut_out(mode: str = "RGBA") -> Image.Image:
    """The right half is hidden, but its colours are there."""
    image = photo()
    alpha = np.full((80, 120), 255, np.uint8)
    alpha[:, 60:] = 0
    if mode == "P":
        levels = np.asarray(image.quantize(100)).copy()
        levels[:, 60:] = 200
        made = Image.fromarray(levels).convert("P")
        made.putpalette([c for i in range(256) for c in (i, 255 - i, 128)])
        made.info["transparency"] = 200
        return made
    image.putalpha(Image.fromarray(alpha))
    return image.convert(mode)


def turned(orientation: int) -> dict[str, Any]:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    return {"exif": exif}


def animated(path: str) -> None:
    photo().quantize().save(path, save_all=True, append_images=[Image.new("P", (120, 80))] * 2, duration=50)


DEEP = np.linspace(0, 65535, 120 * 80).astype(np.uint16).reshape(80, 120)
FILES: dict[str, Callable[[str], None]] = {
    **{
        f"turned{n}.jpg": lambda path, n=n: photo().save(path, quality=98, subsampling=0, **turned(n))
        for n in range(1, 9)
    },
    **{f"turned{n}.webp": lambda path, n=n: photo().save(path, lossless=True, **turned(n)) for n in (3, 5, 6, 8)},
    "turned6.png": lambda path: photo().save(path, **turned(6)),
    "turned6.tiff": lambda path: photo().save(path, **turned(6)),
    "hidden.png": lambda path: cut_out().save(path),
    "hidden.webp": lambda path: cut_out().save(path, lossless=True, exact=True),
    "hidden_grey.png": lambda path: cut_out("LA").save(path),
    "hidden.gif": lambda path: cut_out("P").save(path),
    "opaque.png": lambda path: photo().convert("RGBA").save(path),
    "deep.png": lambda path: Image.fromarray(DEEP).save(path),
    "float.tiff": lambda path: Image.fromarray(DEEP.astype(np.float32) / 65535).save(path),
    "ink.jpg": lambda path: photo().convert("CMYK").save(path, quality=98),
    "lossy.webp": lambda path: photo().save(path, quality=95),
    "animated.gif": animated,
    "wide.jpg": lambda path: photo(5000, 1250).save(path, quality=95),
    "wide_turned.jpg": lambda path: photo(5000, 1250).save(path, quality=95, **turned(8)),
}
# What this host's Load Image makes of them is no picture that an editor shows otherwise.
NOT_BY_LOAD_IMAGE = {"float.tiff"}


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("node", NODES)
def test_an_editor_shows_what_a_run_gives(server: Server, client: Client, node: str, file: str) -> None:
    if node == "LoadImage" and file in NOT_BY_LOAD_IMAGE:
        pytest.skip("Load Image reads floating point numbers as 0..255")
    FILES[file](str(server.base / "input" / file))
    status, shown, facts = show(client, node=node, image=f"{file} [input]")
    assert status == 200, shown
    run = given(client, node, image=file)
    assert (facts["height"], facts["width"]) == run.shape[:2]
    small = Image.fromarray(run)
    small.thumbnail((2048, 2048))
    assert shown.shape == (small.height, small.width, 3)
    difference = np.abs(shown.astype(int) - np.asarray(small))
    assert difference.mean() < 4 and np.percentile(difference, 99) < 24, (difference.mean(), file)
    hidden = node == "P3S_PointPicker" and file.startswith("hidden")
    assert facts["transparent"] == hidden
    if hidden:
        assert shown[:, 64:].min() > 245 and run[:, 62:].min() == 255


def test_the_toy_world_needs_no_run(client: Client) -> None:
    for animal, scene in (("dog", 4), ("fish", 9999)):
        status, shown, facts = show(client, node="P3S_ToyWorld", animal=animal, scene=scene)
        assert (status, facts) == (200, {"width": 384, "height": 384, "transparent": False})
        run = given(client, "P3S_ToyWorld", animal=animal, scene=scene, batch_size=1)
        assert np.abs(shown.astype(int) - run).mean() < 4


@pytest.mark.parametrize(
    ("query", "status", "words"),
    [
        ({"node": "P3S_PointPicker", "image": "none.png"}, 404, "no such picture"),
        ({"node": "LoadImage", "image": "../server.log"}, 404, "no such picture"),
        ({"node": "P3S_PointPicker", "image": "phone.heic"}, 422, "phone.heic is not in a picture format"),
        ({"node": "LoadImage", "image": "phone.heic"}, 422, "Load Image cannot read phone.heic"),
        ({"node": "P3S_PointPicker", "image": "huge.png"}, 422, "huge.png has more than 178 million pixels"),
        ({"node": "LoadImage", "image": "large.png"}, 422, "large.png: it has 8000 x 8000 pixels; at most 50,000,000"),
        ({"node": "P3S_ToyWorld", "animal": "dog", "scene": "x"}, 400, "scene must be a whole number"),
        ({"node": "P3S_ToyWorld", "animal": "dog"}, 400, "expected node, animal (dog, cat, bird, fish) and scene"),
        ({"image": "two.png"}, 400, "node must be"),
        ({}, 400, "node must be"),
    ],
)
def test_what_cannot_be_shown_is_said(
    server: Server, client: Client, query: dict[str, str], status: int, words: str
) -> None:
    folder = server.base / "input"
    (folder / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(200))
    for name, side in (("large", 8000), ("huge", 20_000)):
        if not (folder / f"{name}.png").exists():
            Image.new("1", (side, side)).save(folder / f"{name}.png")
    start = server.log_size()
    came, error, _ = show(client, **query)
    assert (came, words in error) == (status, True), error
    assert str(server.base) not in error
    assert not server.own_frames(start)


def test_a_file_that_no_picker_can_read_is_not_offered_and_the_run_names_it(server: Server, client: Client) -> None:
    folder = server.base / "input"
    for name in ("phone.heic", "drawing.svg", "wide.jxl"):
        (folder / name).write_bytes(b"not for Pillow")
    photo().save(folder / "scan.tiff")
    kind, *options = client.object_info("P3S_PointPicker")["input"]["required"]["image"]
    choices = kind if isinstance(kind, list) else options[0]["options"]
    assert "scan.tiff" in choices
    assert not {"phone.heic", "drawing.svg", "wide.jxl"} & set(choices)
    g = Graphs()
    picker = g.add("P3S_PointPicker", image="phone.heic", points='{"v":1,"positive":[[0.5,0.5]]}')
    g.add("PreviewImage", images=picker)
    result = client.run(g.graph)
    assert result.status == "error"
    assert "phone.heic is not in a picture format that can be read. Save it as JPEG, PNG" in result.error.message
    assert str(server.base) not in result.error.message
