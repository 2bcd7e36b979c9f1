"""The pictures that an SSR-Encoder is trained on: the file that lists them, and what a step reads."""

from __future__ import annotations

import errno
import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from ssr_runs import write_pictures

from p3s.errors import TrainingError
from p3s.image_files import write_png
from p3s.reference.framing import Frame
from p3s.ssr.dataset import EXAMPLE, CaptionedPictures, Reader, Row, read_sample, seeded


def listed(folder: Path, *lines: Any) -> CaptionedPictures:
    file = folder / "data.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return CaptionedPictures(file)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "dogs").mkdir()
    for name in ("dogs/1.png", "2.png"):
        write_png(torch.rand(8, 8, 3), tmp_path / name)
    return tmp_path


def test_the_rows_are_those_of_the_file(folder: Path) -> None:
    absolute = str(folder / "2.png")
    data = listed(
        folder,
        '\ufeff{"file_name": "./dogs/1.png", "text": ["a dog", "ein Hündchen"], "score": 3}',
        "",
        {"file_name": absolute, "text": "two"},
    )
    assert len(data) == 2
    assert data[0] == Row(1, folder / "dogs/1.png", ("a dog", "ein Hündchen"))
    assert data[1] == Row(3, Path(absolute), ("two",))  # lines are counted as an editor does
    assert data.sha256 == hashlib.sha256(data.file.read_bytes()).hexdigest()
    assert CaptionedPictures(data.file)._row(1, EXAMPLE.encode()).captions == ("a brown dog",)


