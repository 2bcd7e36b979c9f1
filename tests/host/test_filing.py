"""Which file the state of an unfinished training is kept in, and which subject is not trained again."""

from __future__ import annotations

from pathlib import Path

from host.inside import Inside

OLD, NEW = "dog.before", "cat.now"
OTHER = f"not resumed from {OLD}: it has other references or prompts (delete it if you do not need it)"


def test_trainings_are_found_by_photos_settings_and_what_is_encoded(inside: Inside) -> None:
    """And one that diverged is taken over by a remedy only."""
    old = Path(__file__).parents[1] / "data" / "state_v2.training"
    found = inside.run(Path(__file__).with_name("inside_filing.py"), {"old_state": str(old)})
    assert found["subjects"] == {
        "cancelled": False,
        "the same": True,
        "encoded anew": True,
        "another prompt": False,
        "another mask": False,
        "another photo": False,
        "another rate": False,
    }
    # Of a state that is no longer whole the file is used again, of another training's a new one is made.
    assert {case: files for case, files in found["damage"].items() if case.startswith("new")} == {
        "new, False": {"dog": 150},
        "new, True": {"dog": 150},
    }
    for case in ("old, False", "old, True"):
        assert sum(found["damage"][case].values()) == 150
        assert found["damage"][case]["dog"] > 75
    assert found["states"] == {
        "the same": [OLD, OLD],
        "the same, encoded anew": [OLD, OLD],
        "the same, exploded": [OLD, OLD],
        "damaged": [OLD, OLD],
        "another prompt": ["cat.before", OTHER, OLD],
        "another prompt, its name": ["dog_00002.before", OTHER, OLD],
        "another prompt, resume off": ["cat.before", OLD],
        "another photo": [NEW, OLD],
        "lower rate": [NEW, NEW],
        "lower rate, encoded anew": [NEW, NEW],
        "higher rate": [NEW, OLD],
        "more exact": [NEW, NEW],
        "lower rate, resume off": [NEW, OLD],
        "lower rate, only cancelled": [NEW, OLD],
        "lower rate, another prompt": [NEW, OLD],
        "lower rate, another photo": [NEW, OLD],
    }
