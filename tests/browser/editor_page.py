"""One page of the frontend with a Point Picker, and the words the tests speak: click here, what is saved, what is sent.

Where a click must go is computed here from the picture's size and the stage's box, not asked of the editor.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

from host.server import Server

STAGE = ".p3s-stage canvas"
MARGIN = 2  # CSS pixels around a fitted picture
EMPTY_GRAPH = {
    "last_node_id": 0,
    "last_link_id": 0,
    "nodes": [],
    "links": [],
    "groups": [],
    "config": {},
    "extra": {},
    "version": 0.4,
}
SETTINGS = {"Comfy.TutorialCompleted": True, "Comfy.Graph.CanvasInfo": False, "Comfy.Minimap.Visible": False}
# Counts what a page holds on to, to see that a removed node lets go of everything.
COUNT_HOLDS = """
(() => {
  const holds = { intervals: new Set(), observers: new Set(), windowListeners: [] };
  const { setInterval: set, clearInterval: clear } = window;
  window.setInterval = (...args) => { const id = set(...args); holds.intervals.add(id); return id; };
  window.clearInterval = (id) => { holds.intervals.delete(id); clear(id); };
  const Observer = window.ResizeObserver;
  window.ResizeObserver = class extends Observer {
    observe(...args) { holds.observers.add(this); super.observe(...args); }
    disconnect() { holds.observers.delete(this); super.disconnect(); }
  };
  const add = window.addEventListener;
  window.addEventListener = function (name, handler, options) {
    if (this === window && options?.signal) holds.windowListeners.push(options.signal);
    return add.call(this, name, handler, options);
  };
  window.countHolds = () => ({
    intervals: holds.intervals.size,
    observers: holds.observers.size,
    listeners: holds.windowListeners.filter((signal) => !signal.aborted).length
  });
})();
"""


class EditorPage:
    """``value`` and ``points`` read what the graph would save; ``at`` is in 0..1 of the fitted picture."""

    def __init__(self, context: Any, server: Server, renderer: str, pictures: dict[str, tuple[int, int]]) -> None:
        self.context = context
        self.server = server
        self.renderer = renderer
        self.pictures = pictures
        self.errors: list[str] = []
        self.page = context.new_page()
        self.page.on("pageerror", lambda error: self.errors.append(f"{error}\n{error.stack}"))
        self.page.add_init_script(COUNT_HOLDS)
        # Template thumbnails and model checks would ask the internet; nothing of that matters here.
        here = server.client.url
        self.page.route(lambda url: not url.startswith((here, "data:", "blob:")), lambda route: route.abort())

    def open(self) -> None:
        settings = {**SETTINGS, "Comfy.VueNodes.Enabled": self.renderer == "nodes2"}
        for name, value in settings.items():
            self.server.client.post(f"/settings/{name}", value)
        self.page.goto(self.server.client.url)
        self.page.wait_for_function(
            "() => window.app?.graph && window.LiteGraph?.registered_node_types['P3S_PointPicker']"
            " && document.querySelector('#graph-canvas')",
            timeout=60_000,
        )
        # The frontend opens its last workflow late.
        self.page.wait_for_function("() => app.extensionManager?.workflow?.activeWorkflow", timeout=60_000)
        self.still()
        if self.renderer == "nodes2":
            assert self.page.evaluate("() => LiteGraph.vueNodesMode")
        self.errors.clear()  # what the frontend stumbles over by itself while it starts

    def use_renderer(self, renderer: str) -> None:
        """Switch as the settings dialog does, without a reload of the page; ``renderer`` stays the page's own."""
        nodes2 = renderer == "nodes2"
        self.page.evaluate("(on) => app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)", nodes2)
        self.page.wait_for_function("(on) => LiteGraph.vueNodesMode === on", arg=nodes2)
        self.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0] }")
        self.looked_at_graph()
        self.still()

    def fresh(self, picture: str = "square.png") -> None:
        """An empty graph, and one picker that shows a picture."""
        self.errors.clear()
        self.load(EMPTY_GRAPH)
        self.page.evaluate("() => { app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0] }")
        self.add_picker(picture)

    def load(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate("async (workflow) => { await app.loadGraphData(workflow) }", workflow)

    def add(self, kind: str, position: tuple[int, int], widgets: dict[str, Any] | None = None) -> int:
        """Add a node of any kind; returns its id."""
        return self.page.evaluate(
            """([kind, position, widgets]) => {
                const node = LiteGraph.createNode(kind);
                node.pos = position;
                app.graph.add(node);
                for (const widget of node.widgets ?? []) {
                    if (!(widget.name in widgets)) continue;
                    widget.value = widgets[widget.name];
                    widget.callback?.(widget.value);
                }
                app.graph.setDirtyCanvas(true, true);
                return Number(node.id);
            }""",
            [kind, position, widgets or {}],
        )

    def add_picker(self, picture: str = "square.png") -> int:
        self.id = self.add("P3S_PointPicker", (420, 130), {"image": picture})
        self.wait_for_picture(picture)
        return self.id

    def connect(self, source: int, target: int, target_input: str, output: int = 0) -> None:
        self.page.evaluate(
            """([source, output, target, name]) => {
                const node = app.graph.getNodeById(target);
                const slot = node.inputs.findIndex((input) => input.name === name);
                app.graph.getNodeById(source).connect(output, node, slot);
            }""",
            [source, output, target, target_input],
        )

    def wait_for_picture(self, picture: str | tuple[int, int]) -> None:
        self.size = self.pictures[picture] if isinstance(picture, str) else picture
        text = f"{self.size[0]} × {self.size[1]}"
        self.page.wait_for_function(
            "(text) => document.querySelector('.p3s-status')?.textContent.endsWith(text)", arg=text, timeout=30_000
        )
        self.settle()

    # where things are

    def box(self) -> dict[str, float]:
        box = self.page.locator(STAGE).bounding_box()
        assert box and box["width"] > 100 and box["height"] > 80, box
        return box

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Screen position of a place of the fitted picture."""
        box, (width, height) = self.box(), self.size
        zoom = self.page.evaluate("() => app.canvas.ds.scale")
        scale = min((box["width"] / zoom - 2 * MARGIN) / width, (box["height"] / zoom - 2 * MARGIN) / height) * zoom
        left = box["x"] + (box["width"] - width * scale) / 2
        top = box["y"] + (box["height"] - height * scale) / 2
        return left + x * width * scale, top + y * height * scale

    # doing

    def click(self, x: float, y: float, **options: Any) -> None:
        self.page.mouse.click(*self.at(x, y), **options)

    def drag(self, start: tuple[float, float], end: tuple[float, float], button: str = "left") -> None:
        self.page.mouse.move(*self.at(*start))
        self.page.mouse.down(button=button)
        self.page.mouse.move(*self.at(*end), steps=6)
        self.page.mouse.up(button=button)

    def press(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)
        self.settle()

    def button(self, name: str) -> Any:
        return self.page.locator(f".p3s-picker button[data-command={name}]")

    def settle(self) -> None:
        """Let two frames pass: painting, and the graph's own handling of keys."""
        self.page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def looked_at_graph(self) -> None:
        """Wait until the widgets have read the graph's wires again, which they do some times a second."""
        self.page.evaluate("() => new Promise((done) => setTimeout(done, 900))")

    def becomes(self, read: Callable[[], Any], expected: Any, timeout: float = 30) -> None:
        """Wait until what ``read`` gives is ``expected``."""
        end = time.monotonic() + timeout
        while (found := read()) != expected:
            assert time.monotonic() < end, f"{found!r} does not become {expected!r}"
            self.page.wait_for_timeout(50)

    def stays(self, read: Callable[[], Any], expected: Any, seconds: float = 0.4) -> None:
        """Something that must not happen gets this long to happen."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert read() == expected
            self.page.wait_for_timeout(50)

    def show(self, scale: float, offset: tuple[float, float]) -> None:
        """Zoom and pan the graph; waits until the editor has come along."""
        self.page.evaluate(
            """([scale, offset]) => {
                app.canvas.ds.scale = scale;
                app.canvas.ds.offset = offset;
                app.canvas.setDirty(true, true);
            }""",
            [scale, list(offset)],
        )
        self.still()

    def still(self, timeout: float = 60) -> None:
        """Wait until the page looks the same for a while: animations, late pictures and layout are done."""
        end, last = time.monotonic() + timeout, b""
        while (now := self.page.screenshot(scale="css")) != last:
            assert time.monotonic() < end, "the page does not come to rest"
            last = now
            self.page.wait_for_timeout(400)

    # seeing

    def node(self, id: int | None = None) -> dict[str, Any]:
        """A node as the workflow saves it."""
        return self.page.evaluate(
            "(id) => JSON.parse(JSON.stringify(app.graph.getNodeById(id).serialize()))", id or self.id
        )

    @property
    def value(self) -> str:
        return self.node()["widgets_values"][1]

    @property
    def points(self) -> dict[str, list[list[float]]]:
        content = json.loads(self.value)
        assert content.pop("v") == 1
        return content

    def workflow(self) -> dict[str, Any]:
        return self.page.evaluate("() => JSON.parse(JSON.stringify(app.graph.serialize()))")

    def view_of_graph(self) -> list[float]:
        return self.page.evaluate("() => [app.canvas.ds.scale, ...app.canvas.ds.offset]")

    def zoom(self) -> int:
        """The editor's zoom in percent, as its status line says."""
        text = self.page.locator(".p3s-status").text_content() or ""
        return int(text.split("%")[0].split()[-1].lstrip("+−")) if "%" in text else 100

    def status(self) -> str:
        return self.page.locator(".p3s-status").text_content() or ""

    def hint(self) -> str:
        return self.page.locator(".p3s-hint").text_content() or ""

    def warning(self) -> str:
        return self.page.locator(".p3s-warning").text_content() or ""

    def queue(self, timeout: float = 180) -> dict[str, Any]:
        """Queue the graph as the Run button does; returns what the browser sent, and waits for its end."""
        with self.page.expect_response("**/prompt") as answered:
            self.page.evaluate("() => { app.queuePrompt(0) }")
        response = answered.value
        sent = response.request.post_data_json
        assert response.ok, response.text()
        prompt_id = response.json()["prompt_id"]
        end = time.monotonic() + timeout
        while not (history := self.server.client.get_json(f"/history/{prompt_id}")):
            assert time.monotonic() < end, "the run does not end"
            self.page.wait_for_timeout(100)
        self.settle()
        return {**sent, "history": history[prompt_id]}
