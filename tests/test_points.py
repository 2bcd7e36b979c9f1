from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3s.errors import PointError
from p3s.reference.framing import Frame
from p3s.reference.points import MAX_POINTS, MAX_TEXT, PointSet

coordinate = st.floats(0, 1)
point_lists = st.lists(st.tuples(coordinate, coordinate), max_size=MAX_POINTS)
point_sets = st.builds(PointSet, point_lists, point_lists)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["v", "positive", "negative", "x", "y", "z"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(point_sets)
def test_json_round_trip_is_exact(points: PointSet) -> None:
    text = points.to_json()
    assert PointSet.parse(text) == points
    assert PointSet.parse(text).to_json() == text
    assert json.loads(text)["v"] == 1


@given(st.integers(1, 8000), st.integers(1, 8000), st.data())
def test_whole_pixels_round_trip(width: int, height: int, data: st.DataObject) -> None:
    pixel = st.builds(lambda x, y: {"x": x, "y": y}, st.integers(0, width - 1), st.integers(0, height - 1))
    positive = data.draw(st.lists(pixel, max_size=5))
    negative = data.draw(st.lists(pixel.filter(lambda point: point != {"x": 0, "y": 0}), max_size=5))
    points = PointSet.parse(json.dumps(positive), (width, height), json.dumps(negative))
    assert [json.loads(text) for text in points.to_pixels(width, height)] == [positive, negative]
    assert PointSet.parse({"positive": positive, "negative": negative}, (width, height)) == points


@given(point_sets, st.integers(1, 8000), st.integers(1, 8000))
def test_pixels_are_those_that_hold_the_points(points: PointSet, width: int, height: int) -> None:
    for text, originals in zip(points.to_pixels(width, height), (points.positive, points.negative), strict=True):
        for pixel, (x, y) in zip(json.loads(text), originals, strict=True):
            assert 0 <= pixel["x"] < width and pixel["x"] <= x * width <= pixel["x"] + 1
            assert 0 <= pixel["y"] < height and pixel["y"] <= y * height <= pixel["y"] + 1


@given(json_values, json_values, st.none() | st.tuples(st.integers(-2, 9), st.integers(-2, 9)) | json_values)
def test_only_point_errors_escape_from_decoded_values(value: object, negative: object, size: object) -> None:
    for second in (None, negative):
        for first in (value, json.dumps(value)):
            try:
                points = PointSet.parse(first, size, second)
            except PointError:
                continue
            assert all(0 <= number <= 1 for point in points.positive + points.negative for number in point)


@given(st.text() | st.text(alphabet='[]{}":,0123456789.eE-+ vxynaNIpositve'))
def test_only_point_errors_escape_from_text(text: str) -> None:
    try:
        PointSet.parse(text, (10, 10))
    except PointError:
        pass
    else:
        assert not text.strip() or isinstance(json.loads(text), (list, dict))


def test_accepted_forms_agree() -> None:
    expected = PointSet(((0.25, 0.5),), ((1.0, 0.005), (0.5, 0.5)))
    ours = '{"v": 1, "positive": [[0.25, 0.5]], "negative": [[1, 0.005], [0.5, 0.5]]}'
    positive, negative = '[{"x": 49.5, "y": 49.5}]', '[{"x": 200, "y": 0.0}, {"x": 99.5, "y": 49.5}]'
    assert PointSet.parse(ours) == expected
    assert PointSet.parse(json.loads(ours)) == expected
    assert PointSet.parse(positive, (200, 100), negative) == expected
    assert PointSet.parse(f'{{"positive": {positive}, "negative": {negative}}}', size=(200, 100)) == expected
    assert PointSet.parse(expected) is expected
    assert PointSet([[0.25, 0.5]], [[1, 0.005], [np.float32(0.5), 0.5]]) == expected


def test_a_pixel_and_a_point_in_it_mean_one_patch() -> None:
    """By hand: of 4 x 4 pixels in 2 x 2 patches, pixels 0 and 1 lie in the first; a pixel is a quarter of a side."""
    frame = Frame(4, 4)
    for pixel, patch, inside in ((0, 0, 0.2), (1, 0, 0.49), (2, 1, 0.51), (3, 1, 0.8)):
        named = PointSet.parse([{"x": pixel, "y": 3 - pixel}], (4, 4))
        assert named == PointSet((((pixel + 0.5) / 4, (3.5 - pixel) / 4),))
        assert frame.patch_at(*named.positive[0], 2) == (1 - patch, patch)
        assert json.loads(PointSet(((inside, inside),)).to_pixels(4, 4)[0]) == [{"x": pixel, "y": pixel}]
        assert frame.pixel_at(inside, inside) == (pixel, pixel)


def test_a_pixel_of_a_photo_that_is_small_to_clip_lies_in_the_patch_that_shows_most_of_it() -> None:
    """By hand: 3 pixels in 2 patches; the middle of the second one lies on the border, which is the second patch's."""
    frame = Frame(3, 3)
    patches = [frame.patch_at(*PointSet.parse([{"x": k, "y": 0}], (3, 3)).positive[0], 2)[1] for k in range(3)]
    assert patches == [0, 1, 1]
    # 5 pixels: 0 and 1 lie in the first patch wholly, half of 2 does, 3 and 4 in the second.
    frame = Frame(5, 5)
    patches = [frame.patch_at(*PointSet.parse([{"x": k, "y": 0}], (5, 5)).positive[0], 2)[1] for k in (0, 1, 3, 4)]
    assert patches == [0, 0, 1, 1]


@given(st.integers(8, 4096), st.integers(8, 4096), st.data())
def test_normalised_points_of_kjnodes_are_the_ones_in_pixels(width: int, height: int, data: st.DataObject) -> None:
    """Its Points Editor divides whole pixels by the size where ``normalize`` is on."""
    pixel = st.tuples(st.integers(1, width - 1), st.integers(1, height - 1))
    positive, negative = (data.draw(st.lists(pixel, min_size=least, max_size=4)) for least in (1, 0))
    for x_unit, y_unit in ((1, 1), (width, height)):
        texts = [json.dumps([{"x": x / x_unit, "y": y / y_unit} for x, y in some]) for some in (positive, negative)]
        points = PointSet.parse(texts[0], (width, height), texts[1])
        for found, pixels in ((points.positive, positive), (points.negative, negative)):
            middles = [((x + 0.5) / width, (y + 0.5) / height) for x, y in pixels]
            assert found == tuple(pytest.approx(middle) for middle in middles)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('[{"x": 0.5, "y": 1}]', (0.505, 1)),
        ('[{"x": 1.0, "y": 0.0}]', (0.015, 0.01)),  # no fraction: the pixel beside the corner
        ('[{"x": 0.5, "y": 1.5}]', (0.01, 0.04)),  # above 1: pixels
    ],
)
def test_what_counts_as_normalised(text: str, expected: tuple[float, float]) -> None:
    assert PointSet.parse(text, (100, 50)).positive == (pytest.approx(expected),)


