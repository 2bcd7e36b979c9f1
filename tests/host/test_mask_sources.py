"""POST /p3s/masks on pictures and CLIP vision models of every kind that a Point Picker meets."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host.client import Client
from host.graphs import Graphs
from host.hosts import Host
from host.inside import Inside
from host.job import CLIP, POINTS, TOY, origin, two_subjects
from host.server import Server
from PIL import Image
from test_mask_preview import from_runs

GIB = 2**30
SETTINGS = {"fill": "telea", "fill_region": "negative", "value_range": "clip", "blur": 1.0, "grow": 0.0}


def ask(
    client: Client, picture: dict[str, Any], points: str = POINTS, origin: Any = CLIP, **settings: Any
) -> tuple[int, dict[str, Any]]:
    request = {"picture": picture, "points": points, "origin": origin, "source": "a test", "settings": settings}
    return client.post("/p3s/masks", request)


def file(name: str, node: str = "P3S_PointPicker") -> dict[str, str]:
    return {"node": node, "image": f"{name} [input]"}


def mask_graph(vision: tuple[str, dict[str, Any]], **picker: Any) -> Graphs:
    g = Graphs()
    made = g.add("P3S_PointPicker", **{"image": "", "points": POINTS, **picker})
    g.add("P3S_RNGRMask", clip_vision=g.add(vision[0], **vision[1]), image=made, points=made[1], **SETTINGS)
    return g


def clip(server: Server) -> tuple[str, dict[str, Any]]:
    return "CLIPVisionLoader", {"clip_name": server.model("clip-vision")}


def forget_clip(client: Client, picture: dict[str, Any]) -> None:
    """Wait until the host has let go of its CLIP vision model: then a picture that no run has read stays unread."""
    client.free()
    for _ in range(20):
        if ask(client, picture)[1]["state"] == "unread":
            return
        time.sleep(0.5)
    raise AssertionError("the model is still there")


@pytest.fixture
def own_server(host: Host, tmp_path: Path) -> Iterator[Server]:
    server = Server(host, tmp_path / "base")
    yield server
    server.stop()


def test_a_clip_vision_model_of_another_pack_is_not_asked_between_runs(own_server: Server) -> None:
    shutil.copy(Path(__file__).with_name("foreign_clip_pack.py"), own_server.base / "custom_nodes")
    client = own_server.client
    client.upload_image(two_subjects(), "two.png")
    Image.fromarray(two_subjects()[:, ::-1]).save(own_server.base / "input" / "turned.png")
    client.run_ok(mask_graph(("TestMeanColours", {}), image="two.png").graph)
    foreign = origin("TestMeanColours")
    assert ask(client, file("two.png"), origin=foreign)[1]["state"] in ("ready", "problem")
    assert ask(client, file("turned.png"), origin=foreign) == (200, {"state": "unread"})


def test_in_the_toy_world_every_scene_shows_its_masks_after_one_run(client: Client) -> None:
    """Its model is no class of the host's, and it never leaves the processor."""
    g = Graphs()
    world = g.add("P3S_ToyWorld", animal="dog", scene=4, batch_size=1)
    points = '{"v":1,"positive":[[0.677083,0.59375]],"negative":[[0.21875,0.635417]]}'
    picker = g.add("P3S_PointPicker", image="", points=points, linked_image=world[4])
    settings = {**SETTINGS, "blur": 0.4, "grow": 1.0}
    masks = g.add("P3S_RNGRMask", clip_vision=world[3], image=picker, points=picker[1], **settings)
    saved = g.add("SaveImage", images=g.add("MaskToImage", mask=masks[2]), filename_prefix="toy")
    drawn = client.run_ok(g.graph).images(saved.id)[0][1::2, 1::2, 0] > 127
    own = {name: settings[name] for name in ("blur", "grow", "fill_region", "value_range")}
    status, shown = ask(client, {"node": "P3S_ToyWorld", "animal": "dog", "scene": 4}, points, TOY, **own)
    assert (status, shown["state"], shown["grid"]) == (200, "ready", 12)
    np.testing.assert_array_equal(from_runs(shown["subject"], shown["size"]), drawn)
    other = {"node": "P3S_ToyWorld", "animal": "dog", "scene": 5}
    status, shown = ask(client, other, '{"v":1,"positive":[[0.5,0.5]]}', TOY, **own)
    assert status == 200 and shown["state"] in ("ready", "problem")
    assert shown["grid"] == 12
    # After another kind of model was used, too.
    assert ask(client, file("none.png"))[0] == 404


@pytest.mark.parametrize("name", ["two.jpg", "turned.webp", "hidden.png"])
def test_a_file_of_load_image_is_known_after_a_run_once_clip_has_left(
    server: Server, client: Client, name: str
) -> None:
    """The host's own decoder may give other pixels than the one that reads a picker's files."""
    picture, exif = Image.fromarray(np.roll(two_subjects(), len(name), 0)), Image.Exif()
    if name.startswith("turned"):
        exif[0x0112] = 3
    if name.startswith("hidden"):
        picture.putalpha(Image.fromarray(np.full((256, 512), 100, np.uint8)))
    picture.save(server.base / "input" / name, quality=90, exif=exif)
    g = mask_graph(clip(server), linked_image=["20", 0])
    g.graph["20"] = {"class_type": "LoadImage", "inputs": {"image": name}}
    client.run_ok(g.graph)
    Image.fromarray(np.roll(two_subjects(), 99, 0)).save(server.base / "input" / "never.png")
    forget_clip(client, file("never.png"))
    status, shown = ask(client, file(name, "LoadImage"))
    assert (status, shown["state"]) == (200, "ready")


