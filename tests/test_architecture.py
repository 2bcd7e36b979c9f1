"""Who may know whom, and CONTRIBUTING.md: its picture is that of the code, and the tests that it names exist."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tools.import_graph import REPO, import_graph, imported, reachable, rooms, with_picture

PAGE = (REPO / "CONTRIBUTING.md").read_text(encoding="utf-8")
# Of ComfyUI, and what else p3s may use: no third world comes in unseen.
PUBLIC_HOST = {"comfy_api", "folder_paths"}
LIBRARIES = {
    "accelerate",
    "bitsandbytes",
    "diffusers",
    "numpy",
    "PIL",
    "safetensors",
    "scipy",
    "skimage",
    "torch",
    "tqdm",
    "transformers",
}


def foreign(folder: str, pattern: str = "**/*.py") -> dict[str, set[str]]:
    """file -> first names of the modules that it imports from outside the pack and the standard library."""
    known = {*sys.stdlib_module_names, "p3s", "nodes"}
    files = sorted((REPO / folder).glob(pattern))
    return {str(file.relative_to(REPO)): {name.split(".")[0] for name in imported(file)} - known for file in files}


def test_p3s_imports_neither_comfyui_nor_the_nodes() -> None:
    assert {file: names - LIBRARIES for file, names in foreign("p3s").items() if names - LIBRARIES} == {}
    graph = import_graph()
    assert [name for name in graph if name.startswith("p3s") and any(t.startswith("nodes") for t in graph[name])] == []


def test_nodes_touch_comfyui_through_its_public_interface_or_nodes_host() -> None:
    allowed = LIBRARIES | PUBLIC_HOST
    assert {file: names - allowed for file, names in foreign("nodes", "*.py").items() if names - allowed} == {}


def test_no_module_imports_itself_through_others() -> None:
    graph = import_graph()
    assert [name for name in graph if name in reachable(graph, name)] == []
    boxes = rooms(graph)
    assert [name for name in boxes if name in reachable(boxes, name)] == []


def walls() -> dict[str, set[str]]:
    """What each folder of p3s may import besides the files beside the folders, by the page's table."""
    table = PAGE.split("| folder | its sentence | may import |\n|---|---|---|\n")[1].split("\n\n")[0]
    found: dict[str, set[str]] = {"p3s": set()}
    for row in table.splitlines():
        folders, _, may = (cell.strip() for cell in row.strip("|").split("|"))
        for name in re.findall(r"`(\w+)/`", folders):  # of several in a row, a later one may import an earlier one
            named = found if may == "all above" else [f"p3s.{other}" for other in may.split(", ") if other]
            found[f"p3s.{name}"] = {"p3s", *named}
    return found


def test_every_folder_of_p3s_keeps_to_its_walls() -> None:
    boxes = rooms(import_graph())
    found = {name: targets for name, targets in boxes.items() if name.split(".")[0] == "p3s"}
    allowed = walls()
    assert found.keys() == allowed.keys()
    assert {name: found[name] - allowed[name] for name in found if found[name] - allowed[name]} == {}
    assert len(boxes) <= 16  # a picture that is read in a minute


def test_the_picture_is_that_of_the_code() -> None:
    assert with_picture(PAGE) == PAGE, "run `python tests/tools/generate.py imports`"


def test_what_docstrings_point_to_exists() -> None:
    missing = []
    for file in [*(REPO / "p3s").rglob("*.py"), *(REPO / "nodes").rglob("*.py")]:
        for module, name in re.findall(
            r":\w+:`((?:(?:p3s|nodes)\.)(?:[a-z_]+\.)*)([A-Za-z_]+)", file.read_text("utf-8")
        ):
            target = REPO / (module.rstrip(".").replace(".", "/") + ".py")
            if not target.is_file() or not re.search(rf"(def|class) {name}\b", target.read_text("utf-8")):
                missing.append(f"{file.name}: {module}{name}")
    assert missing == []


def named_tests() -> list[tuple[str, str]]:
    return re.findall(r"`([\w/]+\.(?:py|mjs))(?:::(\w+))?`", PAGE)


@pytest.mark.parametrize(("file", "test"), [pytest.param(*pair, id="::".join(pair)) for pair in named_tests()])
def test_what_the_page_names_exists(file: str, test: str) -> None:
    path = next((path for path in (REPO / file, Path(__file__).parent / file) if path.is_file()), None)
    assert path is not None, f"there is no {file}"
    assert not test or f"def {test}(" in path.read_text(encoding="utf-8")


def test_every_invariant_names_its_test() -> None:
    section = PAGE.split("## What never changes\n")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and not line.startswith("| what")]
    assert len(rows) >= 10
    assert [row for row in rows if not re.search(r"`[\w/]+\.py::test_\w+`", row)] == []
