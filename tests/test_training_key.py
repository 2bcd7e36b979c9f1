"""Finding a training again: the key of all that its result depends on, and the losses that are filed with it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from small import SMALL, random_examples

from p3s.network.copy_settings import CopySettings
from p3s.network.label import Sizes, label_of
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.examples import Example
from p3s.training.key import TrainingInputs, same, sketch
from p3s.training.loss_map import loss_map
from p3s.training.settings import TrainSettings
from p3s.training.state import StateHead
from p3s.training.step import StepReport

NOISE = NoiseSchedule.stable_diffusion()
#: A training from before the settings that came later.
BEFORE = TrainSettings(**TrainSettings.ADDED)


def inputs(**changes: Any) -> TrainingInputs:
    values = {
        "base_fingerprint": "ab" * 32,
        "image_hashes": ("12" * 32, "34" * 32),
        "examples": random_examples(2),
        "empty_prompt": torch.ones(7, SMALL.context_dim),
        "noise": NOISE,
        "copy_settings": CopySettings(),
        "settings": TrainSettings(),
    }
    return TrainingInputs(**{**values, **changes})


def key(**changes: Any) -> str:
    return inputs(**changes).key()


def state_key(**changes: Any) -> str:
    return inputs(**changes).state_key()


def found_again(before: TrainingInputs | None = None, **changes: Any) -> bool:
    """Whether a training with these changes counts as the one of before."""
    before, now = before or inputs(), inputs(**changes)
    return before.key() == now.key() and same(before.sketches(), now.sketches())


def changed(part: str, by: float) -> list[Example]:
    """An example of which one tensor differs by so much of its length, everywhere a little."""
    (example,) = random_examples(1)
    tensor = getattr(example, part)
    other = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(5))
    return [replace(example, **{part: tensor + by * tensor.norm() * other / other.norm()})]


def test_equal_inputs_give_equal_keys() -> None:
    assert key() == key()
    assert len(key()) == 64
    assert found_again()
    for equal in (TrainSettings(steps=120), TrainSettings(steps=120, epochs=7), TrainSettings(checkpointing=True)):
        assert key(settings=equal) == key(), "two examples, 60 times"


@pytest.mark.parametrize(("part", "noise"), [("latent", 4e-3), ("tokens", 4e-3), ("prompt", 5e-4)])
def test_what_a_gpu_computes_anew_is_found_again(part: str, noise: float) -> None:
    """Latents in bf16 may differ in their last of 8 bits, prompts in fp16 in their last of 11."""
    before, examples = inputs(examples=random_examples(1)), changed(part, noise)
    assert found_again(before, examples=examples)
    assert state_key(examples=examples) == before.state_key()


@pytest.mark.parametrize(("part", "difference"), [("latent", 0.1), ("tokens", 0.1), ("prompt", 0.01)])
def test_another_reference_or_prompt_is_another_training(part: str, difference: float) -> None:
    assert not found_again(inputs(examples=random_examples(1)), examples=changed(part, difference))


def test_a_prompt_of_which_one_word_is_another_is_another_training() -> None:
    (example,) = random_examples(1)
    prompt = example.prompt.clone()
    prompt[3] += 0.1 * torch.randn(prompt[3].shape, generator=torch.Generator().manual_seed(2))
    assert not found_again(inputs(examples=[example]), examples=[replace(example, prompt=prompt)])


def test_an_empty_prompt_that_differs_is_another_training() -> None:
    assert found_again(empty_prompt=torch.full((7, SMALL.context_dim), 1.0005))
    assert not found_again(empty_prompt=torch.full((7, SMALL.context_dim), 1.02))


LABELS = ("label", "label_without_prompt")


def labelled() -> Example:
    """An example of SDXL."""
    (example,), pooled = random_examples(1), torch.randn(2, 1280, generator=torch.Generator().manual_seed(6))
    labels = (label_of(text, Sizes(500, 300, 20, 40, 1024, 512)) for text in pooled)
    return replace(example, **dict(zip(LABELS, labels, strict=True)))


def with_pooled_text(label: torch.Tensor, by: float) -> torch.Tensor:
    """A label whose pooled text differs by so much of its length, and whose sizes are the same."""
    pooled, sizes = label.split([1280, len(label) - 1280])
    other = torch.randn(1280, generator=torch.Generator().manual_seed(5))
    return torch.cat([pooled + by * pooled.norm() * other / other.norm(), sizes])


def belongs(before: Example, now: Example) -> bool:
    """Whether a finished training with the one is that with the other; the state of an unfinished one says the same."""
    was = inputs(examples=[before])
    found = found_again(was, examples=[now])
    state = StateHead(was.facts(), (before,), was.empty_prompt, ())
    same_state = was.state_key() == state_key(examples=[now]) and state.same_references([now], was.empty_prompt)
    assert same_state == found
    return found


@pytest.mark.parametrize("part", LABELS)
def test_a_label_decides_as_a_prompt_does(part: str) -> None:
    """Its pooled text may be rounded anew, but not be another one."""
    before = labelled()
    label = getattr(before, part)
    assert belongs(before, replace(before, **{part: label.half().float()}))
    assert belongs(before, replace(before, **{part: with_pooled_text(label, 5e-4)}))
    assert not belongs(before, replace(before, **{part: with_pooled_text(label, 0.01)}))


def test_a_label_more_or_less_is_another_training() -> None:
    before = labelled()
    without = replace(before, label=None, label_without_prompt=None)
    swapped = replace(before, label=before.label_without_prompt, label_without_prompt=before.label)
    assert belongs(without, replace(without))
    for other in (without, swapped, *(replace(before, **{part: None}) for part in LABELS)):
        assert not belongs(before, other)
        assert not belongs(other, before)


def pattern(*shape: int) -> torch.Tensor:
    return torch.arange(float(torch.Size(shape).numel())).reshape(shape)


@pytest.mark.parametrize(
    ("copy", "key", "state_key"),
    [
        ({}, "fe1ff180cbb2ac75587f0f3f5dcaa19f710501149867ea9ff85d4eb9ac6a19ae", "22867b006b72909a"),
        (
            {"kind": "lora", "rank": 4},
            "e3cd935efdb87b2340818c9ccc775e8f19c5175001bee9cd28f3b5c70a552b59",
            "d28a1d2e88c06027",
        ),
    ],
)
def test_keys_are_fixed_for_ever(copy: dict[str, Any], key: str, state_key: str) -> None:
    """Subject files and the names of states hold them."""
    found = inputs(
        image_hashes=("cd" * 32,),
        examples=[Example(pattern(4, 4, 4), pattern(5, 6), pattern(3, 8), loss_mask=torch.ones(4, 4))],
        empty_prompt=pattern(3, 8),
        noise=NoiseSchedule(torch.tensor([0.75, 0.5, 0.25]), "v"),
        copy_settings=CopySettings(**copy),
        settings=replace(BEFORE, steps=7, precision="bf16", learning_rate=2.5e-4),
    )
    assert (found.key(), found.state_key()) == (key, state_key)


def test_what_a_state_holds_of_its_training_is_fixed_for_ever() -> None:
    """By these texts a state is compared with the training that resumes it."""
    settings = replace(BEFORE, steps=7, precision="bf16", learning_rate=2.5e-4)
    noise = NoiseSchedule(torch.tensor([0.75, 0.5, 0.25]), "v")
    assert inputs(noise=noise, settings=settings).facts() == {
        "batch_size": "1",
        "learning_rate": "0.00025",
        "weight_decay": "0.01",
        "weight_learning_rate": "0.001",
        "seed": "0",
        "precision": "'bf16'",
        "optimizer": "'adamw'",
        "gamma": "0.1",
        "prompt_dropout": "0.1",
        "attention_layers": "'last'",
        "attention_norm": "'mean'",
        "zero_init": "'identity'",
        "pairs": "'other'",
        "views": "'whole+subject'",
        "removed": "'ignored'",
        "feature": "'norm1'",
        "pairing": "'level'",
        "copy_input": "'noisy'",
        "cross_attention": "True",
        "lam": "0.2",
        "image_dim": "64",
        "weight": "'one'",
        "kind": "'full'",
        "rank": "16",
        "the base model": "ab" * 32,
        "the noise schedule": "00333c6eb44676c753910dd661e523476d224b7c2f7a56994d9184858ca48cb6",
        "prediction": "v",
    }


def test_views_and_what_counts_of_them_count() -> None:
    (example,) = random_examples(1)
    counted, nearly = torch.ones(16, 16), torch.ones(16, 16)
    nearly[4, 4:8] = 0
    others = [
        [example],
        [replace(example, view=example.latent.clone())],
        [replace(example, view=-example.latent)],
        [replace(example, loss_mask=counted)],
        [replace(example, loss_mask=nearly)],
    ]
    each = [inputs(examples=examples) for examples in others]
    for i, one in enumerate(each):
        alike = [one.key() == other.key() and same(one.sketches(), other.sketches()) for other in each]
        assert alike == [i == j for j in range(len(each))]


@pytest.mark.parametrize(
    "changes",
    [
        {"base_fingerprint": "cd" * 32},
        {"image_hashes": ("34" * 32, "12" * 32)},
        {"examples": random_examples(2)[:1]},
        {"examples": random_examples(2, size=8)},
        {"noise": replace(NOISE, prediction="v")},
        {"noise": NoiseSchedule.stable_diffusion(steps=500)},
        {"copy_settings": CopySettings(lam=0.3)},
        {"settings": TrainSettings(steps=7)},
        {"settings": TrainSettings(seed=1)},
        {"settings": TrainSettings(background_weight=0.5)},
        {"settings": TrainSettings(backdrop="plain")},
        {"settings": TrainSettings(crops=1)},
        {"settings": TrainSettings(flip=True)},
        {"settings": TrainSettings(timesteps="stratified")},
        {"settings": TrainSettings(loss_weighting="min_snr")},
        {"settings": TrainSettings(warmup_steps=1)},
        {"copy_settings": CopySettings(alpha=1.0)},
    ],
)
def test_whatever_changes_the_result_changes_the_key(changes: dict[str, object]) -> None:
    assert key(**changes) != key()


def test_settings_that_came_later_count_only_where_they_are_not_as_before() -> None:
    """``test_keys_are_fixed_for_ever`` has the keys of trainings without them."""
    before = inputs(settings=BEFORE)
    assert before.facts().keys().isdisjoint({*TrainSettings.ADDED, "alpha"})
    now = inputs(
        settings=replace(BEFORE, timesteps="stratified", loss_weighting="min_snr", warmup_steps=5),
        copy_settings=CopySettings(alpha=2.0),
    )
    added = {"timesteps": "'stratified'", "loss_weighting": "'min_snr'", "warmup_steps": "5", "alpha": "2.0"}
    assert now.facts() == before.facts() | added
    assert now.state_key()[:8] != before.state_key()[:8]


def test_references_in_another_order_are_another_training() -> None:
    assert not found_again(examples=random_examples(2)[::-1])


def test_a_training_may_be_resumed_with_more_steps() -> None:
    state = state_key()
    assert len(state) == 16
    assert state == state_key(settings=TrainSettings(steps=7))
    assert state_key(settings=TrainSettings(seed=1))[:8] != state[:8]


@pytest.mark.parametrize("remedy", [{"learning_rate": 1e-6}, {"precision": "bf16"}])
def test_a_training_that_diverged_is_found_with_another_rate_or_precision(remedy: dict[str, Any]) -> None:
    other, state = state_key(settings=TrainSettings(**remedy)), state_key()
    assert other[:8] == state[:8]
    assert other[8:] != state[8:]


def test_sketches_are_as_far_apart_as_their_tensors() -> None:
    """Within a third, so that a tolerance means the same of both."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        a, d = torch.randn(2, 4, 32, 32, generator=generator)
        b = a + 0.02 * d
        told = (torch.tensor(sketch(a)) - torch.tensor(sketch(b))).norm()
        assert 0.5 < told / (a - b).norm() < 1.6


