"""From a workflow as the editor saves it to the graph that POST /prompt takes, the way the editor's Queue button does.

    graph = to_prompt(json.loads(path.read_text()), client.object_info())

Served: links, Reroute, notes, muted nodes, widget values by position with the values that are no inputs (what to do
with a seed after a run, upload buttons). Refused with WorkflowError: bypassed nodes, subgraphs, primitive nodes, node
types that the host does not know, more widget values than the node has widgets.
"""

from __future__ import annotations

from typing import Any

from host.client import Graph

WIDGET_TYPES = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
SEED_NAMES = {"seed", "noise_seed"}
UPLOADS = {"image_upload", "animated_image_upload", "video_upload", "audio_upload"}
COMMENTS = {"Note", "MarkdownNote"}
MUTED, BYPASSED = 2, 4


class WorkflowError(ValueError):
    """The workflow cannot become a prompt; the message names the node."""


def widget_names(info: dict[str, Any]) -> list[str | None]:
    """Input names in the order of widgets_values, for one node of /object_info; None where a value is no input."""
    names: list[str | None] = []
    for group in ("required", "optional"):
        inputs = info["input"].get(group, {})
        uploads = 0
        for name in info.get("input_order", {}).get(group) or inputs:
            kind, options = inputs[name][0], (inputs[name][1:] or [{}])[0]
            if not is_widget(kind, options):
                continue
            names.append(name)
            control = options.get("control_after_generate")
            if control or (control is None and kind == "INT" and name in SEED_NAMES):
                names.append(None)
            uploads += group == "required" and any(options.get(flag) for flag in UPLOADS)
        names += [None] * min(uploads, 1)  # the editor adds one upload button, after the required inputs
    return names


def is_widget(kind: Any, options: dict[str, Any]) -> bool:
    if options.get("forceInput") or options.get("rawLink"):
        return False
    # A widget type of a pack's own (the point editor) has no input socket.
    return isinstance(kind, list) or kind in WIDGET_TYPES or bool(options.get("socketless"))


def _widget_values(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    values = node.get("widgets_values") or []
    names = widget_names(info)
    if isinstance(values, dict):
        return {name: values[name] for name in names if name in values}
    if len(values) > len(names):
        raise WorkflowError(f"{_title(node)} has {len(values)} widget values, the host's node {len(names)}: {names}")
    result = {name: value for name, value in zip(names, values, strict=False) if name}
    for name in filter(None, names[len(values) :]):  # a widget newer than the workflow: the editor takes its default
        spec = {**info["input"].get("optional", {}), **info["input"].get("required", {})}[name]
        options = spec[1] if len(spec) > 1 else {}
        if "default" in options:
            result[name] = options["default"]
        elif choices := spec[0] if isinstance(spec[0], list) else options.get("options"):
            result[name] = choices[0]
    return result


def _title(node: dict[str, Any]) -> str:
    return f"node {node['id']} ({node['type']})"


class _Links:
    """Where each link comes from, seen through Reroute nodes."""

    def __init__(self, workflow: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> None:
        self.nodes = nodes
        self.origin: dict[Any, tuple[str, int]] = {}
        for link in workflow.get("links", []):
            if isinstance(link, dict):
                self.origin[link["id"]] = (str(link["origin_id"]), link["origin_slot"])
            else:
                self.origin[link[0]] = (str(link[1]), link[2])

    def source(self, link: Any, user: dict[str, Any]) -> tuple[str, int] | None:
        """The node and output at a link's start; None when that is muted or nothing."""
        while link is not None:
            if link not in self.origin:
                raise WorkflowError(f"{_title(user)} refers to link {link}, which does not exist")
            node_id, slot = self.origin[link]
            node = self.nodes.get(node_id)
            if node is None:
                raise WorkflowError(f"{_title(user)} is linked to node {node_id}, which does not exist")
            if node.get("mode", 0) == MUTED:
                return None
            if node["type"] != "Reroute":
                return node_id, slot
            link = node["inputs"][0].get("link")
        return None


def to_prompt(workflow: dict[str, Any], object_info: dict[str, Any]) -> Graph:
    """The API-format graph of a saved workflow, for the host whose /object_info is given."""
    nodes = {str(node["id"]): node for node in workflow["nodes"]}
    links = _Links(workflow, nodes)
    graph: Graph = {}
    for node_id, node in nodes.items():
        if node["type"] in COMMENTS or node["type"] == "Reroute" or node.get("mode", 0) == MUTED:
            continue
        if node.get("mode", 0) == BYPASSED:
            raise WorkflowError(f"{_title(node)} is bypassed, which this converter does not follow")
        info = object_info.get(node["type"])
        if info is None:
            raise WorkflowError(f"{_title(node)}: the host has no such node type")
        inputs = _widget_values(node, info)
        required = info["input"].get("required", {})
        for entry in node.get("inputs", []):
            if entry.get("link") is None:
                continue
            source = links.source(entry["link"], node)
            if source is not None:
                inputs[entry["name"]] = list(source)
            elif entry["name"] in required and entry["name"] not in inputs:
                raise WorkflowError(f"{_title(node)}: its required input {entry['name']} comes from a muted node")
        missing = [name for name in required if name not in inputs]
        if missing:
            raise WorkflowError(f"{_title(node)} has no value for {', '.join(missing)}")
        graph[node_id] = {"class_type": node["type"], "inputs": inputs}
    return graph
