"""The thumbnails of the example workflows: what each is about, in pictures that are seen at the size of a stamp.

``python tests/tools/generate.py thumbnails``. Masks on photos come from the tests' stand-in for CLIP, which compares
colours only; what is generated comes from the toy world and is labelled so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rngr_pictures import colour_histograms
from skimage.feature import canny

from p3s.image_files import read_picture
from p3s.reference.overlay import overlay
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference, make_reference

REPO = Path(__file__).resolve().parents[2]
SIZE = 560, 374
GAP = 10
PAPER = 250, 250, 252  # of the sheets
GROUND, INK, KEEP, REMOVE = (24, 26, 31), (236, 238, 242), (37, 160, 90), (226, 75, 74)
ONE, OTHER = (0.26, 0.42), (0.75, 0.45)
PHOTO = REPO / "docs" / "images" / "two_dogs.jpg"
#: Places of pictures in what the demo and the toy world's benchmark have drawn: file, left, top, side.
SCENE = "docs/images/demo.png", 24, 199, 200
CLEAN = "docs/images/demo.png", 672, 199, 200
GENERATED = tuple(("docs/images/demo.png", 240, top, 200) for top in (463, 727, 991))
#: Of one row: the photo with its points, and what SSR-Encoder draws by the word and by the clicks.
SSR = tuple(("benchmarks/results/toyworld_ssr.png", left, 463, 200) for left in (24, 456, 672))
TWO = "benchmarks/results/toyworld_two.png", 96, 96, 96


def thumbnail(name: str) -> Image.Image:
    """The thumbnail of the workflow of that name, RGB."""
    return CARDS[name]()


def train_and_generate() -> Image.Image:
    both, side = (SIZE[0] - GAP) // 2, 2 * GAP
    photo = marked(ONE, OTHER)
    reference = made(ONE, OTHER)
    small = [fit(shown(reference), (both, 137)), fit(image_of(reference.image), (both, 137))]
    return card([(fit(photo, (SIZE[0] - side, 219)), (GAP, 8)), (small[0], (0, 237)), (small[1], (both + GAP, 237))])


def train_and_generate_sdxl() -> Image.Image:
    return labelled_sdxl(train_and_generate())


def apply_saved_subject_sdxl() -> Image.Image:
    return labelled_sdxl(apply_saved_subject())


def labelled_sdxl(image: Image.Image) -> Image.Image:
    """With the family in the upper right corner."""
    label = text("SDXL", 36)
    ground = Image.new("RGB", (label.width + 24, label.height + 16), GROUND)
    ground.paste(label, (12, 8))
    image.paste(ground, (SIZE[0] - ground.width, 0))
    return image


def two_similar_subjects() -> Image.Image:
    half = (SIZE[0] - GAP) // 2, 137
    parts = []
    for row, points in enumerate(((ONE, OTHER), (OTHER, ONE))):
        top = 45 + row * (half[1] + GAP)
        clean = fit(image_of(made(*points).image), half)
        parts += [(fit(marked(*points), half), (0, top)), (clean, (half[0] + GAP, top))]
    return card(parts)


def external_inpainting() -> Image.Image:
    reference = made(ONE, OTHER)
    mask = Image.fromarray((reference.negative_mask.numpy() * 255).astype(np.uint8)).convert("RGB")
    half = (SIZE[0] - GAP) // 2, 137
    return card(
        [
            (fit(marked(ONE, OTHER), (438, 219)), (61, 0)),
            (fit(mask, half), (0, 237)),
            (fit(image_of(reference.image), half), (half[0] + GAP, 237)),
        ]
    )


def with_controlnet() -> Image.Image:
    photo = Image.open(PHOTO).convert("RGB")
    subject, model = photo.crop((0, 0, 512, 512)), photo.crop((512, 0, 1024, 512))
    grey = np.asarray(model.convert("L"), np.float64) / 255
    lines = cv2.dilate(canny(grey, 3, 0.02, 0.08).astype(np.uint8) * 255, np.ones((3, 3), np.uint8))
    point(ImageDraw.Draw(subject), (266, 215), 30, keep=True)
    side = (SIZE[0] - 3 * GAP) // 2
    outlines = Image.fromarray(lines).convert("RGB")
    return card([(fit(subject, (side, side)), (GAP, 50)), (fit(outlines, (side, side)), (side + 2 * GAP, 50))])


def subject_without_training() -> Image.Image:
    half = (SIZE[0] - GAP) // 2, 137
    label = text("no training", 32)
    return card(
        [
            (fit(marked(ONE, OTHER), (438, 219)), (61, 0)),
            (fit(image_of(made(ONE, OTHER).image), half), (0, 237)),
            (label, (half[0] + GAP + (half[0] - label.width) // 2, 290)),
        ]
    )


def clicks_to_flux_kontext() -> Image.Image:
    return handed_over("FLUX Kontext")


def clicks_to_qwen_image_edit() -> Image.Image:
    return handed_over("Qwen-Image-Edit")


def clicks_to_flux2_klein() -> Image.Image:
    """Two references of one photo."""
    return handed_over("FLUX.2 klein", (ONE, OTHER), (OTHER, ONE))


def clicks_to_ipadapter() -> Image.Image:
    return handed_over("IPAdapter")


def clicks_to_sam3() -> Image.Image:
    return handed_over("masks by SAM 3")


def handed_over(model: str, *subjects: tuple[tuple[float, float], tuple[float, float]]) -> Image.Image:
    """The photo with its clicks, the half of each clean reference that shows its subject, and who reads it."""
    side, parts = 150, [(fit(marked(ONE, OTHER), (376, 188)), (92, 8))]
    for number, points in enumerate(subjects or ((ONE, OTHER),)):
        clean = image_of(made(*points).image)
        left = 0 if points[0] == ONE else clean.width // 2
        half = clean.crop((left, 0, left + clean.width // 2, clean.height))
        parts.append((fit(half, (side, side)), (30 + number * (side + GAP), 210)))
    label, start = text(model, 28), parts[-1][1][0] + side
    return card([*parts, (label, (start + (SIZE[0] - start - label.width) // 2, 270))])


def try_ssr_without_downloads() -> Image.Image:
    scene, named, clicked = (cut(*place, side) for place, side in zip(SSR, (300, 170, 170), strict=True))
    parts = [(scene, (20, 37)), (named, (365, 10)), (clicked, (365, 190)), (text("toy world", 20), (225, 345))]
    return card(parts)


def try_without_downloads() -> Image.Image:
    scene = cut(*SCENE, 340)
    draw = ImageDraw.Draw(scene)
    point(draw, (223, 202), 20, keep=True)
    point(draw, (75, 216), 20, keep=False)
    return toy([(scene, (39, 17))])


def apply_saved_subject() -> Image.Image:
    shown = cut(*CLEAN, 300)
    label = text("my_dog.safetensors", 28)
    return toy([(shown, (59, 17)), (label, (59 + (300 - label.width) // 2, 328))])


def two_subjects_with_masks() -> Image.Image:
    masks = Image.new("RGB", (200, 200), KEEP)
    masks.paste((60, 120, 220), (100, 0, 200, 200))
    return card([(masks, (15, 70)), (cut(*TWO, 320), (230, 10)), (text("toy world", 20), (345, 340))])


def toy(parts: Sequence[tuple[Image.Image, tuple[int, int]]]) -> Image.Image:
    """With three pictures that the toy world generated on the right."""
    side = 104
    found = [(cut(*place, side), (413, 17 + i * (side + 4))) for i, place in enumerate(GENERATED)]
    return card([*parts, *found, (text("toy world", 20), (420, 344))])


CARDS: dict[str, Callable[[], Image.Image]] = {
    card.__name__: card
    for card in (
        train_and_generate,
        train_and_generate_sdxl,
        apply_saved_subject,
        apply_saved_subject_sdxl,
        two_similar_subjects,
        two_subjects_with_masks,
        with_controlnet,
        external_inpainting,
        subject_without_training,
        clicks_to_flux_kontext,
        clicks_to_qwen_image_edit,
        clicks_to_flux2_klein,
        clicks_to_ipadapter,
        clicks_to_sam3,
        try_without_downloads,
        try_ssr_without_downloads,
    )
}


def card(parts: Sequence[tuple[Image.Image, tuple[int, int]]]) -> Image.Image:
    """Pictures at their places (left, top) on the ground."""
    image = Image.new("RGB", SIZE, GROUND)
    for part, place in parts:
        image.paste(part, place)
    return image


@cache
def made(keep: tuple[float, float], remove: tuple[float, float]) -> Reference:
    return make_reference(read_picture(PHOTO), PointSet([keep], [remove]), colour_histograms)


def shown(reference: Reference) -> Image.Image:
    """The photo with both masks on it."""
    return image_of(overlay(reference, read_picture(PHOTO)))


def marked(keep: tuple[float, float], remove: tuple[float, float]) -> Image.Image:
    """The photo with both points on it."""
    photo = Image.open(PHOTO).convert("RGB")
    draw = ImageDraw.Draw(photo)
    for place, kept in ((keep, True), (remove, False)):
        point(draw, (place[0] * photo.width, place[1] * photo.height), 40, kept)
    return photo


def point(draw: ImageDraw.ImageDraw, centre: tuple[float, float], radius: float, keep: bool) -> None:
    """A point as the editor draws it: a green disc with a plus, or a red square with a minus."""
    (x, y), arm, line = centre, 0.55 * radius, round(radius / 4)
    box = x - radius, y - radius, x + radius, y + radius
    outlined = {"outline": "white", "width": line}
    if keep:
        draw.ellipse(box, fill=KEEP, **outlined)
        draw.line((x, y - arm, x, y + arm), fill="white", width=line)
    else:
        draw.rectangle(box, fill=REMOVE, **outlined)
    draw.line((x - arm, y, x + arm, y), fill="white", width=line)


def cut(file: str, left: int, top: int, side: int, shown: int) -> Image.Image:
    """A square of a picture, of drawn pixels that stay sharp."""
    with Image.open(REPO / file) as image:
        part = image.convert("RGB").crop((left, top, left + side, top + side))
    assert PAPER not in (part.getpixel((x, y)) for x in (0, side - 1) for y in (0, side - 1)), (
        "not a panel of the sheet"
    )
    return part.resize((shown, shown), Image.Resampling.NEAREST)


def text(words: str, height: int) -> Image.Image:
    font = ImageFont.load_default(height)
    left, top, right, bottom = font.getbbox(words)
    image = Image.new("RGB", (round(right - left), round(bottom - top) + 2), GROUND)
    ImageDraw.Draw(image).text((-left, -top), words, INK, font)
    return image


def fit(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    return image.resize(size, Image.Resampling.LANCZOS)


def image_of(picture: object) -> Image.Image:
    """Of a picture [H, W, 3], values 0..1."""
    return Image.fromarray((np.asarray(picture) * 255).round().astype(np.uint8))
