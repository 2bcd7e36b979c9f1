"""Building workflows as the editor saves them: nodes in columns, columns in groups, links by keyword.

b = Workflow(info)                                   # info: GET /object_info of a host
b.group("1  Models")
b.column(420)                                        # what follows goes into a column of this width, top down
base = b.add("CheckpointLoaderSimple", 98, ckpt_name="model.safetensors")
b.add("CLIPTextEncode", 110, title="Prompt", clip=base["CLIP"], text="a photo")
b.saved()                                            # what goes into the file
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from host.workflow import is_widget, widget_names

GAP = 60  # between nodes of a column, with the title of the lower one
BESIDE = 50  # between columns
APART = 60  # between groups
PAD, HEAD = 20, 90  # a group's border, and its head above the nodes' titles
BLUE, BROWN = "#3f789e", ("#432", "#653")
SEEDS = ("seed", "noise_seed")


@dataclass(frozen=True)
class Added:
    """A node; ``node["MODEL"]`` is its output of that name."""

    id: int
    outputs: dict[str, int]

    def __getitem__(self, name: str) -> tuple[int, int]:
        return self.id, self.outputs[name]


class Workflow:
    """A workflow under construction."""

    def __init__(self, info: dict[str, Any]) -> None:
        self._info = info
        self._nodes: list[dict[str, Any]] = []
        self._links: list[list[Any]] = []
        self._groups: list[dict[str, Any]] = []
        self.after_a_run = "randomize"  # what becomes of a seed then; "fixed" where pictures are compared
        self._right = -APART  # of all that is there
        self._x = self._y = self._width = 0

    def group(self, title: str) -> None:
        """Begin a group to the right of the last one."""
        left = self._right + APART if self._groups else 0
        box = [left - PAD, -HEAD, 0, 0]
        self._groups.append(
            {"id": len(self._groups) + 1, "title": title, "bounding": box, "color": BLUE, "font_size": 24, "flags": {}}
        )
        self._right = left - BESIDE

    def column(self, width: int) -> None:
        """Begin a column to the right of the last one of this group."""
        self._x, self._y, self._width = self._right + BESIDE, 0, width
        self._right = self._x + width

    def below(self, title: str) -> None:
        """What follows goes to the end of the column of the node of this title."""
        (place,) = (node["pos"] for node in self._nodes if node.get("title") == title)
        column = [node for node in self._nodes if node["pos"][0] == place[0]]
        self._x, self._width = place[0], column[-1]["size"][0]
        self._y = column[-1]["pos"][1] + column[-1]["size"][1] + GAP

    def room(self, height: int) -> None:
        """Leave this much more below the last node, which grows while it runs."""
        self._y += height
        box = self._groups[-1]["bounding"]
        box[3] = max(box[3], self._y - box[1])

    def note(self, title: str, height: int, text: str) -> None:
        """A MarkdownNote. Lines of a paragraph or of an entry of a list are one line there."""
        node = self._place("MarkdownNote", height, title)
        node |= {"inputs": [], "outputs": [], "properties": {}, "widgets_values": [flowing(text)]}
        node["color"], node["bgcolor"] = BROWN

    def add(self, kind: str, height: int, title: str = "", /, **inputs: Any) -> Added:
        """Add a node below the last one. An input is a value, or an output of another node, which links it."""
        info = self._info[kind]
        specs = {**info["input"].get("required", {}), **info["input"].get("optional", {})}
        assert inputs.keys() <= specs.keys(), (kind, inputs.keys() - specs.keys())
        node = self._place(kind, height, title)
        outputs = [
            {"name": name, "type": type_, "links": None}
            for name, type_ in zip(info["output_name"], info["output"], strict=True)
        ]
        node |= {"inputs": [], "outputs": outputs, "properties": {"Node name for S&R": kind}, "widgets_values": []}
        optional = info["input"].get("optional", {})
        sockets = [name for name, spec in specs.items() if not is_widget(spec[0], (spec[1:] or [{}])[0])]
        for name in [*sockets, *(name for name in specs if name not in sockets)]:
            type_ = specs[name][0]
            entry: dict[str, Any] = {"name": name, "type": "COMBO" if isinstance(type_, list) else type_}
            if name in optional:
                entry["shape"] = 7
            if name not in sockets:
                entry["widget"] = {"name": name}
            link = inputs.get(name)
            entry["link"] = self._link(link, node, len(node["inputs"])) if isinstance(link, tuple) else None
            node["inputs"].append(entry)
        last = None
        for name in widget_names(info):
            # Values that are no inputs belong to a seed, or to the upload button.
            value = inputs.get(name) if name else self.after_a_run if last in SEEDS else "image"
            if name and (name not in inputs or isinstance(value, tuple)):
                value = _default(specs[name])
            node["widgets_values"].append(value)
            last = name
        return Added(node["id"], {output["name"]: slot for slot, output in enumerate(outputs)})

    def keep(self, node: Added, **properties: Any) -> None:
        """What the editor keeps with a node beside its widgets."""
        self._nodes[node.id - 1]["properties"] |= properties

    def _link(self, source: tuple[int, int], target: dict[str, Any], slot: int) -> int:
        origin = self._nodes[source[0] - 1]["outputs"][source[1]]
        number = len(self._links) + 1
        self._links.append([number, *source, target["id"], slot, origin["type"]])
        origin["links"] = [*(origin["links"] or []), number]
        return number

    def _place(self, kind: str, height: int, title: str) -> dict[str, Any]:
        node: dict[str, Any] = {
            "id": len(self._nodes) + 1,
            "type": kind,
            "pos": [self._x, self._y],
            "size": [self._width, height],
            "flags": {},
            "order": len(self._nodes),
            "mode": 0,
        }
        if title:
            node["title"] = title
        self._nodes.append(node)
        self._y += height + GAP
        box = self._groups[-1]["bounding"]
        box[2] = max(box[2], self._x + self._width + PAD - box[0])
        box[3] = max(box[3], self._y - box[1])
        return node

    def saved(self, scale: float = 0.9) -> dict[str, Any]:
        """The workflow as its file holds it; ``scale``: how large it is shown at first."""
        return {
            "revision": 0,
            "last_node_id": len(self._nodes),
            "last_link_id": len(self._links),
            "nodes": self._nodes,
            "links": self._links,
            "groups": self._groups,
            "config": {},
            "extra": {"ds": {"scale": scale, "offset": [100, 210]}},
            "version": 0.4,
        }


def flowing(text: str) -> str:
    """A text without its own line breaks inside of paragraphs, entries and rows."""
    return re.sub(r"(?<=[^\n|])\n(?![\n|]|- |\d+\. )", " ", text.strip())


def _default(spec: list[Any]) -> Any:
    options = spec[1] if len(spec) > 1 else {}
    if "default" in options:
        return options["default"]
    choices = spec[0] if isinstance(spec[0], list) else options.get("options")
    return choices[0] if choices else ""
