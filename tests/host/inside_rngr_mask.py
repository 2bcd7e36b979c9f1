"""Run by test_rngr_mask.py inside a host: RNGR Mask on several photos, on the toy world."""

from __future__ import annotations

from typing import Any

import torch
from comfyui_p3s.nodes.host import toy_world
from comfyui_p3s.nodes.point_picker import PointPicker
from comfyui_p3s.nodes.rngr_mask import RNGRMask
from comfyui_p3s.p3s.errors import P3SError
from comfyui_p3s.p3s.reference.points import PointSet
from comfyui_p3s.p3s.toyworld.world import MASKS, click, picture_of

SETTINGS = {name: [getattr(MASKS, name)] for name in ("fill", "fill_region", "value_range", "blur", "grow")}


def run(image: list[Any], points: list[Any] | None, **inputs: Any) -> Any:
    given = {"clip_vision": [toy_world.Vision()], "image": image, "points": points, **SETTINGS, **inputs}
    return RNGRMask.EXECUTE_NORMALIZED(**{name: value for name, value in given.items() if value is not None})


def said(image: list[Any], points: list[Any] | None, **inputs: Any) -> str:
    try:
        run(image, points, **inputs)
    except P3SError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def equal(one: Any, other: Any) -> bool:
    tensors = ("image", "tokens", "subject_mask", "negative_mask", "similarity")
    same = all(torch.equal(getattr(one, name), getattr(other, name)) for name in tensors)
    return same and (one.points, one.image_hash) == (other.points, other.image_hash)


def picked() -> dict[str, Any]:
    """What Point Picker makes of linked pictures of other kinds."""

    def out(linked: torch.Tensor) -> Any:
        return PointPicker.EXECUTE_NORMALIZED(image="", points="{}", linked_image=linked)

    grey = torch.linspace(0, 1, 12).view(1, 3, 4, 1)
    several = out(torch.cat([grey, 1 - grey]))
    try:
        out(torch.full((1, 3, 4, 3), 255.0))
    except P3SError as error:
        refused = str(error)
    return {
        "grey": torch.equal(several.args[0], grey.repeat(1, 1, 1, 3)),
        "the first of a batch": several.ui["p3s_image"][0]["batch"] == 2,
        "transparent": torch.equal(out(torch.zeros(1, 3, 4, 4)).args[0], torch.ones(1, 3, 4, 3)),
        "refused": refused.startswith("linked_image must hold values in 0..1, but they span 255 to 255"),
    }