def test_linked_files_and_folders_are_read_as_the_host_shows_them(server: Server, client: Client) -> None:
    outside = server.base / "elsewhere"
    outside.mkdir(exist_ok=True)
    Image.fromarray(np.roll(two_subjects(), 50, 0)).save(outside / "two.png")
    for name, target in (("link_to_folder", outside), ("link.png", outside / "two.png")):
        if not (server.base / "input" / name).is_symlink():
            (server.base / "input" / name).symlink_to(target)
    client.run_ok(mask_graph(clip(server), image="link.png").graph)
    for name, query in (("link_to_folder/two.png", {"subfolder": "link_to_folder"}), ("link.png", {})):
        assert client.get("/view", filename=name.split("/")[-1], type="input", **query)
        assert ask(client, file(name))[1]["state"] == "ready", name
    (outside / "notes.txt").write_text("no picture")
    assert ask(client, file("link_to_folder/notes.txt"))[0] == 422


def test_a_linked_picture_is_known_where_the_folders_are_reached_over_a_link(host: Host, tmp_path: Path) -> None:
    """As the temp folder of macOS is, and the folders of Stability Matrix."""
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    server = Server(host, tmp_path / "link")
    try:
        client = server.client
        g = mask_graph(clip(server), linked_image=["20", 0])
        g.graph["20"] = {"class_type": "ImageInvert", "inputs": {"image": ["21", 0]}}
        g.graph["21"] = {"class_type": "LoadImage", "inputs": {"image": client.upload_image(two_subjects(), "two.png")}}
        (shown,) = client.run_ok(g.graph).outputs["1"]["p3s_image"]
        Image.fromarray(np.roll(two_subjects(), 99, 0)).save(server.base / "input" / "never.png")
        forget_clip(client, file("never.png"))
        picture = {"node": "P3S_PointPicker", "image": f"{shown['filename']} [temp]"}
        assert ask(client, picture)[1]["state"] == "ready"
    finally:
        server.stop()


def test_an_input_folder_that_is_a_drives_root(inside: Inside, tmp_path: Path) -> None:
    Image.fromarray(two_subjects()).save(tmp_path / "two.png")
    name = str(tmp_path / "two.png").lstrip("/")
    facts = inside.run(Path(__file__).with_name("inside_root_folder.py"), {"name": name})
    assert facts == {"found": str(tmp_path / "two.png"), "outside": [None, None]}


def test_with_the_hosts_cors_setting_pages_of_elsewhere_are_answered(host: Host, tmp_path: Path) -> None:
    server = Server(host, tmp_path, ("--enable-cors-header", "http://pictures.example"))
    try:
        server.client.upload_image(two_subjects(), "two.png")
        picture = {"picture": file("two.png"), "points": POINTS, "origin": CLIP, "source": "a test"}
        headers = {"Origin": "http://pictures.example", "Content-Type": "application/json"}
        status, body = server.client._call(
            server.client._request("POST", "/p3s/masks", data=json.dumps(picture), headers=headers)
        )
        assert (status, json.loads(body)) == (200, {"state": "unread"})
    finally:
        server.stop()


@pytest.mark.slow
@pytest.mark.parametrize("node", ["P3S_PointPicker", "LoadImage"])
def test_a_request_for_a_picture_of_50_megapixels_takes_little_memory(own_server: Server, node: str) -> None:
    client = own_server.client
    client.upload_image(two_subjects(), "two.png")
    large = Image.fromarray(two_subjects()).resize((8600, 5800), Image.Resampling.BILINEAR)
    large.save(own_server.base / "input" / "large.jpg", quality=80)
    client.run_ok(mask_graph(clip(own_server), image="two.png").graph)
    own_server.forget_peak()
    before = own_server.peak_memory()
    start = time.monotonic()
    status, shown = ask(client, file("large.jpg", node))
    seconds, masks = time.monotonic() - start, own_server.peak_memory() - before
    assert (status, shown["state"]) == (200, "ready")
    own_server.forget_peak()
    before = own_server.peak_memory()
    client.get("/p3s/picture", node=node, image="large.jpg")
    picture = own_server.peak_memory() - before
    print(f"{own_server.host} {node}: masks {masks / GIB:.2f} GiB, {seconds:.1f} s; picture {picture / GIB:.2f} GiB")
    most = 0.6 * GIB if node == "P3S_PointPicker" else 2.2 * GIB  # the host's own decoder works in floating point
    assert max(masks, picture) < most


@pytest.mark.slow
def test_rngr_mask_on_24_megapixels_is_quick_and_its_pictures_are_for_the_screen(
    server: Server, client: Client
) -> None:
    large = Image.fromarray(two_subjects()).resize((6000, 4000), Image.Resampling.BILINEAR)
    large.save(server.base / "input" / "photo24.jpg", quality=90)
    g = Graphs()
    picker = g.add("P3S_PointPicker", image="photo24.jpg", points=POINTS)
    name, inputs = clip(server)
    mask = g.add("P3S_RNGRMask", clip_vision=g.add(name, **inputs), image=picker, points=picker[1], **SETTINGS)
    result = client.run_ok(g.graph)
    assert [image.shape[:2] for image in result.images(mask.id)] == [(1365, 2048)] * 2
    print(f"{server.host}: {result.seconds:.1f} s")
    assert result.seconds < 30
