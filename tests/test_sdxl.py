"""SDXL: pooled text and sizes in training and sampling, and which of the layers in a row read a subject."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SMALL_SDXL, TOKEN_DIM, random_copy, random_unet, train
from torch import Tensor

from p3s.errors import TrainingError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.injection import Features, Injection, InjectionHooks
from p3s.network.label import SIZE_DIM, SIZES_DIM, Sizes, label_of
from p3s.network.layer_map import LayerMap
from p3s.network.subject_copy import CopyReader, SubjectCopy
from p3s.network.unet import UNet
from p3s.network.unet_config import SDXL, Layer, UNetConfig
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference
from p3s.sampling.application import Application, AppliedSubject
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import STANDARD, injection
from p3s.training.examples import Example, Pooled, examples_of
from p3s.training.memory_estimate import estimate_memory
from p3s.training.sample_preview import STEPS, preview_size, sample_preview
from p3s.training.settings import TrainSettings
from p3s.training.state import Checkpoints
from p3s.training.state_file import load_state
from p3s.training.step import batch_losses, check_examples, draw_batch

XL = UNetConfig.build(**SDXL)
NOISE = NoiseSchedule.stable_diffusion()
POOLED = SMALL_SDXL.label_dim - SIZES_DIM
GENERATOR = torch.Generator().manual_seed(7)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=GENERATOR)


EMPTY = draw(7, SMALL_SDXL.context_dim)
TEXTS = Pooled(draw(POOLED), draw(POOLED))


def example(side: int = 8, sizes: Sizes | None = None) -> Example:
    labels = (label_of(text, sizes or Sizes.of(64, 64)) for text in TEXTS)
    return Example(draw(4, side, side), draw(17, TOKEN_DIM), draw(7, SMALL_SDXL.context_dim), None, None, *labels)


@pytest.fixture(scope="module")
def base() -> UNet:
    return random_unet(SMALL_SDXL)


def embedded(number: float) -> Tensor:
    """The original's embedding of one number, written out."""
    half = SIZE_DIM // 2
    angles = number * 10000 ** -(torch.arange(half) / half)
    return torch.cat([angles.cos(), angles.sin()])


# Shapes


def test_the_copy_of_sdxl_has_the_counted_size() -> None:
    found = LayerMap.of(XL)
    assert len(found.gives) == len(found.config.layers()) == 46
    assert len(found.reads) == 70
    assert found.reads[Layer("output", 1, 7)] == Layer("output", 0, 7)
    full = SubjectCopy(XL, CopySettings(), 1024, device="meta")
    low = SubjectCopy(XL, CopySettings(kind="lora"), 1024, device="meta")
    assert round(sum(p.numel() for p in full.unet.parameters()) / 1e6) == 1717
    assert round(sum(p.numel() for p in low.unet.parameters()) / 1e6, 1) == 32.9


@pytest.mark.parametrize(("stride", "reading", "giving"), [(1, 70, 46), (2, 35, 23), (5, 17, 11), (10, 11, 7)])
def test_every_nth_of_the_layers_in_a_row_reads_the_subject(stride: int, reading: int, giving: int) -> None:
    """Of the base 6 rows of ten and 5 of two, of the copy 4 and 3."""
    found = LayerMap.of(XL, depth_stride=stride)
    assert len(found.reads) == reading
    assert len(found.gives) == giving
    assert all(layer.depth % stride == 0 for layer in found.reads)


def test_layers_that_are_left_out_change_nothing_in_the_others(base: UNet) -> None:
    every, second = (random_copy(base, CopySettings(depth_stride=n)) for n in (1, 2))
    second.load_state_dict({key: every.state_dict()[key] for key in second.state_dict()})
    inputs = draw(2, 4, 8, 8), torch.tensor([5.0, 900.0]), draw(2, 7, SMALL_SDXL.context_dim), draw(1, 4, 8, 8)
    label = draw(2, SMALL_SDXL.label_dim)
    with torch.no_grad():
        all_of_them, found = every(*inputs, label), second(*inputs, label)
    kept = [layer for layer in SMALL_SDXL.layers() if layer.depth == 0]
    assert list(found.grids) == kept
    assert len(kept) < len(SMALL_SDXL.layers())
    for layer in kept:
        assert torch.equal(found.self_attention[layer], all_of_them.self_attention[layer])
        assert torch.equal(found.cross_attention[layer], all_of_them.cross_attention[layer])


