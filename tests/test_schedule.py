from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from p3s.errors import P3SError
from p3s.sampling.schedule import KINDS, Schedule, parse_keyframes, percent_of, timestep_of
from p3s.settings import settings_of

NUMBERS = ("alpha", "beta", "k", "value")
TIMES = np.array([0.0, 1.0, 250.0, 499.5, 500.0, 873.25, 999.0, 1000.0])


def weights(schedule):
    return schedule.weight(torch.tensor(TIMES)).numpy()


def test_paper_schedule_is_equation_10():
    expected = 1 - 0.5 * (TIMES / 1000) ** 2 + 0.2
    np.testing.assert_allclose(weights(Schedule()), expected, rtol=0, atol=1e-15)
    assert Schedule().weight(1000.0) == pytest.approx(0.70, abs=1e-12)
    assert Schedule().weight(0.0) == pytest.approx(1.20, abs=1e-12)
    other = Schedule(alpha=0.3, beta=-0.1, k=3)
    np.testing.assert_allclose(weights(other), 1 - 0.3 * (TIMES / 1000) ** 3 - 0.1, atol=1e-15)


def test_fixed_increasing_and_decreasing():
    np.testing.assert_array_equal(weights(Schedule("fixed", value=0.8)), np.full(8, 0.8))
    assert Schedule("fixed").weight(300.0) == 1.0
    np.testing.assert_allclose(weights(Schedule("increasing", value=1.5)), 1.5 * (1 - TIMES / 1000) ** 2, atol=1e-15)
    np.testing.assert_allclose(weights(Schedule("decreasing", k=3)), (TIMES / 1000) ** 3, atol=1e-15)


def test_ease_has_the_ends_of_equation_10_and_is_level_at_both():
    u = TIMES / 1000
    ease = Schedule("ease", alpha=0.3, beta=-0.1)
    np.testing.assert_allclose(weights(ease), 1 - 0.3 * (3 * u**2 - 2 * u**3) - 0.1, atol=1e-15)
    for t in (0.0, 1000.0):
        assert Schedule("ease").weight(t) == pytest.approx(Schedule().weight(t), abs=1e-12)
        assert Schedule("ease").weight(abs(t - 1)) == pytest.approx(Schedule("ease").weight(t), abs=2e-6)


@pytest.mark.parametrize(
    ("kind", "rises"), [("paper", True), ("ease", True), ("increasing", True), ("decreasing", False)]
)
def test_kinds_are_named_by_the_progress_of_denoising(kind, rises):
    as_noise_falls = np.diff(weights(Schedule(kind))[::-1])
    assert (as_noise_falls > 0).all() if rises else (as_noise_falls < 0).all()


def test_keyframes_are_linear_in_percent_and_held_outside():
    keys = ((0.2, 0.5), (0.6, 1.5), (0.8, 1.0))
    percents = 1 - np.clip(TIMES / 999, 0, 1)
    expected = np.interp(percents, *np.array(keys).T)
    np.testing.assert_allclose(weights(Schedule("keyframes", keyframes=keys)), expected, atol=1e-12)
    single = Schedule("keyframes", keyframes=((0.5, 0.7),))
    np.testing.assert_array_equal(weights(single), np.full(8, 0.7))


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 5)), min_size=1, max_size=6, unique_by=lambda pair: pair[0]))
def test_any_keyframes_agree_with_numpy(keys):
    percents = np.linspace(0, 1, 41)
    expected = np.interp(percents, *np.array(sorted(keys)).T)
    got = Schedule("keyframes", keyframes=tuple(keys)).weight(timestep_of(torch.tensor(percents))).numpy()
    # At a jump between keyframes closer than rounding, either side is right.
    steep = np.array([any(abs(p - key[0]) < 1e-9 for key in keys) for p in percents])
    np.testing.assert_allclose(got[~steep], expected[~steep], atol=1e-6)


def test_percent_and_timestep_are_inverse():
    assert timestep_of(0.0) == 999.0
    assert timestep_of(1.0) == 0.0
    percents = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(percent_of(timestep_of(percents)), percents)
    assert percent_of(torch.tensor(1000.0)) == 0.0


@pytest.mark.parametrize("kind", KINDS)
def test_window_is_exactly_zero_outside_and_unchanged_inside(kind):
    whole = Schedule(kind, keyframes=((0.0, 0.3), (1.0, 0.9)), learned=(0.5, 1.5))
    cut = whole.within(0.25, 0.75)
    t = torch.arange(0, 1001, dtype=torch.float64)
    percent = np.clip(1 - np.arange(0, 1001) / 999, 0, 1)
    inside = torch.tensor((percent >= 0.25) & (percent < 0.75))
    assert torch.equal(cut.weight(t)[inside], whole.weight(t)[inside])
    assert (cut.weight(t)[~inside] == 0).all()


def test_window_ends():
    everything = Schedule("fixed")
    assert everything.weight(0.0) == everything.weight(1000.0) == 1.0
    early, late = everything.within(0, 0.5), everything.within(0.5, 1)
    t = torch.arange(0, 1000) / 2.0 + 250
    assert ((early.weight(t) > 0) ^ (late.weight(t) > 0)).all()
    assert late.weight(0.0) == 1.0 and late.weight(1000.0) == 0.0
    assert early.weight(1000.0) == 1.0 and early.weight(0.0) == 0.0
    for point in (0.0, 0.5, 1.0):
        assert not everything.within(point, point).weight(torch.arange(1001)).any()


