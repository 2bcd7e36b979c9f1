"""Advanced inputs on the canvas are hidden until a button on the node shows them. Nothing but the view changes."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from browser.conftest import FRONTENDS_WITHOUT_NODES2
from browser.editor_page import EMPTY_GRAPH, EditorPage
from browser.test_recreated_nodes import host_key, remember
from browser.test_subgraphs import ENTER, LEAVE, PROMOTE, WRAP
from host.hosts import Host
from host.schemas import inputs_of

ROW = 24  # graph pixels of one widget of the canvas
SEEN = """(id) => {
    const { graph } = app.canvas;
    const node = graph.getNodeById(id);
    return node.widgets.filter((widget) => node.isWidgetVisible(widget)).map((widget) => widget.name);
}"""
SIZE = "(id) => [...app.graph.getNodeById(id).size]"
# Of the node's button, or of an input's slot, in the page's pixels.
PLACE = """([id, name, x]) => {
    const node = app.graph.getNodeById(id);
    const widget = node.widgets.find((widget) => widget.name === name);
    const { scale, offset } = app.canvas.ds;
    const page = document.querySelector('#graph-canvas').getBoundingClientRect();
    const across = x === 'slot' ? 10 : node.size[0] / 2;
    return [
        page.x + (node.pos[0] + across + offset[0]) * scale,
        page.y + (node.pos[1] + widget.y + 10 + offset[1]) * scale
    ];
}"""
OUTPUT = """(id) => {
    const [x, y] = app.graph.getNodeById(id).getOutputPos(0);
    const { scale, offset } = app.canvas.ds;
    const page = document.querySelector('#graph-canvas').getBoundingClientRect();
    return [page.x + (x + offset[0]) * scale, page.y + (y + offset[1]) * scale];
}"""
# Which input a wire meets that is dropped on the slot of each widget that is seen.
MEETS = """(id) => {
    const node = app.graph.getNodeById(id);
    const seen = node.widgets.filter((widget) => node.isWidgetVisible(widget) && widget.type !== 'button');
    return seen.map(({ y }) => node.getInputOnPos([node.pos[0] + 10, node.pos[1] + y + 10])?.name);
}"""
SENT = "async () => (await app.graphToPrompt()).output"
BUTTON = "show_advanced"


class Trained:
    """A Train P3S node on an otherwise empty graph, with values that are not the defaults."""

    def __init__(self, page: EditorPage) -> None:
        page.errors.clear()
        page.load(EMPTY_GRAPH)
        self.page = page
        info = page.server.client.get_json("/object_info/P3S_Train")["P3S_Train"]
        widgets = [(name, options) for name, _, _, options in inputs_of(info) if "default" in options]
        self.names = [name for name, _ in widgets]
        self.advanced = [name for name, options in widgets if options.get("advanced")]
        self.plain = [name for name in self.names if name not in self.advanced]
        self.values = {name: options["default"] for name, options in widgets}
        self.values |= {"gamma": 0.3, "licence": "CC0", "steps": 7, "rank": 5}
        self.id = page.add("P3S_Train", (420, 60), self.values)
        self.look()

    def look(self) -> None:
        """All of the node is in the window, whatever it shows."""
        self.page.show(0.6, (0, 60))

    @property
    def seen(self) -> list[str]:
        return self.page.page.evaluate(SEEN, self.id)

    @property
    def size(self) -> list[float]:
        return self.page.page.evaluate(SIZE, self.id)

    @property
    def saved(self) -> list[Any]:
        return self.page.node(self.id)["widgets_values"]

    @property
    def sent(self) -> dict[str, Any]:
        (node,) = (node for node in self.page.page.evaluate(SENT).values() if node["class_type"] == "P3S_Train")
        return node["inputs"]

    def press(self) -> None:
        """Click the control that the renderer shows."""
        if self.page.page.evaluate("() => Boolean(LiteGraph.vueNodesMode)"):
            self.page.page.get_by_test_id("advanced-inputs-button").click()
        else:
            self.page.page.mouse.click(*self.page.page.evaluate(PLACE, [self.id, BUTTON, "middle"]))
        self.page.settle()

    def check(self, shown: bool) -> None:
        classic = not self.page.page.evaluate("() => Boolean(LiteGraph.vueNodesMode)")
        expected = self.names if shown else self.plain
        assert self.seen == expected + [BUTTON] * classic
        assert self.saved == [self.values[name] for name in self.names]
        assert self.sent == self.values
        if not classic:
            rows = self.page.page.locator(f"[data-node-id='{self.id}'] [data-testid=node-widget]")
            assert rows.count() == len(expected)


@pytest.fixture
def trained(frontend: EditorPage) -> Any:
    yield Trained(frontend)
    assert frontend.errors == []


@pytest.fixture
def classic(trained: Trained) -> Trained:
    if trained.page.renderer != "classic":
        pytest.skip("of the canvas only")
    return trained


def test_a_button_shows_and_hides_them_and_no_value_changes(trained: Trained) -> None:
    assert {"gamma", "views", "resume"} < set(trained.advanced)
    assert {"name", "steps", "kind"} < set(trained.plain)
    trained.check(shown=False)
    trained.press()
    trained.check(shown=True)
    trained.press()
    trained.check(shown=False)


def test_the_node_is_as_high_as_what_it_shows(classic: Trained) -> None:
    width, height = classic.size
    classic.press()
    assert classic.size == [width, height + ROW * len(classic.advanced)]
    classic.page.page.evaluate("(id) => app.graph.getNodeById(id).size[1] += 100", classic.id)
    classic.press()
    assert classic.size == [width, height + 100]
    classic.page.still()
    assert classic.size == [width, height + 100]


@pytest.mark.parametrize("shown", [True, False])
def test_a_saved_workflow_opens_as_it_was(trained: Trained, shown: bool) -> None:
    if shown:
        trained.press()
    workflow, size = trained.page.workflow(), trained.size
    trained.page.load(EMPTY_GRAPH)
    trained.page.load(workflow)
    trained.page.still()
    trained.check(shown)
    if trained.page.renderer == "classic":
        assert trained.size == size


@pytest.mark.parametrize("shown", [True, False])
def test_the_other_renderer_shows_the_same(trained: Trained, host: Host, shown: bool) -> None:
    if host.version in FRONTENDS_WITHOUT_NODES2:
        pytest.skip("this ComfyUI has no Nodes 2.0 that draws custom widgets")
    if shown:
        trained.press()
    own = trained.page.renderer
    try:
        trained.page.use_renderer("classic" if own == "nodes2" else "nodes2")
        trained.look()
        trained.check(shown)
        trained.press()
        trained.check(not shown)
    finally:
        trained.page.use_renderer(own)
    trained.check(not shown)


def test_a_workflow_of_before_opens_short_and_keeps_what_a_user_added(classic: Trained) -> None:
    """Without showAdvanced, and as high as all inputs."""
    height = classic.size[1]
    for added in (0, 300):
        workflow = copy.deepcopy(classic.page.workflow())
        (node,) = workflow["nodes"]
        del node["showAdvanced"]
        node["size"][1] = height - ROW + ROW * len(classic.advanced) + added  # it had no button
        classic.page.load(workflow)
        classic.page.still()
        classic.check(shown=False)
        assert classic.size[1] == height + max(added - ROW, 0)


def test_a_link_keeps_its_input_in_sight_and_meets_the_one_that_is_seen(classic: Trained) -> None:
    page = classic.page
    number = page.add("PrimitiveInt", (60, 60))
    page.connect(number, classic.id, "image_dim")
    page.still()
    assert classic.seen == [name for name in classic.names if name in (*classic.plain, "image_dim")] + [BUTTON]
    page.show(1, (0, 60))
    assert page.page.evaluate(MEETS, classic.id) == classic.seen[:-1]  # though others lie hidden between them
    page.page.mouse.move(*page.page.evaluate(OUTPUT, number))
    page.page.mouse.down()
    page.page.mouse.move(*page.page.evaluate(PLACE, [classic.id, "preview_every", "slot"]), steps=8)
    page.page.mouse.up()
    page.settle()
    linked = {slot["name"] for slot in page.node(classic.id)["inputs"] if slot["link"] is not None}
    assert linked == {"image_dim", "preview_every"}
    page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            node.disconnectInput(node.inputs.findIndex((input) => input.name === 'image_dim'));
        }""",
        classic.id,
    )
    assert "image_dim" not in classic.seen