def test_the_negative_point_that_kjnodes_puts_there_by_itself_is_none(caplog: pytest.LogCaptureFixture) -> None:
    for placeholder in ('{"x": 0, "y": 0}', '{"x": 0.0, "y": 0.0}'):
        clicked = '[{"x": 50, "y": 50}]'
        assert PointSet.parse(clicked, (100, 100), f"[{placeholder}]") == PointSet(((0.505, 0.505),))
        both = PointSet.parse(clicked, (100, 100), f'[{placeholder}, {{"x": 20, "y": 0}}]')
        assert both.negative == ((0.205, 0.005),)
    assert "the negative point at 0, 0 is left out" in caplog.text
    assert PointSet.parse('[{"x": 0, "y": 0}]', (100, 100)).positive == ((0.005, 0.005),)
    assert PointSet.parse('{"v":1,"positive":[],"negative":[[0,0]]}').negative == ((0.0, 0.0),), "clicked in our editor"


@pytest.mark.parametrize("empty", ["", "  \n", "[]", "{}", None, '{"v":1}', '{"v":1,"positive":[],"negative":[]}'])
def test_an_empty_editor_is_valid_but_has_no_positive_point(empty: str | None) -> None:
    points = PointSet.parse(empty)
    assert points == PointSet()
    with pytest.raises(PointError, match="Click the subject"):
        points.require_positive()


def test_require_positive_returns_the_set() -> None:
    points = PointSet(((0.5, 0.5),))
    assert points.require_positive() is points


def test_points_are_immutable_and_hashable() -> None:
    points = PointSet([[0.5, 0.5]])
    assert hash(points) == hash(PointSet(((0.5, 0.5),)))
    assert isinstance(points.positive, tuple) and isinstance(points.positive[0], tuple)
    with pytest.raises(AttributeError):
        points.positive = ()


