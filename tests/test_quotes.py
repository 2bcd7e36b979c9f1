"""Messages that README and the help pages quote are those of the code: a search for one finds what it means."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

REPO = Path(__file__).parents[1]
PAGES = sorted((REPO / "web" / "docs").glob("*.md"))
#: Where the code puts a value. In a quote three dots stand for it, or for what is left out.
VALUE = "\0"
#: Of ComfyUI itself, as README says there.
OTHERS = {"clip vision file is invalid and does not contain a valid vision model", "Invalid input"}


def quotes() -> Iterator[tuple[str, str]]:
    """(page, quote): in bold at the beginning of a line under a page's last heading, in italics in README's table."""
    for page in PAGES:
        section = page.read_text(encoding="utf-8").partition("## When something is wrong\n")[2]
        for quoted in re.findall(r"^- (\*\*.+?\*\*(?: or \*\*.+?\*\*)*)", section, re.MULTILINE):
            for quote in re.findall(r"\*\*(.+?)\*\*", quoted):
                yield page.stem, quote
    table = (REPO / "README.md").read_text(encoding="utf-8").split("## Troubleshooting")[1].split("\n## ")[0]
    for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE):
        for quote in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", row):
            if quote not in OTHERS:
                yield "README", quote


def texts_of_python(file: Path) -> Iterator[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    explanations = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if id(node) in explanations:
            continue
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else VALUE for part in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def texts() -> list[str]:
    python = [file for folder in ("p3s", "nodes") for file in (REPO / folder).rglob("*.py")]
    found = [text for file in python for text in texts_of_python(file)]
    for file in (REPO / "web").rglob("*.js"):
        found += re.findall(r"'((?:[^'\\\n]|\\.)+)'", file.read_text(encoding="utf-8"))
    return found


#: Some messages name the node that they are about.
NODES = ("Apply P3S", "Apply SSR")
TEXTS = [named for text in texts() for named in (text, *(text.replace(VALUE, node) for node in NODES if VALUE in text))]
QUOTES = list(quotes())


def is_said(quote: str) -> bool:
    """Whether one text of the code has the parts of a quote, in their order, and a value or more between them."""
    parts = [re.escape(part.strip()) for part in quote.split("...") if part.strip()]
    return any(re.search(r".+?".join(parts), text, re.DOTALL) for text in TEXTS)


def test_the_pages_quote_messages() -> None:
    assert len(QUOTES) > 50
    assert {page for page, _ in QUOTES} >= {page.stem for page in PAGES}


@pytest.mark.parametrize(("page", "quote"), QUOTES)
def test_what_is_quoted_is_said(page: str, quote: str) -> None:
    assert is_said(quote), f"{page} quotes {quote!r}, which no message of the code says"


@pytest.mark.parametrize("quote", ["this message does not exist", "vae ... is empty", "cannot be written (No space"])
def test_a_quote_of_nothing_is_noticed(quote: str) -> None:
    assert not is_said(quote)