def test_the_copy_reads_the_label(base: UNet) -> None:
    """A full copy at its start is the base, and gives what the base's layers read."""
    copy = start_copy(base.state_dict(), CopySettings(), TOKEN_DIM)
    x, t, context = draw(1, 4, 8, 8), torch.tensor([300.0]), draw(1, 7, SMALL_SDXL.context_dim)
    label = draw(1, SMALL_SDXL.label_dim)
    first = copy.map.gives[0]
    with torch.no_grad():
        seen = copy.read(x, t, context, torch.zeros(1, 4, 8, 8), copy.last_read, label).norm1[first]
        # Up to the first transformer the copy has the blocks of a base with one ResBlock a level.
        reader = CopyReader()
        copy.unet(x, t, context, reader, label=label)
        other = CopyReader()
        copy.unet(x, t, context, other, label=label + 1)
    assert torch.equal(seen, reader.norm1[first])
    assert not torch.allclose(seen, other.norm1[first], atol=1e-3)


# Training


def test_the_label_is_pooled_text_and_six_sizes() -> None:
    sizes = Sizes(500, 300, 20, 40, 1024, 512)
    expected = torch.cat([TEXTS.prompt, *(embedded(number) for number in (500, 300, 20, 40, 1024, 512))])
    torch.testing.assert_close(label_of(TEXTS.prompt, sizes), expected, atol=1e-4, rtol=1e-4)


def test_every_view_has_sizes_of_its_own() -> None:
    """A photo of 40 x 60, trained in about 64 x 64 pixels: crops are enlarged, begin elsewhere and are square."""
    subject = torch.zeros(40, 60)
    subject[20:32, 30:42] = 1
    trained = {(40, 60): (48, 80), (32, 32): (64, 64)}  # pixels of the photo and of the crop
    image = torch.rand(40, 60, 3, generator=GENERATOR)
    clean = Reference(
        image, torch.rand(17, 20), subject, torch.zeros(40, 60), subject, PointSet(((0.1, 0.2),)), "0" * 64
    )
    sizes = []

    def encode(picture: Tensor) -> Tensor:
        # Where in the photo it comes from, or in its mirror image.
        found = [
            (top, left)
            for photo in (image, image.flip(1))
            for top in range(40 - picture.shape[0] + 1)
            for left in range(60 - picture.shape[1] + 1)
            if torch.equal(photo[top : top + picture.shape[0], left : left + picture.shape[1]], picture)
        ]
        (corner,) = found
        height, width = picture.shape[:2]
        sizes.append((height, width, *corner))
        return torch.zeros(4, *(side // 8 for side in trained[height, width]))

    settings = TrainSettings(views="whole+subject", flip=True)
    made = examples_of(clean, EMPTY, encode, 64, settings, torch.Generator(), TEXTS)
    assert sizes == [(40, 60, 0, 0), (32, 32, 8, 20), (40, 60, 0, 0), (32, 32, 8, 8)]  # the latter two are mirrored
    for one, (height, width, top, left) in zip(made, sizes, strict=True):
        rows, columns = trained[height, width]
        expected = Sizes(height, width, round(top * rows / height), round(left * columns / width), rows, columns)
        assert one.label is not None and one.label_without_prompt is not None
        assert torch.equal(one.label, label_of(TEXTS.prompt, expected))
        assert torch.equal(one.label_without_prompt, label_of(TEXTS.without_prompt, expected))


def test_a_dropped_prompt_takes_its_pooled_text_along() -> None:
    settings = TrainSettings(prompt_dropout=0.5, batch_size=32)
    one = example()
    batch = draw_batch([one], [0] * 32, EMPTY, NOISE, settings, torch.Generator().manual_seed(0))
    dropped = (batch.context == EMPTY).flatten(1).all(1)
    assert 5 < dropped.sum() < 27
    assert batch.label is not None
    for row, gone in zip(batch.label, dropped, strict=True):
        assert torch.equal(row, one.label_without_prompt if gone else one.label)


def test_the_untrained_copy_has_the_plain_loss(base: UNet) -> None:
    """And the base reads the label in training."""
    copy = start_copy(base.state_dict(), CopySettings(feature="attn1", lam=0.0), TOKEN_DIM)
    settings = TrainSettings(gamma=0.0)
    batch = draw_batch([example()], [0], EMPTY, NOISE, settings, torch.Generator().manual_seed(0))
    with torch.no_grad():
        loss, _ = batch_losses(base, copy, batch, settings)
        zero = loss_of_zero_features(base, copy, batch)
    torch.testing.assert_close(loss, zero)


def loss_of_zero_features(base: UNet, copy: SubjectCopy, batch: Any) -> Tensor:
    """L_LDM where every subject token is 0, by hand."""
    z: dict[Layer, Tensor] = {}
    grids: dict[Layer, tuple[int, int]] = {}
    height, width = batch.x.shape[2:]
    for layer in SMALL_SDXL.layers():
        level = SMALL_SDXL.level(layer)
        grids[layer] = (height >> level, width >> level)
        z[layer] = torch.zeros(len(batch.x), grids[layer][0] * grids[layer][1], SMALL_SDXL.channels(layer))
    hooks = InjectionHooks(Injection(Features(z, {}, grids), copy.settings.lam))
    output = base(batch.x, batch.timesteps, batch.context, hooks, label=batch.label)
    return (output - batch.target).square().mean()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "has 0 numbers, and this U-Net reads 1556"),
        ({"label_without_prompt": torch.zeros(3)}, "has 3 numbers, and this U-Net reads 1556"),
        ({"label": torch.full((SMALL_SDXL.label_dim,), torch.nan)}, "not finite"),
    ],
)
def test_a_label_that_does_not_fit_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        check_examples(SMALL_SDXL, [replace(example(), **change)], EMPTY)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_interrupted_and_resumed_is_uninterrupted(base: UNet, kind: str, tmp_path: Any) -> None:
    settings = TrainSettings(steps=4, batch_size=2, learning_rate=1e-3, prompt_dropout=0.3)
    examples = [example(), example(sizes=Sizes(40, 40, 0, 8, 64, 64))]

    def fresh() -> SubjectCopy:
        return start_copy(base.state_dict(), CopySettings(kind=kind, rank=4, depth_stride=2), TOKEN_DIM)

    whole, stopped, resumed = fresh(), fresh(), fresh()
    train(base, whole, examples, EMPTY, NOISE, settings)
    kept = Checkpoints(tmp_path / "state.p3s")
    train(base, stopped, examples, EMPTY, NOISE, settings, lambda report: report.step < 2, kept)
    train(base, resumed, examples, EMPTY, NOISE, settings, resume=load_state(kept.path))
    assert all(torch.equal(whole.state_dict()[key], value) for key, value in resumed.state_dict().items())
    assert any(not torch.equal(whole.state_dict()[key], value) for key, value in fresh().state_dict().items())


