from __future__ import annotations

import pytest
import torch

from p3s.errors import MaskError
from p3s.reference.overlay import REMOVED, SUBJECT, VIRIDIS, heat_map, heat_over, overlay, reduced
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference

GREY = 0.5


def reference(height: int = 200, width: int = 400) -> Reference:
    """Subject in the left quarter, removed region in the right quarter, similarity falling from left to right."""
    subject, removed = torch.zeros(height, width), torch.zeros(height, width)
    subject[:, : width // 4] = 1
    removed[:, -width // 4 :] = 1
    return Reference(
        image=torch.full((height, width, 3), GREY),
        tokens=torch.zeros(257, 4),
        subject_mask=subject,
        negative_mask=removed,
        similarity=torch.linspace(0.3, 0.1, width).expand(height, width),
        points=PointSet([(0.125, 0.5)], [(0.875, 0.5), (1.0, 1.0)]),
        image_hash="",
    )


def test_overlay_tints_hatches_and_leaves_the_rest() -> None:
    made = reference()
    photo = made.image.clone()
    picture = overlay(made, photo)
    assert picture.shape == (200, 400, 3) and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    assert torch.equal(photo, made.image)  # the photo itself is not drawn upon
    untouched = picture[:, 105:295]
    torch.testing.assert_close(untouched, torch.full_like(untouched, GREY), atol=1 / 255, rtol=0)

    tint = picture[20, 40]
    expected = GREY * 0.65 + torch.tensor(SUBJECT) / 255 * 0.35
    torch.testing.assert_close(tint, expected, atol=2 / 255, rtol=0)
    flat, hatched = picture[10:60, 10:60].reshape(-1, 3), picture[10:60, 310:360].reshape(-1, 3)
    assert len(flat.unique(dim=0)) == 1 and len(hatched.unique(dim=0)) == 2  # hatching, not colour alone
    share = (hatched == hatched.unique(dim=0)[-1]).all(dim=1).float().mean()
    assert 0.1 < share < 0.9
    outline = picture[20, 99]
    torch.testing.assert_close(outline, torch.tensor(SUBJECT) / 255, atol=0.2, rtol=0)


def test_a_photo_that_is_a_view_of_channels_first_can_be_drawn_on() -> None:
    made = reference()
    photo = made.image.movedim(-1, 0).contiguous().movedim(0, -1)  # as the host's scaling nodes give it
    assert torch.equal(overlay(made, photo), overlay(made, made.image))


def test_a_drawing_for_the_screen_shows_the_same_at_a_smaller_size() -> None:
    made = reference(2000, 4000)
    picture = overlay(made, made.image, 400)
    assert picture.shape == (200, 400, 3)
    torch.testing.assert_close(picture, overlay(reference(), reference().image), atol=2 / 255, rtol=0)
    assert reduced(made.subject_mask, 400).sum() == 200 * 100
    assert reduced(made.image, 5000).shape == made.image.shape, "nothing is enlarged"


def test_points_carry_plus_and_minus() -> None:
    picture = overlay(reference(800, 1600), torch.full((800, 1600, 3), GREY))
    white = (picture > 0.98).all(dim=-1)
    radius, arm = 12, 5  # unit 4
    plus, minus = white[400, 200 - arm : 201 + arm], white[400, 1400 - arm : 1401 + arm]
    assert plus.all() and minus.all()
    assert white[400 - arm : 401 + arm, 200].all()  # the upright stroke of the plus
    assert not white[[400 - arm, 400 + arm], 1400].any()  # which the minus lacks
    disc = picture[400 - radius // 2 - 3, 1400]
    torch.testing.assert_close(disc, torch.tensor(REMOVED) / 255, atol=0.02, rtol=0)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (32, 32), (20, 300)])
def test_small_pictures_can_be_drawn(height: int, width: int) -> None:
    assert overlay(reference(height, width), torch.full((height, width, 3), GREY)).shape == (height, width, 3)
    assert heat_map(reference(height, width)).shape == (height, width, 3)


def test_overlay_needs_the_photo_of_the_reference() -> None:
    with pytest.raises(MaskError, match=r"photo \[200, 400, 3\], got \[400, 200, 3\]"):
        overlay(reference(), torch.zeros(400, 200, 3))


def test_a_heat_map_over_a_photo_shows_both() -> None:
    photo = torch.zeros(2, 3, 3)
    photo[0] = torch.tensor((1.0, 0.5, 0.0))
    levels = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    drawn = heat_over(photo, levels)
    lowest, highest = (torch.tensor(VIRIDIS[i]) / 255 for i in (0, -1))
    torch.testing.assert_close(drawn[0, 1], 0.6 * highest + 0.4 * (0.299 + 0.587 / 2))
    torch.testing.assert_close(drawn[1, 0], 0.6 * lowest)


def test_heat_map_runs_from_dark_to_bright() -> None:
    made = reference()
    picture = heat_map(made)
    assert picture.shape == (200, 400, 3) and picture.dtype == torch.float32
    assert picture.min() >= 0 and picture.max() <= 1
    torch.testing.assert_close(picture[0, -1], torch.tensor([68, 1, 84]) / 255, atol=2 / 255, rtol=0)
    torch.testing.assert_close(picture[0, 0], torch.tensor([253, 231, 37]) / 255, atol=2 / 255, rtol=0)
    luminance = picture[0] @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (luminance[10:] < luminance[:-10]).all() and luminance[0] - luminance[-1] > 0.6
