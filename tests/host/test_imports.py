"""Loading the pack costs ComfyUI's start next to nothing, and a package that is missing costs only what needs it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside

import p3s.optional_packages
from p3s.errors import MissingPackageError

SCRIPT = Path(__file__).with_name("inside_imports.py")
SECONDS = 0.2
HEAVY = {"cv2", "diffusers", "matplotlib", "scipy", "skimage", "transformers"}


def load(inside: Inside, without: bool = False) -> dict[str, Any]:
    return inside.run(SCRIPT, {"without": without, "bytecode": str(inside.base / "bytecode")})


def test_the_nodes_load_quickly_and_bring_no_heavy_package(inside: Inside) -> None:
    load(inside)  # compiles, as ComfyUI's first start does
    first, second = load(inside), load(inside)
    assert HEAVY & {*first["new"], *second["new"]} == set()
    assert min(first["seconds"], second["seconds"]) < SECONDS


def test_all_nodes_load_without_the_packages_that_masks_need(inside: Inside) -> None:
    facts = load(inside, without=True)
    assert facts["nodes"] == facts["registered"]


def test_a_missing_package_is_one_clear_line() -> None:
    with pytest.raises(MissingPackageError) as caught:
        p3s.optional_packages.import_package("no_such_module", "some-package", "Masks need")
    text = str(caught.value)
    assert "\n" not in text
    assert text.startswith("Masks need the package some-package")
    assert text.endswith("python -m pip install some-package")
