"""The converter gives what the real editor queues: for a node of each kind, and for every example workflow."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from host.client import Client
from host.hosts import REPO
from host.server import Server
from host.workflow import to_prompt

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = [pytest.mark.browser, pytest.mark.slow]

CORE = [
    "LoadImage",
    "LoadImageMask",
    "KSampler",
    "KSamplerAdvanced",
    "SaveImage",
    "CLIPTextEncode",
    "CheckpointLoaderSimple",
    "CLIPVisionLoader",
    "EmptyLatentImage",
    "LoraLoader",
    "ControlNetLoader",
    "ControlNetApplyAdvanced",
    "ImageScale",
]
READY = "() => window.LiteGraph?.registered_node_types?.KSampler && window.app?.graph"
QUEUE = "async () => { const p = await app.graphToPrompt(); return {saved: p.workflow, prompt: p.output}; }"
# A node alone has no links for its required inputs; the comparison is about the rest.
ADD = "types => { app.graph.clear(); for (const type of types) app.graph.add(LiteGraph.createNode(type)); }"


@pytest.fixture
def page(server: Server, client: Client) -> Iterator[Page]:
    sync_api = pytest.importorskip("playwright.sync_api")
    browser = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if not browser:
        pytest.skip("no browser on this machine; CHROMIUM names one")
    client.upload_image(np.zeros((16, 16, 3), np.uint8), "black.png")
    for name in ("sd15-slim", "lora-slim", "controlnet-slim", "clip-vision"):
        server.model(name)
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox", "--disable-gpu"])
        page = chromium.new_page()
        page.goto(client.url, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=120_000)
        page.wait_for_timeout(1000)  # the editor loads its first workflow a moment after it is ready
        yield page
        chromium.close()


def values(prompt: dict[str, Any]) -> dict[str, Any]:
    """Each node's inputs that are no links."""
    return {
        node_id: {key: value for key, value in node["inputs"].items() if not isinstance(value, list)}
        for node_id, node in prompt.items()
    }


def test_the_editor_queues_the_same_values(page: Page, client: Client) -> None:
    info = client.object_info()
    types = CORE + sorted(name for name in info if name.startswith("P3S_"))
    assert len(types) > len(CORE)
    page.evaluate(ADD, types)
    queued = page.evaluate(QUEUE)
    assert len(queued["saved"]["nodes"]) == len(types)
    lonely = json.loads(json.dumps(info))
    for node in queued["saved"]["nodes"]:
        required = lonely[node["type"]]["input"]["required"]
        for entry in node.get("inputs", []):
            if not entry.get("widget"):
                required.pop(entry["name"], None)
    for kind in lonely.values():
        kind.pop("input_order", None)
    assert values(to_prompt(queued["saved"], lonely)) == values(queued["prompt"])


def declared(node: dict[str, Any], info: dict[str, Any]) -> dict[str, Any]:
    known = set().union(*info[node["class_type"]]["input"].values())
    return {name: value for name, value in node["inputs"].items() if name in known}


def test_the_editor_queues_the_examples_the_same(page: Page, client: Client) -> None:
    info = client.object_info()
    files = sorted((REPO / "example_workflows").glob("*.json"))
    if not files:
        pytest.skip("no example workflows yet")
    for file in files:
        saved = json.loads(file.read_text(encoding="utf-8"))
        page.evaluate("async workflow => { await app.loadGraphData(workflow); }", saved)
        queued = page.evaluate(QUEUE)
        # The editor also queues values of its own widgets, such as Preview as Text's, which the node does not take.
        expected = {
            node_id: {"class_type": node["class_type"], "inputs": declared(node, info)}
            for node_id, node in queued["prompt"].items()
        }
        assert to_prompt(saved, info) == expected, file.name


def test_a_releases_workflows_keep_their_links_and_values_in_the_editor(page: Page, client: Client) -> None:
    """Their sockets are found by name and place, so an input that has moved would take another one's link."""
    info = client.object_info()
    files = sorted((REPO / "tests" / "data").glob("workflows_*/*.json"))
    assert files
    for file in files:
        saved = json.loads(file.read_text(encoding="utf-8"))
        before = to_prompt(saved, info)
        page.evaluate("async workflow => { await app.loadGraphData(workflow); }", saved)
        now = page.evaluate(QUEUE)["prompt"]
        for node_id, node in before.items():
            kept = {name: now[node_id]["inputs"].get(name) for name in node["inputs"]}
            assert kept == node["inputs"], (file, node["class_type"])
