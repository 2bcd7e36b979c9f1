"""Procedural scenes: animals of four classes with random appearance on named backgrounds, drawn by seeded code.

A caption names the class, the number and the background, never the appearance, so that, as with real photos, text alone
cannot say which of two dogs is meant. Individuals repeat within a picture (twins) as they do in nature: a base
trained on such pictures learns to share an appearance between places, which injection through self-attention needs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..optional_packages import import_package
from . import pen

SIDE = 48  # pixels
SCALE = 4  # drawn larger, then averaged
CLASSES = ("dog", "cat", "bird", "fish")
PLURALS = {"dog": "dogs", "cat": "cats", "bird": "birds", "fish": "fishes"}
PALETTE = {
    "red": (216, 44, 40),
    "orange": (245, 140, 28),
    "yellow": (248, 222, 66),
    "green": (52, 160, 66),
    "blue": (44, 96, 214),
    "purple": (146, 66, 186),
    "white": (242, 240, 234),
    "black": (46, 44, 50),
}
COLOURS = tuple(PALETTE)
PATTERNS = ("plain", "stripes", "belly")
BACKGROUNDS = {
    "beach": "on the beach",
    "grass": "on the grass",
    "snow": "in the snow",
    "night": "at night",
    "room": "in a room",
    "water": "under water",
    "forest": "in the forest",
    "road": "on the road",
}
IDENTIFIER = "sks"
#: Kinds of scenes in the training streams and their shares.
KINDS = {"single": 0.35, "different": 0.2, "twins": 0.45}
STREAMS = ("train", "test", "heldout", "judge")
TOO_CLOSE = 90.0  # a pattern colour nearer than this to the body colour (in RGB) would not be seen
OUTLINE = (28, 26, 32)
LINE = 3.2  # its width, in the larger drawing's pixels


@dataclass(frozen=True)
class Appearance:
    """What the caption does not say: names of the body colour, the pattern and the pattern's colour (the body's own
    for "plain"), and the exact shades, RGB 0..255."""

    body: str
    pattern: str
    mark: str
    body_rgb: tuple[int, int, int]
    mark_rgb: tuple[int, int, int]

    @property
    def names(self) -> tuple[str, str, str]:
        return self.body, self.pattern, self.mark


@dataclass(frozen=True)
class Placed:
    """An individual in a scene: centre and half width in pixels. All face to the right."""

    look: Appearance
    x: float
    y: float
    size: float


@dataclass(frozen=True)
class Scene:
    """A picture before it is drawn. ``subjects`` are drawn in order, all of one class."""

    kind: str
    animal: str
    background: str
    subjects: tuple[Placed, ...]
    seed: str

    def caption(self, identifier: str = "", looks: bool = False) -> str:
        """ "a photo of a dog on the beach"; with the identifier before the class if given. With ``looks`` the
        appearance is named if all subjects share it (only the toy CLIP reads such captions)."""
        number = "a" if len(self.subjects) == 1 else "two"
        words = ["a photo of", number, identifier]
        first = self.subjects[0].look
        same = all(s.look.names == first.names for s in self.subjects)
        if looks and same:
            words.append(first.body)
        words.append(self.animal if len(self.subjects) == 1 else PLURALS[self.animal])
        if looks and same and first.pattern != "plain":
            words.append(f"with {first.mark} {first.pattern}")
        return " ".join(w for w in [*words, BACKGROUNDS[self.background]] if w)


def vocabulary() -> tuple[str, ...]:
    """All words of all captions, in a fixed order."""
    words = ["a", "photo", "of", "two", "with", IDENTIFIER, *CLASSES, *PLURALS.values()]
    words += [word for phrase in BACKGROUNDS.values() for word in phrase.split()]
    return tuple(dict.fromkeys([*words, *COLOURS, *PATTERNS[1:]]))


def prompt(animal: str, background: str | None = None, identifier: str = "") -> str:
    """The prompt of one animal, on a background or without naming one."""
    return " ".join(w for w in ("a photo of a", identifier, animal, BACKGROUNDS.get(background or "", "")) if w)


def all_looks() -> tuple[tuple[str, str, str], ...]:
    """Every (body, pattern, mark) that exists."""
    looks = [(body, "plain", body) for body in COLOURS]
    for body in COLOURS:
        for mark in COLOURS:
            apart = np.linalg.norm(np.subtract(PALETTE[body], PALETTE[mark]))
            looks += [(body, pattern, mark) for pattern in PATTERNS[1:] if apart > TOO_CLOSE]
    return tuple(looks)


def looks_of(stream: str) -> tuple[tuple[str, str, str], ...]:
    """The combinations that a stream draws from. Every fifth patterned one is kept for "heldout", so that the models
    never saw those individuals; only the judge, which measures, knows all combinations (from scenes of its own)."""
    looks = all_looks()
    if stream == "judge":
        return looks
    kept = {look for i, look in enumerate(sorted(looks)) if look[1] != "plain" and i % 5 == 0}
    return tuple(look for look in looks if (look in kept) == (stream == "heldout"))


def scene(stream: str, index: int, kind: str | None = None, animal: str | None = None) -> Scene:
    """Scene number ``index`` of a stream; equal arguments give equal scenes, and no two
    streams share one. ``kind``: "single", "different", "twins", or by chance."""
    if stream not in STREAMS:
        raise ValueError(f"stream must be one of {', '.join(STREAMS)}; got {stream!r}")
    seed = f"{stream}:{index}:{kind}:{animal}"
    rng = random.Random(seed)
    kind = kind or rng.choices(list(KINDS), list(KINDS.values()))[0]
    animal = animal or rng.choice(CLASSES)
    background = rng.choice(list(BACKGROUNDS))
    if kind == "single":
        places = [_single_place(rng)]
    else:
        # Together they fill the width. Twins differ more in size (as parent and child), so that an appearance is
        # shared between sizes too.
        left = rng.uniform(8.5, 13.5) if kind == "twins" else rng.uniform(10, 12)
        right = 22 - left
        places = [_place(rng, x, SIDE * 0.6, size) for x, size in ((left + 2, left), (SIDE - 2 - right, right))]
    first = _look(rng, stream)
    looks = [first] * len(places)
    if kind == "different":
        looks[1] = _look(rng, stream, unlike=first)
        rng.shuffle(looks)
    subjects = tuple(Placed(look, *place) for look, place in zip(looks, places, strict=True))
    return Scene(kind, animal, background, subjects, seed)


def alone(s: Scene, who: int, background: str, rng: random.Random) -> Scene:
    """One of a scene's individuals, counted from 0, by itself on a background, as other scenes show one."""
    placed = Placed(s.subjects[who].look, *_single_place(rng))
    return Scene("single", s.animal, background, (placed,), f"{s.seed}:alone:{who}:{rng.random()}")


