"""RNGR Mask takes several photos at once when each has its points, and says so when it does not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.client import Client
from host.inside import Inside
from host.job import POINTS, Job, two_subjects
from host.server import Server


@pytest.fixture(scope="session")
def facts(inside: Inside) -> dict[str, Any]:
    return inside.run(Path(__file__).with_name("inside_rngr_mask.py"))


@pytest.mark.parametrize("way", ["a batch", "a list", "chained", "the pictures", "text", "an inpainted batch"])
def test_several_photos_give_what_each_gives_alone(facts: dict[str, Any], way: str) -> None:
    assert facts[way] is True


@pytest.mark.parametrize(
    ("case", "begins"),
    [
        ("a batch, one picker", "PointError: photos in image: 3; with points: 1. Every photo needs"),
        ("a list, one picker's points", "PointError: image holds several photos with the very same points"),
        ("two sizes", "MaskError: image holds photos of several sizes (48 x 48, 48 x 40): give each an RNGR Mask"),
        ("one inpainted", "MaskError: pictures in inpainted: 1; photos in image: 3"),
        ("one negative text", "PointError: negative_points holds 1 texts and points 2"),
        ("the second photo is wrong", "PointError: photo 2: There is no positive point"),
        ("a list of settings", "P3SError: blur comes as a list of 2 values; one is expected"),
        ("nothing", "MaskError: image must hold pixels in floating point, got [0, 48, 48, 3] of torch.float32"),
        ("no picture", "MaskError: image must be a batch of pictures"),
        ("no inpainted picture", "MaskError: inpainted must hold values in 0..1, but they span -0.79"),
        ("no points", "PointError: There is no positive point"),
        ("no clip vision", "P3SError: clip_vision is empty: the checkpoint it comes from holds no CLIP vision model"),
        ("no references", "P3SError: references must come from RNGR Mask; got None"),
    ],
)
def test_what_does_not_go_together_is_named(facts: dict[str, Any], case: str, begins: str) -> None:
    assert facts["said"][case].startswith(begins), facts["said"][case]


def test_masks_from_elsewhere_take_the_place_of_clips(facts: dict[str, Any]) -> None:
    assert all(value for name, value in facts["masked"].items() if name != "said"), facts["masked"]


@pytest.mark.parametrize(
    ("case", "begins"),
    [
        (
            "nothing selected",
            "PointError: Nothing says which subject is meant: connect Point Picker to points, or a mask",
        ),
        ("a negative mask alone", "PointError: Nothing says which subject is meant"),
        ("two masks for three", "MaskError: masks in subject_mask: 2; photos in image: 3. Give one for each"),
        ("two sizes for one", "MaskError: masks in subject_mask: 2; photos in image: 1. Give one for each, or for one"),
        ("no mask on the wire", "MaskError: subject_mask is empty: the node that it comes from gave no mask"),
        (
            "the mask of the second photo",
            "MaskError: photo 2: subject_mask is 48 x 20 pixels, the photo 48 x 48: their",
        ),
        ("an empty subject mask", "MaskError: subject_mask marks nothing: Load Image gives an empty mask"),
        ("no mask", "MaskError: subject_mask must be a mask [height, width], or several"),
        ("inverted", "MaskError: positive point 1 (at pixel"),
    ],
)
def test_a_mask_that_does_not_fit_is_named(facts: dict[str, Any], case: str, begins: str) -> None:
    assert facts["masked"]["said"][case].startswith(begins), facts["masked"]["said"][case]


def test_the_point_picker_reads_pictures_of_other_kinds_the_same_way(facts: dict[str, Any]) -> None:
    assert all(facts["picked"].values()), facts["picked"]


def test_a_list_of_photos_is_not_trained_one_subject_each(server: Server, client: Client) -> None:
    job = Job(server, "sd15-micro")
    both = [client.upload_image(two_subjects(left), f"{left}.png") for left in ("dog", "puppy")]
    batch = job.g.add("ImageBatch", **{f"image{i}": job.g.add("LoadImage", image=n) for i, n in enumerate(both, 1)})
    photos = job.g.add("RebatchImages", images=batch, batch_size=1)
    reference = job.reference(points=POINTS)
    job.g.graph[reference.id]["inputs"]["image"] = photos[0]
    job.train(reference)
    result = client.run(job.g.graph)
    assert result.error is not None
    assert result.error.message.startswith("photos in image: 2; with points: 1")
