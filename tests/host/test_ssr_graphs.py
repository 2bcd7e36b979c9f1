"""The nodes of SSR-Encoder in graphs on a real server: files, a run from points to a picture on the toy world."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host.client import Client, Result
from host.graphs import Graphs, Node
from host.hosts import Host
from host.server import Server
from ssr_models import random_aligner, random_layers

from p3s.ssr.file import SSRModel, describe, load_ssr, save_ssr
from p3s.toyworld.models import unet_config

NAMES = ("ssr_aligner.safetensors", "pytorch_model_1.bin", "both.safetensors")


def write(folder: Path, seed: int = 0) -> SSRModel:
    """An SSR-Encoder for the toy world, in two files (the aligner under the port's keys, the layers as a PyTorch file)
    and in one."""
    from safetensors.torch import save_file

    aligner = random_aligner(seed, query=64, vision=96, inner=64, heads=1, scales=3)
    model = SSRModel(aligner, random_layers(unet_config(), seed + 1).state_dict(), "")
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(aligner.state_dict()), folder / NAMES[0])
    torch.save(dict(model.layers), folder / NAMES[1])
    save_ssr(model, folder / NAMES[2], overwrite=True)
    return model


@pytest.fixture
def folder(server: Server) -> Iterator[Path]:
    folder = server.base / "models" / "ssr"
    write(folder)
    yield folder
    for file in folder.iterdir():
        file.unlink()


def files(client: Client) -> list[str]:
    inputs = client.object_info("P3S_LoadSSR")["input"]["required"]
    lists = [inputs[name][1]["options"] for name in ("aligner_file", "layers_file")]
    assert lists[0] == lists[1]
    return lists[0]


def loading(aligner: str, layers: str) -> tuple[Graphs, Node]:
    g = Graphs()
    loaded = g.add("P3S_LoadSSR", aligner_file=aligner, layers_file=layers)
    g.add("PreviewAny", source=loaded[1])
    return g, loaded


def said(result: Result) -> str:
    assert result.error is not None
    return result.error.message


def test_the_files_are_listed_and_others_are_not(client: Client, folder: Path) -> None:
    (folder / "sub").mkdir(exist_ok=True)
    (folder / "readme.txt").touch()
    nested = folder / "sub" / "deep.SAFETENSORS"
    nested.touch()
    try:
        assert sorted(files(client)) == sorted([*NAMES, str(Path("sub") / "deep.SAFETENSORS")])
    finally:
        nested.unlink()
        nested.parent.rmdir()


@pytest.mark.parametrize("chosen", [NAMES[:2], (NAMES[2], NAMES[2])])
def test_the_two_files_and_the_one_are_the_same_encoder(client: Client, folder: Path, chosen: tuple[str, str]) -> None:
    g, _ = loading(*chosen)
    (text,) = client.run_ok(g.graph).outputs["2"]["text"]
    assert text == describe(load_ssr(folder / NAMES[2]))
    assert "query 64 wide, vision 96 wide, 3 scales, 1 heads" in text and "11 cross-attentions" in text


def test_a_changed_file_is_loaded_again(client: Client, folder: Path) -> None:
    g, loaded = loading(NAMES[2], NAMES[2])
    client.run_ok(g.graph)
    assert loaded.id in client.run_ok(g.graph).cached
    write(folder, 5)
    assert loaded.id in client.run_ok(g.graph).executed


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        (("no.safetensors", NAMES[1]), "The SSR-Encoder file 'no.safetensors' is not in models/ssr"),
        ((NAMES[0], "../../secret.bin"), "The SSR-Encoder file '../../secret.bin' is not in models/ssr"),
        ((NAMES[1], NAMES[0]), "the two files are swapped: pytorch_model_1.bin holds the subject layers"),
        ((NAMES[0], NAMES[0]), "ssr_aligner.safetensors holds the aligner alone"),
        ((NAMES[0], NAMES[2]), "both.safetensors holds both the aligner and the subject layers"),
    ],
)
def test_what_is_refused(client: Client, folder: Path, chosen: tuple[str, str], message: str) -> None:
    assert message in said(client.run(loading(*chosen)[0].graph))


def test_extra_model_paths_are_searched(host: Host, tmp_path: Path) -> None:
    yaml = tmp_path / "extra.yaml"
    yaml.write_text(f"shared:\n  base_path: {tmp_path / 'shared'}\n  ssr: encoders\n")
    write(tmp_path / "shared" / "encoders")
    server = Server(host, tmp_path / "base", ("--extra-model-paths-config", str(yaml)))
    try:
        assert sorted(files(server.client)) == sorted(NAMES)
        server.client.run_ok(loading(*NAMES[:2])[0].graph)
    finally:
        server.stop()


def toy_graph(**changes: Any) -> tuple[Graphs, dict[str, Node]]:
    """Point Picker, RNGR Mask, SSR Encode, Apply SSR and KSampler on the toy world."""
    g = Graphs()
    world = g.add("P3S_ToyWorld", animal="dog", scene=4, batch_size=2)
    points = json.dumps({"v": 1, "positive": [[0.2, 0.7]], "negative": [[0.75, 0.6]]})
    picker = g.add("P3S_PointPicker", image="", points=points, linked_image=world[4])
    settings = {"fill": "smooth", "fill_region": "negative", "value_range": "clip", "blur": 0.4, "grow": 1.0}
    reference = g.add("P3S_RNGRMask", clip_vision=world[3], image=picker, points=picker[1], **settings)
    encoder = g.add("P3S_LoadSSR", aligner_file=NAMES[2], layers_file=NAMES[2])
    given = {"ssr": encoder, "clip": world[1], "clip_vision": world[3], "query": "dog", "weight": 1.0}
    encoded = g.add("P3S_SSREncode", **given, reference=reference, mask_mode="strict")
    applied = {"strength": 1.0, "start_percent": 0.0, "end_percent": 1.0, "guidance": "both", **changes}
    model = g.add("P3S_ApplySSR", model=world[0], embeds=encoded, **applied)
    texts = [g.add("CLIPTextEncode", clip=world[1], text=text) for text in ("a photo of a dog on the beach", "")]
    sampler = {"seed": 1, "steps": 3, "cfg": 3.0, "sampler_name": "ddim", "scheduler": "normal", "denoise": 1.0}
    images = [
        g.add("VAEDecode", samples=g.add("KSampler", model=each, positive=texts[0], negative=texts[1],
              latent_image=world[5], **sampler), vae=world[2])
        for each in (model, world[0])
    ]  # fmt: skip
    saved = [g.add("SaveImage", images=image, filename_prefix="ssr") for image in images]
    return g, {"encode": encoded, "with": saved[0], "without": saved[1]}


def test_from_two_clicks_to_a_picture(client: Client, folder: Path) -> None:
    g, nodes = toy_graph()
    result = client.run_ok(g.graph)
    with_subject, without = (np.stack(result.images(nodes[name].id)) for name in ("with", "without"))
    assert np.abs(with_subject.astype(float) - without).mean() > 1
    (heat,) = result.images(nodes["encode"].id)
    assert heat.shape == (384, 384, 3) and result.outputs[nodes["encode"].id]["text"] == []
    off, nodes = toy_graph(strength=0.0)
    result = client.run_ok(off.graph)
    pictures = [np.stack(result.images(nodes[name].id)) for name in ("with", "without")]
    assert np.array_equal(*pictures) and np.array_equal(pictures[0], without)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer_strengths": "outputs: 1"}, "layer_strengths: 'outputs: 1' is not"),
        ({"strength": 5.0}, "bigger than max of 2.0"),
    ],
)
def test_wrong_values_are_refused_before_the_run(
    client: Client, folder: Path, change: dict[str, Any], message: str
) -> None:
    g, _ = toy_graph(**change)
    _, answer = client.post("/prompt", {"prompt": g.graph, "client_id": client.id})
    (wrong,) = (e for e in answer["node_errors"].values() if e["class_type"] == "P3S_ApplySSR")
    (error,) = wrong["errors"]
    assert message in f"{error['message']}: {error['details']}"
    client.wait(answer["prompt_id"])  # the other outputs run


def test_a_window_that_ends_before_it_starts_is_refused(client: Client, folder: Path) -> None:
    result = client.run(toy_graph(start_percent=0.8, end_percent=0.2)[0].graph)
    assert said(result) == "start_percent (0.8) must not be greater than end_percent (0.2): swap them"
