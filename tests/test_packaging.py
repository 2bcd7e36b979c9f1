"""One fact, one place: version and dependencies agree between pyproject.toml, requirements.txt and the code."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

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
    assert not any("opencv" in line for line in lines), "it would overwrite the cv2 that other packs need"


def packed() -> list[str]:
    """What the registry's publisher packs: the tracked files that .comfyignore does not name."""

    def listed(*options: str) -> set[str]:
        done = subprocess.run(["git", "ls-files", *options], cwd=ROOT, capture_output=True, text=True, check=True)
        return set(done.stdout.splitlines())

    return sorted(listed() - listed("--cached", "--ignored", "--exclude-from=.comfyignore"))


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: the publisher packs what git tracks")
def test_the_package_for_the_registry_holds_what_is_needed_and_nothing_else() -> None:
    files = packed()
    top = {name.split("/")[0] for name in files}
    folders = {"docs", "example_workflows", "locales", "nodes", "p3s", "web"}
    assert top == folders | {
        "__init__.py",
        "CHANGELOG.md",
        "LICENSE",
        "README.md",
        "pyproject.toml",
        "requirements.txt",
    }
    kinds = {folder: {Path(name).suffix for name in files if name.startswith(folder + "/")} for folder in folders}
    assert kinds == {
        "docs": {".md"},
        "example_workflows": {".json", ".jpg"},
        "locales": {".json"},
        "nodes": {".py"},
        "p3s": {".py", ".md", ".safetensors"},
        "web": {".js", ".json", ".md", ".png"},
    }
    assert sum((ROOT / name).stat().st_size for name in files) < 14 * 2**20


#: What the registry's scanner looks for, in all texts and comments. After one hit a version waits for a person.
SCANNED = {
    "code from text": r"\beval\s*\(|\bexec\s*\(|\bcompile\s*\(\s*['\"]|__import__|literal_eval",
    "pickles": r"\bimport\s+(c?pickle|dill|marshal|shelve)\b|\bfrom\s+(c?pickle|dill|marshal|shelve)\b",
    "the environment": r"\bos\.environ|\bgetenv\b|\bputenv\b",
    "other programs": r"\bsubprocess\b|\bos\.(system|popen|spawn\w*|exec[lv]\w*)\b|\bpty\b|rm\s+-rf",
    "the network": r"\.(connect|bind|send|sendall|recv)\(|urllib\.request|\brequests\.|ClientSession|\bsocket\.",
    "pictures with scripts": r"<script|\bonload\s*=|\bonerror\s*=",
    "hidden text": r"base64\.b64decode|codecs\.decode|\bfromhex\(",
}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a checkout: the publisher packs what git tracks")
@pytest.mark.parametrize("kind", SCANNED)
def test_the_registrys_scanner_finds_nothing(kind: str) -> None:
    found = [
        f"{name}: {match[0].decode(errors='replace')}"
        for name in packed()
        for match in re.finditer(SCANNED[kind].encode(), (ROOT / name).read_bytes())
    ]
    assert found == []


@pytest.mark.parametrize(
    "text",
    [
        "model.eval()",
        "ast.literal_eval(x)",
        "/a/.exec(text)",
        "import pickle",
        'os.environ["A"]',
        "os.getenv('A')",
        "subprocess.run",
        "socket.connect(",
        "f.bind(this)",
        "x.send(",
        "urllib.request",
        "requests.get",
        "aiohttp.ClientSession()",
        '__import__("os")',
        "<svg onload=x>",
    ],
)
def test_the_scan_knows_what_was_reported(text: str) -> None:
    assert any(re.search(pattern, text) for pattern in SCANNED.values())


def test_no_ignored_name_is_left_over() -> None:
    lines = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith("#") and not (ROOT / line).exists()] == []


def test_registry_metadata() -> None:
    """As https://docs.comfy.org/registry/specifications asks for it."""
    project = pyproject()["project"]
    assert re.fullmatch(r"[a-z](?:[a-z0-9]|[-_.](?=[a-z0-9])){0,98}", project["name"])
    assert "comfyui" not in project["name"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", project["version"])
    assert (ROOT / project["license"]["file"]).is_file()
    assert {"Repository", "Documentation", "Bug Tracker"} <= project["urls"].keys()
    assert "Operating System :: OS Independent" in project["classifiers"]
    gpus = {name.removeprefix("Environment :: GPU :: ") for name in project["classifiers"] if " GPU " in name}
    assert gpus == {"NVIDIA CUDA", "AMD ROCm", "Intel Arc", "Apple Metal"}, "the registry's own list of names"
    comfy = pyproject()["tool"]["comfy"]
    assert comfy["requires-comfyui"] == ">=0.3.64"
    assert comfy["PublisherId"] and comfy["DisplayName"]
    raw = project["urls"]["Repository"].replace("github.com", "raw.githubusercontent.com") + "/main/"
    for key, ratio, largest in (("Icon", 1, 400), ("Banner", 21 / 9, 1260)):
        with Image.open(ROOT / comfy[key].removeprefix(raw)) as picture:
            assert picture.format == "PNG"
            assert picture.width <= largest
            assert picture.width / picture.height == ratio
    # The pack exports WEB_DIRECTORY; both together would load every script twice.
    assert "web" not in comfy


def test_test_environment_is_pinned() -> None:
    lines = requirement_lines("requirements-dev.txt")
    assert lines
    assert all("==" in line.split(";")[0] for line in lines)
