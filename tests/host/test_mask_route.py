"""POST /p3s/masks on a real server: what it answers, what it refuses, and that it never loads a model."""

from __future__ import annotations

import http.client
import json
import os
import threading
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from host.client import Client
from host.graphs import Graphs
from host.inside import Inside
from host.job import CLIP, POINTS, TOY, origin, two_subjects
from host.server import Server
from host.test_help_pages import NODES
from PIL import Image
from test_mask_preview import from_runs

JSON = {"Content-Type": "application/json"}


def send(
    client: Client, body: bytes | Any, headers: dict[str, str] = JSON, path: str = "/p3s/masks"
) -> tuple[int, dict[str, Any]]:
    """POST bytes as they are; an iterator is sent in chunks, without a length."""
    connection = http.client.HTTPConnection(urlsplit(client.url).netloc, timeout=60)
    try:
        connection.request("POST", path, body, headers)
        response = connection.getresponse()
        text = response.read()
        return response.status, json.loads(text) if text.startswith(b"{") else {}
    finally:
        connection.close()


def content(image: Any = "two.png", points: str = POINTS, node: str = "P3S_PointPicker", **more: Any) -> dict[str, Any]:
    return {"picture": {"node": node, "image": image}, "points": points, "origin": CLIP, "source": "a test", **more}


def ask(client: Client, *args: Any, headers: dict[str, str] = JSON, **more: Any) -> tuple[int, dict[str, Any]]:
    return send(client, json.dumps(content(*args, **more)).encode(), headers)


def mask_graph(
    server: Server, image: Any = "two.png", points: str = POINTS, compared: dict[str, Any] | None = None, **linked: Any
) -> Graphs:
    g = Graphs()
    picker = g.add("P3S_PointPicker", image=image, points=points, **linked)
    vision = g.add("CLIPVisionLoader", clip_name=server.model("clip-vision"))
    settings = {"fill": "telea", "fill_region": "negative", "value_range": "clip", "blur": 1.0, "grow": 0.0}
    settings |= compared or {}
    masks = g.add("P3S_RNGRMask", clip_vision=vision, image=picker, points=picker[1], **settings)
    for slot in (2, 3):
        g.add("SaveImage", images=g.add("MaskToImage", mask=masks[slot]), filename_prefix=f"mask{slot}")
    return g


def test_before_any_run_it_says_so_and_afterwards_it_shows_what_a_run_gives(server: Server) -> None:
    client = server.restart()
    client.upload_image(two_subjects(), "two.png")
    started = server.log_size()
    assert ask(client) == (200, {"state": "unread"})
    result = client.run_ok(mask_graph(server).graph)
    start = time.monotonic()
    status, shown = ask(client)
    assert time.monotonic() - start < 1
    assert (status, shown["state"], shown["grid"]) == (200, "ready", 16)
    for name, node in (("subject", "5"), ("removed", "7")):
        drawn = from_runs(shown[name], shown["size"])
        np.testing.assert_array_equal(drawn, result.images(node)[0][1::3, 1::3, 0] > 127)
    assert np.shape(shown["similarity"]) == (8, 16)

    moved = POINTS.replace("0.39, 0.5]", "0.39, 0.45]")
    assert ask(client, points=moved)[1]["state"] == "ready"
    assert ask(client, points=moved)[1]["similarity"] != shown["similarity"]
    wide = ask(client, settings={"fill_region": "background", "blur": 2, "grow": 1, "value_range": "minmax"})[1]
    subject, removed = (from_runs(wide[name], wide["size"]) for name in ("subject", "removed"))
    assert (subject ^ removed).all()
    assert not server.own_frames(started)


