"""The kinds of operations of benchmarks/operations.py."""

import pytest
import torch

from benchmarks.operations import KINDS, OUTSIDE, REST, Operations, kind_of, table


@pytest.mark.parametrize(
    ("operation", "kind"),
    [
        ("aten::mkldnn_convolution", "products"),
        ("aten::addmm", "products"),
        ("aten::_scaled_dot_product_flash_attention_for_cpu_backward", "products"),
        ("aten::native_group_norm_backward", "norms and softmax"),
        ("aten::_softmax", "norms and softmax"),
        ("aten::copy_", "copies"),
        ("aten::cat", "copies"),
        ("aten::add_", "elementwise"),
        ("aten::silu_backward", "elementwise"),
        ("aten::_foreach_norm", "gradient check and optimizer"),
        ("Optimizer.step#AdamW.step", "gradient check and optimizer"),
        ("aten::upsample_nearest2d", "copies"),
        ("aten::expand", REST),
        ("aten::normal_", REST),
    ],
)
def test_kinds(operation, kind):
    assert kind_of(operation) == kind


def test_time_and_number_of_operations():
    operations, a = Operations(), torch.randn(600, 600)
    operations.start()
    for _ in range(3):
        a @ a
    operations.stop()
    seconds = operations.found["seconds"]
    assert list(seconds) == [*KINDS, REST, OUTSIDE]
    assert seconds["products"] == max(seconds.values()) > 0 and seconds["elementwise"] == 0
    assert operations.found["operations"] >= 6  # matmul, and the mm that it calls


def test_the_table_has_the_shares_of_each_row():
    rows = {
        "plain": {"seconds": {"products": 3.0, REST: 1.0}, "operations": 7},
        "other": {"seconds": {"products": 3.0, REST: 3.0}, "operations": 9},
    }
    assert table(rows).splitlines() == [
        "| | products | others | operations |",
        "|---|---|---|---|",
        "| plain | 0.75 | 0.25 | 7 |",
        "| other | 0.50 | 0.50 | 9 |",
    ]
