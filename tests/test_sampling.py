"""What sampling settings change, and the reuse of features."""

import pytest
import torch
from small import SMALL, random_copy, random_unet

from benchmarks.flops import Models
from p3s.errors import P3SError
from p3s.network.copy_settings import CopySettings
from p3s.network.injection import EffectMask, Features
from p3s.network.unet_config import Layer
from p3s.sampling.application import Application, application
from p3s.sampling.schedule import KINDS, Schedule
from p3s.sampling.settings import (
    EXACT,
    FAST,
    STANDARD,
    FeatureCache,
    SamplingSettings,
    always_on,
    early_end,
    feature_values,
    injection,
)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(), True),
        (Schedule("fixed"), True),
        (Schedule("fixed", value=0.0), False),
        (Schedule(start=0.1), False),
        (Schedule(end=0.9), False),
        (Schedule("increasing"), False),
        (Schedule("decreasing"), False),
        (Schedule("keyframes", keyframes=((0.0, 1.0), (1 / 3, 0.0), (1.0, 1.0))), False),
        (Schedule("keyframes", keyframes=((0.0, 1.0), (1 / 3, 0.01), (1.0, 1.0))), True),
        (Schedule(alpha=2.0), False),
    ],
)
def test_a_schedule_is_always_on_if_it_is_0_nowhere(schedule, expected):
    assert always_on(schedule) == expected


def test_every_kind_of_schedule_is_either_on_or_off_at_each_step():
    for kind in KINDS:
        schedule = Schedule(kind, keyframes=((0.2, 0.0), (0.7, 1.0)), learned=(0.5, 1.5))
        if always_on(schedule):
            assert (schedule.weight(torch.linspace(0, 1000, 12345)) > 0).all()


def test_an_early_end_only_narrows_the_schedule():
    assert early_end(Schedule(end=0.5), SamplingSettings(end=0.8)).end == 0.5
    assert early_end(Schedule(), SamplingSettings(end=0.8)).end == 0.8


def test_features_are_computed_at_every_nth_evaluation_and_apart_for_other_inputs():
    cache, computed = FeatureCache(3), []

    def get(key, evaluation):
        return cache.get(key, evaluation, lambda: computed.append((key, evaluation)) or Features({}, {}, {}))

    seen = [get("a", n) for n in range(7)]
    assert computed == [("a", 0), ("a", 3), ("a", 6)]
    assert seen[0] is seen[1] is seen[2]
    assert seen[3] is not seen[2]
    get("b", 7)
    get("a", 8)
    get("a", 20)  # the subject was off in between: what is old is not used
    assert computed[3:] == [("b", 7), ("a", 20)]
    always = FeatureCache(1)
    assert always.get("a", 0, lambda: Features({}, {}, {})) is not always.get("a", 0, lambda: Features({}, {}, {}))


@pytest.fixture(scope="module")
def step():
    base = random_unet()
    copy = random_copy(base)
    x, t, context = torch.randn(1, 4, 16, 16), torch.tensor([300.0]), torch.randn(1, 7, SMALL.context_dim)
    with torch.no_grad():
        return copy, copy(x, t, context, torch.randn(1, 4, 16, 16))


def test_one_to_one_at_sampling_keeps_the_layers_that_the_copy_came_from(step):
    copy, features = step
    kept = injection(copy, features, 0.5, settings=SamplingSettings(pairing="one_to_one")).features
    assert len(features.self_attention) == 16
    assert set(kept.self_attention) == set(kept.cross_attention) == {copy.map.twin(n) for n in copy.map.config.layers()}
    layer = Layer("input", 1)
    assert torch.equal(kept.self_attention[layer], 0.5 * features.self_attention[layer])


def test_single_layers_are_scaled_or_left_out(step):
    copy, features = step
    kept = injection(copy, features, 1.0, layers={Layer("input", 1): 0.0, Layer("input", 2): 0.5}).features
    assert Layer("input", 1) not in kept.self_attention
    assert Layer("input", 1) not in kept.cross_attention
    f = features.self_attention
    assert torch.equal(kept.self_attention[Layer("input", 2)], 0.5 * f[Layer("input", 2)])
    assert kept.self_attention[Layer("input", 4)] is f[Layer("input", 4)]


@pytest.mark.parametrize("cross", [True, False])
def test_the_size_of_features_is_known_beforehand(cross):
    models = Models(512, cross_attention=cross)
    features = models.features(1)
    made = {id(f): f.numel() for part in (features.self_attention, features.cross_attention) for f in part.values()}
    assert feature_values(models.copy, 64 * 64) == sum(made.values())
    assert models.copy.settings == CopySettings(cross_attention=cross)


def test_what_users_choose_becomes_an_application():
    assert application(SMALL).settings == STANDARD == SamplingSettings("conditional", end=0.8, gain=0.8)
    assert application(SMALL, mode="exact").settings == EXACT == SamplingSettings()
    assert application(SMALL, mode="fast").settings == application(SMALL, mode="fast", branches="conditional").settings
    assert application(SMALL, mode="fast").settings == FAST
    assert application(SMALL, mode="exact", branches="conditional").settings == SamplingSettings("conditional")
    found = application(SMALL, Schedule("fixed"), 0.5, layer_strengths="input 1: 0.25, middle: 0")
    assert (found.schedule, found.strength, found.mask) == (Schedule("fixed"), 0.5, None)
    assert found.layers == {Layer("input", 1): 0.25, Layer("middle", 0): 0.0}


def test_an_application_that_does_nothing_is_off():
    nowhere = EffectMask(torch.zeros(4, 4))
    assert Application(strength=0.0).off and Application(mask=nowhere).off
    assert not Application(strength=1e-6, mask=EffectMask(torch.eye(4))).off


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"mode": "slow"}, "mode must be one of standard, exact, fast; got 'slow'"),
        ({"branches": "none"}, "branches must be one of both, conditional; got 'none'"),
        ({"strength": -1.0}, "strength must be a number in 0..10; got -1.0"),
        ({"layer_strengths": "input 0: 1"}, "layer_strengths: input 0 has no attention"),
    ],
)
def test_a_wrong_application_is_named(wrong, message):
    with pytest.raises(P3SError, match=message):
        application(SMALL, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"branches": "some"}, {"pairing": "none"}, {"reuse": 0}, {"reuse": 2.0}, {"pool": True}, {"end": 1.5}],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(P3SError, match=next(iter(wrong))):
        SamplingSettings(**wrong)
