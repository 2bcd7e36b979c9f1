"""What training looks at in a clean reference."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SMALL, random_copy, random_unet

from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training import views
from p3s.training.examples import Example, examples_of
from p3s.training.settings import TrainSettings
from p3s.training.step import batch_losses, draw_batch, total_steps
from p3s.training.views import ENLARGED, WORTH, View, subject_area_of, subject_box

NOISE = NoiseSchedule.stable_diffusion()
RESOLUTION = 16  # of what is trained on here: crops have 8 pixels or more a side
SIZES = [(768, 768), (1024, 683), (683, 1024), (300, 2000)]


def reference(height: int = 40, width: int = 60) -> Reference:
    """Noise, with the subject at the upper left; something removed at the right, reaching into its surroundings."""
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    subject, removed = torch.zeros(height, width), torch.zeros(height, width)
    subject[4:16, 2:14] = 1
    removed[0:40, 16:50] = 1
    return Reference(image, torch.rand(17, 20), subject, removed, subject, PointSet(((0.1, 0.2),)), "0" * 64)


def small_subject(height: int, width: int) -> Reference:
    """A subject of 78 x 60 pixels in a photo, of which CLIP sees 16 x 16 patches."""
    subject = torch.zeros(height, width)
    subject[100:178, 40:100] = 1
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    nothing = torch.zeros(height, width)
    return Reference(image, torch.rand(257, 20), subject, nothing, subject, PointSet(((0.1, 0.2),)), "0" * 64)


def encode(picture: torch.Tensor) -> torch.Tensor:
    """A latent whose first channel tells how large the picture was."""
    latent = torch.zeros(4, 16, 16)
    latent[0] = picture.shape[0] * 1000 + picture.shape[1]
    return latent


def views_of(made: Reference, resolution: int = RESOLUTION, seed: int = 0, **settings: Any) -> list[View]:
    return views.views_of(made, resolution, TrainSettings(**settings), torch.Generator().manual_seed(seed))


def examples(made: Reference, prompt: torch.Tensor, **settings: Any) -> list[Example]:
    return examples_of(made, prompt, encode, RESOLUTION, TrainSettings(**settings), torch.Generator().manual_seed(0))


def equal(found: torch.Tensor, expected: float) -> bool:
    """But for the last bits."""
    return bool((found - expected).abs().max() < 1e-6)


def enlargement(view: View, resolution: int) -> float:
    height, width = view.removed_mask.shape
    return (resolution**2 / (height * width)) ** 0.5


def test_the_cut_is_a_square_around_the_subject_inside_the_picture() -> None:
    box = subject_box(reference().subject_mask, RESOLUTION)
    assert box is not None
    rows, columns = box
    assert (rows.stop - rows.start, columns.stop - columns.start) == (16, 16)  # 12 pixels and the margins
    assert (rows.start, columns.start) == (2, 0)  # moved inwards on the left
    assert rows.start <= 4 and rows.stop >= 16 and columns.stop >= 14


@pytest.mark.parametrize("corner", [(0, 0), (0, 48), (28, 0), (28, 48)])
def test_the_cut_holds_a_subject_in_any_corner(corner: tuple[int, int]) -> None:
    mask = torch.zeros(40, 60)
    mask[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = 1
    box = subject_box(mask, RESOLUTION)
    assert box is not None and mask[box].sum() == mask.sum()
    assert mask[box].shape == (16, 16)


def test_no_cut_of_nothing_and_of_almost_everything() -> None:
    assert subject_box(torch.zeros(40, 60), RESOLUTION) is None
    assert subject_box(torch.ones(40, 60), RESOLUTION) is None


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_crop_is_enlarged_twice_at_most(height: int, width: int) -> None:
    """As little more than the subject is shown as that allows."""
    made = small_subject(height, width)
    _, crop = views_of(made, 512)
    assert 1.97 < enlargement(crop, 512) <= ENLARGED
    box = subject_box(made.subject_mask, 512)
    assert box is not None and made.subject_mask[box].sum() == made.subject_mask.sum()
    assert torch.equal(crop.image, made.image[box])
    _, larger = views_of(made, 128)
    assert larger.image.shape == (101, 101, 3)  # 78 pixels and the margins


def test_a_photo_that_is_small_itself_has_no_crop() -> None:
    assert len(views_of(small_subject(250, 250), 512, crops=2)) == 1


def test_views() -> None:
    made = reference()
    (whole,) = views_of(made, views="whole")
    assert whole.image is made.image and whole.removed_mask is made.negative_mask
    _, cut = views_of(made)
    assert torch.equal(cut.image, made.image[2:18, 0:16])
    assert torch.equal(cut.removed_mask, made.negative_mask[2:18, 0:16])
    full = replace(made, subject_mask=torch.ones(40, 60))
    assert len(views_of(full, crops=2)) == 1


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_random_crops_hold_the_whole_subject_at_other_places_and_sizes(height: int, width: int) -> None:
    made, resolution = small_subject(height, width), 512
    whole, *crops = views_of(made, resolution, views="whole", crops=16)
    assert torch.equal(whole.image, made.image) and len(crops) == 16
    inside = made.subject_mask.bool()
    for crop in crops:
        rows, columns = crop.removed_mask.shape
        assert rows == columns and rows * columns <= WORTH * height * width
        assert enlargement(crop, resolution) <= ENLARGED
        assert (crop.subject_area > 0).sum() == (whole.subject_area > 0).sum()
        # Of noise no two pixels are alike: the subject's come in the same order.
        shown = crop.image[torch.isin(crop.image[..., 0], made.image[..., 0][inside])]
        assert len(shown) >= inside.sum()
    sides = [len(crop.removed_mask) for crop in crops]
    assert max(sides) > 1.1 * min(sides)
    assert len({(crop.image[0, 0, 0].item(), side) for crop, side in zip(crops, sides, strict=True)}) > 10


def test_random_crops_around_a_subject_wider_than_the_photo_is_high_are_trimmed() -> None:
    mask = torch.zeros(100, 400)
    mask[40:60, 100:250] = 1
    made = replace(small_subject(100, 400), subject_mask=mask)
    _, *crops = views_of(made, views="whole", crops=8)
    assert len(crops) == 8
    for crop in crops:
        height, width = crop.removed_mask.shape
        assert height == 100 and 150 <= width <= WORTH * 400
        assert (crop.subject_area == 1).sum() == (subject_area_of(made) == 1).sum()
    assert len({crop.removed_mask.shape[1] for crop in crops}) > 4


def test_random_crops_and_backdrops_come_from_the_generator() -> None:
    made = small_subject(768, 768)

    def pictures(seed: int) -> list[torch.Tensor]:
        return [view.image for view in views_of(made, 512, seed, crops=2, backdrop="random")]

    for one, again, other in zip(pictures(0), pictures(0), pictures(1), strict=True):
        assert torch.equal(one, again)
        assert torch.equal(one, other) == (one.shape == made.image.shape)
    for one, other in zip(views_of(made, 512, 0), views_of(made, 512, 1), strict=True):
        assert torch.equal(one.image, other.image)


@pytest.mark.parametrize(("height", "width"), [(160, 160), (160, 100), (100, 160)])
def test_the_area_of_a_subject_is_half_a_patch_wider_than_its_mask(height: int, width: int) -> None:
    """A patch has 10 pixels here, along both sides, however the photo stands."""
    mask = torch.zeros(height, width)
    mask[40:60, 50:70] = 1
    area = subject_area_of(replace(reference(), subject_mask=mask, tokens=torch.rand(257, 20)))
    assert (area[50] > 0.5).nonzero().flatten().tolist() == list(range(45, 75))
    assert (area[:, 60] > 0.5).nonzero().flatten().tolist() == list(range(35, 65))
    inner, outer = torch.zeros(height, width), torch.ones(height, width)
    inner[37:63, 47:73] = 1
    outer[33:67, 43:77] = 0
    assert equal(area[inner == 1], 1) and (area[outer == 1] == 0).all()


def test_without_a_mask_all_is_the_subject() -> None:
    made = replace(reference(), subject_mask=torch.zeros(40, 60))
    assert subject_area_of(made).all()
    mask = views_of(made)[0].loss_mask((4, 6), TrainSettings(background_weight=0.0, removed="learned"))
    assert mask is not None and equal(mask, 1)


def halves() -> View:
    """The subject's area on the left, something removed at the top."""
    area, removed = torch.zeros(32, 32), torch.zeros(32, 32)
    area[:, :16] = 1
    removed[:8] = 1
    return View(torch.rand(32, 32, 3), removed, area)


