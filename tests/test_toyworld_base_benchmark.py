"""The benchmark of the toy world's base: what its figures are, by hand and by closed forms."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmarks import toybase
from benchmarks.toybase import blockiness, drawn, frechet, two_colours
from p3s.image_files import read_picture
from p3s.toyworld.scenes import BACKGROUNDS, CLASSES, PALETTE, background_of, render, scene


def test_blockiness_by_hand() -> None:
    row = torch.tensor([0.0, 0.1, 0.1, 0.2, 0.8, 0.8, 0.8, 0.7])  # one border, 0.6; six steps inside, 0.3 in all
    picture = row[None, None, :, None].expand(1, 8, 8, 3)
    # Down the picture nothing changes: one more border and six more steps inside, of 0.
    assert blockiness(picture) == pytest.approx((0.6 / 2) / (0.3 / 12))
    assert blockiness(picture.transpose(1, 2)) == pytest.approx((0.6 / 2) / (0.3 / 12))
    ramp = torch.linspace(0, 1, 12)[None, None, :, None].expand(2, 12, 12, 3)
    assert blockiness(ramp) == pytest.approx(1)


def test_blockiness_rises_with_blocks_and_not_with_softness() -> None:
    pictures = drawn("heldout", 0, 24)[0]
    blocks = pictures.unflatten(1, (12, 4)).unflatten(3, (12, 4)).mean((2, 4), keepdim=True)
    mixed = (0.5 * pictures.unflatten(1, (12, 4)).unflatten(3, (12, 4)) + 0.5 * blocks).flatten(3, 4).flatten(1, 2)
    assert blockiness(mixed) > 1.5 * blockiness(pictures)


def gaussian(mean: Tensor, root: Tensor, seed: int, count: int = 200) -> Tensor:
    """Rows whose mean is exactly ``mean`` and whose covariance is exactly ``root`` @ ``root``.T."""
    rows = torch.randn(count, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    rows = rows - rows.mean(0)
    white = rows @ torch.linalg.inv(torch.linalg.cholesky(torch.cov(rows.T))).T
    return white @ root.T + mean


def test_frechet_is_the_closed_form_of_gaussians() -> None:
    mean, other = torch.tensor([[1.0, -2, 0], [0.5, 0, 1]], dtype=torch.float64)
    a, b = torch.tensor([1.0, 2, 3], dtype=torch.float64), torch.tensor([2.0, 2, 0.5], dtype=torch.float64)
    one, two = gaussian(mean, torch.diag(a), 1), gaussian(other, torch.diag(b), 2)
    # Covariances that commute: |m - n|^2 + the sum of (a - b)^2 = 0.25 + 4 + 1 + 1 + 0 + 6.25.
    assert frechet(one, two) == pytest.approx(12.5)
    assert frechet(one, one) == pytest.approx(0, abs=1e-9)
    # And such that do not, by the square root of a product that is not symmetric.
    linalg = pytest.importorskip("scipy.linalg")
    root = torch.tensor([[1.0, 0, 0], [0.7, 1, 0], [-0.3, 0.4, 0.6]], dtype=torch.float64)
    three = gaussian(other, root, 3)
    product = linalg.sqrtm(np.diag(a.numpy() ** 2) @ (root @ root.T).numpy())
    expected = 5.25 + float((a**2).sum() + (root**2).sum()) - 2 * float(np.trace(product).real)
    assert frechet(one, three) == pytest.approx(expected)
    # A model without variance in some feature is allowed.
    flat = torch.cat([one, torch.zeros(len(one), 1, dtype=torch.float64)], 1)
    assert frechet(flat, flat) == pytest.approx(0, abs=1e-9)


def test_two_colours_by_hand() -> None:
    picture = torch.from_numpy(background_of("road")).float() / 255
    assert two_colours(picture, "road") == 0
    names = ["red"] * 6 + ["blue"] * 3 + ["yellow"] * 1 + ["black"] * 5
    for i, name in enumerate(names):
        picture[10, i] = torch.tensor(PALETTE[name]) / 255
    assert two_colours(picture, "road") == pytest.approx(9 / 10)


def test_background_of_is_what_scenes_are_drawn_on() -> None:
    for i, name in enumerate(BACKGROUNDS):
        s = next(x for k in range(99) if (x := scene("test", 100 * i + k, "single")).background == name)
        picture, _ = render(s)
        differs = np.abs(picture.astype(int) - background_of(name)).max(-1) > 8  # a scene's tint
        assert 0.05 < differs.mean() < 0.45, name


def test_the_command_writes_a_row_a_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file, sheet = tmp_path / "rows.jsonl", tmp_path / "sheet.png"
    arguments = ["toybase", "--count", "32", "--steps", "2", "--out", str(file), "--sheet", str(sheet)]
    monkeypatch.setattr("sys.argv", arguments)
    toybase.main()
    about, *rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert about["steps"] == 2 and about["base"]["seed"] == 0
    figures = {row["row"]: row for row in rows}
    assert all(row["count"] == 32 for row in rows)
    scenes = figures["held-out looks"]
    assert scenes["frechet"] == pytest.approx(0, abs=1e-3)
    assert scenes["animal"] == scenes["background"] == scenes["one"] == 1
    # Samples of two steps are no drawings, and other drawings are not the same ones.
    assert figures["samples"]["frechet"] > 2 * figures["held-out looks, other scenes"]["frechet"] > 0
    assert read_picture(sheet).shape == (3 * 48 * len(CLASSES), 3 * 48 * len(BACKGROUNDS), 3)
    assert "samples" in capsys.readouterr().out