GOOD = {"file_name": "2.png", "text": ["a dog"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not JSON"),
        ("[" * 100_000, "line 2 is not JSON"),
        ('["2.png", "a dog"]', "line 2 is not a JSON object"),
        ({"image": "2.png", "text": "a dog"}, r"line 2 names no picture \(file_name is None\)"),
        ({"file_name": "a\0b", "text": "a dog"}, "line 2 names no picture"),
        ({"file_name": "2.png", "text": 5}, r"line 2 has no caption \(text is 5\)"),
        ({"file_name": "2.png", "text": []}, "line 2 has no caption"),
        ({"file_name": "2.png", "text": ["a dog", None]}, "line 2 has no caption"),
        ({"file_name": "2.png", "text": ["a dog", " "]}, "line 2 has an empty caption"),
        ({"file_name": "dogs", "text": "a dog"}, "line 2: there is no picture .*dogs"),
        ({"file_name": "2.png/3.png", "text": "a dog"}, r"line 2: there is no picture .*3\.png"),
        (
            {"file_name": "x" * 1000, "text": "a dog"},
            rf"data\.jsonl: line 2: .*{'x' * 1000} cannot be read \(File name too long\)",
        ),
        ({"file_name": "\ud800.png", "text": "a dog"}, "data.jsonl: line 2: .* cannot be read"),
        (
            {"file_name": "3.png", "text": "a dog"},
            r"line 2: there is no picture .*3\.png.* Fix or remove these lines",
        ),
    ],
)
def test_a_wrong_line_is_named(folder: Path, line: Any, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        listed(folder, GOOD, line, GOOD)


def test_a_picture_in_a_folder_without_permission_is_named_by_its_line(folder: Path, monkeypatch) -> None:
    def stat(path: Path, **_: Any) -> Any:
        if path.name == "1.png":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return plain(path)

    plain = Path.stat
    monkeypatch.setattr(Path, "stat", stat)
    message = r"data\.jsonl: line 2: .*1\.png cannot be read \(Permission denied\)\. Fix or remove"
    with pytest.raises(TrainingError, match=message):
        listed(folder, GOOD, {"file_name": "dogs/1.png", "text": "a dog"})


def test_all_wrong_lines_are_named_at_once_and_files_that_hold_nothing(folder: Path) -> None:
    with pytest.raises(TrainingError, match=r"line 2 is.*line 3: .*line 4 is not JSON \(and 2 more\)"):
        listed(folder, GOOD, "{", {"file_name": "3.png", "text": "x"}, "}", "]", "]")
    with pytest.raises(TrainingError, match="is empty; expected lines such as"):
        listed(folder, "", " ")
    with pytest.raises(TrainingError, match=r"nowhere\.jsonl cannot be read .*No such file"):
        CaptionedPictures(folder / "nowhere.jsonl")
    data = listed(folder, GOOD, GOOD)
    data.file.write_text("x" * 1000)
    with pytest.raises(TrainingError, match=r"was changed during the training: line 2 is not JSON"):
        data[1]


def test_a_picture_that_cannot_be_read_is_named_by_its_line(folder: Path) -> None:
    (folder / "bad.png").write_bytes((folder / "2.png").read_bytes()[:60])
    data = listed(folder, GOOD, {"file_name": "bad.png", "text": "a dog"})
    with pytest.raises(
        TrainingError,
        match=r"line 2: .*bad\.png is a damaged picture.*Replace it with another picture of the same name",
    ):
        read_sample(data[1], 8, 8, seeded(0))
    (folder / "bad.png").unlink()
    with pytest.raises(
        TrainingError, match=r"line 2: .*bad\.png cannot be read \(No such file or directory\)\. Replace it with"
    ):
        read_sample(data[1], 8, 8, seeded(0))


def test_only_the_target_is_mirrored_in_half_of_the_samples(tmp_path: Path) -> None:
    row = CaptionedPictures(write_pictures(tmp_path, 1))[0]
    samples = [read_sample(row, 32, 24, seeded("m", i)) for i in range(200)]
    plain = next(s.target for s in samples if s.target[:, :10].mean() < s.target[:, -10:].mean())
    mirrored = [torch.equal(s.target, plain.flip(1)) for s in samples]
    assert all(turned or torch.equal(s.target, plain) for turned, s in zip(mirrored, samples, strict=True))
    assert sum(mirrored) / 200 == pytest.approx(0.5, abs=0.1)
    assert all(torch.equal(s.seen, samples[0].seen) for s in samples)
    assert samples[0].target.shape == (32, 32, 3) and samples[0].seen.shape == (24, 24, 3)
    assert samples[0].seen[:, :8].mean() < samples[0].seen[:, -8:].mean()


def test_both_show_the_centre_square_resized(tmp_path: Path) -> None:
    row = CaptionedPictures(write_pictures(tmp_path, 1))[0]
    sample = read_sample(row, 32, 24, seeded("unmirrored", 2))
    with Image.open(row.picture) as picture:
        square = picture.crop((4, 0, 44, 40))  # of 48 x 40
        for found, side in ((sample.target, 32), (sample.seen, 24)):
            expected = np.asarray(square.resize((side, side), Image.Resampling.BICUBIC), dtype=np.float32) / 255
            either = (np.abs(found.numpy() - each).mean() for each in (expected, expected[:, ::-1]))
            assert min(either) < 1 / 255  # Pillow rounds between its two passes
        expected = Frame(40, 40).clip_input(torch.from_numpy(np.asarray(square, dtype=np.float32) / 255), 24)[0]
    torch.testing.assert_close(sample.seen, expected)


def test_of_several_captions_each_is_drawn(tmp_path: Path) -> None:
    row = CaptionedPictures(write_pictures(tmp_path, 1, captions=3))[0]
    found = Counter(read_sample(row, 8, 8, seeded("c", i)).caption for i in range(300))
    assert found.keys() == set(row.captions) and min(found.values()) > 60


def reader(data: CaptionedPictures, **more: Any) -> Reader:
    return Reader(data, 0, **({"batch_size": 2, "resolution": 8, "clip_size": 8} | more))


def test_every_pass_has_each_row_once_and_an_order_of_its_own(tmp_path: Path) -> None:
    data = CaptionedPictures(write_pictures(tmp_path, 6))
    with reader(data) as one:
        passes = [[one.row(number) for number in range(6 * lap, 6 * lap + 6)] for lap in range(4)]
        assert all(sorted(rows) == list(range(6)) for rows in passes)
        assert len({tuple(rows) for rows in passes}) == 4
        assert [one.row(number) for number in range(24)] == [row for rows in passes for row in rows]
    with Reader(data, 1, 2, 8, 8) as other:
        assert [other.row(number) for number in range(6)] != passes[0]


def test_processes_share_the_rows_and_samples_do_not_depend_on_how(tmp_path: Path) -> None:
    data = CaptionedPictures(write_pictures(tmp_path, 6, captions=3))
    with reader(data, batch_size=4) as alone, reader(data, count=2) as first, reader(data, count=2, rank=1) as second:
        for seen in range(0, 16, 4):
            assert [*first.numbers(seen), *second.numbers(seen)] == list(alone.numbers(seen))
            whole, halves = alone.read(seen), [*first.read(seen), *second.read(seen)]
            for one, other in zip(whole, halves, strict=True):
                assert one.caption == other.caption and torch.equal(one.target, other.target)
        with reader(data, batch_size=4) as late:  # what was read ahead is what would have been read
            again = late.read(12)
        assert all(torch.equal(a.target, b.target) for a, b in zip(whole, again, strict=True))