def loss_mask(view: View, **settings: Any) -> torch.Tensor:
    mask = view.loss_mask((8, 8), TrainSettings(**settings))
    assert mask is not None
    return mask


def test_the_background_counts_as_much_as_its_weight_says() -> None:
    view = halves()
    mask = loss_mask(view, background_weight=0.25, removed="learned")
    assert equal(mask[:, :3], 1) and equal(mask[:, 5:], 0.25)
    assert equal(mask[:, 3] + mask[:, 4], 1.25)  # the edge, which the resizing spreads
    both = loss_mask(view, background_weight=0.25)
    assert equal(both[:2], 0) and torch.equal(both[3:], mask[3:])
    assert loss_mask(view).unique().tolist() == [0, 1]
    assert view.loss_mask((8, 8), TrainSettings(removed="learned")) is None
    half = view.crop((slice(0, 32), slice(16, 32)))
    assert equal(loss_mask(half, background_weight=0.25, removed="learned"), 0.25)
    mirrored = loss_mask(view.flip(), background_weight=0.25)
    assert torch.allclose(mirrored, both.flip(1))


@pytest.mark.parametrize("settings", [{"removed": "learned"}, {"removed": "learned", "background_weight": 0.5}])
def test_a_backdrop_never_counts(settings: dict[str, Any]) -> None:
    mask = loss_mask(halves().on(torch.zeros(3)), **settings)
    assert equal(mask[:, :3], 1) and mask[:, 4:].eq(0).all()


