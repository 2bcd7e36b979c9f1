"""Every node has a help page, and its list of inputs is made from the schema: names, order, defaults, ranges, texts."""

from __future__ import annotations

import re
from typing import Any

import pytest
from host.client import Client
from host.hosts import REPO
from host.inside import Inside
from host.schemas import inputs_of, read_schemas
from host.server import PACK
from tools.help_pages import BEGIN, END, with_rows

FOLDER = REPO / "web" / "docs"
NODES = sorted(file.stem for file in FOLDER.glob("P3S_*.md"))


def page(node: str) -> str:
    return (FOLDER / f"{node}.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def schemas(inside: Inside) -> dict[str, Any]:
    return read_schemas(inside)


def entries(text: str, heading: str) -> list[tuple[str, str, str]]:
    """The list under a heading, "- `name` (in brackets): meaning", as (names, brackets, meaning). No tables: the panel
    in which ComfyUI shows a page is too narrow for them."""
    section = text.split(f"## {heading}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line for line in section.splitlines() if line.startswith("- ")]
    found = [re.fullmatch(r"- (`\w+`(?:, `\w+`)*)(?: \((.*?)\))?: (.*)", line) for line in lines]
    assert all(found), lines
    return [(match[1], match[2] or "", match[3]) for match in found if match]


def test_every_node_has_a_page_and_every_page_a_node(client: Client) -> None:
    assert sorted(name for name in client.object_info() if name.startswith("P3S_")) == NODES


@pytest.mark.parametrize("node", NODES)
def test_the_host_serves_the_page(client: Client, node: str) -> None:
    assert client.get(f"/extensions/{PACK}/docs/{node}.md").decode() == page(node)


@pytest.mark.parametrize("node", NODES)
def test_the_page_agrees_with_the_schema(schemas: dict[str, Any], node: str) -> None:
    info, text = schemas[node], page(node)
    assert text.startswith(f"# {info['display_name']}\n")
    assert with_rows(text, info) == text, "run `python tests/tools/generate.py pages`"
    assert [name.strip("`") for name, _, _ in entries(text, "Inputs")] == [name for name, *_ in inputs_of(info)]
    assert all(len(meaning) > 15 for _, _, meaning in entries(text, "Inputs"))
    named = [output for names, _, _ in entries(text, "Outputs") for output in re.findall(r"`(\w+)`", names)]
    assert named == info["output_name"]


SCHEMA = {
    "input_order": {"required": ["seed", "rate", "kind"], "optional": ["flag", "note", "mask", "text", "file"]},
    "input": {
        "required": {
            "seed": ["INT", {"default": 0, "min": 0, "max": 2**64 - 1, "tooltip": "Seed."}],
            "rate": ["FLOAT", {"default": 1.0, "min": 1e-8, "max": 10.0, "tooltip": "Rate."}],
            "kind": ["COMBO", {"default": "a", "options": ["a", "b"], "tooltip": "Kind."}],
        },
        "optional": {
            "flag": ["BOOLEAN", {"default": False, "tooltip": "Flag."}],
            "note": ["STRING", {"default": "", "tooltip": "Note."}],
            "mask": ["MASK", {"tooltip": "Mask."}],
            "text": ["STRING", {"default": "x", "tooltip": "Text."}],
            "file": [["one.png"], {"tooltip": "File."}],
        },
    },
}


def test_rows_are_made_from_a_schema_and_what_is_written_by_hand_stays() -> None:
    page = f"Before.\n{BEGIN}- `rate` (2): Old.\n  By hand.\n- `gone`: Old.\n- `file` (files): Old.\n{END}After.\n"
    rows = """- `seed` (0; 0..18446744073709551615): Seed.
- `rate` (1; 1e-08..10): Rate.
  By hand.
- `kind` (a; a, b): Kind.
- `flag` (false): Flag.
- `note` (empty): Note.
- `mask` (not connected): Mask.
- `text` (x): Text.
- `file` (files): File.
"""
    assert with_rows(page, SCHEMA) == f"Before.\n{BEGIN}{rows}{END}After.\n"
