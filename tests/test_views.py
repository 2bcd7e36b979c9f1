"""What training looks at in a clean reference."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from small import SMALL, random_copy, random_unet

from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.examples import Example, examples_of, loss_mask_of, subject_box, views_of
from p3s.training.settings import TrainSettings
from p3s.training.step import batch_losses, draw_batch

NOISE = NoiseSchedule.stable_diffusion()


def reference(height: int = 40, width: int = 60) -> Reference:
    """A red subject at the upper left; something removed at the right, reaching into the subject's surroundings."""
    image = torch.rand(height, width, 3, generator=torch.Generator().manual_seed(0))
    subject, removed = torch.zeros(height, width), torch.zeros(height, width)
    subject[4:16, 2:14] = 1
    removed[0:40, 16:50] = 1
    return Reference(image, torch.rand(17, 20), subject, removed, subject, PointSet(((0.1, 0.2),)), "0" * 64)


def encode(picture: torch.Tensor) -> torch.Tensor:
    """A latent whose first channel tells how large the picture was."""
    latent = torch.zeros(4, 16, 16)
    latent[0] = picture.shape[0] * 1000 + picture.shape[1]
    return latent


def test_the_cut_is_a_square_around_the_subject_inside_the_picture() -> None:
    box = subject_box(reference().subject_mask)
    assert box is not None
    rows, columns = box
    assert (rows.stop - rows.start, columns.stop - columns.start) == (16, 16)  # 12 pixels and the margins
    assert (rows.start, columns.start) == (2, 0)  # moved inwards on the left
    assert rows.start <= 4 and rows.stop >= 16 and columns.stop >= 14


@pytest.mark.parametrize("corner", [(0, 0), (0, 48), (28, 0), (28, 48)])
def test_the_cut_holds_a_subject_in_any_corner(corner: tuple[int, int]) -> None:
    mask = torch.zeros(40, 60)
    mask[corner[0] : corner[0] + 12, corner[1] : corner[1] + 12] = 1
    box = subject_box(mask)
    assert box is not None and mask[box].sum() == mask.sum()
    assert mask[box].shape == (16, 16)


def test_no_cut_of_nothing_and_of_almost_everything() -> None:
    assert subject_box(torch.zeros(40, 60)) is None
    assert subject_box(torch.ones(40, 60)) is None


def test_views() -> None:
    made = reference()
    (whole,) = views_of(made)
    assert whole.image is made.image and whole.removed_mask is made.negative_mask
    _, cut = views_of(made, "whole+subject")
    assert torch.equal(cut.image, made.image[2:18, 0:16]) and torch.equal(
        cut.removed_mask, made.negative_mask[2:18, 0:16]
    )
    full = replace(made, subject_mask=torch.ones(40, 60))
    assert len(views_of(full, "whole+subject")) == 1


def test_a_latent_pixel_counts_only_where_nothing_of_it_was_removed() -> None:
    removed = torch.zeros(32, 32)
    removed[8:17, 8:16] = 1  # one row beyond a latent pixel's edge
    expected = torch.ones(4, 4)
    expected[1:3, 1:2] = 0
    expected[3, 1] = loss_mask_of(removed, (4, 4))[3, 1]  # the filter may reach over the edge, never less than it
    seen = loss_mask_of(removed, (4, 4))
    assert ((seen == 0) | (seen == 1)).all()
    assert (seen[expected == 0] == 0).all()
    assert seen[0, 3] == seen[3, 3] == 1
    assert loss_mask_of(torch.zeros(32, 32), (4, 4)).all()


def test_examples_share_the_reference_and_differ_in_what_is_learned() -> None:
    made, prompt = reference(), torch.rand(7, 24)
    whole, cut = examples_of(made, prompt, encode, TrainSettings(views="whole+subject", removed="ignored"))
    assert whole.latent is cut.latent and whole.tokens is cut.tokens is made.tokens
    assert whole.learned_latent is whole.latent and whole.learned_latent[0, 0, 0] == 40060
    assert cut.learned_latent[0, 0, 0] == 16016
    assert whole.loss_mask is not None and cut.loss_mask is not None
    assert whole.loss_mask.mean() < 0.6 and cut.loss_mask.mean() > 0.8
    (paper,) = examples_of(made, prompt, encode, TrainSettings(views="whole", removed="learned"))
    assert paper.view is None and paper.loss_mask is None


def test_views_of_one_reference_are_no_others_of_each_other() -> None:
    prompt = torch.rand(7, 24)
    examples = examples_of(reference(), prompt, encode, TrainSettings(views="whole+subject"))
    other = Example(torch.zeros(4, 16, 16), torch.rand(17, 20), prompt)
    generator = torch.Generator().manual_seed(0)
    for rows, everyone, expected in (([0, 1], examples, examples[0]), ([0, 1], [*examples, other], other)):
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