@pytest.mark.parametrize("kind", ["plain", "random"])
def test_a_backdrop_lies_behind_the_subject_in_crops_alone(kind: str) -> None:
    made = small_subject(768, 768)
    options = {"resolution": 512, "crops": 2}
    whole, *crops = views_of(made, backdrop=kind, **options)
    _, first, *_ = views_of(made, **options)
    assert torch.equal(whole.image, made.image) and not whole.backdrop
    subject, behind = crops[0].subject_area == 1, crops[0].subject_area == 0
    assert torch.equal(crops[0].image[subject], first.image[subject])
    colours = [crop.image[crop.subject_area == 0] for crop in crops]
    assert all(colour.min() >= 0 and colour.max() <= 1 for colour in colours)
    if kind == "plain":
        assert all((colour - colour[0]).abs().max() < 1e-6 for colour in colours)
        assert len({tuple(colour[0].tolist()) for colour in colours}) == 3
    else:
        step = (crops[0].image[:, 1:] - crops[0].image[:, :-1]).abs().amax(-1)
        smooth = step[behind[:, 1:] & behind[:, :-1]]
        assert smooth.max() <= views.COLOURS / len(behind) + 1e-6  # from one colour to the next, at most 0 to 1
        assert colours[0].std(0).min() > 0.05


def test_flip_adds_every_view_as_a_mirror_shows_it() -> None:
    made = reference()
    plain, both = views_of(made, crops=1), views_of(made, crops=1, flip=True)
    assert len(plain) == 3 and len(both) == 6
    for view, same, mirrored in zip(plain, both[:3], both[3:], strict=True):
        assert torch.equal(view.image, same.image)
        for name in ("image", "removed_mask", "subject_area"):
            assert torch.equal(getattr(mirrored, name), torch.from_numpy(getattr(view, name).numpy()[:, ::-1].copy()))


