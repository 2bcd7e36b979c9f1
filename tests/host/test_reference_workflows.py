"""The example workflows that hand a clicked subject to another model: what a host accepts, and what reaches the model.

Their models are too large for tests. Small random ones of the same kinds stand for Flux and FLUX.2 where the host can
build them; Qwen-Image-Edit runs as far as its text encoder.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from host import test_workflows
from host.client import Client, Graph, Result
from host.hosts import Host, peer
from host.inside import Inside
from host.server import Server, link_pack
from host.test_workflows import BOTH, PHOTO, POINTS, SWAPPED, needs, node_id, nodes_of, opened
from PIL import Image
from tools import templates, tiny_flux
from tools.template_models import SOURCES

NAMES = [name for name in templates.TEMPLATES if name.startswith("clicks_to_")]
BOTH_SWAPPED = json.dumps({"v": 2, "subjects": json.loads(BOTH)["subjects"][::-1]})
#: Where a run stops for want of a model. SAM3 Detect is given another model's checkpoint.
LOADERS = ("UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader", "IPAdapterUnifiedLoader", "SAM3_Detect")
OF_PACKS = [name for name, (_, pack) in templates.NEEDS.items() if pack]


@pytest.fixture(scope="module")
def kontext_server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """With all that the templates name: the large model files are empty."""
    server = Server(host, tmp_path_factory.mktemp(f"references-{host.version}-"))
    for pack in {pack for _, pack in templates.NEEDS.values() if pack}:
        if found := peer(pack, host):
            link_pack(server.base, found)
    for name, (_, folder) in SOURCES.items():
        file = server.base / "models" / folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    tiny_flux.write(server.base / "models")
    yield server
    server.stop()


@pytest.fixture
def client(kontext_server: Server) -> Client:
    return kontext_server.client


def graph_of(name: str, server: Server) -> Graph:
    needs(name, server.client.object_info())
    return opened(name, server)


@pytest.mark.parametrize("name", NAMES)
def test_the_host_accepts_it_and_misses_only_the_models(kontext_server: Server, client: Client, name: str) -> None:
    result = client.run(graph_of(name, kontext_server), timeout=120)
    assert result.error is not None
    assert result.error.node_type in LOADERS, result.error


@pytest.mark.parametrize("name", OF_PACKS)
def test_a_workflow_with_another_packs_nodes_is_as_ready_as_the_others(client: Client, name: str) -> None:
    test_workflows.test_a_workflow_is_ready_for_a_user(client, test_workflows.FOLDER / f"{name}.json")
    test_workflows.test_a_workflow_is_what_its_description_says(client, name)


def upstream(graph: Graph, node: str) -> set[str]:
    """A node and all that it needs."""
    found = {node}
    for value in graph[node]["inputs"].values():
        if isinstance(value, list):
            found |= upstream(graph, value[0])
    return found


def with_small_models(graph: Graph, server: Server, model: str, vae: str) -> Graph:
    """Tiny models for the large ones, and CLIP-L of SD 1.5 for their text encoders."""
    (text,) = [*nodes_of(graph, "DualCLIPLoader"), *nodes_of(graph, "CLIPLoader")]
    graph[text] = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": server.model("sd15-micro")}}
    for node in graph.values():
        node["inputs"] |= {name: [text, 1] for name, value in node["inputs"].items() if value == [text, 0]}
    graph[node_id(graph, "UNETLoader")]["inputs"]["unet_name"] = f"{model}.safetensors"
    graph[node_id(graph, "VAELoader")]["inputs"]["vae_name"] = vae
    small = {"EmptySD3LatentImage": 128, "EmptyFlux2LatentImage": 128, "Flux2Scheduler": 128}
    for node in graph.values():
        if node["class_type"] in small:
            node["inputs"] |= {"width": 128, "height": 128}
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
        if node["class_type"] == "ImageScaleToTotalPixels":
            node["inputs"]["megapixels"] = 0.05
    return graph


def latents(name: str, server: Server, points: str) -> list[np.ndarray]:
    """What a template encodes of its references after these clicks, by a tiny VAE, decoded again: 8 bits."""
    graph = with_small_models(graph_of(name, server), server, "tiny_flux", "taef1")
    for picker in nodes_of(graph, "P3S_PointPicker"):
        graph[picker]["inputs"]["points"] = points
    shown = []
    for number, encoded in enumerate(nodes_of(graph, "VAEEncode")):
        decoded, saved = f"decoded {number}", f"saved {number}"
        vae = graph[encoded]["inputs"]["vae"]
        graph[decoded] = {"class_type": "VAEDecode", "inputs": {"samples": [encoded, 0], "vae": vae}}
        graph[saved] = {"class_type": "PreviewImage", "inputs": {"images": [decoded, 0]}}
        shown.append(saved)
    kept = set().union(*(upstream(graph, node) for node in shown))
    result = server.client.run_ok({key: node for key, node in graph.items() if key in kept}, timeout=300)
    return [result.images(node)[0] for node in shown]


def test_the_clicks_choose_what_kontext_is_given(kontext_server: Server) -> None:
    """The picture of the one and of the other; both at a size of Kontext's."""
    (one,), (other,) = (latents("clicks_to_flux_kontext", kontext_server, points) for points in (POINTS, SWAPPED))
    for picture in (one, other):
        assert 900_000 < picture.shape[0] * picture.shape[1] < 1_200_000
    assert one.shape != other.shape or (one != other).any()


