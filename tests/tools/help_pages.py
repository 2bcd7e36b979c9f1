"""The rows of a help page's list of inputs, made from the node's schema; more words to a row are written by hand.

No tables: the panel in which ComfyUI shows a page is too narrow for them.
"""

from __future__ import annotations

import re
from typing import Any

from host.schemas import inputs_of

BEGIN = '<!-- lines with "- " are made by tests/tools/generate.py pages, indented ones by hand -->\n'
END = "<!-- end -->\n"


def brackets(kind: Any, options: dict[str, Any]) -> str | None:
    """What a row gives in brackets: the default, then the range or the choices; "" for nothing. None where the schema
    does not say it: files of a folder, and an editor's points."""
    choices = kind if isinstance(kind, list) else options.get("options")
    default = options.get("default")
    if options.get("socketless") or (choices is not None and default is None):
        return None
    if kind == "INT":
        return f"{default}; {options['min']}..{options['max']}"
    if kind == "FLOAT":
        return f"{default:g}; {options['min']:g}..{options['max']:g}"
    if kind == "BOOLEAN":
        return str(default).lower()
    if choices is not None:
        return f"{default}; {', '.join(choices)}"
    return "" if default is None else str(default or "empty")


def row(name: str, required: bool, kind: Any, options: dict[str, Any], before: str = "") -> str:
    """The line of an input; ``before`` is what an older one has in brackets."""
    found = brackets(kind, options)
    given = before if found is None else found or ("" if required else "not connected")
    return f"- `{name}`{f' ({given})' if given else ''}: {options['tooltip']}\n"


def with_rows(page: str, info: dict[str, Any]) -> str:
    """A help page with its inputs' lines as the schema (an entry of GET /object_info) has them."""
    before, rest = page.split(BEGIN)
    block, after = rest.split(END)
    own = {}  # name -> (brackets, what is written by hand below the line)
    for match in re.finditer(r"- `(\w+)`(?: \((.*?)\))?: .*\n((?:(?!- `).*\n)*)", block):
        own[match[1]] = match[2] or "", match[3]
    lines = []
    for name, *schema in inputs_of(info):
        given, words = own.get(name, ("", ""))
        lines.append(row(name, *schema, given) + words)
    return before + BEGIN + "".join(lines) + END + after