def test_a_latent_pixel_counts_only_where_nothing_of_it_was_removed() -> None:
    removed = torch.zeros(32, 32)
    removed[8:17, 8:16] = 1  # one row beyond a latent pixel's edge
    expected = torch.ones(4, 4)
    expected[1:3, 1:2] = 0
    expected[3, 1] = views.without(removed, (4, 4))[3, 1]  # the filter may reach over the edge, never less than it
    seen = views.without(removed, (4, 4))
    assert ((seen == 0) | (seen == 1)).all()
    assert (seen[expected == 0] == 0).all()
    assert seen[0, 3] == seen[3, 3] == 1
    assert views.without(torch.zeros(32, 32), (4, 4)).all()


def test_examples_share_the_reference_and_differ_in_what_is_learned() -> None:
    made, prompt = reference(), torch.rand(7, 24)
    whole, cut = examples(made, prompt, views="whole+subject", removed="ignored")
    assert whole.latent is cut.latent and whole.tokens is cut.tokens is made.tokens
    assert whole.learned_latent is whole.latent and whole.learned_latent[0, 0, 0] == 40060
    assert cut.learned_latent[0, 0, 0] == 16016
    assert whole.loss_mask is not None and cut.loss_mask is not None
    assert whole.loss_mask.mean() < 0.6 and cut.loss_mask.mean() > 0.8
    (paper,) = examples(made, prompt, views="whole", removed="learned")
    assert paper.view is None and paper.loss_mask is None


def test_an_epoch_learns_every_view_once() -> None:
    found = examples(reference(), torch.rand(7, 24), crops=3, flip=True)
    assert len(found) == 10
    assert all(example.latent is found[0].latent for example in found)
    assert [example.view is None for example in found] == [True] + [False] * 9
    assert total_steps(found, TrainSettings(epochs=2)) == 20


def test_a_view_of_which_nothing_counts_is_left_out() -> None:
    made = replace(reference(), negative_mask=torch.ones(40, 60))
    assert len(examples(made, torch.rand(7, 24), crops=2, removed="learned")) == 4
    (whole,) = examples(made, torch.rand(7, 24), crops=2)
    assert whole.view is None


def test_views_of_one_reference_are_no_others_of_each_other() -> None:
    prompt = torch.rand(7, 24)
    own = examples(reference(), prompt, views="whole+subject")
    other = Example(torch.zeros(4, 16, 16), torch.rand(17, 20), prompt)
    generator = torch.Generator().manual_seed(0)
    for rows, everyone, expected in (([0, 1], own, own[0]), ([0, 1], [*own, other], other)):
        for _ in range(10):
            batch = draw_batch(everyone, rows, prompt, NOISE, TrainSettings(), generator)
            assert all(torch.equal(latent, expected.latent) for latent, _ in batch.sources)


def test_what_does_not_count_has_no_part_in_the_loss() -> None:
    base = random_unet()
    copy = random_copy(base).requires_grad_(True)
    prompt, latent = torch.rand(7, SMALL.context_dim), torch.randn(4, 16, 16)
    seen = torch.ones(16, 16)
    seen[:, 8:] = 0

    def batch(example: Example):
        generator = torch.Generator().manual_seed(3)
        return draw_batch([example], [0], prompt, NOISE, TrainSettings(), generator)

    half = batch(Example(latent, torch.rand(17, 20), prompt, loss_mask=seen))
    spoiled = half.target.clone()
    spoiled[..., 8:] += 100
    first, _ = batch_losses(base, copy, half, TrainSettings())
    again, _ = batch_losses(base, copy, replace(half, target=spoiled), TrainSettings())
    assert first.item() == again.item()
    spoiled[..., 0] += 100
    assert batch_losses(base, copy, replace(half, target=spoiled), TrainSettings())[0].item() > first.item() + 1
