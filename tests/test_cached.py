"""The subject network that runs once: its features, the tokens of the subject alone, training and sampling on them."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small import SMALL, SMALL_SDXL, TOKEN_DIM, random_copy, random_examples, random_unet, train
from subjects import make_subject, same

from p3s.errors import P3SError, SubjectFileError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.hooks import AttentionHooks
from p3s.network.injection import Features, Injection, InjectionHooks, pool_tokens
from p3s.network.label import SIZES_DIM, Sizes, label_of
from p3s.network.subject_copy import CopyReader, SubjectCopy
from p3s.network.subject_tokens import SubjectTokens
from p3s.network.unet import UNet
from p3s.network.unet_config import Layer, UNetConfig
from p3s.sampling.application import Application, AppliedSubject
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import SamplingSettings
from p3s.subject.file import SubjectReference, load_subject, save_subject
from p3s.training.memory_estimate import LiveBytes, estimate_memory
from p3s.training.settings import TrainSettings
from p3s.training.state import Checkpoints
from p3s.training.state_file import load_state
from p3s.training.step import batch_losses, draw_batch

CPU = torch.device("cpu")
CACHED = CopySettings(copy_input="cached")
NOISE = NoiseSchedule.stable_diffusion()
TINY = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=24)
EMPTY = torch.randn(7, TINY.context_dim, generator=torch.Generator().manual_seed(99))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def mask_of(size: int, first: int, last: int) -> torch.Tensor:
    mask = torch.zeros(size, size)
    mask[first:last, first:last] = 1
    return mask


def masked_examples(count: int = 2, config: UNetConfig = TINY) -> list:
    """Of references whose subjects have different numbers of tokens."""
    examples = random_examples(count, size=8, config=config)
    return [
        dataclasses.replace(example, subject_mask=mask_of(8, 1, 3 + 2 * number))
        for number, example in enumerate(examples)
    ]


# Which tokens


def test_a_token_shows_the_subject_where_any_of_its_pixels_does() -> None:
    mask = torch.zeros(5, 7)
    mask[2, 3] = 1
    tokens = SubjectTokens(mask)
    assert tokens.numbers((5, 7), CPU).tolist() == [2 * 7 + 3]
    assert tokens.numbers((3, 4), CPU).tolist() == [1 * 4 + 1]  # rows 2 and 3, columns 2 and 3
    assert tokens.numbers((2, 2), CPU).tolist() == [0]
    mask[4, 6] = 1
    assert SubjectTokens(mask).numbers((3, 4), CPU).tolist() == [1 * 4 + 1, 2 * 4 + 3]
    assert SubjectTokens(mask).share((2, 2), CPU)[:, 0].tolist() == [1, 0, 0, 1]


def test_equal_masks_show_equal_tokens_and_other_grids_are_refused() -> None:
    one, other = SubjectTokens(mask_of(8, 1, 3)), SubjectTokens(mask_of(8, 1, 3))
    assert (one, hash(one)) == (other, hash(other))
    assert one != SubjectTokens(mask_of(8, 1, 4))
    with pytest.raises(ValueError, match="8 x 8 has no level of 3 x 4"):
        one.numbers((3, 4), CPU)


# Features


def reading(copy: SubjectCopy, latent: torch.Tensor, label: torch.Tensor | None = None) -> CopyReader:
    reader = CopyReader()
    copy.unet(latent, torch.zeros(1), torch.zeros(1, 1, SMALL.context_dim), reader, label=label)
    return reader


class Literal(AttentionHooks):
    """Eq. 7 and 8 with the features of a reference of 16 x 16 latent pixels, in an image of any size."""

    def __init__(self, copy: SubjectCopy, condition: torch.Tensor, mask: torch.Tensor, weight: float) -> None:
        reader = reading(copy, condition)
        self.copy, self.weight, self.mask = copy, weight, mask[None, None]
        self.f = {layer: copy.zero_self[str(layer)](reader.norm1[layer])[0] for layer in copy.map.gives}
        self.g = {layer: copy.zero_cross[str(layer)](reader.norm2[layer])[0] for layer in copy.map.gives}

    def at(self, features: dict, layer: Layer, grid: tuple[int, int]) -> tuple[torch.Tensor, torch.Tensor]:
        f = self.weight * features[self.copy.map.reads[layer]]
        side = int(len(f) ** 0.5)
        shown = F.adaptive_max_pool2d(self.mask, side).flatten() > 0
        picture = (f * shown[:, None]).T.reshape(1, -1, side, side)
        if grid != (side, side):  # a wider image: the reference is in its middle
            assert grid[0] == side
            left = (grid[1] - side) // 2
            picture = F.pad(picture, (left, grid[1] - side - left))
        return f[shown][None], picture.flatten(2).transpose(1, 2)

    def self_attention(self, layer, z, grid):
        keys, sums = self.at(self.f, layer, grid)
        added = keys.expand(len(z), -1, -1)
        return z, torch.cat([z, added], 1), torch.cat([z + 0.2 * sums, added], 1)

    def cross_attention(self, layer, z, context, grid):
        return z + self.at(self.g, layer, grid)[1]


@pytest.mark.parametrize("width", [16, 32])
def test_a_picture_is_that_of_the_equations_with_the_subjects_tokens_alone(width: int) -> None:
    base = random_unet()
    copy, condition, mask = random_copy(base, CACHED), draw(1, 4, 16, 16), mask_of(16, 3, 9)
    prompt, empty, x = draw(7, SMALL.context_dim), draw(7, SMALL.context_dim, seed=1), draw(2, 4, 16, width, seed=2)
    how = Application(Schedule("fixed", value=0.7))
    subject = AppliedSubject(copy, condition, how, SubjectTokens(mask))
    *_, found = generate(base, prompt, empty, NOISE, x, [subject], steps=2, guidance=3)
    literal = Literal(copy, condition, mask, 0.7)
    *_, expected = generate(base, prompt, empty, NOISE, x, [], steps=2, guidance=3, over=lambda *_: literal)
    *_, plain = generate(base, prompt, empty, NOISE, x, [], steps=2, guidance=3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    assert (found - plain).abs().mean() > 0.01


def test_what_lies_beside_the_subject_has_no_part() -> None:
    """Of the features, those beside it are dropped: with a mask of everything they all are keys."""
    base = random_unet()
    copy, condition = random_copy(base, CACHED), draw(1, 4, 16, 16)
    some = copy.cached(condition, SubjectTokens(mask_of(16, 3, 9)))
    every = copy.cached(condition, SubjectTokens(torch.ones(16, 16)))
    for layer, grid in some.grids.items():
        z = draw(1, grid[0] * grid[1], SMALL.channels(layer))
        shown = F.adaptive_max_pool2d(mask_of(16, 3, 9)[None], grid).flatten() > 0
        few, all_of_them = (Injection(f, 0.2).self_attention_part(layer, grid, z) for f in (some, every))
        assert torch.equal(few.added, all_of_them.added[:, shown])
        assert torch.equal(few.sums[:, shown], all_of_them.sums[:, shown])
        assert not few.sums[:, ~shown].any()
        given = dataclasses.replace(every, subject=None)
        assert torch.equal(Injection(given, 0.2).self_attention_part(layer, grid, z).added, all_of_them.added)


def test_pooled_tokens_are_means_of_those_that_show_the_subject() -> None:
    layer, grid = Layer("input", 1), (4, 4)
    mask = torch.zeros(4, 4)
    mask[0, 0] = mask[0, 1] = mask[3, 3] = 1
    f = draw(1, 16, 8) * mask.flatten()[:, None]
    found = Injection(Features({layer: f}, {}, {layer: grid}, SubjectTokens(mask)), 0.2, pool=2)
    added = found.self_attention_part(layer, grid, draw(1, 16, 8)).added[0]
    torch.testing.assert_close(added, torch.stack([(f[0, 0] + f[0, 1]) / 2, f[0, 15]]))
    assert not torch.allclose(added[0], pool_tokens(f, grid, 2)[0, 0])


def test_sdxl_reads_a_label_of_the_references_size_and_no_text() -> None:
    base = random_unet(SMALL_SDXL)
    copy, condition = random_copy(base, CACHED), draw(1, 4, 8, 12)
    label = label_of(torch.zeros(SMALL_SDXL.label_dim - SIZES_DIM), Sizes.of(64, 96))[None]
    expected = reading(copy, condition, label)
    found = copy.cached(condition, SubjectTokens(torch.ones(8, 12)))
    for layer, source in copy.map.reads.items():
        assert torch.equal(found.self_attention[layer], copy.zero_self[str(source)](expected.norm1[source]))


def test_a_copy_is_not_run_without_knowing_where_its_subject_is() -> None:
    with pytest.raises(P3SError, match="where the subject is"):
        random_copy(random_unet(), CACHED).cached(draw(1, 4, 8, 8), None)


# Sampling


@pytest.mark.parametrize("settings", [SamplingSettings(), SamplingSettings(branches="conditional", reuse=3)])
def test_the_copy_runs_once_however_many_steps_and_images_there_are(settings: SamplingSettings) -> None:
    base, calls = random_unet(), []
    copy = random_copy(base, CACHED)
    copy.unet.register_forward_pre_hook(lambda _, inputs: calls.append(inputs[0].shape))
    subject = AppliedSubject(copy, draw(1, 4, 16, 16), Application(settings=settings), SubjectTokens(mask_of(16, 3, 9)))
    prompt = draw(7, SMALL.context_dim)
    list(generate(base, prompt, prompt, NOISE, draw(3, 4, 16, 16), [subject], steps=5))
    assert calls == [(1, 4, 16, 16)]


# Training


def start(base: UNet, **settings) -> SubjectCopy:
    return start_copy(base.state_dict(), dataclasses.replace(CACHED, **settings), TOKEN_DIM, zero_init="identity")


def gradients(base: UNet, copy: SubjectCopy, batch, settings: TrainSettings) -> dict[str, torch.Tensor]:
    copy.zero_grad()
    loss, consistency = batch_losses(base, copy, batch, settings)
    assert consistency == 0  # there is no text to compare maps of
    loss.backward()
    return {name: p.grad for name, p in copy.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("changes", [{}, {"weight": "learned"}, {"kind": "lora"}])
def test_a_batch_of_several_references_is_the_mean_of_its_rows(changes: dict) -> None:
    base, examples = random_unet(TINY), masked_examples(2)
    copy, settings = start(base, **changes), TrainSettings(prompt_dropout=0.0)
    rows = [0, 1, 0, 1]
    batch = draw_batch(examples, rows, EMPTY, NOISE, settings, torch.Generator().manual_seed(0))
    calls: list[int] = []
    copy.unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    together = gradients(base, copy, batch, settings)
    assert calls == [1, 1]  # once for each reference
    apart = [
        gradients(
            base,
            copy,
            dataclasses.replace(
                batch,
                **{
                    name: getattr(batch, name)[row : row + 1]
                    for name in ("x", "timesteps", "target", "context", "sources", "loss_mask", "subjects")
                },
            ),
            settings,
        )
        for row in range(len(rows))
    ]
    for name, gradient in together.items():
        torch.testing.assert_close(gradient, sum(each[name] for each in apart) / 4, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_checkpointing_gives_the_same_gradients(kind: str) -> None:
    base, examples, settings = random_unet(TINY), masked_examples(2), TrainSettings(prompt_dropout=0.0)
    batch = draw_batch(examples, [0, 1], EMPTY, NOISE, settings, torch.Generator().manual_seed(0))
    copy, found = start(base, kind=kind), []
    for on in (False, True):
        base.checkpointing = copy.unet.checkpointing = on
        found.append({name: g.clone() for name, g in gradients(base, copy, batch, settings).items()})
    base.checkpointing = False
    assert all(torch.equal(gradient, found[1][name]) for name, gradient in found[0].items())


def test_a_resumed_training_is_the_uninterrupted_one(tmp_path) -> None:
    base, examples = random_unet(TINY), masked_examples(2)
    settings = TrainSettings(steps=9, batch_size=2, learning_rate=1e-3)
    whole, part = start(base), start(base)
    train(base, whole, examples, EMPTY, NOISE, settings)
    kept = Checkpoints(tmp_path / "state.p3s")
    train(base, part, examples, EMPTY, NOISE, settings, lambda report: report.step < 5, kept)
    resumed = start(base)
    train(base, resumed, examples, EMPTY, NOISE, settings, None, kept, load_state(kept.path))
    a, b, halfway = whole.state_dict(), resumed.state_dict(), part.state_dict()
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], halfway[key]) for key in a)


@pytest.mark.parametrize("count", [1, 2])
def test_the_estimate_of_memory_is_what_a_step_takes(count: int) -> None:
    """Counted on the tensors of a real step of the rows of one reference, or of two."""
    base, examples = random_unet(TINY), masked_examples(count)
    settings = TrainSettings(batch_size=2, prompt_dropout=0.0)
    with LiveBytes() as live:
        copy, frozen = start(base), UNet.from_state_dict({k: v.clone() for k, v in base.state_dict().items()})
        batch = draw_batch(examples, [0, count - 1], EMPTY, NOISE, settings, torch.Generator().manual_seed(0))
        live.now = live.peak = sum(p.nbytes for p in [*frozen.parameters(), *copy.parameters()])
        sum(batch_losses(frozen.requires_grad_(False), copy, batch, settings)).backward()
    found = estimate_memory(TINY, examples, CACHED, settings)
    assert found.peak - found.optimizer == pytest.approx(live.peak, rel=0.02)


def test_the_estimate_is_of_the_photo_with_the_largest_subject() -> None:
    """Which any step may have as its condition."""
    small, large = (
        dataclasses.replace(example, subject_mask=mask_of(32, 0, side))
        for example, side in zip(random_examples(2, size=32, config=TINY), (4, 32), strict=True)
    )
    settings = TrainSettings(batch_size=1)
    both, alone = (estimate_memory(TINY, of, CACHED, settings) for of in ([small, large], [large]))
    assert both == alone
    assert both.peak > estimate_memory(TINY, [small], CACHED, settings).peak


def test_an_estimate_of_memory_leaves_the_training_as_it_was() -> None:
    base, settings, losses = random_unet(TINY), TrainSettings(steps=1), []
    for estimated in (False, True):
        examples = masked_examples(1)
        if estimated:
            estimate_memory(TINY, examples, CACHED, settings)
        losses.append(train(base, start(base), examples, EMPTY, NOISE, settings).reports[0].loss)
    assert losses[0] == losses[1]


def test_the_features_stay_the_same_in_a_preview_of_a_training() -> None:
    from p3s.training.sample_preview import sample_preview

    base, (example, *_) = random_unet(TINY), masked_examples(1)
    calls: list[int] = []
    copy = start(base)
    copy.unet.register_forward_pre_hook(lambda _, inputs: calls.append(len(inputs[0])))
    latent = sample_preview(base, copy, example, EMPTY, NOISE, "fp32")
    assert calls == [1]
    assert latent.isfinite().all()


# Files


def cached_subject(**changes):
    subject = make_subject(references=2, copy_settings=CACHED.to_dict(), **changes)
    mask = torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    references = [SubjectReference(r.latent, r.tokens, mask) for r in subject.references]
    return dataclasses.replace(subject, references=tuple(references))


def test_a_file_keeps_the_masks_of_references(tmp_path) -> None:
    subject = cached_subject()
    loaded = load_subject(save_subject(subject, tmp_path / "a.safetensors"))
    assert same(loaded, subject)
    for reference in loaded.references:
        assert reference.mask.tolist() == [[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]
        assert reference.subject_tokens == SubjectTokens(torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, "reference 1 has no mask, which its subject network needs"),
        (torch.ones(3, 2), "the mask of reference 1 is 3 x 2, its latent 4 x 2 x 3"),
        (torch.full((2, 3), 0.5), "has other values than 0 and 1"),
        (torch.zeros(2, 3), "or shows nothing"),
    ],
)
def test_a_file_without_a_fitting_mask_is_refused(tmp_path, mask, message) -> None:
    subject = cached_subject()
    first = dataclasses.replace(subject.references[0], mask=mask)
    broken = dataclasses.replace(subject, references=(first, subject.references[1]))
    with pytest.raises(SubjectFileError, match=message):
        save_subject(broken, tmp_path / "a.safetensors")


def test_a_mask_is_of_use_to_cached_subject_networks_alone(tmp_path) -> None:
    subject = dataclasses.replace(cached_subject(), info=make_subject(references=2).info)
    with pytest.raises(SubjectFileError, match="a mask, which its subject network cannot use"):
        save_subject(subject, tmp_path / "a.safetensors")


def test_the_hooks_of_a_subject_and_of_another_work_together() -> None:
    """A cached subject beside one whose features follow the image."""
    base = random_unet()
    copy, other = random_copy(base, CACHED), random_copy(base, seed=5)
    x, t, context = draw(1, 4, 16, 16), torch.tensor([300.0]), draw(1, 7, SMALL.context_dim)
    one = Injection(copy.cached(draw(1, 4, 16, 16, seed=3), SubjectTokens(mask_of(16, 3, 9))), 0.2)
    two = Injection(other(x, t, context, draw(1, 4, 16, 16, seed=4)), 0.2)
    layer, grid = Layer("input", 1), (16, 16)
    z = draw(1, 256, SMALL.channels(layer))
    _, keys, values = InjectionHooks(one, two).self_attention(layer, z, grid)
    parts = [i.self_attention_part(layer, grid, z) for i in (one, two)]
    assert torch.equal(keys, torch.cat([z, parts[0].added, parts[1].added], 1))
    assert parts[0].added.shape[1] == 36
    assert torch.equal(values[:, :256], z + parts[0].sums + parts[1].sums)