def test_what_is_compared_is_switched_without_a_run_and_shows_what_a_run_gives(server: Server, client: Client) -> None:
    client.upload_image(two_subjects(), "two.png")
    client.run_ok(mask_graph(server).graph)
    plain = ask(client)[1]
    for compared, grid in (
        ({"refine": "grabcut"}, 16),
        ({"features": "value-value"}, 16),
        ({"features": "penultimate", "refine": "grabcut"}, 16),
        ({"tiles": 2}, 28),
    ):
        status, shown = ask(client, settings=compared)
        if shown["state"] == "unread":  # tiles, where the host has moved the model
            assert compared == {"tiles": 2}
        else:
            assert (status, shown["state"], shown["grid"]) == (200, "ready", grid)
        result = client.run_ok(mask_graph(server, compared=compared).graph)
        after = ask(client, settings=compared)[1]
        assert shown["state"] == "unread" or shown["subject"] == after["subject"], compared
        for name, node in (("subject", "5"), ("removed", "7")):
            np.testing.assert_array_equal(
                from_runs(after[name], after["size"]), result.images(node)[0][1::3, 1::3, 0] > 127
            )
        assert ("refine" in compared or "tiles" in compared) == (after["subject"] != plain["subject"])
    assert ask(client)[1] == plain


def test_a_linked_vision_model_shows_what_a_run_has_read_of_it(server: Server, client: Client) -> None:
    client.upload_image(two_subjects(), "two.png")
    client.run_ok(mask_graph(server).graph)
    own = ask(client)[1]
    g = mask_graph(server)
    # A CLIP beside itself: its masks are the same, but what is read of it is kept apart.
    g.graph["3"]["inputs"]["mask_vision"] = g.graph["3"]["inputs"]["clip_vision"]
    client.run_ok(g.graph)
    linked = ask(client, settings={"mask_vision": True})[1]
    assert linked["state"] == "ready" and linked["subject"] == own["subject"]
    assert ask(client, settings={"mask_vision": "yes"})[0] == 400
    assert ask(client, settings={"features": "first"})[0] == 400


def test_of_each_vision_model_what_it_has_read_is_shown_and_no_other(server: Server, client: Client) -> None:
    client.upload_image(np.roll(two_subjects(), 9, 0), "two.png")
    assert ask(client, origin=None) == (200, {"state": "unread"}), "no RNGR Mask, or nothing linked to it"
    client.run_ok(mask_graph(server).graph)
    by_clip = ask(client)[1]
    assert (by_clip["state"], by_clip["grid"]) == ("ready", 16)
    other_file = origin("CLIPVisionLoader", clip_name="another.safetensors")
    for elsewhere in (TOY, other_file, None):
        assert ask(client, origin=elsewhere) == (200, {"state": "unread"})

    both = mask_graph(server)
    world = both.add("P3S_ToyWorld", animal="dog", scene=4, batch_size=1)
    settings = {**both.graph["3"]["inputs"], "clip_vision": world[3]}
    both.add("P3S_RNGRMask", **settings)
    client.run_ok(both.graph)
    assert ask(client)[1] == by_clip
    assert ask(client, origin=TOY)[1]["grid"] == 12
    assert ask(client, origin=other_file) == (200, {"state": "unread"})
    # Both models are alive, and each reads a picture of which no run knows.
    client.upload_image(np.roll(two_subjects(), 10, 0), "unseen.png")
    assert [ask(client, "unseen.png", origin=each)[1]["grid"] for each in (CLIP, TOY)] == [16, 12]
    # What the masks are made with is the model at mask_vision, where one is linked.
    both.graph["3"]["inputs"]["mask_vision"] = world[3]
    client.run_ok(both.graph)
    assert ask(client, origin=TOY, settings={"mask_vision": True})[1]["grid"] == 12


def test_without_a_server_the_nodes_load_and_a_second_copy_adds_no_second_route(inside: Inside) -> None:
    facts = inside.run(Path(__file__).with_name("inside_route.py"))
    assert facts == {"nodes": len(NODES), "server": False, "routes": ["POST /p3s/masks", "GET /p3s/picture"]}