def test_klein_is_given_a_reference_of_each(kontext_server: Server) -> None:
    one, other = latents("clicks_to_flux2_klein", kontext_server, BOTH)
    assert one.shape != other.shape or (one != other).any()
    swapped = latents("clicks_to_flux2_klein", kontext_server, BOTH_SWAPPED)
    for picture, same in zip((other, one), swapped, strict=True):
        np.testing.assert_array_equal(picture, same)


def picture(result: Result, graph: Graph) -> np.ndarray:
    (found,) = result.images(node_id(graph, "SaveImage"))
    return found


def can_build_small_flux(host: Host) -> None:
    if host.release < (0, 33):
        pytest.skip(f"ComfyUI {host.version} builds Flux at its full width only")


@pytest.mark.parametrize(
    ("name", "model", "vae"),
    [("clicks_to_flux_kontext", "tiny_flux", "taef1"), ("clicks_to_flux2_klein", "tiny_flux2", "taef2")],
)
def test_what_the_clicks_choose_is_what_the_model_draws_from(
    kontext_server: Server, client: Client, host: Host, name: str, model: str, vae: str
) -> None:
    """On small random models: the same as from the pictures cut out by hand, and not the same from other clicks."""
    can_build_small_flux(host)
    graph = with_small_models(graph_of(name, kontext_server), kontext_server, model, vae)
    cuts = nodes_of(graph, "P3S_ReferencePicture")
    for cut in cuts:
        graph[f"seen {cut}"] = {"class_type": "PreviewImage", "inputs": {"images": [cut, 0]}}
    result = client.run_ok(graph, timeout=300)
    drawn = picture(result, graph)
    assert drawn.shape == (128, 128, 3) and drawn.std() > 1

    by_hand = {key: node for key, node in graph.items() if not key.startswith("seen")}
    for cut in cuts:
        (seen,) = result.images(f"seen {cut}")
        file = client.upload_image(seen, f"cut {cut}.png")
        by_hand[cut] = {"class_type": "LoadImage", "inputs": {"image": file}}
    kept = upstream(by_hand, node_id(by_hand, "SaveImage"))
    assert not any(by_hand[key]["class_type"].startswith("P3S_") for key in kept)
    same = picture(client.run_ok({key: by_hand[key] for key in kept}, timeout=300), by_hand)
    for picker in nodes_of(graph, "P3S_PointPicker"):
        both = graph[picker]["inputs"]["points"] == BOTH
        graph[picker]["inputs"]["points"] = BOTH_SWAPPED if both else SWAPPED
    other = picture(client.run_ok(graph, timeout=300), graph)
    by_rounding, by_clicks = (np.abs(each.astype(int) - drawn).mean() for each in (same, other))
    assert by_clicks > 0.2 and by_rounding < by_clicks / 20, (by_rounding, by_clicks)  # the cuts were saved in 8 bits


