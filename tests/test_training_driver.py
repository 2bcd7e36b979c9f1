"""From references to inputs of a training, what its file says, and states of earlier versions."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import TOKEN_DIM, random_examples, random_unet, train

from p3s.errors import SubjectFileError, TrainingError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet_config import UNetConfig
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference
from p3s.sampling.diffusion import NoiseSchedule
from p3s.subject.base_fingerprint import fingerprint
from p3s.training.driver import info_of, new_copy, prepare, subject_of, with_result
from p3s.training.examples import training_size
from p3s.training.key import BASE, TrainingInputs
from p3s.training.loop import TrainResult
from p3s.training.loop import train as train_on
from p3s.training.settings import TrainSettings
from p3s.training.state import Checkpoints, Divergence
from p3s.training.state_file import load_state
from p3s.training.step import StepReport, epoch_batches, total_steps

TINY = UNetConfig.build(32, (1,), res_blocks=1, transformer_depth=(1,), context_dim=8)
NOISE = NoiseSchedule.stable_diffusion()
EMPTY = torch.zeros(3, 8)


def reference(seed: int = 0, **changes: Any) -> Reference:
    """A photo of 3:4 with the subject in a corner."""
    generator = torch.Generator().manual_seed(seed)
    subject, nothing = torch.zeros(128, 96), torch.zeros(128, 96)
    subject[8:40, 8:40] = 1
    image, tokens = (torch.rand(size, generator=generator) for size in ((128, 96, 3), (17, TOKEN_DIM)))
    return replace(
        Reference(image, tokens, subject, nothing, subject, PointSet(((0.2, 0.2 + seed / 10),)), f"{seed}" * 64),
        **changes,
    )


def encode(picture: torch.Tensor) -> torch.Tensor:
    """A latent of the size that a photo has at a resolution of 128."""
    height, width = training_size(picture.shape[0], picture.shape[1], 128)
    return torch.full((4, height // 8, width // 8), picture.mean().item())


def prepared(*references: Reference, **changes: Any) -> TrainingInputs:
    values: dict[str, Any] = {
        "config": TINY,
        "references": references,
        "prompts": [torch.full((3, 8), float(number)) for number, _ in enumerate(references, 1)],
        "empty_prompt": EMPTY,
        "encode": encode,
        "resolution": 128,
        "noise": NOISE,
        "base_fingerprint": lambda: "ab" * 32,
        "copy_settings": CopySettings(kind="lora", rank=4),
        "settings": TrainSettings(epochs=3, batch_size=4),
    }
    return prepare(**{**values, **changes})


def test_an_upright_photo_and_its_square_view_are_batches_of_their_own() -> None:
    """Each as large as was asked for."""
    inputs = prepared(reference())
    assert [tuple(e.learned_latent.shape[1:]) for e in inputs.examples] == [(18, 14), (16, 16)]
    assert sorted(epoch_batches(inputs.examples, 4, torch.Generator())) == [[0] * 4, [1] * 4]
    assert total_steps(inputs.examples, inputs.settings) == 6
    square = prepared(reference(image=torch.rand(96, 96, 3), subject_mask=reference().subject_mask[:96]))
    assert [tuple(e.learned_latent.shape[1:]) for e in square.examples] == [(16, 16), (16, 16)]
    assert [sorted(rows) for rows in epoch_batches(square.examples, 4, torch.Generator())] == [[0, 0, 1, 1]]


def test_random_crops_come_from_the_seed_and_differ_between_references() -> None:
    def crops(seed: int) -> list[float]:
        settings = TrainSettings(views="whole", crops=2, seed=seed)
        examples = prepared(reference(1), reference(1), settings=settings).examples
        assert [example.view is None for example in examples] == [True, False, False] * 2
        return [example.view.mean().item() for example in examples if example.view is not None]

    first = crops(0)
    assert first == crops(0) != crops(1)
    assert first[:2] != first[2:]


def test_every_reference_is_learned_with_its_own_prompt() -> None:
    told: list[str] = []
    inputs = prepared(reference(1), reference(2), tell=told.append)
    assert [example.prompt[0, 0].item() for example in inputs.examples] == [1, 1, 2, 2]
    assert [example.view is None for example in inputs.examples] == [True, False, True, False]
    assert inputs.image_hashes == ("1" * 64, "2" * 64)
    assert told[:2] == ["Encoding reference 1 of 2", "Encoding reference 2 of 2"]


def test_a_prompt_for_all_references_is_sketched_as_one_for_each() -> None:
    """As Train P3S has always filed it: else a training by the library would not be found again by the node."""
    prompt = torch.full((3, 8), 0.5)
    shared = prepared(reference(1), reference(2), prompts=[prompt, prompt])
    own = prepared(reference(1), reference(2), prompts=[prompt, prompt.clone()])
    assert shared.sketches() == own.sketches()
    assert len(shared.sketches()["prompt"]) == 2


def test_what_does_not_fit_is_refused_before_the_weights_are_read() -> None:
    read: list[int] = []
    changes = {"base_fingerprint": lambda: read.append(1) or "ab" * 32}
    with pytest.raises(TrainingError, match="no reference to train on: give at least one photo"):
        prepared(**changes)
    with pytest.raises(TrainingError, match=r"its prompt has the shape \(3, 8\), the empty prompt \(5, 8\)"):
        prepared(reference(), empty_prompt=torch.zeros(5, 8), **changes)
    wider = replace(TINY, in_channels=9)
    with pytest.raises(TrainingError, match="reads 9 channels and predicts 4"):
        prepared(reference(), config=wider, **changes)
    assert read == []


@pytest.mark.parametrize("row", [1, 2])
def test_a_stride_beyond_the_longest_row_is_the_same_training(row: int) -> None:
    """As that length: in a row of one, as without a stride."""
    config = UNetConfig.build(32, (1,), res_blocks=1, transformer_depth=(row,), context_dim=8)

    def of(stride: int) -> TrainingInputs:
        copied = CopySettings(kind="lora", rank=4, depth_stride=stride)
        return prepared(reference(), config=config, copy_settings=copied)

    beyond, longest = of(7), of(row)
    assert beyond.copy_settings == longest.copy_settings
    assert (beyond.key(), beyond.state_key(), beyond.facts()) == (longest.key(), longest.state_key(), longest.facts())
    assert row == 1 or of(1).key() != longest.key()
    assert row > 1 or "depth_stride" not in beyond.facts()


def test_what_a_cached_subject_network_has_no_use_for_is_the_same_training() -> None:
    """Without a text there are no maps for L_ac to compare."""
    cached = CopySettings(copy_input="cached")
    one, noisy = (prepared(reference(), copy_settings=of, settings=TrainSettings()) for of in (cached, CopySettings()))
    for changes in ({"gamma": 3.0}, {"attention_layers": "all"}, {"attention_norm": "sum"}):
        settings = TrainSettings(**changes)
        other = prepared(reference(), copy_settings=cached, settings=settings)
        assert (other.key(), other.facts()) == (one.key(), one.facts())
        assert prepared(reference(), copy_settings=CopySettings(), settings=settings).key() != noisy.key()


def test_what_a_file_says_of_a_training() -> None:
    inputs = prepared(reference(1), reference(2))
    before = info_of(inputs, [reference(1), reference(2)], "SD1.x", "cd" * 32, 128, identifier="sks")
    assert (before.training_key, before.sketches) == (inputs.key(), inputs.sketches())
    assert (before.family, before.base_fingerprint, before.steps, before.completed) == ("SD1.x", "cd" * 32, 0, False)
    assert before.points == (reference(1).points.to_json(), reference(2).points.to_json())
    assert before.image_hashes == inputs.image_hashes
    assert before.copy_settings == inputs.copy_settings.to_dict()
    assert before.train_settings == asdict(inputs.settings) | {"resolution": 128}
    assert (before.identifier, before.prompt, before.licence) == ("sks", "", "")
    plain = info_of(inputs, [reference(1), reference(2)], "SD1.x")
    assert plain.base_fingerprint == inputs.base_fingerprint and "resolution" not in plain.train_settings
    with pytest.raises(SubjectFileError, match="licence must be text"):
        info_of(inputs, [reference(1), reference(2)], "SD1.x", licence=7)

    reports = tuple(StepReport(step, 6, 1.0, 0.5, 0.25) for step in (1, 2))
    change = (1, "learning_rate", "0.1", "0.01")
    after = with_result(before, TrainResult(reports, False, changes=(change,)))
    assert (after.steps, after.completed) == (2, False)
    assert after.loss_map == {"loss": [1.0] * 2, "denoising": [0.5] * 2, "consistency": [0.25] * 2, "step": [1, 2]}
    assert after.train_settings == before.train_settings | {"changes": [list(change)]}
    assert with_result(before, TrainResult(reports, True)).train_settings == before.train_settings


def test_the_copy_is_that_of_the_settings_and_a_file_holds_every_reference_once() -> None:
    base = random_unet(TINY).state_dict()
    inputs = prepared(reference(1), reference(2), settings=TrainSettings(seed=3, zero_init="zero"))
    copy = new_copy(base, inputs)
    expected = start_copy(base, inputs.copy_settings, TOKEN_DIM, "zero", 3).state_dict()
    assert all(torch.equal(weight, expected[key]) for key, weight in copy.state_dict().items())
    info = info_of(inputs, [reference(1), reference(2)], "SD1.x")
    subject = subject_of(copy, inputs.examples, info)
    assert len(inputs.examples) == 4
    for stored, shown in zip(subject.references, (reference(1), reference(2)), strict=True):
        assert torch.equal(stored.latent, encode(shown.image)) and torch.equal(stored.tokens, shown.tokens)


# States of versions that kept the fingerprint of the base as it was trained on


@pytest.mark.parametrize("diverged", [False, True])
def test_a_state_of_a_base_rounded_to_bf16_is_resumed(tmp_path: Path, diverged: bool) -> None:
    """On that base and, after a loss that was not finite, on the one in float32."""
    exact = random_unet(TINY)
    rounded = random_unet(TINY).to(torch.bfloat16)
    examples, settings = random_examples(2, size=4, config=TINY), TrainSettings(steps=4, precision="bf16")
    kept, empty = Checkpoints(tmp_path / "dog.training"), torch.zeros(7, 8)

    def fresh() -> SubjectCopy:
        return start_copy(exact.state_dict(), CopySettings(kind="lora", rank=1), TOKEN_DIM)

    train(rounded, fresh(), examples, empty, NOISE, settings, lambda report: report.step < 2, kept)
    old = load_state(kept.path)
    assert old.inputs[BASE] == fingerprint(rounded.state_dict()) != fingerprint(exact.state_dict())
    if diverged:
        old = replace(old, diverged=Divergence(3, {"learning_rate": "1e-05", "precision": "'bf16'"}))
        settings = replace(settings, precision="fp32")
    base = exact if diverged else rounded
    # Now the inputs hold the fingerprint of the base in float32.
    inputs = TrainingInputs(
        fingerprint(exact.state_dict()), [], examples, empty, NOISE, CopySettings(kind="lora", rank=1), settings
    )
    result = train_on(base, fresh(), inputs, resume=old)
    assert result.completed and len(result.reports) == 4
    assert result.reports[:2] == tuple(old.reports)
    if not diverged:
        assert result.reports == train_on(base, fresh(), inputs).reports
    other = random_unet(TINY, seed=5).to(next(base.parameters()).dtype)
    wrong = replace(inputs, base_fingerprint=fingerprint(other.state_dict()))
    with pytest.raises(TrainingError, match="the base model"):
        train_on(other, fresh(), wrong, resume=old)
