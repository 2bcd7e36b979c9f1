"""The converter from saved workflows to prompts: by hand-made cases, and against a real host."""

from __future__ import annotations

import json
from typing import Any

import pytest
from host.client import Client
from host.hosts import REPO
from host.server import Server
from host.workflow import WorkflowError, to_prompt, widget_names
from tools import templates

SAMPLER = {
    "input": {
        "required": {
            "model": ["MODEL", {}],
            "seed": ["INT", {"default": 0, "control_after_generate": True}],
            "steps": ["INT", {"default": 20}],
            "name": [["euler", "ddim"], {}],
            "denoise": ["FLOAT", {"default": 1.0}],
        },
        "optional": {"note": ["STRING", {"default": "none"}], "latent": ["LATENT"]},
    },
    "input_order": {"required": ["model", "seed", "steps", "name", "denoise"], "optional": ["note", "latent"]},
}
PICKER = {
    "input": {
        "required": {
            "image": [["a.png"], {"image_upload": True}],
            "points": ["P3S_POINT_EDITOR", {"default": "", "socketless": True}],
        },
        "optional": {"text": ["STRING", {}], "forced": ["STRING", {"forceInput": True}]},
    }
}
LOADER = {"input": {"required": {"ckpt": ["COMBO", {"options": ["x"]}]}}}
INFO: dict[str, Any] = {"Sampler": SAMPLER, "Picker": PICKER, "Loader": LOADER}


def workflow(*nodes: dict[str, Any], links: list[list[Any]] | None = None) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": links or []}