@pytest.mark.slow
def test_reading_between_runs_disturbs_no_run_and_changes_no_result(inside: Inside) -> None:
    facts = inside.run(Path(__file__).with_name("inside_patches.py"), {"clip_vision": inside.model("clip-vision")})
    for name in ("a run waits", "a run came and went", "the model is moved"):
        assert facts.pop(name) == [True, [True], True], name  # nothing is said of it; asked again it is
    assert facts.pop("the queue is free meanwhile") == [True]
    assert facts == dict.fromkeys(facts, True)
    assert len(facts) == 10


def test_it_is_under_the_frontends_prefix_too(client: Client) -> None:
    assert send(client, b"{}", JSON, "/api/p3s/masks")[0] == 400


@pytest.mark.slow
def test_a_picture_that_no_run_has_seen_is_read_while_the_model_is_alive(server: Server, client: Client) -> None:
    client.upload_image(two_subjects(), "two.png")
    client.run_ok(mask_graph(server).graph)
    Image.fromarray(two_subjects()[:, ::-1]).save(server.base / "input" / "turned.png")
    turned = {"v": 1, "positive": [[0.61, 0.5]], "negative": [[0.25, 0.55]]}
    shown, plain = ask(client, "turned.png", json.dumps(turned))[1], ask(client)[1]
    mirrored = from_runs(plain["subject"], plain["size"])[:, ::-1]
    assert (from_runs(shown["subject"], shown["size"]) != mirrored).mean() < 0.02

    # Another content under the same name is another picture.
    Image.fromarray(two_subjects()).save(server.base / "input" / "turned.png")
    assert ask(client, "turned.png")[1] == plain

    # A graph without the model, and the host lets go of it: the route does not keep or load it.
    g = Graphs()
    g.add("PreviewImage", images=g.add("LoadImage", image="two.png"))
    client.run_ok(g.graph)
    client.free()
    states = []
    for shift in range(1, 21):
        Image.fromarray(np.roll(two_subjects(), shift, 0)).save(server.base / "input" / "new.png")
        states.append(ask(client, "new.png")[1]["state"])
        if states[-1] == "unread":
            break
        time.sleep(0.5)
    assert states[-1] == "unread", states
    assert ask(client)[1] == plain, "what it said of pictures is still known"


@pytest.mark.slow
def test_points_that_give_no_mask_are_explained_also_when_the_run_failed(server: Server, client: Client) -> None:
    client.upload_image(np.roll(two_subjects(), 5, 0), "two.png")
    together = json.dumps({"v": 1, "positive": [[0.39, 0.5]], "negative": [[0.391, 0.5]]})
    result = client.run(mask_graph(server, points=together).graph)
    assert result.status == "error"
    status, shown = ask(client, points=together)
    assert (status, shown["state"]) == (200, "problem")
    assert "same CLIP patch" in shown["message"]
    assert shown["grid"] == 16, "an editor draws the patches that are meant"
    assert ask(client, points='{"v":1}')[1]["message"].startswith("There is no positive point.")
    assert ask(client)[1]["state"] == "ready"


@pytest.mark.slow
def test_a_linked_picture_is_known_by_the_preview_that_the_picker_shows(server: Server, client: Client) -> None:
    big = np.asarray(Image.fromarray(two_subjects()).resize((3000, 1500)))
    client.upload_image(big, "big.png")
    g = mask_graph(server, linked_image=["20", 0])
    g.graph["20"] = {"class_type": "ImageInvert", "inputs": {"image": ["21", 0]}}
    g.graph["21"] = {"class_type": "LoadImage", "inputs": {"image": "big.png"}}
    result = client.run_ok(g.graph)
    (file,) = result.outputs["1"]["p3s_image"]
    status, shown = ask(client, f"{file['filename']} [{file['type']}]")
    assert (status, shown["state"]) == (200, "ready")
    full = result.images("5")[0][..., 0] > 127
    drawn = np.asarray(Image.fromarray(from_runs(shown["subject"], shown["size"])).resize(full.shape[::-1]))
    assert (drawn != full).mean() < 0.02


