"""Point Picker on a real server: several subjects, boxes, points from other nodes, and frames of a batch."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from host.client import Client, Result
from host.graphs import Graphs, Node
from host.job import two_subjects
from host.server import Server

DOG, PACK = [0.39, 0.5], [0.75, 0.55]
EMPTY = '{"v":1,"positive":[],"negative":[]}'
SETTINGS = {"fill": "telea", "fill_region": "negative", "value_range": "clip", "blur": 1.0, "grow": 0.0}
POINTS, POSITIVE, NEGATIVE, POINTS_2, POINTS_4, BOUNDING_BOX, BOXES = 1, 2, 3, 4, 6, 7, 8


def text_of(*subjects: dict[str, Any], **more: Any) -> str:
    return json.dumps({"v": 2, "subjects": subjects, **more})


def one(positive: list[float], *negative: list[float]) -> str:
    return json.dumps({"v": 1, "positive": [positive], "negative": negative})


class Photo:
    """A graph around the photo of two subjects, 512 x 256 pixels."""

    def __init__(self, server: Server) -> None:
        self.g = Graphs()
        self.client = server.client
        self.file = server.client.upload_image(two_subjects(), "two.png")
        self.vision = self.g.add("CLIPVisionLoader", clip_name=server.model("clip-vision"))

    def picker(self, points: str = EMPTY, **more: Any) -> Node:
        return self.g.add("P3S_PointPicker", **{"image": self.file, "points": points, **more})

    def masks(self, picker: Node, output: int = POINTS) -> Node:
        vision = self.vision
        return self.g.add("P3S_RNGRMask", clip_vision=vision, image=picker, points=picker[output], **SETTINGS)

    def saved(self, image: Any) -> str:
        return self.g.add("SaveImage", images=image, filename_prefix="picked").id

    def text(self, source: Any) -> str:
        return self.g.add("PreviewAny", source=source).id

    def run(self) -> Result:
        return self.client.run_ok(self.g.graph)

    def refused(self) -> str:
        result = self.client.run(self.g.graph)
        assert result.error is not None
        return result.error.message


@pytest.fixture
def photo(server: Server) -> Photo:
    return Photo(server)


def read(result: Result, node: str) -> Any:
    """What a PreviewAny shows, decoded."""
    return json.loads(result.outputs[node]["text"][0].replace("'", '"'))


def test_two_subjects_need_one_picker_and_each_has_the_other_removed(photo: Photo) -> None:
    both = photo.picker(text_of({"positive": [DOG]}, {"positive": [PACK]}))
    alone = [photo.picker(one(DOG, PACK)), photo.picker(one(PACK, DOG))]
    found = [photo.masks(both), photo.masks(both, POINTS_2), *map(photo.masks, alone)]
    subject = [photo.saved(photo.g.add("MaskToImage", mask=each[2])) for each in found]
    clean = [photo.saved(each[1]) for each in found]
    result = photo.run()
    for ours, expected in ((0, 2), (1, 3)):
        for nodes in (subject, clean):
            np.testing.assert_array_equal(result.images(nodes[ours])[0], result.images(nodes[expected])[0])
    assert not np.array_equal(result.images(subject[0])[0], result.images(subject[1])[0])


def test_texts_are_those_of_the_first_subject(photo: Photo) -> None:
    picker = photo.picker(text_of({"positive": [DOG]}, {"positive": [PACK]}))
    shown = [photo.text(picker[POSITIVE]), photo.text(picker[NEGATIVE])]
    result = photo.run()
    assert [read(result, node) for node in shown] == [[{"x": 199, "y": 128}], [{"x": 384, "y": 140}]]


def test_a_subject_nobody_clicked_is_named_where_it_is_needed_and_costs_nothing_else(photo: Photo) -> None:
    picker = photo.picker(one(DOG, PACK))
    photo.masks(picker)
    photo.run()
    photo.masks(picker, POINTS_4)
    assert "Subject 4 has no positive point. Click it (+) in tab 4 of Point Picker; + below" in photo.refused()


def test_boxes_reach_other_nodes_in_pixels(photo: Photo) -> None:
    boxes = [[0.25, 0.25, 0.5, 0.75], [0, 0, 1, 1]]
    picker = photo.picker(text_of({"positive": [DOG], "boxes": boxes[:1]}, {"boxes": boxes[1:]}))
    shown = [photo.text(picker[BOXES]), photo.text(picker[BOUNDING_BOX])]
    result = photo.run()
    assert read(result, shown[0]) == [[128, 64, 256, 192], [0, 0, 512, 256]]
    expected = [{"x": 128, "y": 64, "width": 128, "height": 128}, {"x": 0, "y": 0, "width": 512, "height": 256}]
    assert read(result, shown[1]) == [expected]


def test_a_node_of_the_host_crops_to_a_box(photo: Photo, client: Client) -> None:
    if "ImageCropV2" not in client.object_info():
        pytest.skip("this host has no node that takes a BOUNDING_BOX")
    picker = photo.picker(text_of({"boxes": [[0.25, 0.25, 0.5, 0.75]]}))
    crop = photo.saved(photo.g.add("ImageCropV2", image=picker, crop_region=picker[BOUNDING_BOX]))
    np.testing.assert_array_equal(photo.run().images(crop)[0], two_subjects()[64:192, 128:256])


def test_a_node_of_the_host_takes_several_boxes_and_gives_them_back(photo: Photo, client: Client) -> None:
    if "CreateBoundingBoxes" not in client.object_info():
        pytest.skip("this host has no node that takes several boxes")
    text = text_of({"boxes": [[0.25, 0.25, 0.5, 0.75], [0, 0, 1, 1]]})
    picker = photo.picker(text)
    more = {"width": 512, "height": 256, "editor_state": {"__value__": []}}
    boxes = photo.g.add("CreateBoundingBoxes", background=picker, bboxes=picker[BOUNDING_BOX], **more)
    again = photo.picker(points_in=boxes[1])
    photo.text(again[BOXES])
    result = photo.run()
    assert json.loads(result.outputs[again.id]["p3s_points"][0]) == json.loads(
        text_of({"positive": [], "negative": [], "boxes": [[0.25, 0.25, 0.5, 0.75], [0, 0, 1, 1]]})
    )


def test_a_box_of_the_host_comes_in(photo: Photo, client: Client) -> None:
    if "PrimitiveBoundingBox" not in client.object_info():
        pytest.skip("this host has no node that gives a BOUNDING_BOX")
    picker = photo.picker(points_in=photo.g.add("PrimitiveBoundingBox", x=128, y=64, width=128, height=128))
    shown = photo.text(picker[BOXES])
    assert read(photo.run(), shown) == [[128, 64, 256, 192]]


@pytest.mark.parametrize(
    "given", [one(DOG, PACK), '{"positive": [{"x": 199, "y": 128}], "negative": [{"x": 384, "y": 140}]}']
)
def test_points_come_in_and_the_editor_is_told(photo: Photo, given: str) -> None:
    picker = photo.picker(points_in=photo.g.add("PrimitiveString", value=given))
    shown = [photo.text(picker[POSITIVE]), photo.text(picker[NEGATIVE])]
    result = photo.run()
    assert [read(result, node) for node in shown] == [[{"x": 199, "y": 128}], [{"x": 384, "y": 140}]]
    told = json.loads(result.outputs[picker.id]["p3s_points"][0])
    near = {"positive": [DOG], "negative": [PACK]}
    for sign, points in near.items():
        np.testing.assert_allclose(told[sign], points, atol=1 / 256)


def test_points_of_another_picker_come_in(photo: Photo) -> None:
    picker = photo.picker(points_in=photo.picker(one(DOG, PACK))[POINTS])
    photo.text(picker[POSITIVE])
    assert json.loads(photo.run().outputs[picker.id]["p3s_points"][0]) == json.loads(one(DOG, PACK))


@pytest.mark.parametrize("own", [one(PACK), text_of({"positive": [PACK]}, seed="1f")])
def test_what_the_user_clicked_is_kept_over_what_comes_in(photo: Photo, own: str) -> None:
    picker = photo.picker(own, points_in=photo.g.add("PrimitiveString", value=one(DOG)))
    shown = photo.text(picker[POSITIVE])
    assert read(photo.run(), shown) == [{"x": 384, "y": 140}]


def test_points_that_the_user_took_away_stay_away(photo: Photo) -> None:
    given = photo.g.add("PrimitiveString", value=one(DOG))
    photo.masks(photo.picker(text_of({}, seed="1f"), points_in=given))
    assert "There is no positive point" in photo.refused()


@pytest.mark.parametrize(
    ("given", "message"),
    [("[[5, 5]]", "points_in: box 1: expected"), ('[{"x": 9999, "y": 0}]', "points_in: positive point 1: x = 9999")],
)
def test_what_comes_in_wrong_is_named(photo: Photo, given: str, message: str) -> None:
    photo.text(photo.picker(points_in=photo.g.add("PrimitiveString", value=given))[BOXES])
    assert message in photo.refused()


def batch(g: Graphs) -> Node:
    colours = [g.add("EmptyImage", width=64, height=32, batch_size=1, color=color) for color in (0xFF0000, 0x0000FF)]
    return g.add("ImageBatch", image1=colours[0], image2=colours[1])


@pytest.mark.parametrize(("frame", "colour"), [({}, (255, 0, 0)), ({"frame": 1}, (0, 0, 255))])
def test_a_frame_of_a_batch(photo: Photo, frame: dict[str, int], colour: tuple[int, int, int]) -> None:
    picker = photo.picker(one(DOG), linked_image=batch(photo.g), **frame)
    saved = photo.saved(picker)
    result = photo.run()
    (image,) = result.images(saved)
    assert image.shape == (32, 64, 3) and (image == colour).all()
    (shown,) = result.outputs[picker.id]["p3s_image"]
    assert (shown["frame"], shown["batch"]) == (frame.get("frame", 0), 2)
    np.testing.assert_allclose(result.images(picker.id, "p3s_image")[0], image, atol=3)


def test_a_frame_that_a_batch_has_not(photo: Photo) -> None:
    photo.saved(photo.picker(one(DOG), linked_image=batch(photo.g), frame=2))
    assert "frame is 2, and linked_image holds 2 images: choose 0 to 1." in photo.refused()


def test_the_same_prompt_again_runs_nothing(photo: Photo) -> None:
    given = photo.g.add("PrimitiveString", value=one(DOG))
    photo.text(photo.picker(points_in=given, frame=0)[POSITIVE])
    photo.run()
    assert photo.run().executed == []


def test_a_bare_picker_is_refused_before_the_run(photo: Photo) -> None:
    picker = photo.picker(text_of({}, {"negative": [DOG]}))
    photo.text(picker[POSITIVE])
    assert "There is no positive point. Choose a picture" in photo.refused()
