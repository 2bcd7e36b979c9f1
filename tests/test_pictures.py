"""Picture files in the plain core."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from p3s.pictures import read_picture, to_tensor, write_png


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
