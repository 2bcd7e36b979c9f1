"""Masks of the host's own nodes in a whole graph: Load Image's transparency -> RNGR Mask -> Train P3S."""

from __future__ import annotations

from typing import Any

import numpy as np
from host.client import Client, Result
from host.graphs import Node
from host.job import Job, two_subjects
from host.server import Server
from PIL import Image

from p3s.subject.file import load_subject

EMPTY = '{"v":1,"positive":[],"negative":[]}'


def left_part() -> np.ndarray:
    """Where the left subject is, as one would mark it in the mask editor; bool."""
    rows, columns = np.mgrid[:256, :512]
    return ((columns - 130) / 80) ** 2 + ((rows - 130) / 100) ** 2 < 1


class Masked(Job):
    """A job whose RNGR Mask reads masks; ``masks`` holds the ids of the nodes that save what it gives."""

    def __init__(self, server: Server) -> None:
        super().__init__(server, "sd15-micro")

    def file(self, name: str, transparent: np.ndarray | None) -> Node:
        picture = Image.fromarray(two_subjects())
        if transparent is not None:
            picture.putalpha(Image.fromarray(np.where(transparent, 0, 255).astype(np.uint8)))
        return self.g.add("LoadImage", image=self.server.client.upload_image(picture, name))

    def rngr(self, image: Any, **inputs: Any) -> Node:
        vision = self.g.add("CLIPVisionLoader", clip_name=self.server.model("clip-vision"))
        self.made = self.g.add("P3S_RNGRMask", clip_vision=vision, image=image, **inputs)
        return self.made

    def saved(self, slot: int) -> str:
        picture = self.g.add("MaskToImage", mask=self.made[slot])
        return self.g.add("SaveImage", images=picture, filename_prefix="mask").id


def white(result: Result, node: str) -> np.ndarray:
    (picture,) = result.images(node)
    return picture[..., 0] > 127


def test_a_mask_painted_in_the_mask_editor_is_trained_without_points(server: Server, client: Client) -> None:
    """The editor makes what is painted transparent, and Load Image's mask is 1 there."""
    for file in (server.base / "models" / "p3s").glob("painted*"):
        file.unlink()
    job = Masked(server)
    photo = job.file("painted.png", left_part())
    right = Image.fromarray((255 * left_part()[:, ::-1]).astype(np.uint8)).convert("RGB")
    name = client.upload_image(right, "right.png")
    negative = job.g.add("LoadImageMask", image=name, channel="red")
    job.rngr(photo, subject_mask=photo[1], negative_mask=negative)
    subject, removed = job.saved(2), job.saved(3)
    job.train(job.made, name="painted", views="whole+subject")
    result = client.run_ok(job.g.graph)
    np.testing.assert_array_equal(white(result, subject), left_part())
    np.testing.assert_array_equal(white(result, removed), left_part()[:, ::-1])
    assert result.outputs[job.made.id]["text"] == []
    info = load_subject(server.base / "models" / "p3s" / "painted.safetensors").info
    assert info.given_masks == (("subject_mask", "negative_mask"),) and info.points == (EMPTY,)


def test_a_cut_out_is_said_to_be_inverted_until_it_is_inverted(server: Server, client: Client) -> None:
    """Load Image's mask is 1 where a cut-out is transparent: around the subject."""
    for invert in (False, True):
        job = Masked(server)
        photo = job.file("cut_out.png", ~left_part())
        mask = job.g.add("InvertMask", mask=photo[1])[0] if invert else photo[1]
        job.rngr(photo, subject_mask=mask)
        subject = job.saved(2)
        result = client.run_ok(job.g.graph)
        np.testing.assert_array_equal(white(result, subject), left_part() == invert)
        told = result.outputs[job.made.id]["text"]
        assert bool(told) != invert
        assert invert or told[0].startswith(
            "subject_mask covers 81% of the picture and 100% of its border. Is the mask"
        )


def test_load_images_mask_of_an_opaque_picture_is_empty_and_named(server: Server, client: Client) -> None:
    """64 x 64 zeros, for a photo twice as wide as high: its shape is not what is wrong."""
    job = Masked(server)
    photo = job.file("opaque.png", None)
    job.rngr(photo, subject_mask=photo[1])
    result = client.run(job.g.graph)
    assert result.error is not None
    assert result.error.message.startswith("subject_mask marks nothing: Load Image gives an empty mask for a picture")


def test_without_points_and_mask_the_queue_refuses_it(server: Server, client: Client) -> None:
    job = Masked(server)
    job.rngr(job.file("opaque.png", None))
    result = client.run(job.g.graph)
    assert result.status == "refused" and result.error is not None
    assert "Nothing says which subject is meant: connect Point Picker to points, or a mask" in result.error.message


def test_text_of_points_in_the_prompt_itself_selects_as_a_pickers(server: Server, client: Client) -> None:
    """For callers of the API: no widget holds it, and no node need give it."""
    job = Masked(server)
    photo = job.file("opaque.png", None)
    positive, negative = '[{"x": 199, "y": 128}]', '[{"x": 384, "y": 140}]'
    job.rngr(photo, points=positive, negative_points=negative)
    texts = job.saved(2), job.saved(3)
    picker = job.g.add(
        "P3S_PointPicker",
        image="opaque.png",
        points=EMPTY.replace("[]", "[[0.39,0.5]]", 1).replace('"negative":[]', '"negative":[[0.751,0.55]]'),
    )
    job.rngr(picker, points=picker[1])
    clicked = job.saved(2), job.saved(3)
    result = client.run_ok(job.g.graph)
    for one, other in zip(texts, clicked, strict=True):
        np.testing.assert_array_equal(white(result, one), white(result, other))
        assert white(result, one).any()


def test_ssr_encode_reads_a_reference_without_points(server: Server, client: Client) -> None:
    """And the subject's mask of it, as of any other reference."""
    job = Masked(server)
    world = job.g.add("P3S_ToyWorld", animal="dog", scene=4, batch_size=1)
    mask = job.g.add("SolidMask", value=1.0, width=192, height=384)
    none = job.g.add("SolidMask", value=0.0, width=384, height=384)
    right = job.g.add("MaskComposite", destination=none, source=mask, x=192, y=0, operation="add")
    left = job.g.add("MaskComposite", destination=none, source=mask, x=0, y=0, operation="add")
    reference = job.g.add(
        "P3S_RNGRMask", clip_vision=world[3], image=world[4], subject_mask=right, negative_mask=left, grow=0.0
    )
    shared = {"ssr": world[6], "clip": world[1], "clip_vision": world[3], "query": "", "weight": 1.0, "focus": 5.0}
    heat = {}
    for name, given in (
        ("reference", {"reference": reference}),
        ("photo and mask", {"image": reference[1], "mask": right}),
        ("photo", {"image": reference[1], "mask": left}),
    ):
        encoded = job.g.add("P3S_SSREncode", **shared, **given)
        heat[name] = job.g.add("SaveImage", images=encoded[1], filename_prefix="heat").id
    result = client.run_ok(job.g.graph)
    seen = {name: result.images(node)[0] for name, node in heat.items()}
    np.testing.assert_array_equal(seen["reference"], seen["photo and mask"])
    assert (seen["reference"] != seen["photo"]).any()
