"""One fact, one place: version and dependencies agree between pyproject.toml, requirements.txt and the code."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import p3s

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def requirement_lines(name: str) -> list[str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]


def test_version_is_the_package_version() -> None:
    assert pyproject()["project"]["version"] == p3s.__version__


def test_runtime_dependencies_are_in_step_and_unpinned() -> None:
    lines = requirement_lines("requirements.txt")
    assert pyproject()["project"]["dependencies"] == lines
    assert all(line.replace("-", "").isalnum() for line in lines)


def test_registry_metadata() -> None:
    comfy = pyproject()["tool"]["comfy"]
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert comfy["PublisherId"] and comfy["DisplayName"]
    # The pack exports WEB_DIRECTORY; both together would load every script twice.
    assert "web" not in comfy


def test_test_environment_is_pinned() -> None:
    lines = requirement_lines("requirements-dev.txt")
    assert lines
    assert all("==" in line.split(";")[0] for line in lines)
