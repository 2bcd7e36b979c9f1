"""Every node has a help page, and its table of inputs says what the schema says: names, order, defaults, ranges."""

from __future__ import annotations

import re
from typing import Any

import pytest
from host.client import Client
from host.hosts import REPO
from host.server import PACK

FOLDER = REPO / "web" / "docs"
NODES = sorted(file.stem for file in FOLDER.glob("P3S_*.md"))
SOCKET_DEFAULTS = ("", "not connected")  # what a page may say where there is no value


def page(node: str) -> str:
    return (FOLDER / f"{node}.md").read_text(encoding="utf-8")


def table(text: str, heading: str) -> list[list[str]]:
    """The rows of the table under a heading, without its own head."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return rows[2:]


def inputs_of(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """name -> (type, options), in the order of the node."""
    found = {}
    for kind in ("required", "optional"):
        for name in info["input_order"].get(kind, []):
            spec = info["input"][kind][name]
            found[name] = (spec[0], spec[1] if len(spec) > 1 else {})
    return found


def expected(kind: Any, options: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What a page may give as default and as range."""
    choices = kind if isinstance(kind, list) else options.get("options")
    if kind in ("INT", "FLOAT"):
        return (str(options["default"]),), (
            f"{options['min']:g}..{options['max']:g}",
            f"{options['min']}..{options['max']}",
        )
    if kind == "BOOLEAN":
        return (str(options["default"]).lower(),), ("",)
    if choices is not None and "default" in options:
        return (options["default"],), (", ".join(choices),)
    if kind == "STRING" and "default" in options and not options.get("forceInput"):
        return (options["default"] or "empty",), ("",)
    return SOCKET_DEFAULTS, ("",)


def test_every_node_has_a_page_and_every_page_a_node(client: Client) -> None:
    assert sorted(name for name in client.object_info() if name.startswith("P3S_")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_the_host_serves_the_page(client: Client, node: str) -> None:
    assert client.get(f"/extensions/{PACK}/docs/{node}.md").decode() == page(node)


@pytest.mark.parametrize("node", NODES)
def test_the_page_agrees_with_the_schema(client: Client, node: str) -> None:
    info, text = client.object_info(node), page(node)
    assert text.startswith(f"# {info['display_name']}\n")
    rows, inputs = table(text, "Inputs"), inputs_of(info)
    assert sorted(row[0] for row in rows) == sorted(f"`{name}`" for name in inputs)
    for name, default, values, meaning in rows:
        kind, options = inputs[name.strip("`")]
        assert len(meaning) > 15
        if values.startswith("files of") or options.get("socketless"):
            continue  # depends on the folder; the editor's value is no text for people
        defaults, ranges = expected(kind, options)
        assert default in defaults, name
        assert values in ranges, name
    named = [output for row in table(text, "Outputs") for output in re.findall(r"`(\w+)`", row[0])]
    assert named == info["output_name"]
