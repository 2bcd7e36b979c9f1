"""The Point Picker's server side on a real host: what it gives, what it refuses, and what makes it run again."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from browser.pictures import gradient
from host.client import Client, Result
from host.server import Server
from PIL import Image

POINTS = '{"v":1,"positive":[[0.25,0.5]],"negative":[[0.75,0.125],[1,1]]}'


def graph(points: str = POINTS, image: object = "photo.png", **more: object) -> dict:
    return {
        "1": {"class_type": "P3S_PointPicker", "inputs": {"image": image, "points": points, **more}},
        "2": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}},
        "3": {"class_type": "PreviewAny", "inputs": {"source": ["1", 2]}},
        "4": {"class_type": "PreviewAny", "inputs": {"source": ["1", 3]}},
    }


def texts(result: Result) -> list[list[dict[str, int]]]:
    return [json.loads(result.outputs[node]["text"][0]) for node in ("3", "4")]


def test_file_and_points_come_out(client: Client) -> None:
    picture = gradient(400, 200)
    client.upload_image(picture)
    result = client.run_ok(graph())
    (out,) = result.images("2")
    np.testing.assert_array_equal(out, picture)
    assert texts(result) == [[{"x": 100, "y": 100}], [{"x": 300, "y": 25}, {"x": 399, "y": 199}]]
    assert "1" not in result.outputs, "a file needs no preview of its own"


def test_kjnodes_texts_are_read(client: Client) -> None:
    client.upload_image(gradient(400, 200))
    assert texts(client.run_ok(graph('[{"x": 40, "y": 20}]'))) == [[{"x": 40, "y": 20}], []]


def test_the_photo_is_upright_and_points_belong_to_that(client: Client, server: Server) -> None:
    upright = gradient(400, 200)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it upright
    lying = Image.fromarray(np.rot90(upright).copy())
    lying.save(server.base / "input" / "lying.png", exif=exif)
    result = client.run_ok(graph(image="lying.png"))
    np.testing.assert_array_equal(result.images("2")[0], upright)
    assert texts(result)[0] == [{"x": 100, "y": 100}]


def test_grey_16_bit_pictures_keep_their_brightness(client: Client, server: Server) -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(32, axis=0)
    Image.fromarray(levels).save(server.base / "input" / "deep.png")
    (out,) = client.run_ok(graph(image="deep.png")).images("2")
    assert np.abs(out[:, :, 0].astype(int) - levels // 257).max() <= 1
    assert (out[:, :, 0] == out[:, :, 2]).all()


def test_a_linked_image_wins_and_the_first_of_a_batch_is_used(client: Client) -> None:
    content = graph(image="gone.png", linked_image=["9", 0])  # the file is not needed then
    content["9"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 3000, "height": 1500, "batch_size": 2, "color": 0x3366AA},
    }
    result = client.run_ok(content)
    assert [image.shape for image in result.images("2")] == [(1500, 3000, 3)]
    (shown,) = result.outputs["1"]["p3s_image"]
    assert (shown["type"], shown["width"], shown["height"], shown["batch"]) == ("temp", 3000, 1500, 2)
    preview = Image.open(io.BytesIO(client.view(shown)))
    assert preview.size == (2048, 1024)
    assert np.abs(np.asarray(preview).astype(int) - (0x33, 0x66, 0xAA)).max() <= 3
    again = client.run_ok({**content, "8": {"class_type": "PreviewImage", "inputs": {"images": ["1", 0]}}})
    assert again.outputs["1"]["p3s_image"] == [shown]


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ("{", "not valid JSON"),
        ('{"v":1,"positive":[[0.5,0.5]],"negative":[[0.1,0.1],[1.3,0.2]]}', "negative point 2: x = 1.3"),
        ('{"v":3,"positive":[]}', "version 3 is newer"),
    ],
)
def test_bad_points_are_refused_before_the_run(client: Client, points: str, message: str) -> None:
    client.upload_image(gradient(400, 200))
    result = client.run(graph(points))
    assert result.status == "refused"
    assert message in result.error.message


def test_a_positive_point_is_asked_for_before_the_run_once_the_picture_can_be_seen(client: Client) -> None:
    """That of a link may be seen only after a run, so that one runs without points."""
    client.upload_image(gradient(400, 200))
    for points in ('{"v":1,"positive":[],"negative":[[0.5,0.5]]}', ""):
        result = client.run(graph(points))
        assert result.status == "refused"
        shown = result.error.message.splitlines()[1:]
        assert len(shown) == 1, "once, beside points"
        assert "points - There is no positive point. Choose a picture, click the subject" in shown[0]
    content = graph('{"v":1,"positive":[],"negative":[]}', image="", linked_image=["9", 0])
    content["9"] = {"class_type": "EmptyImage", "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 1}}
    assert texts(client.run_ok(content)) == [[], []]


def test_no_file_is_a_choice_and_the_first(client: Client) -> None:
    """What it names may be missing on another machine, also where a link makes it needless."""
    client.upload_image(gradient(400, 200))
    kind, *options = client.object_info("P3S_PointPicker")["input"]["required"]["image"]
    choices = kind if isinstance(kind, list) else options[0]["options"]
    assert choices[0] == "" and "photo.png" in choices[1:]


def test_a_file_in_a_subfolder_or_another_folder_is_taken(client: Client, server: Server) -> None:
    """As the mask editor makes them: the list of the widget has none of these."""
    for folder, name in (("input", "clipspace/painted.png [input]"), ("temp", "made.png [temp]")):
        path = server.base / folder / name.split(" ")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(gradient(400, 200)).save(path)
        assert client.run_ok(graph(image=name)).images("2")[0].shape == (200, 400, 3)


@pytest.mark.parametrize("image", ["none.png", "../server.log", "/etc/passwd", "", "sub/../../server.log"])
def test_a_file_that_is_not_in_comfyuis_folders_is_refused(client: Client, image: str) -> None:
    result = client.run(graph(image=image))
    assert result.error is not None
    assert "input folder" in result.error.message or "upload an image" in result.error.message


def test_it_runs_again_when_the_file_or_the_points_change_and_else_not(client: Client) -> None:
    client.upload_image(gradient(400, 200), "changing.png")
    first = client.run_ok(graph(image="changing.png"))
    assert "1" in first.executed
    assert "1" in client.run_ok(graph(image="changing.png")).cached
    moved = client.run_ok(graph(POINTS.replace("0.25", "0.3"), image="changing.png"))
    assert "1" in moved.executed
    client.upload_image(gradient(200, 400), "changing.png")
    changed = client.run_ok(graph(image="changing.png"))
    assert "1" in changed.executed
    assert changed.images("2")[0].shape == (400, 200, 3)


def test_a_linked_picker_does_not_run_again_without_a_change(client: Client, server: Server) -> None:
    start = server.log_size()
    content = graph(linked_image=["9", 0])
    content["9"] = {
        "class_type": "EmptyImage",
        "inputs": {"width": 64, "height": 64, "batch_size": 1, "color": 1},
    }
    client.run_ok(content)
    client.upload_image(gradient(90, 90), "photo.png")  # the file that the link makes needless
    assert {"1", "2"} <= set(client.run_ok(content).cached)
    assert "WARNING" not in server.log_text(start)
