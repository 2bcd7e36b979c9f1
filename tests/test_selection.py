"""Points and boxes of several subjects: the text, what each subject is found by, and the forms from elsewhere."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p3s.errors import PointError
from p3s.reference.points import MAX_POINTS, MAX_SUBJECTS, PointSet
from p3s.reference.selection import MAX_BOXES, Marks, Selection

A, B, C = (0.1, 0.2), (0.3, 0.4), (0.5, 0.6)
SIZE = (200, 100)

coordinate = st.floats(0, 1)
point_lists = st.lists(st.tuples(coordinate, coordinate), max_size=4)
spans = st.tuples(coordinate, coordinate).map(sorted).filter(lambda span: span[0] < span[1])
boxes = st.tuples(spans, spans).map(lambda both: (both[0][0], both[1][0], both[0][1], both[1][1]))
marks = st.builds(Marks, st.builds(PointSet, point_lists, point_lists), st.lists(boxes, max_size=3))
selections = st.builds(
    Selection, st.lists(marks, min_size=1, max_size=MAX_SUBJECTS).map(tuple), st.sampled_from(["", "1f"])
)


def clicked(*positive: tuple[float, float], without: tuple[tuple[float, float], ...] = ()) -> Marks:
    return Marks(PointSet(positive, without))


@given(selections)
def test_json_round_trip_is_exact(selection: Selection) -> None:
    assert Selection.parse(selection.to_json()) == selection
    assert Selection.parse(json.loads(selection.to_json())) == selection


@given(st.builds(PointSet, point_lists, point_lists))
def test_one_subject_without_boxes_is_written_as_older_versions_read_it(points: PointSet) -> None:
    assert Selection((Marks(points),)).to_json() == points.to_json()
    assert Selection.parse(points.to_json()) == Selection.parse(points) == Selection((Marks(points),))


@pytest.mark.parametrize(
    "selection",
    [Selection((clicked(A), Marks())), Selection((Marks(boxes=((0, 0, 1, 1),)),)), Selection(seed="1f")],
    ids=["subjects", "boxes", "seed"],
)
def test_more_than_that_is_version_2(selection: Selection) -> None:
    assert json.loads(selection.to_json())["v"] == 2


def test_a_subject_without_negative_points_has_the_others_positive_ones() -> None:
    selection = Selection((clicked(A), clicked(B, C), clicked(C, without=(A,))))
    assert selection.points_of(0) == PointSet((A,), (B, C, C))
    assert selection.points_of(1) == PointSet((B, C), (A, C))
    assert selection.points_of(2) == PointSet((C,), (A,)), "it has its own"


def test_others_points_fill_a_set_and_no_more() -> None:
    many = tuple((i / 100, 0.5) for i in range(MAX_POINTS))
    selection = Selection((clicked(A), clicked(*many), clicked(B)))
    assert selection.points_of(0).negative == many


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_subject_nobody_clicked_is_named_by_its_tab(index: int) -> None:
    selection = Selection((clicked(A), Marks(), Marks(PointSet((), (B,)))))
    with pytest.raises(PointError, match=rf"Subject {index + 1} has no positive point\. .* tab {index + 1} of Point"):
        selection.points_of(index).require_positive()
    assert selection.points_of(1) == PointSet(), "without a click there is nothing to tell apart"


def test_alone_it_has_no_number() -> None:
    with pytest.raises(PointError, match="There is no positive point"):
        Selection().points_of(0).require_positive()


def test_the_points_of_such_a_text_are_the_first_subjects() -> None:
    selection = Selection((clicked(A), clicked(B)))
    assert PointSet.parse(selection.to_json()) == PointSet((A,), (B,))


def test_boxes_in_pixels_hold_what_was_drawn() -> None:
    selection = Selection((Marks(boxes=((0.1, 0.2, 0.5, 1.0),)), Marks(boxes=((0.0, 0.0, 1.0, 1.0),))))
    assert selection.boxes_in_pixels(*SIZE) == [[20, 20, 100, 100], [0, 0, 200, 100]]


@given(boxes, st.integers(1, 5000), st.integers(1, 5000))
def test_a_box_in_pixels_lies_in_the_photo_and_has_an_area(box: Any, width: int, height: int) -> None:
    ((x1, y1, x2, y2),) = Selection((Marks(boxes=(box,)),)).boxes_in_pixels(width, height)
    assert 0 <= x1 < x2 <= width and 0 <= y1 < y2 <= height
    assert abs(x1 - box[0] * width) <= 1 and abs(x2 - box[2] * width) <= 1


BOX = {"x": 20, "y": 10, "width": 80, "height": 50, "score": 0.9}
OTHER = {"x": 0, "y": 0, "width": 20, "height": 10}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (BOX, [(0.1, 0.1, 0.5, 0.6)]),
        ([BOX, OTHER], [(0.1, 0.1, 0.5, 0.6), (0, 0, 0.1, 0.1)]),
        ([[OTHER], [BOX]], [(0.1, 0.1, 0.5, 0.6)]),
        ([[BOX]], [(0.1, 0.1, 0.5, 0.6)]),
        ([[], []], []),
        ([[20, 10, 100, 60]], [(0.1, 0.1, 0.5, 0.6)]),
        ([[[20, 10, 100, 60]]], [(0.1, 0.1, 0.5, 0.6)]),
        ([[-5, -5, 20, 10]], [(0, 0, 0.1, 0.1)]),
        ({"x": 180, "y": 90, "width": 999, "height": 999}, [(0.9, 0.9, 1, 1)]),
    ],
)
def test_boxes_of_detectors_are_read(value: Any, expected: list[Any]) -> None:
    """``frame`` is 1: of several lists, the second one."""
    for form in (value, json.dumps(value)):
        (only,) = Selection.parse(form, SIZE, frame=1).subjects
        assert only == Marks(boxes=tuple(expected))


def test_points_in_pixels_are_read_as_ever() -> None:
    text = '[{"x": 20, "y": 10}]'
    assert Selection.parse(text, SIZE).subjects[0].points == PointSet.parse(text, SIZE)


def test_a_seed_makes_nothing_the_users_own() -> None:
    assert Selection().is_untouched
    assert not Selection(seed="1f").is_untouched
    assert not Selection((Marks(), clicked(A))).is_untouched


SUBJECT = {"positive": [[0.5, 0.5]]}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"v": 2}, '"subjects" must be a list, got None'),
        ({"v": 2, "subjects": []}, "there are 0 subjects; expected 1 to 4"),
        ({"v": 2, "subjects": [SUBJECT] * 5}, "there are 5 subjects"),
        ({"v": 2, "subjects": [SUBJECT, 7]}, "Subject 2: expected an object, got 7"),
        ({"v": 2, "subjects": [SUBJECT], "x": 1}, "Points: unknown key 'x'; known are v, subjects, seed"),
        ({"v": 2, "subjects": [SUBJECT, {"box": []}]}, "Subject 2: unknown key 'box'"),
        ({"v": 2, "subjects": [SUBJECT, {"positive": [[2, 0]]}]}, "Subject 2: positive point 1: x = 2 lies outside"),
        ({"v": 2, "subjects": [{"boxes": [[0, 0, 0, 1]]}]}, "Subject 1: box 1: expected .left, top, right, bottom."),
        ({"v": 2, "subjects": [{"boxes": [[0, 0, float("nan"), 1]]}]}, "Subject 1: box 1"),
        ({"v": 2, "subjects": [{"boxes": [[0, 0, 1]]}]}, "Subject 1: box 1"),
        ({"v": 2, "subjects": [{"boxes": {}}]}, "The boxes must be a list"),
        ({"v": 2, "subjects": [{"boxes": [[0, 0, 1, 1]] * (MAX_BOXES + 1)}]}, "There are 65 boxes; at most 64"),
        ({"v": 2, "subjects": [SUBJECT], "seed": 5}, '"seed" must be text'),
        ([{"x": 0, "y": 0, "width": 5, "height": "5"}], "box 1: expected .* in pixels, got"),
        ([{"x": 300, "y": 0, "width": 5, "height": 5}], "covers nothing of the image of 200 x 100 pixels"),
        ([[1, 2, 3]], "box 1: expected"),
        ([[0, 0, 5, 5], {"x": 1}], "box 2: expected"),
        (5, "expected a JSON object or list, got 5"),
    ],
)
def test_what_is_wrong_is_named(value: Any, message: str) -> None:
    for form in (value, json.dumps(value)):
        with pytest.raises(PointError, match=message):
            Selection.parse(form, SIZE)


def test_boxes_in_pixels_need_a_size() -> None:
    with pytest.raises(PointError, match="need the size"):
        Selection.parse([BOX])


keys = st.sampled_from(["v", "subjects", "seed", "positive", "boxes", "x", "y", "width", "height"])
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4),
    max_leaves=12,
)


@given(json_values | st.builds(lambda each: {"v": 2, "subjects": [each]}, json_values))
def test_only_point_errors_escape(value: object) -> None:
    for form in (value, json.dumps(value)):
        try:
            Selection.parse(form, SIZE)
        except PointError:
            continue
