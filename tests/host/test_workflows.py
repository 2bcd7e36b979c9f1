"""Every example workflow, as a user opens it, runs to its end on a real host; and what it asks of the user is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host.client import Client, Graph, Result
from host.hosts import REPO
from host.server import Server
from host.workflow import COMMENTS, to_prompt
from PIL import Image
from safetensors.torch import load_file, save_file
from ssr_models import random_aligner, random_layers
from tools import templates
from tools.template_models import SDXL, SDXL_SUBJECT, SSR, SUBJECT, SUBJECTS
from tools.template_parts import NO_POINTS, PREVIEW

from benchmarks.toyworld_metrics import preference
from p3s.network.unet_config import UNetConfig, unet_state
from p3s.toyworld.models import QUESTIONS
from p3s.toyworld.scenes import Appearance
from p3s.toyworld.world import load_world

FOLDER = REPO / "example_workflows"
FILES = sorted(FOLDER.glob("*.json"))
PHOTO = REPO / "docs" / "images" / "two_dogs.jpg"
POINTS = '{"v":1,"positive":[[0.26,0.42]],"negative":[[0.75,0.45]]}'
SWAPPED = '{"v":1,"positive":[[0.75,0.45]],"negative":[[0.26,0.42]]}'
BOTH = '{"v":2,"subjects":[{"positive":[[0.26,0.42]],"negative":[]},{"positive":[[0.75,0.45]],"negative":[]}]}'
# What a user chooses in each node: (input, small model of the tests).
MODELS = {
    "CheckpointLoaderSimple": ("ckpt_name", "sd15-slim"),
    "CLIPVisionLoader": ("clip_name", "clip-vision"),
    "ControlNetLoader": ("control_net_name", "controlnet-slim"),
}
# Models of 512 pixels and 250 steps would take hours on the CPU.
SMALLER: dict[str, dict[str, Any]] = {
    "P3S_Train": {"steps": 2, "resolution": 128, "preview_every": 0},
    "EmptyLatentImage": {"width": 128, "height": 128},
    "ImageScale": {"width": 128},
    "KSampler": {"steps": 2},
}
#: How many model files a node loads.
FILES_OF = dict.fromkeys([*MODELS, "UNETLoader", "CLIPLoader", "VAELoader"], 1) | {
    "P3S_LoadSSR": 2,
    "DualCLIPLoader": 2,
}
TOY, TOY_SSR = "try_without_downloads", "try_ssr_without_downloads"
# The two dogs of the Toy World's photo: the one that the template clicks, and the other (shades do not matter here).
CLICKED = Appearance("blue", "belly", "white", (0, 0, 0), (0, 0, 0))
OTHER = Appearance("yellow", "belly", "red", (0, 0, 0), (0, 0, 0))
REAL = [file.stem for file in FILES if file.stem not in (TOY, TOY_SSR, "train_and_generate")]
REAL = [name for name in REAL if not name.startswith("clicks_to_")]  # see test_reference_workflows.py
#: The one that reads what train_and_generate_sdxl has trained comes after it.
REAL.sort(key=lambda name: name == "apply_saved_subject_sdxl")


def read(file: Path) -> dict[str, Any]:
    return json.loads(file.read_text(encoding="utf-8"))


def prepared(graph: Graph, server: Server, client: Client) -> Graph:
    """The graph after the user has chosen models and photo and has clicked, and small enough for tests."""
    photo = client.upload_image(PHOTO, "two_dogs.jpg")
    used = [value for node in graph.values() for value in node["inputs"].values()]
    for key, node in graph.items():
        kind, inputs = node["class_type"], node["inputs"]
        if kind == "P3S_LoadSSR":
            write_ssr(server)
        if kind in MODELS:
            name, model = MODELS[kind]
            assert name in inputs
            inputs[name] = server.model("sdxl-slim-text" if inputs[name] == SDXL else model)
        if kind in ("P3S_PointPicker", "LoadImage"):
            inputs["image"] = photo
        if kind == "P3S_PointPicker" and inputs["points"] == NO_POINTS:
            alone = SWAPPED if "linked_image" in inputs else POINTS
            inputs["points"] = BOTH if [key, 4] in used else alone  # output 4: the second subject's points
        assert SMALLER.get(kind, {}).keys() <= inputs.keys()
        inputs.update(SMALLER.get(kind, {}))
    return graph


def write_ssr(server: Server) -> None:
    """A random SSR-Encoder for the small models, under the names that the template has."""
    (checkpoint,) = (server.base / "models" / "checkpoints").glob(server.model("sd15-slim"))
    aligner = random_aligner(query=768, vision=1024, inner=64, heads=1, scales=6)
    config = UNetConfig.from_state_dict(unet_state(load_file(checkpoint)))
    folder = server.base / "models" / "ssr"
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in zip(SSR, (aligner, random_layers(config)), strict=True):
        save_file(dict(part.state_dict()), folder / name)


def needs(name: str, info: dict[str, Any]) -> None:
    """Skip where the host lacks the nodes of a template."""
    if not templates.fits(name, info):
        node, pack = templates.NEEDS[name]
        pytest.skip(f"this ComfyUI has no node {node}{f', of {pack}' if pack else ''}")


def nodes_of(graph: Graph, kind: str) -> list[str]:
    return [key for key, node in graph.items() if node["class_type"] == kind]


def node_id(graph: Graph, kind: str) -> str:
    (found,) = nodes_of(graph, kind)
    return found


def opened(name: str, server: Server) -> Graph:
    return prepared(to_prompt(read(FOLDER / f"{name}.json"), server.client.object_info()), server, server.client)


@pytest.fixture(scope="module")
def trained(server: Server) -> tuple[Graph, Result]:
    """The first workflow, queued once a host; it leaves its subject for the others."""
    subjects = server.base / "models" / "p3s"
    for name in (SUBJECT, SDXL_SUBJECT, *SUBJECTS):
        (subjects / name).unlink(missing_ok=True)
    graph = opened("train_and_generate", server)
    graph["clean"] = {"class_type": "PreviewImage", "inputs": {"images": [node_id(graph, "P3S_RNGRMask"), 1]}}
    result = server.client.run_ok(graph, timeout=600)
    for name in SUBJECTS:
        shutil.copy(subjects / SUBJECT, subjects / name)
    return graph, result


@pytest.mark.slow
def test_train_and_generate_gives_pictures_and_a_subject(server: Server, trained: tuple[Graph, Result]) -> None:
    graph, result = trained
    assert set(result.executed) | set(result.cached) == set(graph)
    assert (server.base / "models" / "p3s" / SUBJECT).is_file()
    (picture,) = result.images(node_id(graph, "SaveImage"))
    assert picture.shape == (128, 128, 3)
    assert picture.std() > 1
    masks, shown = result.images(node_id(graph, "P3S_RNGRMask"))
    assert masks.shape[:2] == (512, 1024)
    assert result.outputs[node_id(graph, "P3S_RNGRMask")]["text"] == []
    # What was right-clicked is gone from the reference, what was clicked is not.
    photo, (clean,) = Image.open(PHOTO), result.images("clean")
    np.testing.assert_array_equal(shown, clean)
    assert abs(clean[230, 768].astype(int) - photo.getpixel((768, 230))).max() > 20
    assert abs(clean[215, 266].astype(int) - photo.getpixel((266, 215))).max() <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_the_other_workflows_run(server: Server, client: Client, trained: tuple[Graph, Result], name: str) -> None:
    graph = opened(name, server)
    result = client.run_ok(graph, timeout=600)
    assert set(result.executed) | set(result.cached) == set(graph)
    saved = {node: result.images(node)[0] for node in nodes_of(graph, "SaveImage")}
    assert all(picture.std() > 1 for picture in saved.values())
    assert saved or name == "external_inpainting"
    if not saved:
        return
    for node in nodes_of(graph, "P3S_Apply") + nodes_of(graph, "P3S_ApplySSR"):
        graph[node]["inputs"]["strength"] = 0.0
    plain = client.run_ok(graph, timeout=600)
    for node, picture in saved.items():
        assert (plain.images(node)[0] != picture).any(), "the subject changes nothing"


@pytest.mark.slow
def test_external_inpainting_replaces_the_fill(server: Server, client: Client, trained: tuple[Graph, Result]) -> None:
    graph = opened("external_inpainting", server)
    result = client.run_ok(graph, timeout=600)
    first, second = nodes_of(graph, "P3S_RNGRMask")
    _, clean = result.images(second)
    graph["fill"] = {"class_type": "PreviewImage", "inputs": {"images": [first, 1]}}
    graph["photo"] = {"class_type": "PreviewImage", "inputs": {"images": graph[first]["inputs"]["image"]}}
    both = client.run_ok(graph, timeout=600)
    (filled,), (photo,) = both.images("fill"), both.images("photo")
    removed = (filled != photo).any(2)
    assert 0.05 < removed.mean() < 0.6
    assert (clean[removed] != filled[removed]).any(1).mean() > 0.9
    assert (clean[:, :40] == photo[:, :40]).all()


@pytest.mark.parametrize("name", [TOY, TOY_SSR])
def test_the_toy_world_runs_without_any_file(server: Server, client: Client, name: str) -> None:
    graph = opened(name, server)
    assert not any(name in graph for name in MODELS)
    result = client.run_ok(graph, timeout=300)
    assert set(result.executed) | set(result.cached) == set(graph)
    shown = {node["class_type"] for node in graph.values()}
    assert not shown & {*MODELS, "P3S_LoadSubject", "P3S_LoadSSR"}
    pictures = [result.images(node) for node in nodes_of(graph, "PreviewImage")]
    assert [len(batch) for batch in pictures] == [4, 4]


@pytest.mark.slow
def test_the_toy_worlds_dog_appears(server: Server, client: Client) -> None:
    """As it is in the file: with the subject the dogs have the looks of the clicked one, and without they do not."""
    graph = to_prompt(read(FOLDER / f"{TOY}.json"), client.object_info())
    graph[node_id(graph, "P3S_PointPicker")]["inputs"]["image"] = client.upload_image(PHOTO, "two_dogs.jpg")
    result = client.run_ok(graph, timeout=1200)
    world, likely = load_world(), {}
    for node in nodes_of(graph, "PreviewImage"):
        pictures = np.stack(result.images(node))
        small = torch.from_numpy(pictures[:, 4::8, 4::8]).float() / 255
        assert (world.judge(small)["animal"].argmax(1) == QUESTIONS["animal"].index("dog")).float().mean() >= 0.5
        applied = graph[graph[graph[node]["inputs"]["images"][0]]["inputs"]["samples"][0]]["inputs"]["model"][0]
        with_subject = graph[applied]["class_type"] == "P3S_Apply"
        likely[with_subject] = preference(world, small, CLICKED)
        assert not with_subject or (likely[True] > preference(world, small, OTHER)).float().mean() >= 0.75
    assert likely[True].mean() > likely[False].mean() + 10  # log-probability of the clicked one's look


@pytest.mark.slow
def test_the_clicks_select_for_the_toy_worlds_ssr_encoder(client: Client) -> None:
    """As it is in the file: by the clicks the dogs have the looks of the clicked one, by the word they do so less."""
    workflow = read(FOLDER / f"{TOY_SSR}.json")
    graph = to_prompt(workflow, client.object_info())
    graph[node_id(graph, "P3S_PointPicker")]["inputs"]["image"] = client.upload_image(PHOTO, "two_dogs.jpg")
    result = client.run_ok(graph, timeout=600)
    world, likely = load_world(), {}
    for node in workflow["nodes"]:
        if node["type"] == "PreviewImage":
            small = torch.from_numpy(np.stack(result.images(str(node["id"])))[:, 4::8, 4::8]).float() / 255
            likely[node["title"]] = preference(world, small, CLICKED)
            rather = likely[node["title"]] > preference(world, small, OTHER)
            assert node["title"] == "By the word" or rather.float().mean() >= 0.75
    assert likely["By the clicks"].mean() > likely["By the word"].mean() + 5


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_workflow_is_ready_for_a_user(client: Client, file: Path) -> None:
    workflow, info = read(file), client.object_info()
    needs(file.stem, info)
    core_or_ours = {kind for kind, node in info.items() if not node["python_module"].startswith("custom_nodes.")}
    core_or_ours |= {kind for kind in info if kind.startswith("P3S_")} | COMMENTS
    pack = templates.NEEDS.get(file.stem, ("", ""))[1]
    others = {node["type"] for node in workflow["nodes"]} - core_or_ours
    assert {info[kind]["python_module"] for kind in others} == ({f"custom_nodes.{pack}"} if pack else set())
    notes = " ".join(node["widgets_values"][0] for node in workflow["nodes"] if node["type"] == "MarkdownNote")
    assert not pack or f"needs the pack [{pack}](" in notes
    graph = to_prompt(workflow, info)
    readme = (REPO / "README.md").read_text(encoding="utf-8")
    for saved in workflow["nodes"]:
        # With them the editor offers to download files that are missing.
        models = saved["properties"].get("models", [])
        assert len(models) == FILES_OF.get(saved["type"], 0)
        for model in models:
            assert model["name"] in graph[str(saved["id"])]["inputs"].values()
            assert model["url"].removeprefix("https://huggingface.co/").split("/resolve/main/")[0] in readme
            assert f"[{model['name']}]({model['url']})" in notes, "the note links every model file"
            assert f"| **{model['directory']}** |" in notes
    for node in graph.values():
        # Nobody's own points or pictures: ComfyUI brings the one, and a picker is refused until a picture is chosen.
        if node["class_type"] in ("P3S_PointPicker", "LoadImage"):
            assert node["inputs"]["image"] == ("" if node["class_type"] == "P3S_PointPicker" else "example.png")
        if node["class_type"] == "P3S_PointPicker" and file.stem not in (TOY, TOY_SSR):
            assert json.loads(node["inputs"]["points"]) == {"v": 1, "positive": [], "negative": []}
        if node["class_type"] == "P3S_LoadSubject":
            assert node["inputs"]["subject_file"] in (SUBJECT, SDXL_SUBJECT, *SUBJECTS)
    with Image.open(file.with_suffix(".jpg")) as thumbnail:
        assert max(thumbnail.size) <= 640
    assert file.with_suffix(".jpg").stat().st_size < 60_000


def essence(workflow: dict[str, Any]) -> list[Any]:
    """What does not differ between hosts, whose own nodes gain outputs and settings."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    own = [node for node in nodes.values() if node["type"].startswith(("P3S_", "MarkdownNote"))]
    wires = [
        (source, nodes[source]["outputs"][slot]["name"], target, nodes[target]["inputs"][entry]["name"])
        for _, source, slot, target, entry, _ in workflow["links"]
    ]
    places = [[node.get("title"), node["type"], node["pos"], node["size"]] for node in nodes.values()]
    return [workflow["groups"], places, wires, [node["widgets_values"] for node in own]]


@pytest.mark.parametrize("name", templates.TEMPLATES)
def test_a_workflow_is_what_its_description_says(client: Client, name: str) -> None:
    info, saved = client.object_info(), read(FOLDER / f"{name}.json")
    needs(name, info)
    built = templates.build(name, info)
    assert essence(built) == essence(saved), "run `tests/tools/generate.py templates`"


def test_the_host_lists_the_workflows(client: Client) -> None:
    listed = client.get_json("/workflow_templates")
    assert sorted(listed["ComfyUI-P3S"]) == [file.stem for file in FILES]


def test_nodes_of_a_workflow_do_not_lie_on_each_other() -> None:
    assert FILES
    for file in FILES:
        nodes = read(file)["nodes"]
        grows = [PREVIEW if n["type"] == "P3S_Train" else 0 for n in nodes]  # while it runs
        boxes = [
            (n["pos"][0], n["pos"][1] - 30, n["pos"][0] + n["size"][0], n["pos"][1] + n["size"][1] + more)
            for n, more in zip(nodes, grows, strict=True)
        ]
        for i, (left, top, right, bottom) in enumerate(boxes):
            for j, other in enumerate(boxes[:i]):
                apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
                assert apart, (file.name, nodes[i]["type"], nodes[j]["type"])