def sampler(link: int | None = 1, values: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    values = [7, "randomize", 3, "ddim", 0.5, "hello"] if values is None else values
    return {"id": 2, "type": "Sampler", "inputs": [{"name": "model", "link": link}], "widgets_values": values, **more}


LOAD = {"id": 1, "type": "Loader", "widgets_values": ["x"]}


def test_values_by_position_and_links() -> None:
    graph = to_prompt(workflow(LOAD, sampler(), links=[[1, 1, 0, 2, 0, "MODEL"]]), INFO)
    assert graph == {
        "1": {"class_type": "Loader", "inputs": {"ckpt": "x"}},
        "2": {
            "class_type": "Sampler",
            "inputs": {"model": ["1", 0], "seed": 7, "steps": 3, "name": "ddim", "denoise": 0.5, "note": "hello"},
        },
    }


def test_upload_button_and_own_widget() -> None:
    assert widget_names(PICKER) == ["image", "points", None, "text"]
    picker = {"id": "4", "type": "Picker", "widgets_values": ["a.png", '{"v":1}', "image", "t"]}
    inputs = to_prompt(workflow(picker), INFO)["4"]["inputs"]
    assert inputs == {"image": "a.png", "points": '{"v":1}', "text": "t"}


@pytest.mark.parametrize(
    ("option", "extra"), [({}, 1), ({"control_after_generate": True}, 1), ({"control_after_generate": False}, 0)]
)
def test_seed_control_as_the_editor_decides_it(option: dict[str, bool], extra: int) -> None:
    info = {"input": {"required": {"seed": ["INT", option], "steps": ["INT", {}]}}}
    assert widget_names(info) == ["seed", *[None] * extra, "steps"]


def test_reroutes_notes_and_muted_nodes() -> None:
    reroute = {"id": 5, "type": "Reroute", "inputs": [{"name": "", "link": 1}]}
    note = {"id": 6, "type": "MarkdownNote", "widgets_values": ["read me"]}
    muted = {"id": 7, "type": "Nowhere", "mode": 2}
    optional = sampler(2)
    optional["inputs"].append({"name": "latent", "link": 3})
    links = [[1, 1, 0, 5, 0, "MODEL"], [2, 5, 0, 2, 0, "MODEL"], [3, 7, 0, 2, 1, "LATENT"]]
    graph = to_prompt(workflow(LOAD, reroute, note, muted, optional, links=links), INFO)
    assert set(graph) == {"1", "2"}
    assert graph["2"]["inputs"]["model"] == ["1", 0]
    assert "latent" not in graph["2"]["inputs"]


def test_a_linked_widget_keeps_its_place() -> None:
    node = sampler()
    node["inputs"].append({"name": "steps", "link": 2, "widget": {"name": "steps"}})
    other = {"id": 3, "type": "Loader", "widgets_values": ["x"]}
    links = [[1, 1, 0, 2, 0, "MODEL"], [2, 3, 0, 2, 1, "INT"]]
    inputs = to_prompt(workflow(LOAD, other, node, links=links), INFO)["2"]["inputs"]
    assert (inputs["steps"], inputs["name"]) == (["3", 0], "ddim")


def test_fewer_values_than_widgets_take_the_defaults() -> None:
    graph = to_prompt(workflow(LOAD, sampler(values=[7, "fixed", 3]), links=[[1, 1, 0, 2, 0, "MODEL"]]), INFO)
    assert graph["2"]["inputs"] == {
        "model": ["1", 0],
        "seed": 7,
        "steps": 3,
        "name": "euler",
        "denoise": 1.0,
        "note": "none",
    }


@pytest.mark.parametrize(
    ("nodes", "links", "message"),
    [
        ([LOAD, sampler(mode=4)], [[1, 1, 0, 2, 0, "MODEL"]], r"node 2 \(Sampler\) is bypassed"),
        ([{"id": 9, "type": "PrimitiveNode"}], [], r"node 9 \(PrimitiveNode\): the host has no such"),
        ([LOAD, sampler(values=[1] * 7)], [[1, 1, 0, 2, 0, "MODEL"]], "7 widget values"),
        ([LOAD, sampler(None)], [], "no value for model"),
        ([LOAD, sampler(8)], [], "link 8, which does not exist"),
        ([{**LOAD, "mode": 2}, sampler()], [[1, 1, 0, 2, 0, "MODEL"]], "model comes from a muted node"),
    ],
)
def test_what_it_cannot_do_is_named(nodes: list[dict[str, Any]], links: list[list[Any]], message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        to_prompt(workflow(*nodes, links=links), INFO)


def saved_text_to_image(checkpoint: str) -> dict[str, Any]:
    """A text-to-image workflow of core nodes, as an editor saves it."""

    def node(number: int, kind: str, links: dict[str, int] | None = None, values: list[Any] | None = None) -> dict:
        entries = [{"name": name, "link": link} for name, link in (links or {}).items()]
        return {"id": number, "type": kind, "mode": 0, "inputs": entries, "widgets_values": values or []}

    return workflow(
        node(1, "CheckpointLoaderSimple", values=[checkpoint]),
        node(2, "CLIPTextEncode", {"clip": 1}, ["a photo of a thing"]),
        node(3, "CLIPTextEncode", {"clip": 2}, [""]),
        node(4, "EmptyLatentImage", values=[64, 64, 1]),
        node(
            5,
            "KSampler",
            {"model": 3, "positive": 4, "negative": 5, "latent_image": 6},
            [11, "randomize", 2, 7.0, "euler", "normal", 1.0],
        ),
        node(6, "VAEDecode", {"samples": 7, "vae": 8}),
        node(7, "SaveImage", {"images": 9}, ["converted"]),
        node(8, "Note", values=["about this"]),
        links=[
            [1, 1, 1, 2, 0, "CLIP"],
            [2, 1, 1, 3, 0, "CLIP"],
            [3, 1, 0, 5, 0, "MODEL"],
            [4, 2, 0, 5, 1, "CONDITIONING"],
            [5, 3, 0, 5, 2, "CONDITIONING"],
            [6, 4, 0, 5, 3, "LATENT"],
            [7, 5, 0, 6, 0, "LATENT"],
            [8, 1, 2, 6, 1, "VAE"],
            [9, 6, 0, 7, 0, "IMAGE"],
        ],
    )


def test_a_saved_workflow_runs_on_a_host(server: Server, client: Client) -> None:
    graph = to_prompt(saved_text_to_image(server.model("sd15-slim")), client.object_info())
    assert graph["5"]["inputs"]["seed"] == 11
    assert graph["5"]["inputs"]["steps"] == 2
    (image,) = client.run_ok(graph).images("7")
    assert image.shape == (64, 64, 3)


def test_workflows_fit_the_host(client: Client) -> None:
    """Every example whose nodes the host has, and those of every release, become prompts without a value too many."""
    info = client.object_info()
    releases = sorted((REPO / "tests" / "data").glob("workflows_*"))
    assert releases
    for file in (file for folder in (REPO / "example_workflows", *releases) for file in sorted(folder.glob("*.json"))):
        if not templates.fits(file.stem, info):
            continue
        graph = to_prompt(json.loads(file.read_text(encoding="utf-8")), info)
        assert any(node["class_type"].startswith("P3S_") for node in graph.values())