@pytest.mark.parametrize(
    ("negative", "message"),
    [
        ([[0.1, 0.1], [1.3, 0.5]], r"negative point 2: x = 1\.3 lies outside the image, which spans 0\.\.1\."),
        ([[0.1, -0.01]], r"negative point 1: y = -0\.01 lies outside"),
        ([[0.1, float("nan")]], r"negative point 1: y = nan is not a finite number"),
        ([[float("inf"), 0]], r"negative point 1: x = inf is not a finite"),
        ([[10**400, 0]], r"negative point 1: x = .* is not a finite"),
        ([[True, 0]], r"negative point 1: x = True is not a number"),
        ([["0.5", 0]], r"negative point 1: x = '0\.5' is not a number"),
        ([[0.5, None]], r"negative point 1: y = None is not a number"),
        ([[0.5, [0.5]]], r"negative point 1: y = \[0\.5\] is not a number"),
        ([[0.5]], r"negative point 1: expected a pair"),
        ([[0.5, 0.5, 0.5]], r"negative point 1: expected a pair"),
        ([{"x": 0.5, "y": 0.5}], r"negative point 1: expected a pair"),
        (["ab"], r"negative point 1: expected a pair"),
        ("ab", r"negative points must be a list, got 'ab'"),
        (None, r"negative points must be a list, got None"),
        ([[0.5, 0.5]] * (MAX_POINTS + 1), rf"{MAX_POINTS + 1} negative points; at most {MAX_POINTS}"),
    ],
)
def test_errors_name_the_point(negative: object, message: str) -> None:
    with pytest.raises(PointError, match=message):
        PointSet.parse({"v": 1, "positive": [[0.5, 0.5]], "negative": negative})
    with pytest.raises(PointError, match=message):
        PointSet(((0.5, 0.5),), negative)


@pytest.mark.parametrize(
    ("value", "size", "negative", "message"),
    [
        ('[{"x": 5, "y": 5}, {"x": 5, "y": 101}]', (200, 100), None, r"positive point 2: y = 101 .* 0\.\.100 pixels"),
        ('[{"x": 5, "y": 5}]', (200, 100), '[{"x": 201, "y": 5}]', r"negative point 1: x = 201 .* 0\.\.200 pixels"),
        ('[{"x": 5, "y": NaN}]', (200, 100), None, "positive point 1: y = nan is not a finite"),
        ('[{"x": 5, "y": "5"}]', (200, 100), None, "positive point 1: y = '5' is not a number"),
        ('[{"x": 5}]', (200, 100), None, "positive point 1: expected an object"),
        ("[[0.5, 0.5]]", (200, 100), None, "positive point 1: expected an object"),
        ('[{"x": 5, "y": 5}]', None, None, "need the size of the image"),
        ('[{"x": 5, "y": 5}]', (0, 100), None, "width and height must be whole numbers"),
        ('[{"x": 5, "y": 5}]', (True, 100), None, "width and height must be whole numbers"),
        ('[{"x": 5, "y": 5}]', (200, 100, 3), None, r"must be \(width, height\)"),
        ('[{"x": 5, "y": 5}]', "200x100", None, r"must be \(width, height\)"),
        ('[{"x": 5, "y": 5}]', (200, 100), '{"x": 5}', "Negative points: expected a JSON list"),
        ('{"v": 1}', None, '[{"x": 5, "y": 5}]', "already holds both signs"),
        ('{"v": 3, "positive": []}', None, None, "version 3 is newer than version 2"),
        ('{"v": "1"}', None, None, '"v" must be the whole number 1'),
        ('{"v": true}', None, None, '"v" must be the whole number 1'),
        ('{"v": 0}', None, None, '"v" must be the whole number 1'),
        ('{"v": 1, "positiv": []}', None, None, "unknown key 'positiv'"),
        ("{'v': 1}", None, None, "points is not valid JSON"),
        ("[" * 90_000, None, None, "not valid JSON"),
        ("[" + "1" * 5000 + "]", None, None, "not valid JSON"),
        (" " * MAX_TEXT + "[]", None, None, "characters; at most"),
        ("7", None, None, "expected a JSON object or list, got 7"),
        (b"[]", None, None, "expected a JSON object or list"),
        ({"positive": np.zeros((2, 2))}, (9, 9), None, "positive points must be a list"),
    ],
)
def test_errors_of_texts(value: object, size: object, negative: object, message: str) -> None:
    with pytest.raises(PointError, match=message):
        PointSet.parse(value, size, negative)
