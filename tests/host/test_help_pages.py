"""Every node has a help page, and its list of inputs says what the schema says: names, order, defaults, ranges."""

from __future__ import annotations

import re
from typing import Any

import pytest
from host.client import Client
from host.hosts import REPO
from host.server import PACK

FOLDER = REPO / "web" / "docs"
NODES = sorted(file.stem for file in FOLDER.glob("P3S_*.md"))


def page(node: str) -> str:
    return (FOLDER / f"{node}.md").read_text(encoding="utf-8")


def entries(text: str, heading: str) -> list[tuple[str, str, str]]:
    """The list under a heading, "- `name` (in brackets): meaning", as (names, brackets, meaning). No tables: the panel
    in which ComfyUI shows a page is too narrow for them."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("- ")]
    found = [re.fullmatch(r"- (`\w+`(?:, `\w+`)*)(?: \((.*?)\))?: (.*)", line) for line in lines]
    assert all(found), lines
    return [(match[1], match[2] or "", match[3]) for match in found if match]


def inputs_of(info: dict[str, Any]) -> dict[str, tuple[Any, dict[str, Any]]]:
    """name -> (type, options), in the order of the node."""
    found = {}
    for kind in ("required", "optional"):
        for name in info["input_order"].get(kind, []):
            spec = info["input"][kind][name]
            found[name] = (spec[0], spec[1] if len(spec) > 1 else {})
    return found


def expected(kind: Any, options: dict[str, Any]) -> tuple[str, ...]:
    """What a page may give in brackets."""
    choices = kind if isinstance(kind, list) else options.get("options")
    if kind in ("INT", "FLOAT"):
        low, high = options["min"], options["max"]
        return tuple(f"{options['default']}; {bounds}" for bounds in (f"{low:g}..{high:g}", f"{low}..{high}"))
    if kind == "BOOLEAN":
        return (str(options["default"]).lower(),)
    if choices is not None and "default" in options:
        return (f"{options['default']}; {', '.join(choices)}",)
    if kind == "STRING" and "default" in options and not options.get("forceInput"):
        return (options["default"] or "empty",)
    return ("", "not connected")


def test_every_node_has_a_page_and_every_page_a_node(client: Client) -> None:
    assert sorted(name for name in client.object_info() if name.startswith("P3S_")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_the_host_serves_the_page(client: Client, node: str) -> None:
    assert client.get(f"/extensions/{PACK}/docs/{node}.md").decode() == page(node)


@pytest.mark.parametrize("node", NODES)
def test_the_page_agrees_with_the_schema(client: Client, node: str) -> None:
    info, text = client.object_info(node), page(node)
    assert text.startswith(f"# {info['display_name']}\n")
    listed, inputs = entries(text, "Inputs"), inputs_of(info)
    assert sorted(name for name, _, _ in listed) == sorted(f"`{name}`" for name in inputs)
    for name, brackets, meaning in listed:
        kind, options = inputs[name.strip("`")]
        assert len(meaning) > 15
        if brackets.startswith("files of") or options.get("socketless"):
            continue  # depends on the folder; the editor's value is no text for people
        assert brackets in expected(kind, options), name
    named = [output for names, _, _ in entries(text, "Outputs") for output in re.findall(r"`(\w+)`", names)]
    assert named == info["output_name"]
