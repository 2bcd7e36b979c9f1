"""All pairs under all methods, in a folder that a killed run finds again.

<out>/run.json                                what the results depend on; ssr.json: the SSR-Encoder
<out>/<photo>/photo.json                      what those of one photo depend on
<out>/<photo>/<method>/<a or b>/              the pictures (and subject file) of a click
<out>/<photo>/<method>/                       the same where clicks change nothing
<out>/plain/<sketch of class and prompts>/    the plain model's pictures
<out>/<photo>/<method>/scores-<a or b>.json   by the encoder's fingerprint; "photos": the held-out photos' own
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch.nn.functional as F
from torch import Tensor

from p3s.errors import MaskError, P3SError, PointError
from p3s.image_files import read_picture
from p3s.subject.base_fingerprint import fingerprint

from ..metrics import ImageEncoder, mean_cosine
from ..protocol import all_pictures, claim, facts_of, write_text
from ..ssr import check_ssr
from .methods import METHODS, Setup
from .pairs import SIDES, Pair

MARGIN = 0.1  # of a truth crop, of the mask's larger side, on every side
WHOLE = 0.9  # a crop of more than this share of the photo's width and height shows both subjects
#: The row of real photos.
PHOTOS = "photos"


class Likeness(NamedTuple):
    """Of every picture, the mean cosine to the photos of the clicked subject, and to those of the other one."""

    clicked: tuple[float, ...]
    other: tuple[float, ...]

    @property
    def nearer(self) -> list[float]:
        """Of every picture 1 where it is nearer to the clicked one, 0 where to the other, 1/2 where to neither."""
        return [0.5 + 0.5 * ((a > b) - (a < b)) for a, b in zip(self.clicked, self.other, strict=True)]


#: By method and encoder, the likeness for each of the two clicks on a photo.
Scores = dict[tuple[str, str], tuple[Likeness, Likeness]]


@dataclass(frozen=True)
class Run:
    """Methods on pairs, scored by encoders, in a folder. ``prompts``: how many of each class."""

    setup: Setup
    methods: Sequence[str]
    encoders: Mapping[str, ImageEncoder]
    prompts: int
    folder: Path

    def claim_folder(self, pairs: Sequence[Pair]) -> None:
        """Note in the folder what the results depend on. Raises P3SError where others lie there."""
        setup = self.setup
        facts = facts_of(setup.protocol, setup.models)
        facts |= {f"masks {name}": value for name, value in asdict(setup.masks).items()}
        claim(self.folder / "run.json", facts | {"CLIP": fingerprint(setup.models.clip.state_dict())})
        if setup.ssr is not None and "ssr" in self.methods:
            claim(self.folder / "ssr.json", {"SSR-Encoder": setup.ssr.sha256})
        for pair in pairs:
            claim(self.folder / pair.name / "photo.json", pair.facts())

    def check(self, pairs: Sequence[Pair]) -> None:
        """Make all references and crops, so that points from which no mask follows are found before hours of training.
        Raises P3SError, naming all such photos; FamilyError for an SSR-Encoder that does not fit."""
        if self.setup.ssr is not None and "ssr" in self.methods:
            check_ssr(self.setup.models, self.setup.ssr)
        wrong, selecting = [], any(not METHODS[method].blind for method in self.methods)
        for pair in pairs:
            for wanted, twin in enumerate(pair.twins):
                try:
                    if not twin.truth:
                        self._truth(pair, wanted)
                    elif selecting:
                        self.setup.reference(pair, wanted)
                except (MaskError, PointError) as error:
                    wrong.append(str(error))
        if wrong:
            raise P3SError(
                f"no mask follows from {len(wrong)} of the clicks. {' '.join(wrong)} Correct these points, or leave "
                f"the photos out, in a copy of {pairs[0].photo.parent}, and give it as --twins"
            )

    def scores(self, pair: Pair) -> Scores:
        """Train, generate and score for one photo, or what of it is not done yet."""
        truth = cache(lambda name, wanted: self.encoders[name](self._truth(pair, wanted)))
        found: Scores = {}
        if all(len(twin.truth) > 1 for twin in pair.twins):
            found |= self._row(
                pair,
                PHOTOS,
                [len(twin.truth) for twin in pair.twins],
                lambda name, wanted: Likeness(
                    _values(to_others(truth(name, wanted))),
                    _values(mean_cosine(truth(name, wanted), truth(name, 1 - wanted))),
                ),
            )
        for method in self.methods:
            started, shown = time.monotonic(), self._shown(pair, method)
            found |= self._row(
                pair,
                method,
                [len(self._prompts(pair)) * self.setup.protocol.images] * 2,
                lambda name, wanted, shown=shown: Likeness(  # type: ignore[misc]
                    _values(mean_cosine(shown(name, wanted), truth(name, wanted))),
                    _values(mean_cosine(shown(name, wanted), truth(name, 1 - wanted))),
                ),
            )
            self.setup.say(f"{pair.name}: {method}, {time.monotonic() - started:.0f} s")
        return found

    def pictures_folder(self, pair: Pair, name: str, wanted: int) -> Path:
        """Where a method's pictures of a click lie."""
        method, folder = METHODS[name], self.folder / pair.name / name
        if method.of_class:
            sketch = hashlib.sha256(json.dumps([pair.case.kind, pair.case.prompts]).encode()).hexdigest()
            return self.folder / name / sketch[:16]
        return folder if method.blind else folder / SIDES[wanted]

    def _row(self, pair: Pair, row: str, counts: Sequence[int], likeness: Callable[[str, int], Likeness]) -> Scores:
        """The scores of a row of the table for one photo: those in its files, and what is missing there."""
        found: dict[str, list[Likeness]] = {name: [] for name in self.encoders}
        for wanted, side in enumerate(SIDES):
            file = self.folder / pair.name / row / f"scores-{side}.json"
            kept = _read(file)
            for name, encoder in self.encoders.items():
                known = _likeness(kept.get(encoder.fingerprint), counts[wanted])
                if known is None:
                    known = likeness(name, wanted)
                    kept[encoder.fingerprint] = known._asdict()
                    write_text(file, json.dumps(kept))
                found[name].append(known)
        return {(row, name): (both[0], both[1]) for name, both in found.items()}

    def _shown(self, pair: Pair, name: str) -> Callable[[str, int], Tensor]:
        """An encoder's embeddings of a method's pictures for a click; the pictures are made when they are asked for."""
        method, setup = METHODS[name], self.setup
        identifier = setup.protocol.identifier if method.identifier else ""
        prompts = [pair.case.prompt(number, identifier) for number in range(len(self._prompts(pair)))]

        @cache
        def pictures(wanted: int) -> list[Tensor]:
            folder = self.pictures_folder(pair, name, wanted)
            # A subject is trained or loaded only where a picture is missing.
            ready = cache(lambda: method.sampler(setup, pair, wanted, folder))
            return all_pictures(setup.protocol, prompts, folder, lambda prompt, seeds: ready()(prompt, seeds))

        embedded = cache(lambda encoder, wanted: self.encoders[encoder](pictures(wanted)))
        return lambda encoder, wanted: embedded(encoder, 0 if method.blind else wanted)

    def _prompts(self, pair: Pair) -> Sequence[str]:
        return pair.case.prompts[: self.prompts]

    def _truth(self, pair: Pair, wanted: int) -> list[Tensor]:
        """Photos of a subject alone, or else the photo around its mask."""
        if pair.twins[wanted].truth:
            return [read_picture(photo) for photo in pair.twins[wanted].truth]
        mask = self.setup.reference(pair, wanted).subject_mask
        try:
            return [read_picture(pair.photo)[box_of(mask)]]
        except MaskError as error:
            raise MaskError(f"{pair.name}, {SIDES[wanted]}: {error}") from None


