"""The templates' thumbnails are those that are made from the code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tools.thumbnails import CARDS, SIZE, thumbnail

FOLDER = Path(__file__).parents[1] / "example_workflows"


def test_every_template_has_one() -> None:
    assert {file.stem for file in FOLDER.glob("*.jpg")} == {file.stem for file in FOLDER.glob("*.json")} == set(CARDS)


@pytest.mark.parametrize("name", CARDS)
def test_it_is_what_the_code_draws(name: str) -> None:
    with Image.open(FOLDER / f"{name}.jpg") as stored:
        assert stored.size == SIZE
        difference = np.asarray(stored.convert("RGB"), np.float32) - np.asarray(thumbnail(name), np.float32)
    assert np.abs(difference).mean() < 6, "run: python tests/tools/generate.py thumbnails"  # JPEG, and fonts
