"""Train P3S and the library train the same."""

from __future__ import annotations

from pathlib import Path

from host.inside import Inside


def test_node_and_library_give_the_same_weights(inside: Inside) -> None:
    """Bit for bit, also where a batch is larger than there are photos. Equal keys are the promise of that."""
    facts = inside.run(Path(__file__).with_name("inside_same_training.py"))
    for name, found in facts.items():
        assert found.pop("moved") > 1e-3, name
        assert found == {"weights": True, "key": True, "losses": True}, name
