"""Where a model comes from: the nodes before an input of a running node.

``web/picker/origin.js`` tells the same of a graph that is being edited. Equal origins give equal models, as the host's
own cache has it: the same nodes, with the same values, linked in the same way. Their ids do not matter, so that an
origin means the same in every workflow.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

#: Nodes that give the same models whatever their inputs are.
SAME_MODELS = ("P3S_ToyWorld",)


def origin_of(prompt: Mapping[str, Any], node_id: str, name: str) -> str | None:
    """What is linked to an input of a node of a prompt in the host's API format, as ``origin_text`` of

    {"slot": of the first node's outputs, "nodes": [[class, {input: value or [number of a node here, slot]}], ...]},

    the nodes in breadth-first order by the inputs' names; values are texts, numbers and booleans. None where nothing is
    linked, and for a node that the prompt does not hold, such as one that another node made in the run.
    """
    link = prompt.get(node_id, {}).get("inputs", {}).get(name)
    if not _is_link(link, prompt):
        return None
    found, nodes = [link[0]], []
    for each in found:  # which grows meanwhile
        kind, given = prompt[each]["class_type"], prompt[each]["inputs"]
        told: dict[str, Any] = {}
        for key in [] if kind in SAME_MODELS else sorted(given):
            value = given[key]
            if _is_link(value, prompt):
                if value[0] not in found:
                    found.append(value[0])
                told[key] = [found.index(value[0]), value[1]]
            elif isinstance(value, (str, int, float)):
                told[key] = value
        nodes.append([kind, told])
    return origin_text({"slot": link[1], "nodes": nodes})


def origin_text(origin: Any) -> str:
    """One text for equal origins."""
    return json.dumps(origin, sort_keys=True)


def origin_here(node: Any, name: str) -> str | None:
    """``origin_of`` an input of a V3 node that is running, with the hidden inputs prompt and unique_id."""
    return origin_of(node.hidden.prompt, node.hidden.unique_id, name) if node.hidden else None


def _is_link(value: Any, prompt: Mapping[str, Any]) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and value[0] in prompt
