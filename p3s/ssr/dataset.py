"""Captioned pictures for training: the file that lists them, and what a step reads of them.

Every line of the file is ``{"file_name": "dogs/1.png", "text": ["a brown dog", "a dog on grass"]}``: a picture
beside the file (or anywhere, by its full path) and its caption, or several. Other keys are ignored. The file stays on
the disk, and each picture is read when it is trained on, so millions of them take no memory.
"""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from stat import S_ISREG
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..errors import P3SError, TrainingError, shown
from ..image_files import read_picture
from .query import View

EXAMPLE = '{"file_name": "dogs/1.png", "text": ["a brown dog"]}'
SHOWN = 3  # of the lines that cannot be used


class Row(NamedTuple):
    """A line of the file, counted from 1."""

    line: int
    picture: Path
    captions: tuple[str, ...]


class CaptionedPictures:
    """The rows of a file as the module describes it. ``sha256`` is that of its bytes.

    All lines are checked at once, and that their pictures exist. Raises TrainingError, naming the lines.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._lines, self._offsets = array("q"), array("q")
        digest, problems, offset = hashlib.sha256(), list[str](), 0
        try:
            with open(file, "rb") as lines:
                for number, line in enumerate(lines, 1):
                    digest.update(line)
                    if line.strip():
                        self._lines.append(number)
                        self._offsets.append(offset)
                        problems += self._problem(number, line)
                    offset += len(line)
        except OSError as error:
            raise TrainingError(
                f"{file} cannot be read ({error.strerror or error}); expected a file with lines such as {EXAMPLE}"
            ) from None
        if not self._lines:
            raise TrainingError(f"{file} is empty; expected lines such as {EXAMPLE}")
        if problems:
            more = f" (and {len(problems) - SHOWN} more)" if len(problems) > SHOWN else ""
            raise TrainingError(
                f"{file}: {'; '.join(problems[:SHOWN])}{more}. Fix or remove these lines; a line looks like {EXAMPLE}, "
                "its picture lies beside the file or is named by its full path. To continue a training, keep the lines "
                "and put the pictures there"
            )
        self.sha256 = digest.hexdigest()

    def __len__(self) -> int:
        return len(self._lines)

    def __getitem__(self, index: int) -> Row:
        with open(self.file, "rb") as lines:
            lines.seek(self._offsets[index])
            line = lines.readline()
        try:
            return self._row(self._lines[index], line)
        except ValueError as error:
            raise TrainingError(
                f"{self.file} was changed during the training: line {self._lines[index]} {error}"
            ) from None

    def _problem(self, number: int, line: bytes) -> list[str]:
        try:
            row = self._row(number, line)
        except ValueError as error:
            return [f"line {number} {error}"]
        try:  # not is_file, which hides some reasons, and which ones depends on Python's version
            if S_ISREG(row.picture.stat().st_mode):
                return []
        except (FileNotFoundError, NotADirectoryError):
            pass
        except (OSError, ValueError) as error:
            return [f"line {number}: {_unreadable(row, error)}"]
        return [f"line {number}: there is no picture {row.picture}"]

    def _row(self, number: int, line: bytes) -> Row:
        try:
            content: Any = json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError):
            raise ValueError("is not JSON") from None
        if not isinstance(content, dict):
            raise ValueError("is not a JSON object")
        name, text = content.get("file_name"), content.get("text")
        if not isinstance(name, str) or not name or "\0" in name:
            raise ValueError(f"names no picture (file_name is {shown(name)})")
        captions = [text] if isinstance(text, str) else text
        if not isinstance(captions, list) or not captions or not all(isinstance(each, str) for each in captions):
            raise ValueError(f"has no caption (text is {shown(text)})")
        if not all(each.strip() for each in captions):
            raise ValueError("has an empty caption")
        return Row(number, self.file.parent / name, tuple(captions))


def _unreadable(row: Row, error: Exception) -> str:
    return f"{row.picture} cannot be read ({getattr(error, 'strerror', None) or error})"


class Sample(NamedTuple):
    """A row as a step reads it: the picture to draw, [R, R, 3], perhaps mirrored; what CLIP sees, [S, S, 3], which
    never is; both 0..1; and a caption."""

    target: Tensor
    seen: Tensor
    caption: str


def read_sample(row: Row, resolution: int, clip_size: int, generator: torch.Generator) -> Sample:
    """The centre square of a row's picture, once for the U-Net and once for CLIP; the target is mirrored, and the
    caption chosen, at random. Raises TrainingError, naming the line, for a picture that cannot be read."""
    try:
        photo = read_picture(row.picture)
    except (P3SError, OSError) as error:
        reason = f"{_unreadable(row, error)}." if isinstance(error, OSError) else str(error)
        raise TrainingError(
            f"line {row.line}: {reason} Replace it with another picture of the same name, then continue."
        ) from None
    view = View(photo.shape[1], photo.shape[0], "crop")
    caption = row.captions[int(torch.randint(len(row.captions), (), generator=generator))]
    mirrored = bool(torch.rand((), generator=generator) < 0.5)
    target = view.picture(photo, resolution)[0]
    return Sample(target.flip(1) if mirrored else target, view.picture(photo, clip_size)[0], caption)


def seeded(*key: object) -> torch.Generator:
    """A generator on the CPU for a purpose that ``key`` names."""
    digest = hashlib.sha256(" ".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little"))


class Reader:
    """The samples of a training's steps, read ahead by ``workers`` threads.

    Of the ``count`` processes that train together this is number ``rank``, from 0; each reads ``batch_size`` samples a
    step, ``step_size`` in all. Samples are numbered over all steps and processes; the number decides all that is random
    in one, so neither the division into steps and processes nor a stop changes a sample. Every pass over the data has
    an order of its own.
    """

    def __init__(
        self,
        data: CaptionedPictures,
        seed: int,
        batch_size: int,
        resolution: int,
        clip_size: int,
        workers: int = 4,
        rank: int = 0,
        count: int = 1,
    ) -> None:
        self.data, self.seed, self.batch_size, self.rank, self.count = data, seed, batch_size, rank, count
        self.step_size = batch_size * count
        self.sizes = (resolution, clip_size)
        self._threads = ThreadPoolExecutor(workers)
        self._ahead: dict[int, list[Future[Sample]]] = {}
        self._orders: dict[int, Tensor] = {}

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self._threads.shutdown(cancel_futures=True)

    def numbers(self, seen: int) -> range:
        """The numbers, from 0, of this process's samples in the step before which the processes have ``seen`` so many
        samples together."""
        first = seen + self.rank * self.batch_size
        return range(first, first + self.batch_size)

    def read(self, seen: int) -> Sequence[Sample]:
        """The samples of that step; reading those of the next has started."""
        waiting = self._ahead.pop(seen, None) or self._begin(seen)
        self._ahead = {seen + self.step_size: self._begin(seen + self.step_size)}
        return [sample.result() for sample in waiting]

    def row(self, number: int) -> int:
        """The row that a sample is of."""
        lap, place = divmod(number, len(self.data))
        if lap not in self._orders:
            self._orders = {each: order for each, order in self._orders.items() if each == lap - 1}
            self._orders[lap] = torch.randperm(len(self.data), generator=seeded(self.seed, "order", lap))
        return int(self._orders[lap][place])

    def _begin(self, seen: int) -> list[Future[Sample]]:
        return [self._threads.submit(self._sample, self.row(number), number) for number in self.numbers(seen)]

    def _sample(self, row: int, number: int) -> Sample:
        return read_sample(self.data[row], *self.sizes, seeded(self.seed, "sample", number))
