import pytest
import torch

from p3s.errors import P3SError
from p3s.sampling.schedule import Schedule
from p3s.sampling.schedule_plot import BACKGROUND, CURVE, MARK, plot_schedule


def distance(image, colour):
    return (image - torch.tensor(colour) / 255).abs().amax(-1)


def curve_height(image, column):
    """Row of the curve in one column: the mean of its pixels."""
    rows = (distance(image, CURVE)[:, column] < 0.25).nonzero().flatten()
    assert len(rows), f"no curve in column {column}"
    return rows.float().mean().item()


def curve_columns(image):
    return (distance(image, CURVE) < 0.25).any(0).nonzero().flatten()


@pytest.mark.parametrize("size", [(512, 288), (160, 120), (900, 700)])
def test_shape_range_and_margins(size):
    image = plot_schedule(Schedule(), size)
    assert image.shape == (size[1], size[0], 3)
    assert image.dtype == torch.float32
    assert image.min() >= 0
    assert image.max() <= 1
    for corner in (image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]):
        torch.testing.assert_close(corner, torch.tensor(BACKGROUND) / 255)


def test_curve_follows_the_weights():
    for kind, rises in (("paper", True), ("increasing", True), ("decreasing", False)):
        image = plot_schedule(Schedule(kind))
        columns = curve_columns(image)
        start, end = int(columns[3]), int(columns[-4])
        assert end - start > 400
        assert (curve_height(image, start) > curve_height(image, end)) == rises  # row 0 is at the top


def test_curve_is_to_scale():
    image = plot_schedule(Schedule("keyframes", keyframes=((0, 0), (1, 1))))
    columns = curve_columns(image)
    left, right = int(columns[0]) + 5, int(columns[-1]) - 5
    middle = curve_height(image, (left + right) // 2)
    assert middle == pytest.approx((curve_height(image, left) + curve_height(image, right)) / 2, abs=1.5)


def test_sampler_steps_are_marked():
    plain = plot_schedule(Schedule())
    marked = plot_schedule(Schedule(), steps=[999, 666, 333, 0])
    assert (distance(plain, MARK) < 0.05).sum() == 0
    columns = (distance(marked, MARK) < 0.05).any(0)
    groups = (columns[1:] & ~columns[:-1]).sum()
    assert groups == 4


def test_curve_stays_visible_at_zero_and_when_large():
    assert len(curve_columns(plot_schedule(Schedule("fixed", value=0)))) > 400
    assert len(curve_columns(plot_schedule(Schedule("keyframes", keyframes=((0, 12345.6),))))) > 300


def test_too_small_is_refused():
    with pytest.raises(P3SError, match="not legible"):
        plot_schedule(Schedule(), (100, 100))