def look_words(animal: str, look: Appearance) -> str:
    """What an individual looks like in words: "red dog with blue stripes"."""
    return f"{look.body} {animal}" + ("" if look.pattern == "plain" else f" with {look.mark} {look.pattern}")


def scenes(stream: str, count: int, kind: str | None = None) -> Iterator[Scene]:
    """The first ``count`` scenes of a stream."""
    return (scene(stream, index, kind) for index in range(count))


def _look(rng: random.Random, stream: str, unlike: Appearance | None = None) -> Appearance:
    def shade(name: str) -> tuple[int, int, int]:
        r, g, b = (min(255, max(0, c + rng.randint(-12, 12))) for c in PALETTE[name])
        return r, g, b

    while True:
        body, pattern, mark = rng.choice(looks_of(stream))
        # Two individuals that are to be told apart share no colour.
        if unlike is None or not {body, mark} & {unlike.body, unlike.mark}:
            body_rgb = shade(body)
            return Appearance(body, pattern, mark, body_rgb, body_rgb if pattern == "plain" else shade(mark))


def _single_place(rng: random.Random) -> tuple[float, float, float]:
    return _place(rng, SIDE / 2 + rng.uniform(-2, 2), SIDE * 0.58, rng.uniform(13, 17))


def _place(rng: random.Random, x: float, y: float, size: float) -> tuple[float, float, float]:
    return x + rng.uniform(-1, 1), y + rng.uniform(-1.5, 1.5), size