@pytest.mark.parametrize(
    "image",
    [
        "../server.log",
        "..\\server.log",
        "sub/../../server.log",
        "../input/../server.log [input]",
        "../server.log [temp]",
        "/etc/passwd",
        "/etc/passwd [output]",
        "{base}/server.log",
        "{base}/input/two.png/../../server.log",
        "file:///etc/passwd",
        "two.png\x00.png",
        "linked/../../server.log",
        "none.png",
        ".",
        "sub",
    ],
)
def test_only_files_of_comfyuis_own_folders_are_read(server: Server, client: Client, image: str) -> None:
    folder = server.base / "input"
    (folder / "sub").mkdir(exist_ok=True)
    if not (folder / "linked").is_symlink():
        (folder / "linked").symlink_to(server.base)
    status, answer = ask(client, image.format(base=server.base))
    assert status == 404
    assert str(server.base) not in json.dumps(answer)


def test_brackets_name_the_folder(server: Server, client: Client) -> None:
    for folder, name in (("output", "made.png [output]"), ("temp", "made.png [temp]"), ("input", "deep/er/made.png")):
        target = server.base / folder / name.split(" ")[0]
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(two_subjects()).save(target)
        assert ask(client, name)[0] == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:1"])
def test_other_origins_are_refused_as_the_hosts_own_routes_refuse_them(client: Client, origin: str) -> None:
    headers = {**JSON, "Origin": origin}
    assert ask(client, headers=headers)[0] == send(client, b"{}", headers, "/prompt")[0] == 403


def test_behind_a_proxy_it_answers_where_the_hosts_own_routes_do(client: Client) -> None:
    """A proxy over plain HTTP names its target as Host; the browser names the proxy as Origin, and nothing else."""
    client.upload_image(two_subjects(), "two.png")
    for headers in (
        {"Origin": client.url},
        {"Origin": client.url, "Sec-Fetch-Site": "same-origin"},
        {"Host": "comfyui:8188", "Origin": "http://pictures.example"},
    ):
        assert send(client, b"{}", {**JSON, **headers}, "/queue")[0] == 200, headers
        assert ask(client, headers={**JSON, **headers})[0] == 200, headers


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"])
def test_what_a_form_of_another_page_could_send_is_refused(client: Client, kind: str) -> None:
    assert ask(client, headers={"Content-Type": kind})[0] == 415


def test_long_bodies_are_refused(client: Client) -> None:
    long = json.dumps(content(points=" " * 40_000)).encode()
    assert send(client, long)[0] == 413
    pieces = (long[i : i + 1000] for i in range(0, len(long), 1000))
    assert send(client, pieces)[0] == 413


def changed(**more: Any) -> bytes:
    return json.dumps({**content(), **more}).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'"two.png"',
        b"\xff\xfe",
        b"[" * 30_000,
        b'{"image": "two.png"}',
        changed(more=1),
        changed(picture=None),
        changed(picture="two.png"),
        changed(picture={"image": "two.png"}),
        changed(picture={"node": "PreviewImage", "image": "two.png"}),
        changed(picture={"node": ["LoadImage"], "image": "two.png"}),
        changed(picture={"node": "LoadImage", "image": "two.png", "more": 1}),
        *(changed(picture={"node": "LoadImage", "image": image}) for image in (None, ["two.png"], "", "x" * 1001)),
        changed(picture={"node": "P3S_ToyWorld", "animal": "zebra", "scene": 1}),
        *(changed(picture={"node": "P3S_ToyWorld", "animal": "dog", "scene": n}) for n in (-1, 10_000, 1.5, True, "1")),
        changed(origin="P3S_ToyWorld"),
        changed(source=7),
        changed(source="s" * 101),
        changed(points=None),
        changed(points={"v": 1}),
        changed(points="{"),
        changed(points='{"v":1,"positive":[[2,0]]}'),
        changed(points='{"v":1,"positive":[[NaN,0]]}'),
        changed(points='{"v":1,"positive":[[1e999,0]]}'),
        changed(points='{"v":1,"positive":[["0",0]]}'),
        changed(points='{"v":99,"positive":[]}'),
        changed(points='[{"x":1,"y":1}]'),
        changed(points=json.dumps({"v": 1, "positive": [[0.5, 0.5]] * 65})),
        changed(settings=[]),
        changed(settings={"fill": "telea"}),
        changed(settings={"blur": "1"}),
        changed(settings={"blur": 1e9}),
        changed(settings={"blur": float("nan")}),
        changed(settings={"grow": -1}),
        changed(settings={"value_range": "other"}),
        changed(settings={"fill_region": ["negative"]}),
    ],
)
def test_malformed_requests_are_refused_with_a_reason(client: Client, server: Server, body: bytes) -> None:
    client.upload_image(two_subjects(), "two.png")
    start = server.log_size()
    status, answer = send(client, body)
    assert status == 400
    assert len(answer["error"]) > 10
    assert not server.own_frames(start)


