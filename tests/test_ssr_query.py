"""What of a photo a query may select: masks, points' references, and framings."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from ssr_models import GRID, LENGTH, MODEL, TEXT, rand, random_aligner, random_vision
from torch import Tensor

from p3s.errors import FamilyError, MaskError, P3SError
from p3s.reference.framing import CLIP_MEAN, Frame
from p3s.reference.points import PointSet
from p3s.reference.rngr import make_reference
from p3s.ssr.embeds import Encoded, SubjectEmbeds, check_query, encode, kept_tokens
from p3s.ssr.query import QuerySettings, View, focus_map, query_bias

ALL = torch.ones(4, 4, dtype=torch.bool)


def photo(width: int = 48, height: int = 32, seed: int = 0) -> Tensor:
    return torch.rand((height, width, 3), generator=torch.Generator().manual_seed(seed))


def run(picture: Tensor, mask: Tensor | None = None, settings: QuerySettings | None = None, **more: float) -> Encoded:
    query, empty = rand(1, LENGTH, TEXT, seed=11), rand(1, LENGTH, TEXT, seed=12)
    return encode(MODEL, query, empty, picture, random_vision(), mask, settings, **more)


def c_of(found: Encoded) -> Tensor:
    return found.embeds.subjects[0].c


@pytest.mark.parametrize(
    ("focus", "inside", "half", "outside"),
    [(0, 0, 0, 0), (0.5, 0.25, -0.125, -0.5), (1, 1, 0, -1), (5, 25, 10, -5)],
)
def test_the_soft_bias_is_the_authors(focus: float, inside: float, half: float, outside: float) -> None:
    shares = torch.zeros(4, 4)
    shares[0, 0], shares[1, 2] = 1, 0.5
    bias = query_bias(ALL, shares, focus)
    assert bias is not None and bias.shape == (17,)
    assert bias[0] == 1
    assert bias[1] == inside and bias[1 + 6] == half and (bias[2:7] == outside).all()


@pytest.mark.parametrize("mode", ["soft", "strict"])
@pytest.mark.parametrize("focus", [0, 1, 5])
@pytest.mark.parametrize("framing", ["pad", "crop"])
@pytest.mark.parametrize("size", [(32, 32), (48, 32), (31, 50)])
def test_a_mask_of_ones_is_no_mask_to_the_last_bit(
    mode: str, focus: float, framing: str, size: tuple[int, int]
) -> None:
    settings, picture = QuerySettings(framing, mode, focus), photo(*size)
    masked, plain = run(picture, torch.ones(picture.shape[:2]), settings), run(picture, None, settings)
    for ours, theirs in zip(masked.embeds.subjects[0][:2], plain.embeds.subjects[0][:2], strict=True):
        assert torch.equal(ours, theirs)
    assert torch.equal(masked.attention, plain.attention)


def test_a_strict_mask_lets_nothing_else_in() -> None:
    shares = torch.zeros(4, 4)
    shares[1, 1], shares[1, 2], shares[2, 2] = 1, 0.6, 0.4
    bias = query_bias(ALL, shares, mode="strict")
    attention = random_aligner().map(rand(1, 3, 17, 20), rand(1, LENGTH, TEXT), bias)
    seen = torch.zeros(17, dtype=torch.bool)
    seen[[1 + 5, 1 + 6]] = True
    assert (attention[..., ~seen] == 0).all() and (attention[..., seen] > 0).all()
    torch.testing.assert_close(attention.sum(-1), torch.ones(1, 2, LENGTH))


def test_a_strict_mask_smaller_than_half_a_patch_is_the_patch_that_has_most_of_it() -> None:
    shares = torch.zeros(4, 4)
    shares[3, 1], shares[3, 2] = 0.2, 0.1
    bias = query_bias(ALL, shares, mode="strict")
    assert bias is not None and bias.isfinite().nonzero().flatten().tolist() == [1 + 13]


def test_an_empty_mask_and_wrong_settings_are_refused() -> None:
    for mode in ("soft", "strict"):
        with pytest.raises(MaskError, match="mask: it is empty"):
            query_bias(ALL, torch.zeros(4, 4), mode=mode)
    with pytest.raises(MaskError, match="mask_mode must be one of soft, strict; got 'hard'"):
        query_bias(ALL, mode="hard")
    for focus in (-1, 10.5, math.nan, True):
        with pytest.raises(MaskError, match=r"focus must be a number in 0\.\.10"):
            query_bias(ALL, focus=focus)
    with pytest.raises(MaskError, match="framing must be one of pad, crop; got 'fit'"):
        View(3, 4, "fit")


@pytest.mark.parametrize("restricted", [False, True])
def test_padding_is_never_attended_to(restricted: bool) -> None:
    view = View(300, 200)
    rows, columns = Frame(300, 200).valid_patches(16)
    shares = None
    if restricted:
        shares = view.shares((torch.arange(300) < 100).float().expand(200, 300), 16)
    bias = query_bias(view.valid(16), shares, 1.0)
    attention = random_aligner().map(rand(1, 3, 257, 20), rand(1, LENGTH, TEXT), bias)[..., 1:].unflatten(-1, (16, 16))
    valid = torch.zeros(16, 16, dtype=torch.bool)
    valid[rows, columns] = True
    assert (attention[..., ~valid] == 0).all() and (attention[..., valid] > 0).all()
    assert query_bias(View(300, 200, "crop").valid(16)) is None  # the centre square has no padding


@pytest.mark.parametrize("framing", ["pad", "crop"])
def test_the_patch_under_a_masked_pixel_is_that_of_the_point(framing: str) -> None:
    view, frame = View(96, 64, framing), Frame(96, 64)
    for x, y in [(20, 1), (48, 32), (79, 63)]:
        mask = torch.zeros(64, 96)
        mask[y, x] = 1
        bias = query_bias(view.valid(16), view.shares(mask, 16), mode="strict")
        assert bias is not None
        (patch,) = (bias[1:] == 0).nonzero().flatten().tolist()
        if framing == "pad":
            assert divmod(patch, 16) == frame.patch_at((x + 0.5) / 96, (y + 0.5) / 64, 16)
        else:  # a square of 64 from column 16 on
            assert divmod(patch, 16) == (y // 4, (x - 16) // 4)


def test_masks_of_another_size_but_not_of_other_proportions() -> None:
    view = View(96, 64)
    left = (torch.arange(96) < 48).float().expand(64, 96)
    torch.testing.assert_close(view.shares(left[::2, ::2], 16), view.shares(left, 16))
    assert torch.equal(view.shares(left[None], 16), view.shares(left, 16))
    with pytest.raises(MaskError, match="mask: it is 64 x 64 pixels, the photo 96 x 64"):
        view.shares(torch.ones(64, 64), 16)
    with pytest.raises(MaskError, match=r"expected one mask for one photo, \[height, width\], got \[2, 64, 96\]"):
        view.shares(torch.ones(2, 64, 96), 16)
    with pytest.raises(MaskError, match="mask holds values that are not finite"):
        view.shares(left * math.nan, 16)


def test_what_clip_sees_of_a_photo() -> None:
    picture = photo(48, 32)
    padded = View(48, 32).picture(picture, 48)
    torch.testing.assert_close(padded[0, :8], torch.tensor(CLIP_MEAN).expand(8, 48, 3))
    torch.testing.assert_close(padded[0, 8:40], picture)
    torch.testing.assert_close(View(48, 32, "crop").picture(picture, 32)[0], picture[:, 8:40])
    with pytest.raises(MaskError, match=r"Expected a picture \[32, 48, 3\]"):
        View(48, 32).picture(photo(32, 48), 32)


@pytest.mark.parametrize("size", [(448, 448), (450, 300), (300, 450)])
def test_crop_is_the_authors_preprocessing(size: tuple[int, int]) -> None:
    transformers = pytest.importorskip("transformers")
    from PIL import Image

    small = torch.nn.functional.interpolate(photo(9, 9).permute(2, 0, 1)[None], size[::-1], mode="bilinear")
    picture = (small[0].permute(1, 2, 0) * 255).round() / 255
    image = Image.fromarray((picture * 255).round().byte().numpy())
    options = {"do_normalize": False, "do_rescale": True, "image_std": [1] * 3, "image_mean": [0] * 3}
    theirs = transformers.CLIPImageProcessor(**options)(image, return_tensors="pt").pixel_values[0].permute(1, 2, 0)
    ours = View(*size, "crop").picture(picture, 224)[0]
    inner = slice(2, -2)
    torch.testing.assert_close(ours[inner, inner], theirs[inner, inner], atol=0.012, rtol=0)


def test_the_reference_of_points_is_its_clean_picture_under_its_mask() -> None:
    picture = torch.zeros(64, 64, 3) + 0.2
    picture[10:30, 8:28], picture[36:56, 36:56] = torch.tensor([0.9, 0.1, 0.1]), torch.tensor([0.1, 0.1, 0.9])

    def tokens(pixels: Tensor) -> Tensor:
        blocks = torch.nn.functional.avg_pool2d(pixels.permute(0, 3, 1, 2), 14).flatten(2).transpose(1, 2) - 0.45
        return torch.cat([blocks.mean(1, keepdim=True), blocks], 1)

    points = PointSet(positive=((0.28, 0.31),), negative=((0.72, 0.72),))
    reference = make_reference(picture, points, tokens)
    assert reference.negative_mask.any() and not torch.equal(reference.image, picture)
    for mode in ("soft", "strict"):
        settings = QuerySettings(mask_mode=mode)
        by_reference = run(reference.image, reference.subject_mask, settings)
        by_hand = run(
            torch.where(reference.negative_mask[..., None] > 0, reference.image, picture),
            reference.subject_mask,
            settings,
        )
        assert torch.equal(c_of(by_reference), c_of(by_hand))
        assert not torch.equal(c_of(by_reference), c_of(run(picture, None, settings)))


def test_the_unconditional_embedding_is_that_of_the_zero_picture_and_the_empty_text() -> None:
    first, second = run(photo(seed=1)).embeds.subjects[0], run(photo(seed=2)).embeds.subjects[0]
    assert torch.equal(first.unconditional, second.unconditional)
    assert not torch.equal(first.c, second.c)
    vision, empty = random_vision(), rand(1, LENGTH, TEXT, seed=12)
    padding = query_bias(View(48, 32).valid(GRID))
    assert torch.equal(first.unconditional, random_aligner()(vision.zeros(), empty, padding))


def test_the_heat_map_is_the_attention_over_the_photo() -> None:
    mask = torch.zeros(32, 48)
    mask[8:16, 12:24] = 1  # one patch of the padded 48 x 48: rows 16-24, columns 12-24... of 4 x 4 patches of 12
    found = run(photo(), mask, QuerySettings(mask_mode="strict"))
    assert found.attention.shape == (32, 48) and found.attention.min() >= 0
    patch = View(48, 32).valid(GRID)
    inside = found.attention[mask > 0].mean()
    assert patch.any() and inside > found.attention[mask == 0].mean()
    attention = rand(1, 2, LENGTH, 17).softmax(-1)
    by_hand = sum(attention[0, h, t, 1:] for h in range(2) for t in (1, 2)) / 4
    torch.testing.assert_close(focus_map(attention, slice(1, 3)), by_hand.view(4, 4))
    cropped = run(photo(), None, QuerySettings("crop"))
    assert (cropped.attention[:, :8] == 0).all() and (cropped.attention[:, 8:40] > 0).all()


def test_queries_in_words() -> None:
    assert check_query("dog", False) == ()
    assert "Name the subject as well" in check_query(" ", True)[0]
    with pytest.raises(MaskError, match="query: it is empty"):
        check_query("", False)
    tokens = rand(1, 154, TEXT)
    kept, warnings = kept_tokens(tokens)
    assert torch.equal(kept, tokens[:, :77]) and "first 77 tokens" in warnings[0]
    assert kept_tokens(tokens[:, :77])[1] == ()


def test_subjects_of_two_encoders_do_not_chain_and_weights_are_checked() -> None:
    one = run(photo()).embeds
    with pytest.raises(FamilyError, match="to one output"):
        one + SubjectEmbeds(one.subjects, replace(MODEL, sha256="another"))
    again = one + SubjectEmbeds(one.subjects, replace(MODEL))  # the same model, loaded again
    assert len(again.subjects) == 2
    for weight in (-0.1, 11, math.nan):
        with pytest.raises(P3SError, match=r"weight must be a number in 0\.\.5"):
            run(photo(), weight=weight)
