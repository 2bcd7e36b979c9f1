"""Strengths of single layers as text."""

import pytest

from p3s.errors import P3SError
from p3s.network.unet_config import SDXL, Layer, UNetConfig
from p3s.sampling.layer_strengths import layer_strengths, parse_layer_strengths

SD15 = UNetConfig.build()
XL = UNetConfig.build(**SDXL)


def factors(text, config=SD15):
    return layer_strengths(parse_layer_strengths(text), config)


def test_sides_blocks_and_what_is_not_named():
    assert factors("") == factors(" , ;\n") == {}
    assert factors("middle: 0.5") == {Layer("middle", 0): 0.5}
    assert factors("input: 2") == {Layer("input", b): 2.0 for b in (1, 2, 4, 5, 7, 8)}


def test_a_block_is_stronger_than_its_side_in_any_order():
    for text in ("output: 0.5, output 9: 0", "output 9: 0; output: 0.5"):
        found = factors(text)
        assert found[Layer("output", 9)] == 0
        assert found[Layer("output", 10)] == 0.5
        assert len(found) == 9


def test_a_layer_of_several_in_a_row_is_stronger_than_its_block():
    for text in ("input: 2, input 7: 0.5, input 7.3: 0", "input 7.3: 0, input 7: 0.5, input: 2"):
        found = factors(text, XL)
        assert found[Layer("input", 7, 3)] == 0
        assert [found[Layer("input", 7, d)] for d in (0, 2, 4, 9)] == [0.5] * 4
        assert found[Layer("input", 8, 3)] == found[Layer("input", 4, 1)] == 2
        assert len(found) == 2 * 2 + 2 * 10


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left: 1", "left"),
        ("input 1", "input 1"),
        ("input 1: many", "0..10"),
        ("input: -1", "0..10"),
        ("input: nan", "0..10"),
        ("input: 1, input: 2", "twice"),
        ("output 2: 1", "output has it in 3, 4, 5, 6, 7, 8, 9, 10, 11"),
        ("output 4.1: 1", r"output 4 has 1 attention layer\(s\), numbered from 0; there is no output 4.1"),
        ("output 4.0: 1, output 4.0: 2", "output 4.0 is given twice"),
        ("output 4.: 1", "is not"),
    ],
)
def test_what_cannot_be_read_is_named(text, message):
    with pytest.raises(P3SError, match=message):
        factors(text)