def box_of(mask: Tensor) -> tuple[slice, slice]:
    """Rows and columns of a mask [h, w], 0 or 1, with a margin. Raises MaskError where they are most of the picture."""
    spans = [mask.any(1 - axis).nonzero().flatten() for axis in range(2)]
    margin = round(MARGIN * max(int(span[-1] - span[0]) + 1 for span in spans))
    box = [
        slice(max(0, int(span[0]) - margin), min(size, int(span[-1]) + 1 + margin))
        for span, size in zip(spans, mask.shape, strict=True)
    ]
    if all(part.stop - part.start > WHOLE * size for part, size in zip(box, mask.shape, strict=True)):
        raise MaskError("a crop around its mask is most of the photo, which cannot tell it from the other.")
    return box[0], box[1]


def to_others(embeddings: Tensor) -> Tensor:
    """The mean cosine of every row of [n, d] to all others: [n]. n is 2 or more."""
    unit = F.normalize(embeddings, dim=-1)
    return ((unit @ unit.T).sum(1) - 1) / (len(unit) - 1)


def _values(tensor: Tensor) -> tuple[float, ...]:
    return tuple(tensor.tolist())


def _read(file: Path) -> dict[str, Any]:
    """What a file of scores holds; nothing where it is not whole."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _likeness(value: Any, count: int) -> Likeness | None:
    """A likeness from a file, if it is of ``count`` pictures."""
    try:
        found = Likeness(*(tuple(map(float, value[name])) for name in Likeness._fields))
    except (TypeError, KeyError, ValueError):
        return None
    return found if all(len(part) == count and all(map(math.isfinite, part)) for part in found) else None