def test_memory_is_estimated(base: UNet) -> None:
    """Fewer layers that read the subject keep fewer activations."""
    settings = TrainSettings()
    estimates = [
        estimate_memory(SMALL_SDXL, [example(32)], CopySettings(depth_stride=n, kind="lora"), settings) for n in (1, 2)
    ]
    assert estimates[0].activations > estimates[1].activations > 0


# Sampling


def test_guidance_reads_the_label_of_each_side(base: UNet) -> None:
    noise, prompt = draw(1, 4, 8, 8), draw(7, SMALL_SDXL.context_dim)
    labels = draw(SMALL_SDXL.label_dim), draw(SMALL_SDXL.label_dim)
    t = torch.tensor([1])  # of the one step, as ddim_timesteps gives it
    with torch.no_grad():
        (found,) = generate(base, prompt, EMPTY, NOISE, noise, steps=1, guidance=3.0, labels=labels)
        with_prompt = base(noise, t, prompt[None], label=labels[0][None])
        without = base(noise, t, EMPTY[None], label=labels[1][None])
        expected, _ = NOISE.split(noise, without + 3.0 * (with_prompt - without), t)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_subject_reads_the_label_of_each_side(base: UNet) -> None:
    """A batch of both sides of guidance is what they are apart, with features of their own."""
    copy, noise, prompt = random_copy(base), draw(2, 4, 8, 8), draw(7, SMALL_SDXL.context_dim)
    labels = draw(SMALL_SDXL.label_dim), draw(SMALL_SDXL.label_dim)
    condition = copy.condition(draw(1, 4, 8, 8), draw(1, 17, TOKEN_DIM))
    application = Application(Schedule("fixed", value=0.7))
    t = torch.tensor([1, 1])

    def side(text: Tensor, label: Tensor) -> Tensor:
        inputs = noise, t, text.expand(2, -1, -1)
        features = copy(*inputs, condition, label.expand(2, -1))
        return base(*inputs, InjectionHooks(injection(copy, features, 0.7)), label=label.expand(2, -1))

    with torch.no_grad():
        subjects = [AppliedSubject(copy, condition, application)]
        (found,) = generate(base, prompt, EMPTY, NOISE, noise, subjects, 1, 3.0, labels=labels)
        without = side(EMPTY, labels[1])
        expected, _ = NOISE.split(noise, without + 3.0 * (side(prompt, labels[0]) - without), t)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


def test_a_preview_is_a_whole_picture_of_its_own_size(base: UNet) -> None:
    copy, one = random_copy(base), example(16, Sizes(40, 30, 8, 8, 128, 128))
    found = sample_preview(base, copy, one, EMPTY, NOISE, "fp32")
    size = preview_size(16, 16)
    assert found.shape[2:] == size
    whole = Sizes.of(8 * size[0], 8 * size[1])
    start = torch.randn(1, 4, *size, generator=torch.Generator().manual_seed(0))
    subject = AppliedSubject(copy, copy.condition(one.latent[None], one.tokens[None]), Application(settings=STANDARD))
    labels = label_of(TEXTS.prompt, whole), label_of(TEXTS.without_prompt, whole)
    *_, expected = generate(base, one.prompt, EMPTY, NOISE, start, [subject], STEPS, labels=labels)
    assert torch.equal(found, expected)
