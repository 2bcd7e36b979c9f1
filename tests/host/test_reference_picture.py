"""Reference Picture on a host: what it gives, what other nodes make of it, and what it says of wrong inputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host.client import Client
from host.inside import Inside
from host.job import Job, two_subjects
from host.server import Server


@pytest.fixture(scope="session")
def facts(inside: Inside) -> dict[str, Any]:
    return inside.run(Path(__file__).with_name("inside_reference_picture.py"))


@pytest.mark.parametrize("what", ["pictures", "masks", "sizes differ", "boxes", "one by its number"])
def test_several_photos_come_as_lists(facts: dict[str, Any], what: str) -> None:
    assert facts["several"][what] is True


def test_other_nodes_read_the_mask_as_the_subject(facts: dict[str, Any]) -> None:
    assert facts["chained"]["composite"] is True
    assert facts["chained"]["alpha"] is True


def test_kontexts_scale_brings_it_to_a_size_of_the_model(facts: dict[str, Any]) -> None:
    """The cut of the test, 80 x 48 pixels, is nearest to 1328 x 800 of its sizes."""
    assert facts["chained"]["kontext"] == [1, 800, 1328, 3]


def test_the_boxes_of_rngr_mask_are_those_of_its_masks(facts: dict[str, Any]) -> None:
    assert facts["boxes"]["boxes"] is True
    assert facts["boxes"]["count"] == 2


def test_a_single_box_is_an_object_and_several_are_lists_for_each_picture(facts: dict[str, Any]) -> None:
    assert facts["boxes"]["one"] is True
    none, two = facts["boxes"]["picker"]
    assert none == []
    assert two == [[{"x": 1, "y": 2, "width": 3, "height": 4}, {"x": 5, "y": 6, "width": 7, "height": 8}]]


def test_the_host_draws_the_boxes_where_the_masks_are(facts: dict[str, Any]) -> None:
    if "drawn" not in facts["boxes"]:
        pytest.skip("this ComfyUI has no node Draw BBoxes")
    assert facts["boxes"]["drawn"] == [[True] * 4] * 2


@pytest.mark.parametrize(
    ("case", "begins"),
    [
        ("no photo", "MaskError: reference holds no photo. Connect RNGR Mask"),
        ("too few", "MaskError: photos in reference: 2; there is no photo 3. 0 gives all of them"),
        ("no reference", "P3SError: reference must come from RNGR Mask; got None"),
        ("an image", "P3SError: reference must come from RNGR Mask; got tensor("),
        ("empty mask", "MaskError: The reference's subject mask is empty"),
        ("colour", "MaskError: colour must be an opaque colour, such as #ffffff or white; got 'ffffff'"),
        ("no colour", "P3SError: colour must be text; got None"),
        ("background", "P3SError: background must be one of kept, painted, plain, transparent; got 'blurred'"),
        ("margin", "P3SError: margin must be a number in 0..4; got nan"),
    ],
)
def test_what_it_cannot_use_is_named(facts: dict[str, Any], case: str, begins: str) -> None:
    assert facts["said"][case].startswith(begins), facts["said"][case]


CUT = {"view": "subject", "margin": 0.1, "multiple": 16}


def test_the_pictures_of_a_run(server: Server, client: Client) -> None:
    """A photo with clicks, its masks, and pictures of every kind, which a VAE encodes."""
    job = Job(server, "sd15-micro")
    g, reference = job.g, job.reference()
    saved, encoded = {}, {}
    for background in ("kept", "painted", "plain", "transparent"):
        picture = g.add("P3S_ReferencePicture", reference=reference, background=background, colour="#3366cc", **CUT)
        saved[background] = g.add("SaveImage", images=picture, filename_prefix=f"cut_{background}").id
        latent = g.add("VAEEncode", pixels=picture, vae=job.vae)
        encoded[background] = g.add("SaveLatent", samples=latent, filename_prefix="cut").id
    mask = g.add("PreviewImage", images=g.add("MaskToImage", mask=picture[1])).id
    result = client.run_ok(g.graph)
    assert set(encoded.values()) <= set(result.executed)
    found = {background: result.images(node)[0] for background, node in saved.items()}
    height, width = found["kept"].shape[:2]
    assert height % 16 == width % 16 == 0 and width < 512 and height <= 256
    level = result.images(mask)[0][..., 0]
    photo = two_subjects()
    places = [
        (top, left)
        for top in range(256 - height + 1)
        for left in range(512 - width + 1)
        if np.array_equal(photo[top, left : left + width], found["kept"][0])
    ]
    assert len(places) == 1, "the picture is a part of the photo"
    assert (level[[0, -1]] < 255).any() and (level == 255).mean() > 0.1
    for background in ("painted", "plain", "transparent"):
        assert np.array_equal(found[background][level == 255][:, :3], found["kept"][level == 255])
    assert (found["plain"][level == 0] == (0x33, 0x66, 0xCC)).all()
    assert np.array_equal(found["transparent"][..., 3], level)
    assert (found["transparent"][level == 0][:, :3] == (0x33, 0x66, 0xCC)).all()
