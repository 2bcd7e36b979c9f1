"""Every example workflow, as a user opens it, runs to its end on a real host; and what it asks of the user is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from host.client import Client, Graph, Result
from host.hosts import REPO
from host.server import Server
from host.workflow import COMMENTS, to_prompt
from PIL import Image

FOLDER = REPO / "example_workflows"
FILES = sorted(FOLDER.glob("*.json"))
PHOTO = REPO / "docs" / "images" / "two_dogs.jpg"
POINTS = '{"v":1,"positive":[[0.26,0.42]],"negative":[[0.75,0.45]]}'
# What a user chooses in each node: (input, small model of the tests).
MODELS = {
    "CheckpointLoaderSimple": ("ckpt_name", "sd15-slim"),
    "CLIPVisionLoader": ("clip_name", "clip-vision"),
    "ControlNetLoader": ("control_net_name", "controlnet-slim"),
}
# Models of 512 pixels and 250 steps would take hours on the CPU.
SMALLER: dict[str, dict[str, Any]] = {
    "P3S_Train": {"steps": 2, "resolution": 128},
    "EmptyLatentImage": {"width": 128, "height": 128},
    "KSampler": {"steps": 2},
}
SUBJECT = "my_subject.safetensors"  # what the first workflow writes and the others read


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def prepared(graph: Graph, server: Server, client: Client) -> Graph:
    """The graph after the user has chosen models and photo and has clicked, and small enough for tests."""
    photo = client.upload_image(PHOTO, "two_dogs.jpg")
    for node in graph.values():
        kind, inputs = node["class_type"], node["inputs"]
        if kind in MODELS:
            name, model = MODELS[kind]
            assert name in inputs
            inputs[name] = server.model(model)
        if kind in ("P3S_PointPicker", "LoadImage"):
            inputs["image"] = photo
        if kind == "P3S_PointPicker":
            inputs["points"] = POINTS
        assert SMALLER.get(kind, {}).keys() <= inputs.keys()
        inputs.update(SMALLER.get(kind, {}))
    return graph


def node_id(graph: Graph, kind: str) -> str:
    (found,) = (key for key, node in graph.items() if node["class_type"] == kind)
    return found


@pytest.fixture(scope="module")
def trained(server: Server) -> tuple[Graph, Result]:
    """The first workflow, queued once a host; it leaves its subject for the others."""
    client = server.client
    (server.base / "models" / "p3s" / SUBJECT).unlink(missing_ok=True)
    graph = prepared(to_prompt(read(FOLDER / "train_and_generate.json"), client.object_info()), server, client)
    return graph, client.run_ok(graph, timeout=600)


def test_train_and_generate_gives_pictures_and_a_subject(server: Server, trained: tuple[Graph, Result]) -> None:
    graph, result = trained
    assert set(result.executed) | set(result.cached) == set(graph)
    assert (server.base / "models" / "p3s" / SUBJECT).is_file()
    (picture,) = result.images(node_id(graph, "SaveImage"))
    assert picture.shape == (128, 128, 3)
    assert picture.std() > 1
    (masks,) = result.images(node_id(graph, "P3S_RNGRMask"))
    assert masks.shape[:2] == (512, 1024)
    assert result.outputs[node_id(graph, "P3S_RNGRMask")]["text"] == []
    # What was right-clicked is gone from the reference, what was clicked is not.
    photo, (clean,) = Image.open(PHOTO), result.images(node_id(graph, "PreviewImage"))
    assert abs(clean[230, 768].astype(int) - photo.getpixel((768, 230))).max() > 20
    assert abs(clean[215, 266].astype(int) - photo.getpixel((266, 215))).max() <= 1


@pytest.mark.parametrize("name", [file.stem for file in FILES if file.stem != "train_and_generate"])
def test_the_other_workflows_apply_that_subject(
    server: Server, client: Client, trained: tuple[Graph, Result], name: str
) -> None:
    graph = prepared(to_prompt(read(FOLDER / f"{name}.json"), client.object_info()), server, client)
    result = client.run_ok(graph, timeout=300)
    assert node_id(graph, "SaveImage") in result.executed
    (picture,) = result.images(node_id(graph, "SaveImage"))
    assert picture.std() > 1
    apply = node_id(graph, "P3S_Apply")
    graph[apply]["inputs"]["strength"] = 0.0
    (plain,) = client.run_ok(graph, timeout=300).images(node_id(graph, "SaveImage"))
    assert (plain != picture).any(), "the subject changes nothing"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_is_ready_for_a_user(client: Client, file: Path) -> None:
    workflow, info = read(file), client.object_info()
    core_or_ours = {kind for kind, node in info.items() if not node["python_module"].startswith("custom_nodes.")}
    core_or_ours |= {kind for kind in info if kind.startswith("P3S_")} | COMMENTS
    assert {node["type"] for node in workflow["nodes"]} <= core_or_ours
    notes = " ".join(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    graph = to_prompt(workflow, info)
    for node in graph.values():
        if node["class_type"] in MODELS:
            assert node["inputs"][MODELS[node["class_type"]][0]] in notes, "the note names every model file"
        # Nobody's own points or pictures: ComfyUI brings this one.
        if node["class_type"] in ("P3S_PointPicker", "LoadImage"):
            assert node["inputs"]["image"] == "example.png"
        if node["class_type"] == "P3S_PointPicker":
            assert json.loads(node["inputs"]["points"]) == {"v": 1, "positive": [], "negative": []}
        if node["class_type"] == "P3S_LoadSubject":
            assert node["inputs"]["subject_file"] == SUBJECT
    with Image.open(file.with_suffix(".jpg")) as thumbnail:
        assert max(thumbnail.size) <= 640
    assert file.with_suffix(".jpg").stat().st_size < 60_000


def test_the_host_lists_the_workflows(client: Client) -> None:
    listed = client.get_json("/workflow_templates")
    assert sorted(listed["ComfyUI-P3S"]) == [file.stem for file in FILES]


def test_nodes_of_a_workflow_do_not_lie_on_each_other() -> None:
    assert FILES
    for file in FILES:
        nodes = read(file)["nodes"]
        boxes = [(n["pos"][0], n["pos"][1] - 30, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1]) for n in nodes]
        for i, (left, top, right, bottom) in enumerate(boxes):
            for j, other in enumerate(boxes[:i]):
                apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
                assert apart, (file.name, nodes[i]["type"], nodes[j]["type"])
