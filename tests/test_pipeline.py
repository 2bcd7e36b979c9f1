"""The steps of the method on a whole model: what is refused before anything is trained."""

from __future__ import annotations

import pytest

from p3s.errors import P3SError
from p3s.models.pipeline import train_subject
from p3s.network.copy_settings import CopySettings
from p3s.subject.info import LONGEST_NOTE
from p3s.toyworld.scenes import scene
from p3s.toyworld.world import click, load_world, picture_of
from p3s.training.settings import TrainSettings

DRAWN = scene("heldout", 4, "different", "dog")
HALF = "sks \ud83d"  # of a surrogate pair, as a byte that is no UTF-8 becomes on the command line


@pytest.fixture(scope="module")
def models():
    return load_world()


@pytest.mark.parametrize("name", ["identifier", "licence"])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "must be text; got None"),
        (7, "must be text; got 7"),
        (HALF, "must be text that a file can hold"),
        ("x" * (LONGEST_NOTE + 1), f"has {LONGEST_NOTE + 1} characters; a subject file holds at most {LONGEST_NOTE}"),
    ],
)
def test_notes_that_no_file_can_hold_are_refused_before_the_first_step(models, name, value, message) -> None:
    """All was trained, and then could not be saved."""
    steps = []
    reference = models.reference(picture_of(DRAWN), click(DRAWN, 1))
    with pytest.raises(P3SError, match=f"{name} {message}"):
        train_subject(
            models,
            [reference],
            "a photo of a sks dog",
            TrainSettings(steps=1),
            CopySettings(),
            callback=steps.append,
            **{name: value},
        )
    assert steps == []
