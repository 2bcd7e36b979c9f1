"""The weight of the condition as an MLP of t that is trained with the copy (Fig. 5)."""

from dataclasses import replace

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_examples, random_unet, train
from subjects import make_subject, same

from p3s.errors import P3SError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.learned_weight import LearnedWeight
from p3s.network.subject_copy import SubjectCopy
from p3s.safetensors_format import read_header
from p3s.sampling.application import Application, AppliedSubject
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule
from p3s.sampling.schedule import Schedule
from p3s.sampling.schedule_plot import plot_schedule
from p3s.sampling.settings import schedule_for
from p3s.subject.file import load_subject, save_subject
from p3s.training.settings import TrainSettings
from p3s.training.step import batch_losses, draw_batch

NOISE = NoiseSchedule.stable_diffusion()
EMPTY = torch.randn(7, SMALL.context_dim, generator=torch.Generator().manual_seed(99))
LEARNED = CopySettings(weight="learned")


@pytest.fixture(scope="module")
def base():
    return random_unet()


def bent(copy):
    """Give the MLP a curve of its own, as training does."""
    with torch.no_grad():
        copy.learned_weight.out.weight.normal_(generator=torch.Generator().manual_seed(3))
    return copy


def test_it_starts_at_1_and_stays_within_0_and_2():
    weight = LearnedWeight()
    weight.reset(torch.Generator().manual_seed(0))
    assert set(weight.curve()) == {1.0}
    with torch.no_grad():
        weight.out.weight.fill_(1e4)
    assert min(weight.curve()) >= 0 and max(weight.curve()) <= 2


def test_the_first_step_is_that_of_a_training_without_it(base):
    settings = TrainSettings(prompt_dropout=0.0)
    batch = draw_batch(random_examples(2), [0, 1], EMPTY, NOISE, settings, torch.Generator().manual_seed(0))
    one, learned = (start_copy(base.state_dict(), s, TOKEN_DIM) for s in (CopySettings(), LEARNED))
    assert batch_losses(base, one, batch, settings) == batch_losses(base, learned, batch, settings)


def test_in_training_it_multiplies_the_features_of_each_row(base):
    copy, settings = bent(random_copy(base, LEARNED)), TrainSettings(prompt_dropout=0.0, attention_layers="none")
    batch = draw_batch(random_examples(2), [0, 1], EMPTY, NOISE, settings, torch.Generator().manual_seed(0))
    eps = copy.learned_weight(batch.timesteps)
    assert (eps[0] - eps[1]).abs() > 0.01

    class Fixed(torch.nn.Module):
        def forward(self, timesteps):
            return eps.detach()

    found = batch_losses(base, copy, batch, settings)[0]
    copy.learned_weight = Fixed()
    assert batch_losses(base, copy, batch, settings)[0] == found
    copy.learned_weight = None
    assert batch_losses(base, copy, batch, settings)[0] != found


def test_it_moves_at_its_own_rate(base):
    copy = start_copy(base.state_dict(), LEARNED, TOKEN_DIM, zero_init="identity")
    before = copy.zero_self["middle_0_0"].weight.clone()
    train(base, copy, random_examples(), EMPTY, NOISE, TrainSettings(steps=4))
    assert max(abs(weight - 1) for weight in copy.learned_weight.curve()) > 1e-3
    assert (copy.zero_self["middle_0_0"].weight - before).abs().max() < 1e-4


def test_sampling_uses_the_curve_that_training_used(base):
    copy = bent(random_copy(base, LEARNED))
    schedule = schedule_for(copy)
    assert schedule.kind == "learned"
    t = torch.tensor([0, 1, 250, 500, 999])
    with torch.no_grad():
        torch.testing.assert_close(schedule.weight(t), copy.learned_weight(t))
    between = schedule.weight(500.5)
    assert between == pytest.approx((schedule.weight(500.0) + schedule.weight(501.0)) / 2)
    window = schedule_for(copy, Schedule("learned").within(0.0, 0.5))
    assert window.weight(900.0) == schedule.weight(900.0) and window.weight(100.0) == 0

    def picture(weight):
        latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(1))
        subject = AppliedSubject(copy, torch.zeros(1, 4, 16, 16), Application(weight))
        *_, x0 = generate(base, EMPTY, EMPTY, NOISE, latents, [subject], steps=2)
        return x0

    assert torch.equal(picture(None), picture(schedule))
    assert torch.equal(picture(None), picture(Schedule("learned")))
    assert not torch.equal(picture(None), picture(Schedule()))


def test_a_subject_without_one_says_so(base):
    plain = random_copy(base)
    assert schedule_for(plain) == Schedule()
    with pytest.raises(P3SError, match="trained without a learned weight"):
        schedule_for(plain, Schedule("learned"))
    with pytest.raises(P3SError, match="needs a subject"):
        Schedule("learned").weight(500.0)


def test_the_curve_is_sent_to_the_device_once(monkeypatch):
    schedule, t = Schedule("learned", learned=(1.0, 0.25, 0.5)), torch.tensor([0.0, 250.0])
    assert schedule.weight(t).tolist() == [1.0, 0.625]
    monkeypatch.setattr("p3s.sampling.schedule.torch.tensor", None)
    assert schedule.weight(t).tolist() == [1.0, 0.625]


def test_the_plot_shows_the_axes_when_the_curve_is_not_known():
    unknown, known = plot_schedule(Schedule("learned")), plot_schedule(Schedule("learned", learned=(0.5, 1.5)))
    assert unknown.shape == known.shape
    assert not torch.equal(unknown, known)


@pytest.mark.parametrize("halves", [torch.float32, torch.float16])
def test_it_is_kept_in_a_file_of_version_2(tmp_path, base, halves):
    copy = bent(random_copy(base, LEARNED))
    subject = replace(
        make_subject(copy_settings=copy.settings.to_dict()),
        weights={key: value.detach().to(halves) for key, value in copy.state_dict().items()},
    )
    path = save_subject(subject, tmp_path / "a.safetensors")
    assert read_header(path)[0]["format_version"] == "2"
    loaded = load_subject(path)
    assert same(loaded, subject)
    again = SubjectCopy(SMALL, CopySettings.from_dict(loaded.info.copy_settings), TOKEN_DIM)
    again.load_state_dict({key: value.float() for key, value in loaded.weights.items()})
    assert schedule_for(again).weight(300.0) == pytest.approx(schedule_for(copy).weight(300.0), abs=5e-3)


def test_a_subject_without_new_settings_stays_version_1(tmp_path):
    path = save_subject(make_subject(copy_settings=CopySettings().to_dict()), tmp_path / "a.safetensors")
    assert read_header(path)[0]["format_version"] == "1"
    assert load_subject(path).info.copy_settings == CopySettings().to_dict()


def test_settings_round_trip_and_those_of_version_1_are_complete():
    assert CopySettings.from_dict(LEARNED.to_dict()) == LEARNED
    old = {"feature": "norm1", "pairing": "level", "copy_input": "noisy", "cross_attention": True, "lam": 0.2}
    assert CopySettings.from_dict(old | {"image_dim": 64}) == CopySettings()
    assert CopySettings().to_dict() == old | {"image_dim": 64}