def render(a_scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Draw a scene: the picture [48, 48, 3] uint8, and the owner of every pixel [48, 48] uint8 (0 = background,
    n = the n-th subject, counted from 1)."""
    rng = np.random.default_rng(list(a_scene.seed.encode()))
    canvas = _background(a_scene.background, rng)
    owner = np.zeros((SIDE, SIDE), np.uint8)
    for number, subject in enumerate(a_scene.subjects, 1):
        _draw(canvas, a_scene.animal, subject)
        owner[pen.averaged(_silhouette(a_scene.animal, subject), SCALE) > 127] = number
    return pen.averaged(canvas, SCALE), owner


# Shapes in a square of -1..1, x to the right, y down, facing right. An ellipse is (x, y, half width, half height);
# anything longer is a polygon's corners.
BODIES: dict[str, tuple] = {
    "dog": (
        (-0.1, 0.05, 0.62, 0.34),
        (0.62, -0.32, 0.3, 0.28),
        (0.86, -0.24, 0.2, 0.14),
        (0.3, -0.2, 0.7, -0.2, 0.5, 0.3, 0.2, 0.3),
        (-0.62, 0.1, -0.62, 0.8, -0.4, 0.8, -0.36, 0.1),
        (-0.3, 0.2, -0.34, 0.8, -0.12, 0.8, -0.06, 0.2),
        (0.12, 0.2, 0.1, 0.8, 0.32, 0.8, 0.34, 0.2),
        (0.38, 0.1, 0.42, 0.8, 0.64, 0.8, 0.56, 0.05),
        (-0.6, 0.0, -1.0, -0.52, -0.88, -0.62, -0.5, -0.16),
        (0.42, -0.5, 0.36, 0.02, 0.58, -0.02, 0.62, -0.5),
    ),
    "cat": (
        (-0.05, 0.38, 0.5, 0.46),
        (0.1, -0.3, 0.46, 0.38),
        (-0.34, -0.4, -0.32, -0.98, 0.06, -0.6),
        (0.16, -0.6, 0.52, -0.98, 0.54, -0.4),
        (-0.4, 0.78, -0.9, 0.6, -0.98, 0.0, -0.8, -0.1, -0.7, 0.36, -0.3, 0.5),
    ),
    "bird": (
        (-0.1, 0.1, 0.6, 0.42),
        (0.46, -0.36, 0.32, 0.3),
        (0.1, -0.2, 0.7, -0.2, 0.4, 0.3),
        (-0.5, 0.0, -1.0, -0.42, -1.0, 0.12, -0.5, 0.32),
    ),
    "fish": (
        (0.14, 0.0, 0.74, 0.46),
        (-0.4, 0.0, -0.98, -0.5, -0.84, 0.0, -0.98, 0.5),
        (-0.1, -0.36, 0.16, -0.76, 0.46, -0.34),
    ),
}
EXTRAS: dict[str, tuple[tuple[tuple[int, int, int], tuple[float, ...]], ...]] = {
    "dog": ((OUTLINE, (1.0, -0.3, 0.08, 0.08)),),
    "cat": ((OUTLINE, (0.12, -0.16, 0.08, 0.05)), (OUTLINE, (0.1, 0.5, 0.05, 0.32))),
    "bird": (
        ((240, 150, 20), (0.72, -0.46, 1.05, -0.3, 0.72, -0.2)),
        ((200, 120, 20), (-0.12, 0.46, -0.16, 0.84, -0.04, 0.84, 0.0, 0.46)),
        ((200, 120, 20), (0.14, 0.46, 0.1, 0.84, 0.22, 0.84, 0.26, 0.46)),
    ),
    "fish": ((OUTLINE, (0.42, 0.06, 0.03, 0.22)),),
}
EYES = {
    "dog": ((0.62, -0.38),),
    "cat": ((-0.08, -0.34), (0.32, -0.34)),
    "bird": ((0.5, -0.42),),
    "fish": ((0.62, -0.1),),
}


def _to_canvas(points: np.ndarray, subject: Placed) -> np.ndarray:
    x = subject.x + points[:, 0] * subject.size
    y = subject.y + points[:, 1] * subject.size
    return np.stack([x, y], 1) * SCALE


def _fill(target: np.ndarray, part: tuple[float, ...], subject: Placed, colour: tuple[int, ...]) -> None:
    if len(part) == 4:
        angle = np.linspace(0, 2 * np.pi, 40, endpoint=False)
        outline = np.stack([part[0] + part[2] * np.cos(angle), part[1] + part[3] * np.sin(angle)], 1)
    else:
        outline = np.array(part).reshape(-1, 2)
    pen.polygon(target, _to_canvas(outline, subject), colour)


def _silhouette(animal: str, subject: Placed) -> np.ndarray:
    mask = np.zeros((SIDE * SCALE, SIDE * SCALE), np.uint8)
    for part in BODIES[animal]:
        _fill(mask, part, subject, (255,))
    return mask


def _draw(canvas: np.ndarray, animal: str, subject: Placed) -> None:
    ndimage = import_package("scipy.ndimage", "scipy", "The toy world needs")

    look = subject.look
    mask = _silhouette(animal, subject)
    outline = ndimage.distance_transform_edt(mask == 0) <= LINE
    for colour, part in EXTRAS[animal]:
        if colour != OUTLINE:  # beak and legs stand out of the body
            _fill(canvas, part, subject, colour)
    canvas[outline] = OUTLINE
    canvas[mask > 0] = look.body_rgb
    if look.pattern != "plain":
        canvas[(mask > 0) & _marks(look.pattern, subject)] = look.mark_rgb
    for colour, part in EXTRAS[animal]:
        if colour == OUTLINE:
            _fill(canvas, part, subject, colour)
    for x, y in EYES[animal]:
        _fill(canvas, (x, y, 0.13, 0.13), subject, (250, 250, 250))
        _fill(canvas, (x + 0.03, y, 0.075, 0.075), subject, OUTLINE)


def _marks(pattern: str, subject: Placed) -> np.ndarray:
    """Where the pattern's colour goes, in the individual's own coordinates."""
    centre = (np.arange(SIDE * SCALE) + 0.5) / SCALE
    if pattern == "stripes":
        marked = (((centre - subject.x) / subject.size / 0.5) % 1 < 0.5)[None, :]
    else:
        marked = ((centre - subject.y) / subject.size > 0.08)[:, None]
    return np.broadcast_to(marked, (len(centre), len(centre)))


def background_of(name: str) -> np.ndarray:
    """A background without animals, [48, 48, 3] uint8, its colours in the middle of their range."""
    return pen.averaged(_background(name, None), SCALE)


def _background(name: str, rng: np.random.Generator | None) -> np.ndarray:
    """The background, drawn large. Each has marks of its own, in fixed places; its colours vary a little by ``rng``."""
    side = SIDE * SCALE
    tint = rng.integers(-8, 9, 3) if rng else np.zeros(3, int)
    rng = np.random.default_rng(list(name.encode()))
    horizon = side // 2

    def shade(*rgb: int) -> tuple[int, ...]:
        return tuple(int(c) for c in np.clip(np.array(rgb) + tint, 0, 255))

    def two(above: tuple[int, ...], below: tuple[int, ...]) -> np.ndarray:
        picture = np.empty((side, side, 3), np.uint8)
        picture[:horizon], picture[horizon:] = above, below
        return picture

    def spots(
        picture: np.ndarray, count: int, radius: int, colour: tuple[int, ...], below: int, width: int = 0
    ) -> None:
        for _ in range(count):
            at = (int(rng.integers(0, side)), int(rng.integers(0, below)))
            if width:
                pen.ring(picture, at, radius, colour, width)
            else:
                pen.circle(picture, at, radius, colour)

    if name == "beach":
        picture = two(shade(128, 206, 238), shade(240, 214, 150))
        pen.rectangle(picture, (0, horizon - 18), (side, horizon), shade(40, 130, 190))
        pen.circle(picture, (side // 5, 24), 16, (255, 240, 120))
    elif name == "grass":
        picture = two(shade(180, 226, 244), shade(126, 196, 92))
        for x, y in rng.integers((0, horizon + 8), (side, side), (14, 2)).tolist():
            pen.line(picture, (x, y), (x + 3, y - 10), shade(84, 156, 60), 3)
    elif name == "snow":
        picture = two(shade(176, 192, 212), shade(236, 242, 248))
        spots(picture, 26, 3, (252, 252, 255), side)
    elif name == "night":
        picture = two(shade(24, 26, 66), shade(44, 52, 72))
        spots(picture, 16, 2, (250, 246, 190), horizon)
        pen.circle(picture, (side // 5, 24), 13, (236, 234, 214))
    elif name == "room":
        picture = two(shade(232, 206, 186), shade(160, 112, 76))
        x = 20
        pen.rectangle(picture, (x, 14), (x + 60, 62), (250, 250, 250))
        pen.rectangle(picture, (x + 5, 19), (x + 55, 57), shade(140, 200, 235))
        pen.line(picture, (x + 30, 14), (x + 30, 62), (250, 250, 250), 5)
    elif name == "water":
        depth = np.linspace(0, 1, side)[:, None, None]
        picture = np.broadcast_to(
            (1 - depth) * shade(70, 190, 210) + depth * np.array(shade(16, 84, 140)), (side,) * 2 + (3,)
        )
        picture = np.ascontiguousarray(picture.astype(np.uint8))
        spots(picture, 9, 6, (190, 236, 244), side, 3)
    elif name == "forest":
        picture = two(shade(66, 104, 70), shade(92, 80, 48))
        for x in (8, 60, 104, 158):
            pen.rectangle(picture, (x, 0), (x + 14, horizon + 10), shade(64, 44, 30))
    else:
        picture = two(shade(206, 222, 230), shade(112, 112, 118))
        for x in range(-20, side, 60):
            pen.rectangle(picture, (x, side - 26), (x + 32, side - 18), (245, 245, 245))
    return picture