def test_undo_and_redo_take_the_button_back(classic: Trained) -> None:
    remember(classic.page)
    size = classic.size
    classic.press()
    classic.check(shown=True)
    host_key(classic.page, "Control+z")
    classic.check(shown=False)
    assert classic.size == size
    host_key(classic.page, "Control+Shift+z")
    classic.check(shown=True)


@pytest.mark.parametrize("shown", [True, False])
def test_a_copy_is_as_the_original(trained: Trained, shown: bool) -> None:
    if shown:
        trained.press()
    page, original = trained.page, trained.id
    trained.id = page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            app.canvas.selectNode(node);
            app.canvas.copyToClipboard();
            app.canvas.pasteFromClipboard();
            const copy = app.graph.nodes.find((other) => other !== node);
            app.graph.remove(node);
            return Number(copy.id);
        }""",
        original,
    )
    page.still()
    assert trained.id != original
    trained.check(shown)


def test_in_a_subgraph_and_promoted_to_its_outside(trained: Trained) -> None:
    page = trained.page
    trained.id = page.page.evaluate(WRAP, trained.id)
    assert page.page.evaluate(PROMOTE, ["gamma", "gamma"])
    assert page.page.evaluate(PROMOTE, ["steps", "steps"])
    page.still()
    outer = page.page.evaluate("() => Number(app.graph.nodes.find((node) => node.subgraph).id)")
    promoted = page.page.evaluate(SEEN, outer)  # newer frontends have promoted the seed by themselves
    assert set(promoted) - {"seed"} == {"gamma", "steps"}
    assert trained.sent == trained.values
    page.page.evaluate(ENTER)
    page.still()
    assert set(trained.seen) - {BUTTON} == {*trained.plain, "gamma"}
    page.page.evaluate(LEAVE)


def test_the_setting_that_always_shows_them(trained: Trained, host: Host) -> None:
    if host.version in FRONTENDS_WITHOUT_NODES2:
        pytest.skip("this frontend has no such setting")
    name = "Comfy.Node.AlwaysShowAdvancedWidgets"
    choose = f"async (on) => {{ await app.extensionManager.setting.set('{name}', on) }}"
    trained.page.page.evaluate(choose, True)
    try:
        trained.page.settle()
        assert trained.seen == trained.names
    finally:
        trained.page.page.evaluate(choose, False)
    trained.check(shown=False)
