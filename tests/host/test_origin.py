"""Where the vision model of a run comes from, told of prompts as the editor tells it of graphs (origin.test.mjs)."""

from __future__ import annotations

import json
from pathlib import Path

from host.inside import Inside
from host.job import DATA


def test_a_prompt_gives_what_the_editor_tells_of_its_graph(inside: Inside) -> None:
    cases = json.loads((DATA / "origins.json").read_text(encoding="utf-8"))
    facts = inside.run(Path(__file__).with_name("inside_origin.py"), {"cases": cases})
    assert facts["found"] == facts["expected"]
    assert facts["of no node of the prompt"] is None
