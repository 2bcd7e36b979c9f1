"""The editor's preview says what a run would give."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from p3s.errors import MaskError, PointError
from p3s.reference.mask_preview import mask_preview, to_runs
from p3s.reference.masks import MaskSettings, Patches
from p3s.reference.points import PointSet
from p3s.reference.rngr import Frame, clip_tokens, make_reference


def from_runs(runs: list[int], size: list[int]) -> np.ndarray:
    values = np.arange(len(runs)) % 2 == 1
    return np.repeat(values, runs).reshape(size[1], size[0])


@pytest.mark.parametrize("seed", range(20))
def test_runs_give_the_mask_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    mask = rng.random((rng.integers(1, 9), rng.integers(1, 9))) < rng.choice([0, 0.2, 0.5, 1])
    runs = to_runs(mask)
    assert all(length > 0 for length in runs[1:])
    np.testing.assert_array_equal(from_runs(runs, [mask.shape[1], mask.shape[0]]), mask)


def colours(picture: torch.Tensor) -> torch.Tensor:
    """Stands for CLIP: a patch's token is its mean colour beside a constant."""
    patches = torch.nn.functional.avg_pool2d(picture.movedim(-1, 1) - 0.4, 14).flatten(2).movedim(1, 2)
    tokens = torch.cat([patches, torch.full_like(patches[..., :1], 0.05)], 2)
    return torch.cat([tokens[:, :1], tokens], 1)


def photo(width: int = 320, height: int = 240) -> torch.Tensor:
    """A red thing on the left, a blue one on the right, on grey."""
    picture = torch.full((height, width, 3), 0.5)
    picture[height // 4 : height * 3 // 4, width // 8 : width * 3 // 8] = torch.tensor([0.9, 0.1, 0.1])
    picture[height // 4 : height * 3 // 4, width * 5 // 8 : width * 7 // 8] = torch.tensor([0.1, 0.1, 0.9])
    return picture


POINTS = PointSet(((0.25, 0.5),), ((0.75, 0.5),))


@pytest.mark.parametrize("size", [(320, 240), (240, 320), (1000, 800)])
@pytest.mark.parametrize("settings", [MaskSettings(), MaskSettings(blur=0.5, fill_region="background", grow=0.5)])
def test_it_is_what_a_run_gives(size: tuple[int, int], settings: MaskSettings) -> None:
    picture = photo(*size)
    tokens = clip_tokens(picture, colours)
    shown = json.loads(json.dumps(mask_preview(Patches(tokens, Frame(*size)), POINTS, settings)))
    reference = make_reference(picture, POINTS, colours, settings)
    for name, mask in (("subject", reference.subject_mask), ("removed", reference.negative_mask)):
        drawn = from_runs(shown[name], shown["size"])
        assert drawn.any()
        full = torch.nn.functional.interpolate(
            torch.from_numpy(drawn)[None, None].float(), tuple(mask.shape), mode="bilinear"
        )[0, 0]
        assert max(drawn.shape) <= 192
        assert ((full > 0.5) != (mask > 0.5)).float().mean() < 0.02
    similarity = torch.tensor(shown["similarity"])
    rows, columns = Frame(*size).valid_patches(shown["grid"])
    assert similarity.shape == (rows.stop - rows.start, columns.stop - columns.start)
    assert similarity.max() == pytest.approx(reference.similarity.max().item(), abs=0.02)


def test_known_tokens_give_the_same_reference_without_asking_clip_again() -> None:
    picture, asked = photo(), []

    def counting(image: torch.Tensor) -> torch.Tensor:
        asked.append(image)
        return colours(image)

    plain = make_reference(picture, POINTS, counting)
    assert len(asked) == 2  # the photo, and the clean picture
    known = make_reference(picture, POINTS, counting, tokens=clip_tokens(picture, colours))
    assert len(asked) == 3
    for name in ("image", "tokens", "subject_mask", "negative_mask", "similarity"):
        assert torch.equal(getattr(plain, name), getattr(known, name))


def test_points_that_select_nothing_are_refused_as_in_a_run() -> None:
    patches = Patches(clip_tokens(photo(), colours), Frame(320, 240))
    with pytest.raises(PointError, match="no positive point"):
        mask_preview(patches, PointSet((), ((0.5, 0.5),)), MaskSettings())
    with pytest.raises(PointError, match="same CLIP patch"):
        mask_preview(patches, PointSet(((0.25, 0.5),), ((0.251, 0.5),)), MaskSettings())
    grey = Patches(clip_tokens(torch.full((64, 64, 3), 0.5), colours), Frame(64, 64))
    with pytest.raises(MaskError, match="looks the same to CLIP"):
        mask_preview(grey, PointSet(((0.25, 0.5),)), MaskSettings())
