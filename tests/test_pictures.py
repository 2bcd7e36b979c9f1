"""Picture files in the plain core."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from p3s.errors import MaskError
from p3s.pictures import frames, read_picture, to_tensor, write_png


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_16_bit_pictures_keep_their_brightness(tmp_path: Path, suffix: str) -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(2, axis=0)
    Image.fromarray(levels).save(tmp_path / f"deep.{suffix}")
    picture = read_picture(tmp_path / f"deep.{suffix}")
    assert picture.shape == (2, 256, 3)
    expected = torch.from_numpy(levels.astype(np.float32))[..., None].expand(-1, -1, 3) / 65535
    torch.testing.assert_close(picture, expected)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16"])
def test_every_mode_gives_three_colours_in_range(mode: str) -> None:
    picture = to_tensor(Image.new(mode, (5, 4)))
    no_ink = mode == "CMYK"  # which is white
    assert torch.equal(picture, torch.full((4, 5, 3), float(no_ink)))


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    levels = (torch.arange(48) * 5).view(4, 4, 3) / 255
    write_png(levels, tmp_path / "a.png")
    torch.testing.assert_close(read_picture(tmp_path / "a.png"), levels)


def test_grey_and_transparent_batches_become_three_colours_on_white() -> None:
    grey = torch.tensor([0.25, 0.5, 0.75]).view(1, 1, 3, 1)
    colours = grey * torch.tensor([1.0, 0.5, 0.2])
    alpha = torch.tensor([1.0, 0.5, 0.0]).view(1, 1, 3, 1)
    assert torch.equal(frames(grey, "image"), grey.expand(1, 1, 3, 3))
    assert torch.equal(frames(colours, "image"), colours)
    for plain, channels in ((grey, 1), (colours, 3)):
        found = frames(torch.cat([plain, alpha], -1), "image")
        expected = torch.stack([plain[0, 0, 0], plain[0, 0, 1] / 2 + 0.5, torch.ones(channels)]).expand(3, 3)
        torch.testing.assert_close(found[0, 0], expected)


def test_what_resampling_overshoots_is_cut_off() -> None:
    assert torch.equal(
        frames(torch.tensor([-0.2, 0.5, 1.25]).view(1, 1, 1, 3), "image").flatten(), torch.tensor([0, 0.5, 1])
    )


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        (torch.zeros(1, 4, 4), r"must be a batch of pictures .*, got \[1, 4, 4\] of torch.float32"),
        (torch.zeros(1, 4, 4, 5), r"got \[1, 4, 4, 5\]"),
        (torch.zeros(1, 2, 4, 4, 3), r"got \[1, 2, 4, 4, 3\]"),
        (torch.zeros(0, 4, 4, 3), r"must hold pixels in floating point, got \[0, 4, 4, 3\]"),
        (torch.zeros(1, 4, 0, 3), r"got \[1, 4, 0, 3\]"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "must hold pixels in floating point, got .* of torch.uint8"),
        (torch.full((1, 4, 4, 3), float("nan")), "not finite"),
        (torch.full((1, 4, 4, 3), float("-inf")), "not finite"),
        (torch.full((1, 4, 4, 3), 255.0), "must hold values in 0..1, but they span 255 to 255"),
        (torch.linspace(-1, 1, 48).view(1, 4, 4, 3), "must hold values in 0..1, but they span -1 to 1"),
        (None, "got NoneType"),
        ([torch.zeros(1, 4, 4, 3)], "got list"),
    ],
)
def test_what_is_no_batch_of_pictures_is_refused_by_name(pictures: object, message: str) -> None:
    with pytest.raises(MaskError, match=f"^linked_image {message}" if message.startswith("must") else message):
        frames(pictures, "linked_image")
