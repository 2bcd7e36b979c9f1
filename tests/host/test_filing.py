"""Which file the state of an unfinished training is kept in."""

from __future__ import annotations

from pathlib import Path

from host.inside import Inside

OLD, NEW, OTHER = (
    f"{name}.training" for name in ("dog_aaaaaaaabbbbbbbb", "cat_aaaaaaaacccccccc", "cat_ddddddddcccccccc")
)


def test_a_training_that_diverged_is_taken_over_by_a_remedy_only(inside: Inside) -> None:
    assert inside.run(Path(__file__).with_name("inside_filing.py")) == {
        "the same": [OLD, OLD],
        "lower rate": [NEW, NEW],
        "higher rate": [NEW, OLD],
        "more exact": [NEW, NEW],
        "lower rate, resume off": [NEW, OLD],
        "lower rate, only cancelled": [NEW, OLD],
        "another training": [OTHER, OLD],
    }
