"""Which module of the pack imports which, read from the source, and the picture of it in CONTRIBUTING.md."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
ROOMS = ("nodes", "p3s")
BEGIN, END = "<!-- made by tests/tools/generate.py imports -->\n", "<!-- end -->\n"

Graph = dict[str, set[str]]


def module_name(file: Path) -> str:
    parts = file.relative_to(REPO).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported(file: Path) -> Iterator[str]:
    """Full names of what a file imports, wherever in it: modules, and names in them that may be modules."""
    package = list(file.relative_to(REPO).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            base = ".".join(start + ([node.module] if node.module else []))
            yield from (f"{base}.{alias.name}" if base else alias.name for alias in node.names)


def import_graph() -> Graph:
    """module -> the modules of the pack that it imports. Entry points (__init__ of nodes, __main__) are left out."""
    files = {module_name(file): file for room in ROOMS for file in sorted((REPO / room).rglob("*.py"))}
    graph: Graph = {}
    for name, file in files.items():
        if name in ROOMS or name.endswith("__main__"):
            continue
        found = set()
        for full in imported(file):
            target = next((t for t in (full, full.rpartition(".")[0]) if t in files), None)
            if target is not None and target not in (name, *ROOMS):
                found.add(target)
        graph[name] = found
    return graph


def rooms(graph: Graph) -> Graph:
    """The same with each folder as one box, and the files beside the folders as another (nodes, p3s)."""
    folders = {name.rpartition(".")[0] for name in graph}

    def room(name: str) -> str:
        return max((folder for folder in folders if f"{name}.".startswith(f"{folder}.")), key=len)

    merged: Graph = {}
    for name, targets in graph.items():
        merged.setdefault(room(name), set()).update(room(target) for target in targets)
    return {name: targets - {name} for name, targets in merged.items()}


def reachable(graph: Graph, name: str) -> set[str]:
    found: set[str] = set()
    waiting = list(graph[name])
    while waiting:
        target = waiting.pop()
        if target not in found:
            found.add(target)
            waiting.extend(graph[target])
    return found


def without_shortcuts(graph: Graph) -> Graph:
    """The arrows that no longer way replaces. The graph must not have a cycle."""
    below = {name: reachable(graph, name) for name in graph}
    return {
        name: {target for target in targets if not any(target in below[other] for other in targets - {target})}
        for name, targets in graph.items()
    }


def box(name: str) -> str:
    return name.replace(".", "_")


def title(name: str) -> str:
    return name.rpartition(".")[2] if "." in name else f"{name}/*.py"


def mermaid() -> str:
    every = rooms(import_graph())
    every.pop("p3s")  # errors, files and other things that all may import
    graph = without_shortcuts({name: targets - {"p3s"} for name, targets in every.items()})
    lines = ["```mermaid", "flowchart LR"]
    for folder in ROOMS:
        names = sorted(name for name in graph if f"{name}.".startswith(f"{folder}."))
        lines += [f"  subgraph {folder}_folder[{folder}]"]
        lines += [*(f'    {box(name)}["{title(name)}"]' for name in names), "  end"]
    lines += [f"  {box(name)} --> {box(target)}" for name in sorted(graph) for target in sorted(graph[name])]
    return "\n".join([*lines, "```"]) + "\n"


def with_picture(page: str) -> str:
    """CONTRIBUTING.md with the picture redrawn between its two marks."""
    before, rest = page.split(BEGIN)
    return before + BEGIN + mermaid() + END + rest.split(END)[1]