def masked(photos: list[Any], points: list[Any], single: list[Any]) -> dict[str, Any]:
    """Masks from elsewhere: the node's own outputs, given back to it."""
    as_given = {"grow": [0.0]}  # they were grown already
    subject, negative = ([outputs[at] for outputs in single] for at in (2, 3))
    tensors = ("image", "tokens", "subject_mask", "negative_mask")

    def like(found: Any, reference: Any) -> bool:
        return all(torch.equal(getattr(found, name), getattr(reference, name)) for name in tensors)

    def all_like(output: Any) -> bool:
        return len(output.args[0]) == 3 and all(map(like, output.args[0], [outputs[0][0] for outputs in single]))

    def batch(masks: list[Any]) -> torch.Tensor:
        return torch.cat(masks)

    given = {"subject_mask": [batch(subject)], "negative_mask": [batch(negative)], **as_given}
    parts = subject[0].clone(), subject[0].clone()
    parts[0][:, :, :24], parts[1][:, :, 24:] = 0, 0
    one = {"negative_mask": negative[:1], **as_given}
    whole = run(photos[:1], None, subject_mask=subject[:1], **one).args[0][0]
    defaults = dict.fromkeys(SETTINGS)
    empty = torch.zeros(1, 64, 64)
    nothing = run(photos[:1], points[:1], negative_mask=[empty])
    return {
        "a batch, one each": all_like(run([torch.cat(photos)], None, **given)),
        "a list, one each": all_like(run(photos, None, subject_mask=subject, negative_mask=negative, **as_given)),
        "with points": all_like(run(photos, points, **given)),
        "recorded": whole.given_masks == ("subject_mask", "negative_mask") and whole.points == PointSet(),
        "clicked": single[0][0][0].given_masks == (),
        "a batch of parts": like(run(photos[:1], None, subject_mask=[batch(list(parts))], **one).args[0][0], whole),
        "a list of parts": like(run(photos[:1], None, subject_mask=list(parts), **one).args[0][0], whole),
        "four dimensions": like(run(photos[:1], None, subject_mask=[subject[0][:, None]], **one).args[0][0], whole),
        "settings left out": torch.equal(
            run(photos[:1], points[:1], **defaults).args[0][0].negative_mask,
            run(photos[:1], points[:1], blur=[1.0], grow=[0.0]).args[0][0].negative_mask,
        ),
        "the similarity is the mask": torch.equal(whole.similarity, subject[0][0]),
        "an empty negative mask": torch.equal(nothing.args[0][0].image, photos[0][0])
        and nothing.ui["text"][0].startswith("negative_mask is empty, so nothing is removed"),
        "refused in the queue": isinstance(RNGRMask.validate_inputs(image=(None,)), str)
        and RNGRMask.validate_inputs(image=(None,), points=(None,)) is True
        and RNGRMask.validate_inputs(image=(None,), subject_mask=(None,)) is True,
        "said": {
            "nothing selected": said(photos[:1], None),
            "a negative mask alone": said(photos[:1], None, negative_mask=negative[:1]),
            "two masks for three": said(photos, None, subject_mask=[batch(subject[:2])]),
            "two sizes for one": said(photos[:1], None, subject_mask=[subject[0], subject[1][:, :40]]),
            "no mask on the wire": said(photos[:1], points[:1], subject_mask=[None]),
            "the mask of the second photo": said(photos[:2], None, subject_mask=[subject[0], torch.eye(48)[:20]]),
            "an empty subject mask": said(photos[:1], None, subject_mask=[empty]),
            "no mask": said(photos[:1], None, subject_mask=[torch.zeros(1, 48, 48, 3)]),
            "inverted": said(photos[:1], points[:1], subject_mask=[1 - subject[0]]),
        },
    }


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    scenes = [toy_world.drawn("dog", number) for number in (4, 7, 11)]
    photos, points = [picture_of(scene)[None] for scene in scenes], [click(scene, 1) for scene in scenes]
    single = [run([photo], [each]).args for photo, each in zip(photos, points, strict=True)]
    alone = [outputs[0][0] for outputs in single]
    batch, listed = run([torch.cat(photos)], points).args, run(photos, points).args
    chained = run(photos[2:], points[2:], references=[tuple(alone[:1]), tuple(alone[1:2])]).args
    texts = [each.to_pixels(48, 48) for each in points[:2]]
    positive, negative = [text[0] for text in texts], [text[1] for text in texts]
    text = run(photos[:2], positive, negative_points=negative).args
    return {
        "a batch": len(batch[0]) == 3 and all(map(equal, batch[0], alone)),
        "a list": len(listed[0]) == 3 and all(map(equal, listed[0], alone)),
        "chained": len(chained[0]) == 3 and all(map(equal, chained[0], alone)),
        "the pictures": all(
            torch.equal(batch[output], torch.cat([one[output] for one in single])) for output in range(1, 5)
        ),
        "text": [
            r.points == PointSet.parse(p, (48, 48), n) for r, p, n in zip(text[0], positive, negative, strict=True)
        ]
        == [True, True],
        "an inpainted batch": all(
            torch.equal(r.image, photo[0])
            for r, photo in zip(run(photos, points, inpainted=[torch.cat(photos)]).args[0], photos, strict=True)
        ),
        "picked": picked(),
        "masked": masked(photos, points, single),
        "said": {
            "a batch, one picker": said([torch.cat(photos)], points[:1]),
            "a list, one picker's points": said(photos, [points[0]] * 3),
            "two sizes": said([photos[0], photos[1][:, :40]], points[:2]),
            "one inpainted": said(photos, points, inpainted=photos[:1]),
            "one negative text": said(photos[:2], positive, negative_points=negative[:1]),
            "the second photo is wrong": said(photos[:2], [points[0], PointSet()]),
            "a list of settings": said(photos[:1], points[:1], blur=[0.4, 1.0]),
            "nothing": said([photos[0][:0]], points[:1]),
            "no picture": said([None], points[:1]),
            "no inpainted picture": said(photos[:1], points[:1], inpainted=[photos[0] * 2 - 1]),
            "no points": said(photos[:1], [None]),
            "no clip vision": said(photos[:1], points[:1], clip_vision=[None]),
            "no references": said(photos[:1], points[:1], references=[None]),
        },
    }