def test_a_sketch_is_fixed_for_ever() -> None:
    """Subject files hold it: another one would train all subjects anew."""
    assert sketch(torch.arange(1.0, 21.0)) == [
        *(-18, -16, -16, 16, 5, 6, 7, 8),
        *(9, 10, 11, -12, -13, 14, -15, -16),
    ]


def test_a_sketch_does_not_depend_on_the_type_or_the_memory() -> None:
    half = torch.randn(3, 50, generator=torch.Generator().manual_seed(1)).half()
    assert sketch(half) == sketch(half.float()) == sketch(half.T.contiguous().T)


def reports(count: int) -> list[StepReport]:
    return [StepReport(i, count, loss=float(i), denoising=2.0 * i, consistency=0.5) for i in range(1, count + 1)]


def test_the_losses_of_every_step() -> None:
    assert loss_map(reports(3)) == {
        "loss": [1.0, 2.0, 3.0],
        "denoising": [2.0, 4.0, 6.0],
        "consistency": [0.5, 0.5, 0.5],
        "step": [1, 2, 3],
    }
    assert loss_map([]) == {"loss": [], "denoising": [], "consistency": [], "step": []}


@pytest.mark.parametrize(("count", "values", "last"), [(4, 4, 4), (5, 3, 5), (8, 4, 8), (9, 3, 9), (1001, 4, 1001)])
def test_a_long_training_is_filed_as_means(count: int, values: int, last: int) -> None:
    filed = loss_map(reports(count), most=4)
    assert {len(part) for part in filed.values()} == {values}
    assert filed["step"][-1] == last
    size = filed["step"][0]
    assert filed["loss"][0] == sum(range(1, size + 1)) / size


def test_masks_of_another_choice_are_another_training() -> None:
    """Nothing of the choice is stored; what it changes of the examples is seen."""
    from p3s.reference.masks import MaskSettings
    from p3s.toyworld.scenes import scene
    from p3s.toyworld.world import MASKS, click, load_world, picture_of
    from p3s.training.examples import examples_of

    world, s = load_world(), scene("heldout", 4, "different", "dog")

    def of(masks: MaskSettings) -> TrainingInputs:
        reference = world.reference(picture_of(s), click(s, 1), masks)
        text = world.encode_text("a photo of a dog")
        generator = torch.Generator().manual_seed(0)
        made = examples_of(reference, text, world.encode_latent, world.resolution, TrainSettings(), generator)
        return inputs(examples=made, image_hashes=(reference.image_hash,))

    plain = of(MASKS)
    for other in ({"features": "value-value"}, {"tiles": 2}, {"refine": "grabcut"}):
        assert not found_again(plain, examples=of(replace(MASKS, **other)).examples, image_hashes=plain.image_hashes)
    assert found_again(plain, examples=of(MASKS).examples, image_hashes=plain.image_hashes)
