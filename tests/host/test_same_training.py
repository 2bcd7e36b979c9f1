"""The nodes and the library train and apply the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside

#: Where the files of one training may differ: the node knows a resolution and no prompt as text.
ALLOWED = ["prompt", "train_settings.resolution"]


@pytest.fixture(scope="module")
def facts(inside: Inside, tmp_path_factory: pytest.TempPathFactory) -> Any:
    arguments = {"micro": inside.model("sd15-micro"), "folder": str(tmp_path_factory.mktemp("library"))}
    return inside.run(Path(__file__).with_name("inside_same_training.py"), arguments, timeout=900)


def test_node_and_library_write_the_same_file(facts: Any) -> None:
    """Weights, references, keys, sketches and losses bit for bit, also where a batch is larger than there are photos.
    Equal keys are the promise of that."""
    for name, found in facts["files"].items():
        assert found.pop("moved") > 1e-3, name
        assert found == {"tensors": True, "metadata": ["sha256"], "info": ALLOWED, "known": True}, name


def test_an_upright_photo_makes_the_same_batches_on_both(facts: Any) -> None:
    """A batch for the whole photo and one for the view, whose latents have another size, in each of two epochs."""
    assert facts["upright"] == {"steps": [4, 4], "key": True, "sketches": True}


def test_node_and_library_give_the_same_pictures(facts: Any) -> None:
    """With strength, mask, strengths of layers, branches of the guidance, faster, weighed on attention, and two kept
    apart."""
    found = facts["pictures"]
    assert len(found) == 12
    assert found.pop("off")["effect"] == 0
    for name, of in found.items():
        assert of["error"] < 2e-3 < 0.02 < of["effect"], (name, of)