def test_qwens_text_encoder_is_given_the_reference(kontext_server: Server, client: Client) -> None:
    """Its prompt, with the text encoder of SD 1.5 and a tiny VAE, holds the latent of a megapixel of the reference."""
    graph = with_small_models(
        graph_of("clicks_to_qwen_image_edit", kontext_server), kontext_server, "tiny_flux", "taef1"
    )
    (positive, negative) = nodes_of(graph, "TextEncodeQwenImageEditPlus")
    for node in (positive, negative):
        graph[f"shown {node}"] = {"class_type": "PreviewAny", "inputs": {"source": [node, 0]}}
    kept = upstream(graph, f"shown {positive}") | upstream(graph, f"shown {negative}")
    result = client.run_ok({key: node for key, node in graph.items() if key in kept}, timeout=300)
    for node in (positive, negative):
        assert "reference_latents" in result.outputs[f"shown {node}"]["text"][0]


def test_ipadapter_is_given_the_one_that_is_clicked(kontext_server: Server, client: Client) -> None:
    shown = []
    for points in (POINTS, SWAPPED):
        graph = graph_of("clicks_to_ipadapter", kontext_server)
        graph[node_id(graph, "P3S_PointPicker")]["inputs"]["points"] = points
        square = node_id(graph, "PrepImageForClipVision")
        graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": [square, 0]}}
        assert graph[node_id(graph, "IPAdapterAdvanced")]["inputs"]["image"] == [square, 0]
        kept = upstream(graph, "shown")
        (found,) = client.run_ok({key: node for key, node in graph.items() if key in kept}).images("shown")
        assert found.shape == (224, 224, 3)
        shown.append(found.astype(int))
    assert np.abs(shown[0] - shown[1]).mean() > 5


def test_sam3s_masks_are_those_that_are_trained_on(kontext_server: Server, client: Client) -> None:
    """With two masks in the place of SAM's: the first is the subject, the second is painted over."""
    graph = graph_of("clicks_to_sam3", kontext_server)
    detects = nodes_of(graph, "SAM3_Detect")
    sides = [[graph[node]["inputs"][f"{side}_coords"] for side in ("positive", "negative")] for node in detects]
    assert sides[1] == sides[0][::-1]
    masks = np.zeros((2, 512, 1024, 3), np.uint8)
    masks[0, 100:400, 80:450] = masks[1, 60:480, 560:1000] = 255
    for node, mask in zip(detects, masks, strict=True):
        file = client.upload_image(mask, f"mask {node}.png")
        graph[node] = {"class_type": "LoadImageMask", "inputs": {"image": file, "channel": "red"}}
    rngr = node_id(graph, "P3S_RNGRMask")
    for number, name in ((1, "clean"), (2, "subject"), (3, "removed")):
        image: list[Any] = [rngr, number]
        if number > 1:
            graph[f"{name} picture"] = {"class_type": "MaskToImage", "inputs": {"mask": image}}
            image = [f"{name} picture", 0]
        graph[name] = {"class_type": "PreviewImage", "inputs": {"images": image}}
    kept = set().union(*(upstream(graph, name) for name in ("clean", "subject", "removed")))
    result = client.run_ok({key: node for key, node in graph.items() if key in kept})
    np.testing.assert_array_equal(result.images("subject")[0], masks[0])
    np.testing.assert_array_equal(result.images("removed")[0], masks[1])
    photo = np.asarray(Image.open(PHOTO).convert("RGB"))
    (clean,) = result.images("clean")
    outside = masks[1, ..., 0] == 0
    np.testing.assert_array_equal(clean[outside], photo[outside])
    assert np.abs(clean[~outside].astype(int) - photo[~outside]).mean() > 20


def test_sam3_reads_the_points_of_point_picker(inside: Inside) -> None:
    """Its own node on a model that records what it is asked: the pixels that hold the points, wanted ones first."""
    found = inside.run(Path(__file__).with_name("inside_sam3.py"))
    if found is None:
        pytest.skip("this ComfyUI has no node SAM3_Detect")
    assert found["labels"] == [[1, 1, 0]]
    np.testing.assert_allclose(found["coords"], found["expected"], atol=1e-3)