def test_files_that_are_no_pictures_or_huge_are_refused(server: Server, client: Client) -> None:
    client.upload_image(two_subjects(), "two.png")
    client.run_ok(mask_graph(server).graph)
    folder = server.base / "input"
    (folder / "text.png").write_text("not a picture")
    (folder / "empty.png").write_bytes(b"")
    whole = (folder / "two.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[:30])
    for name in ("text.png", "empty.png", "cut.png"):
        assert ask(client, name)[0] == 422, name
    for side in (8000, 20_000):  # the second is more than Pillow itself opens
        Image.new("1", (side, side)).save(folder / f"huge{side}.png")
        start = time.monotonic()
        status, answer = ask(client, f"huge{side}.png")
        assert (status, time.monotonic() - start < 5) == (422, True)
        assert "pixels" in answer["error"]


def test_of_one_source_only_the_newest_waits_and_the_server_stays_awake(server: Server, client: Client) -> None:
    client.upload_image(two_subjects(), "two.png")
    client.run_ok(mask_graph(server).graph)
    # The first request keeps the thread busy with a large picture.
    Image.fromarray(two_subjects()).resize((6000, 4000)).save(server.base / "input" / "large.jpg")
    answers: dict[int, dict[str, Any]] = {}
    states: list[str] = []

    def one(number: int, image: str) -> None:
        answers[number] = ask(client, image)[1]

    threads = [threading.Thread(target=one, args=(i, "large.jpg" if i == 0 else "two.png")) for i in range(8)]
    for thread in threads:
        thread.start()
        time.sleep(0.02)
        start = time.monotonic()
        client.get("/system_stats")
        assert time.monotonic() - start < 2
    for thread in threads:
        thread.join(60)
    states = [answers[i]["state"] for i in range(8)]
    assert (states[0], states[7]) == ("ready", "ready")
    assert states[1:7].count("superseded") >= 4, states


@pytest.mark.slow
def test_while_a_run_is_under_way_clip_is_left_alone(server: Server, client: Client) -> None:
    client.upload_image(two_subjects(), "two.png")
    client.run_ok(mask_graph(server).graph)
    pixels = np.random.default_rng(os.getpid()).integers(0, 255, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(server.base / "input" / "unseen.png")
    mark = client.mark()
    g = mask_graph(server)
    # Something that takes a while before the masks.
    big = g.add("ImageScale", image=["1", 0], upscale_method="lanczos", width=8000, height=8000, crop="disabled")
    g.add("PreviewImage", images=g.add("ImageBlur", image=big, blur_radius=15, sigma=3.0))
    queued = client.queue(g.graph)
    assert isinstance(queued, str)
    client.wait_event("execution_start", since=mark)
    asked = [ask(client, name)[1]["state"] for name in ("unseen.png", "two.png")]
    client.interrupt()
    client.wait(queued)
    assert asked == ["unread", "ready"]