def test_windows_intersect():
    schedule = Schedule(start=0.2, end=0.6)
    assert schedule.within(0.4, 0.9) == Schedule(start=0.4, end=0.6)
    assert schedule.within(0.0, 1.0) == schedule
    assert not schedule.within(0.7, 0.9).weight(torch.arange(1001)).any()
    with pytest.raises(P3SError, match="lies after"):
        schedule.within(0.9, 0.1)


def test_weight_is_never_negative():
    schedule = Schedule(alpha=3.0)
    assert 1 - 3.0 + 0.2 < 0
    assert schedule.weight(1000.0) == 0.0
    assert schedule.weight(0.0) > 0.0


def test_zero_at_the_ends_of_the_quadratic_kinds():
    assert Schedule("increasing").weight(1000.0) == 0.0
    assert (Schedule("decreasing").weight(torch.tensor([0.0, 1.0])) > 0).tolist() == [False, True]
    assert not Schedule("fixed", value=0.0).weight(torch.arange(1001)).any()


def test_same_kind_of_number_out_as_in():
    assert type(Schedule().weight(10)) is float
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        t = torch.full((2, 3), 500.0, dtype=dtype)
        weight = Schedule().weight(t)
        assert weight.dtype == dtype
        torch.testing.assert_close(weight, torch.full((2, 3), 1.075, dtype=dtype))
    assert Schedule().weight(torch.tensor([500])).dtype == torch.float32
    assert Schedule().weight(torch.tensor(500)).item() == pytest.approx(1.075)


def test_outside_the_range_the_end_holds():
    assert Schedule().weight(-5.0) == Schedule().weight(0.0)
    assert Schedule().weight(1200.0) == Schedule().weight(1000.0)


@pytest.mark.parametrize(
    "text",
    ["0:0.7, 0.5:1, 1:1.2", "1:1.2;0:0.7\n0.5:1\n", "[[0, 0.7], [0.5, 1], [1, 1.2]]", " 0 : 0.7 ,, 0.5 : 1, 1 : 1.2,"],
)
def test_keyframe_texts(text):
    assert parse_keyframes(text) == ((0.0, 0.7), (0.5, 1.0), (1.0, 1.2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0:0.7, 0.5", r"Keyframe 2: '0\.5' is not"),
        ("0:0.7, 0.5:1:2", r"Keyframe 2: '0\.5:1:2' is not"),
        ("0:a", "Keyframe 1: '0:a' is not"),
        ("0:1, 50:1", r"Keyframe 2: percent = 50 lies outside 0\.\.1"),
        ("0:1, 0.5:-1", "Keyframe 2: weight = -1 is negative"),
        ("0:nan", "keyframe 1: weight = nan is not a finite"),
        ("inf:1", "keyframe 1: percent = inf is not a finite"),
        ("0:1, 0:2", "Keyframe 2: percent 0 is used twice"),
        ("[[0, 1], 3]", r"Keyframe 2: 3 is not a \[percent"),
        ("[[0, true]]", "keyframe 1: weight = True"),
        ('[["0", 1]]', "keyframe 1: percent = '0'"),
        ("[[0, 1]", "cannot be read as JSON"),
        ("[" * 100_000, "cannot be read as JSON"),
    ],
)
def test_bad_keyframes_name_the_entry(text, message):
    with pytest.raises(P3SError, match=message):
        parse_keyframes(text)


def test_empty_keyframes():
    assert parse_keyframes(" \n") == ()
    with pytest.raises(P3SError, match="no keyframes"):
        Schedule("keyframes")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "wavy"}, "Weight schedule: kind must be one of paper, .*; got 'wavy'"),
        ({"alpha": float("nan")}, "alpha must be a number in -5..5; got nan"),
        ({"beta": "0.2"}, "beta must be .* got '0.2'"),
        ({"k": -1.0}, "k must be a number in 0..10; got -1"),
        ({"value": -0.5}, "value must be a number in 0..10; got -0.5"),
        ({"start": -0.1}, "start must be a number in 0..1; got -0.1"),
        ({"end": 1.1}, "end must be a number in 0..1; got 1.1"),
        ({"start": 0.6, "end": 0.5}, "start = 0.6 lies after end = 0.5"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(P3SError, match=message):
        Schedule(**settings)


schedules = st.builds(
    lambda kind, alpha, beta, k, value, keys, window: Schedule(
        kind, alpha, beta, k, value, tuple(keys), min(window), max(window)
    ),
    st.sampled_from(KINDS),
    *(st.floats(known.low, known.high) for name, known in settings_of(Schedule).items() if name in NUMBERS),
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 5)), min_size=1, max_size=4, unique_by=lambda pair: pair[0]),
    st.tuples(st.floats(0, 1), st.floats(0, 1)),
)


@given(schedules, st.floats(0, 1000))
def test_every_schedule_is_finite_and_not_negative(schedule, t):
    schedule = replace(schedule, learned=(0.5, 1.5))
    assert 0 <= schedule.weight(t) < float("inf")


def test_equal_settings_are_equal_and_hashable():
    assert hash(Schedule("fixed", value=1)) == hash(Schedule("fixed", value=1.0))
    assert Schedule("keyframes", keyframes=[[1, 2], [0, 1]]) == Schedule("keyframes", keyframes=((0, 1), (1, 2)))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": "1"}, "alpha must be .* got '1'"),
        ({"kind": ["paper"]}, "kind must be one of"),
        ({"keyframes": {}}, "expected a list"),
    ],
)
def test_settings_of_another_type_are_refused(settings, message):
    with pytest.raises(P3SError, match=message):
        Schedule(**settings)
