"""Picture files in the plain core."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from p3s.errors import MaskError
from p3s.image_files import alpha_of, frames, read_picture, to_tensor, write_png


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_grey_16_bit_pictures_keep_their_brightness(tmp_path: Path, suffix: str) -> None:
    levels = np.linspace(0, 65535, 256).astype(np.uint16)[None, :].repeat(2, axis=0)
    Image.fromarray(levels).save(tmp_path / f"deep.{suffix}")
    picture = read_picture(tmp_path / f"deep.{suffix}")
    assert picture.shape == (2, 256, 3)
    expected = torch.from_numpy(levels.astype(np.float32))[..., None].expand(-1, -1, 3) / 65535
    torch.testing.assert_close(picture, expected)


#: What turns a picture [H, W] upright, by the orientation that its EXIF names.
UPRIGHT = {
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_turned_photo_is_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    stored, exif = np.kron(np.arange(0, 240, 40).reshape(2, 3), np.ones((8, 8))).astype(np.uint8), Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).convert("RGB").save(tmp_path / "photo", kind, exif=exif)
    expected = torch.from_numpy(UPRIGHT[orientation](stored).astype(np.float32)) / 255
    found = read_picture(tmp_path / "photo")
    torch.testing.assert_close(found, expected[..., None].expand(-1, -1, 3), atol=0.1, rtol=0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I", "I;16", "F"])
def test_every_mode_gives_three_colours_in_range(mode: str) -> None:
    picture = to_tensor(Image.new(mode, (5, 4)))
    white = mode in ("CMYK", "LA", "RGBA")  # no ink, or transparent
    assert torch.equal(picture, torch.full((4, 5, 3), float(white)))


def cut_out(kind: str) -> Image.Image:
    """Opaque dark red on the left, the same hidden by transparency on the right; in the middle half of each."""
    colours = Image.new("RGB", (3, 2), (128, 0, 0))
    levels = np.array([[255, 128, 0]] * 2, np.uint8)
    if kind in ("RGBA", "PNG", "WEBP"):
        colours.putalpha(Image.fromarray(levels))
        return colours
    if kind == "LA":
        return Image.merge("LA", (Image.new("L", (3, 2), 128), Image.fromarray(levels)))
    index = Image.fromarray(np.array([[0, 0, 1]] * 2, np.uint8)).convert("P")
    index.putpalette([128, 0, 0] * 2)
    index.info["transparency"] = 1
    return index


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P", "PNG", "WEBP"])
def test_what_is_transparent_is_white_whatever_colours_it_hides(tmp_path: Path, kind: str) -> None:
    image, colour = cut_out(kind), (128, 128, 128) if kind == "LA" else (128, 0, 0)
    if kind in ("PNG", "WEBP"):
        image.save(tmp_path / "cut", kind, lossless=True, exact=True)
        picture = read_picture(tmp_path / "cut")
    else:
        picture = to_tensor(image)
    opacity = torch.tensor([255, 255 if kind == "P" else 128, 0])[None, :, None] / 255
    expected = torch.tensor(colour) / 255 * opacity + 1 - opacity
    torch.testing.assert_close(picture, expected.expand(2, 3, 3), atol=1 / 255, rtol=0)
    assert alpha_of(image) is not None


def test_a_transparent_level_of_16_bits_is_white_too(tmp_path: Path) -> None:
    Image.fromarray(np.array([[0, 1000, 65535]], np.uint16)).save(tmp_path / "deep.png", transparency=1000)
    assert read_picture(tmp_path / "deep.png")[0, :, 0].tolist() == [0, 1, 1]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P", "RGB"])
def test_an_alpha_channel_that_hides_nothing_changes_no_value(mode: str) -> None:
    levels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3) * 5
    image = Image.fromarray(levels).convert("L").convert(mode)
    assert alpha_of(image) is None
    assert torch.equal(to_tensor(image), to_tensor(image.convert("RGB")))


def test_floating_point_numbers_are_0_to_1(tmp_path: Path) -> None:
    levels = np.array([[0, 0.25, 1, 1.5]], np.float32)
    Image.fromarray(levels).save(tmp_path / "float.tiff")
    assert read_picture(tmp_path / "float.tiff")[0, :, 1].tolist() == [0, 0.25, 1, 1]
    for wrong in (255.0, np.nan, np.inf):
        Image.fromarray(np.array([[0, wrong]], np.float32)).save(tmp_path / "other.tiff")
        with pytest.raises(MaskError, match=r"other\.tiff: its floating point numbers must be finite and span 0\.\.1"):
            read_picture(tmp_path / "other.tiff")


def test_pictures_that_cannot_be_read_are_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photo.heic").write_bytes(b"....ftypheic")
    with pytest.raises(MaskError, match=r"photo\.heic is not in a picture format .+ Save it as JPEG, PNG or WebP\.$"):
        read_picture(tmp_path / "photo.heic")
    Image.new("RGB", (64, 64)).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:50])
    with pytest.raises(MaskError, match=r"cut\.png is a damaged picture \(.+\)\. Save it again, or choose another\.$"):
        read_picture(tmp_path / "cut.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(MaskError, match=r"whole\.png has more than 0 million pixels\. Make it smaller\.$"):
        read_picture(tmp_path / "whole.png")
    with pytest.raises(FileNotFoundError):
        read_picture(tmp_path / "none.png")


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
