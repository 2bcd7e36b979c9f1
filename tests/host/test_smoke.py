"""The first things that must hold on a real host: the pack loads, its nodes are listed, small models work."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from host.client import Client
from host.graphs import Graphs, sample
from host.hosts import NO_HOST, REPO, Host, default_hosts, find_hosts, header, host_at
from host.inside import Inside
from host.server import PACK, Server

needs_pack = pytest.mark.skipif(not (REPO / "__init__.py").exists(), reason="the pack's __init__.py does not exist yet")


@needs_pack
def test_pack_loads_without_a_complaint(server: Server, client: Client) -> None:
    log = server.log_text()
    lines = [line for line in log.splitlines() if PACK in line]
    assert any("seconds: " in line for line in lines), "the log's import times do not list the pack"
    assert not [line for line in lines if "IMPORT FAILED" in line or "Cannot import" in line]
    assert "Error while calling comfy_entrypoint" not in log
    assert "P3S_PointPicker" in client.object_info()


def small_picture(server: Server, seed: int = 1) -> Graphs:
    g = Graphs()
    base = g.add("CheckpointLoaderSimple", ckpt_name=server.model("sd15-slim"))
    image = sample(g, base[0], base[1], base[2], seed=seed)
    g.add("SaveImage", images=image, filename_prefix="smoke")
    return g


def test_small_checkpoint_samples_and_repeats(server: Server, client: Client) -> None:
    g = small_picture(server)
    save = list(g.graph)[-1]
    first = client.run_ok(g.graph)
    (image,) = first.images(save)
    assert image.shape == (128, 128, 3)
    assert image.std() > 1, "the picture is flat"
    assert first.executed[-1] == save
    assert ("executing", save) in [(event.type, event.data.get("node")) for event in first.events]

    again = client.run_ok(g.graph)
    assert set(again.cached) == set(g.graph)
    assert again.executed == []

    other = client.run_ok(small_picture(server, seed=2).graph)
    assert not np.array_equal(other.images(save)[0], image)
    client.free()
    fresh = client.run_ok(g.graph)
    assert set(fresh.executed) == set(g.graph)
    np.testing.assert_array_equal(fresh.images(save)[0], image)


@pytest.mark.slow
def test_restart_keeps_files_and_gives_the_same_picture(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    g = small_picture(server)
    save = list(g.graph)[-1]
    (sampler,) = [node_id for node_id, node in g.graph.items() if node["class_type"] == "KSampler"]
    before = server.client.run_ok(g.graph).images(save)[0]
    (server.base / "input" / "kept.txt").write_text("kept")
    monkeypatch.setattr(server, "arguments", ("--preview-method", "latent2rgb"))
    client = server.restart()
    result = client.run_ok(g.graph)
    assert set(result.executed) == set(g.graph)
    np.testing.assert_array_equal(result.images(save)[0], before)
    assert (server.base / "input" / "kept.txt").exists()
    assert server.peak_memory() > 2**28
    assert result.progress(sampler) == [(1, 2), (2, 2)]
    previews = result.previews(sampler)
    assert previews and previews[0].picture().shape == (512, 512, 3)  # the server enlarges them too
    assert result.previews(save) == []


@pytest.mark.slow
def test_controlnet_and_lora_change_the_picture(server: Server, client: Client) -> None:
    plain = small_picture(server)
    pictures = [client.run_ok(plain.graph).images(list(plain.graph)[-1])[0]]
    photo = client.upload_image(np.random.default_rng(0).random((128, 128, 3)), "noise.png")
    for kind in ("controlnet-slim", "lora-slim"):
        g = Graphs()
        base = g.add("CheckpointLoaderSimple", ckpt_name=server.model("sd15-slim"))
        model, positive = base[0], g.add("CLIPTextEncode", clip=base[1], text="a photo of a thing")
        if kind == "lora-slim":
            model = g.add("LoraLoaderModelOnly", model=model, lora_name=server.model(kind), strength_model=1.0)[0]
        else:
            positive = g.add(
                "ControlNetApply",
                conditioning=positive,
                control_net=g.add("ControlNetLoader", control_net_name=server.model(kind)),
                image=g.add("LoadImage", image=photo),
                strength=1.0,
            )
        save = g.add("SaveImage", images=sample(g, model, base[1], base[2], positive=positive), filename_prefix=kind)
        log = server.log_size()
        pictures.append(client.run_ok(g.graph).images(save.id)[0])
        text = server.log_text(log)
        assert "missing" not in text and "not loaded" not in text, text
    difference = [np.abs(picture.astype(int) - pictures[0]).mean() for picture in pictures[1:]]
    assert min(difference) > 1, difference


def test_bad_graph_is_refused_with_the_input_named(client: Client) -> None:
    g = Graphs()
    g.add("PreviewImage", images=g.add("EmptyImage", width=-5, height=64, batch_size=1, color=0))
    result = client.run(g.graph)
    assert result.status == "refused"
    assert result.error and "width" in result.error.message
    assert result.error.node_type == "EmptyImage"


def test_upload_and_error_inside_a_node(server: Server, client: Client) -> None:
    picture = np.zeros((20, 30, 3), np.uint8)
    picture[:, :15] = (200, 30, 40)
    name = client.upload_image(picture, "two colours.png")
    g = Graphs()
    image = g.add("LoadImage", image=name)
    save = g.add("SaveImage", images=image, filename_prefix="copy")
    np.testing.assert_array_equal(client.run_ok(g.graph).images(save.id)[0], picture)

    (server.base / "input" / "broken.png").write_bytes(b"not a picture")
    broken = Graphs()
    loader = broken.add("LoadImage", image="broken.png")
    broken.add("PreviewImage", images=loader)
    result = client.run(broken.graph)
    assert result.status == "error"
    assert result.error and (result.error.node_id, result.error.node_type) == (loader.id, "LoadImage")
    assert "broken.png" in result.error.message
    assert "load_image" in result.error.traceback


@pytest.mark.slow
def test_interrupt_ends_the_prompt(server: Server, client: Client) -> None:
    g = Graphs()
    base = g.add("CheckpointLoaderSimple", ckpt_name=server.model("sd15-slim"))
    g.add("SaveImage", images=sample(g, base[0], base[1], base[2], steps=500, seed=3), filename_prefix="long")
    start = client.mark()
    prompt_id = client.queue(g.graph)
    assert isinstance(prompt_id, str)
    client.wait_event(lambda event: event.type == "progress" and event.data["value"] >= 2, since=start)
    client.interrupt(prompt_id)
    result = client.wait(prompt_id, timeout=30)
    assert result.status == "interrupted"
    assert result.files(list(g.graph)[-1]) == []


def test_inside_has_the_host_and_its_models(inside: Inside) -> None:
    facts = inside.run(
        Path(__file__).with_name("inside_smoke.py"),
        {"checkpoint": inside.model("sd15-topo"), "clip_vision": inside.model("clip-vision")},
    )
    assert facts["version"] == inside.host.version
    assert facts["context_dim"] == 768
    assert facts["transformers"] == 16
    assert facts["missing"] == []
    assert facts["tokens"] == [1, 257, 1024]
    # One photo, left half red, right half green, the last row of patches blue: like colours only are alike.
    assert facts["like"] > 0.9
    assert facts["unlike"] < 0.3
    assert facts["pack"] in (True, None)


def test_hosts_are_found_by_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "Comfy UI"
    folder.mkdir()
    assert host_at(folder) is None
    monkeypatch.setenv("COMFYUI_PATH", str(folder))
    with pytest.raises(FileNotFoundError, match="Comfy UI"):
        find_hosts()
    (folder / "main.py").touch()
    (folder / "comfyui_version.py").write_text('__version__ = "9.8.7"\n')
    assert [host.version for host in find_hosts()] == ["9.8.7"]
    monkeypatch.setenv("COMFYUI_PATH", "")
    assert find_hosts() == []


def test_the_newest_host_found_runs_and_the_header_names_those_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    for name, version in (("ComfyUI", "0.9.2"), ("ComfyUI-a", "0.33.0"), ("ComfyUI-b", "0.4.10")):
        folder = tmp_path / "comfy" / name
        folder.mkdir(parents=True)
        (folder / "main.py").touch()
        (folder / "comfyui_version.py").write_text(f'__version__ = "{version}"\n')
    found = [host for host in find_hosts() if host.path.is_relative_to(tmp_path)]
    (newest,) = default_hosts(found)
    assert newest.version == "0.33.0"
    runs, left = header(found, [newest])
    assert runs == f"hosts: {newest}"
    assert "ComfyUI 0.9.2" in left and "ComfyUI 0.4.10" in left and "0.33.0" not in left
    assert "--all-hosts" in left and "make test-hosts" in left
    assert len(header(found, found)) == 1
    assert header([], []) == [f"hosts: {NO_HOST}"]

    monkeypatch.setenv("COMFYUI_PATH", os.pathsep.join(str(host.path) for host in found))
    assert default_hosts(find_hosts()) == found, "what is named is run"


def test_host_names_its_version(host: Host) -> None:
    assert host.version in str(host)
