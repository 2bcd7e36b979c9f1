"""Weight Schedule, Load and Save P3S Subject on a real server."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from host.client import Client
from host.graphs import Graphs, Node
from host.hosts import Host
from host.server import Server
from safetensors.torch import save_file
from subjects import make_subject, same

from p3s.sampling.schedule import Schedule
from p3s.sampling.schedule_plot import MARK, plot_schedule
from p3s.subject.file import load_subject, save_subject

SETTINGS = {"kind": "paper", "alpha": 0.5, "beta": 0.2, "k": 2.0, "value": 1.0, "keyframes": "0:0.7, 1:1.2"}


@pytest.fixture
def folder(server: Server) -> Path:
    folder = server.base / "models" / "p3s"
    for file in folder.rglob("*.safetensors"):
        file.unlink()
    return folder


def copy_graph(name: str, filename: str = "copy") -> Graphs:
    g = Graphs()
    loaded = g.add("P3S_LoadSubject", subject_file=name)
    g.add("P3S_SaveSubject", subject=loaded, filename=filename)
    g.add("PreviewAny", source=loaded[1])
    return g


def test_the_inputs_are_in_their_order_for_ever(client: Client) -> None:
    def inputs(node: str) -> list[str]:
        order = client.object_info(node)["input_order"]
        return [name for kind in ("required", "optional") for name in order.get(kind, [])]

    assert inputs("P3S_WeightSchedule") == ["kind", "alpha", "beta", "k", "value", "keyframes", "sigmas"]
    assert inputs("P3S_LoadSubject") == ["subject_file"]
    assert inputs("P3S_SaveSubject") == ["subject", "filename"]
    assert client.object_info("P3S_WeightSchedule")["output"] == ["P3S_SCHEDULE", "IMAGE"]
    assert client.object_info("P3S_LoadSubject")["output"] == ["P3S_SUBJECT", "STRING"]
    assert client.object_info("P3S_SaveSubject")["output"] == ["STRING"]


def add_schedule(g: Graphs, **values: Any) -> Node:
    """The node, and one that shows its plot: it is no output by itself, or a graph whose other nodes cannot run would
    be taken for one that can."""
    node = g.add("P3S_WeightSchedule", **{**SETTINGS, **values})
    g.add("PreviewImage", images=node[1])
    return node


def test_weight_schedule_shows_its_curve(client: Client) -> None:
    g = Graphs()
    node = add_schedule(g, kind="keyframes", keyframes="0:1.5\n0.5:0.2")
    result = client.run_ok(g.graph)
    (shown,) = result.images(node.id)
    expected = plot_schedule(Schedule("keyframes", keyframes=((0, 1.5), (0.5, 0.2)))).numpy() * 255
    assert shown.shape == expected.shape
    # Another Pillow may draw letters by other pixels, but the curve is the same.
    assert (np.abs(shown.astype(float) - expected).max(-1) > 8).mean() < 0.02


def test_weight_schedule_marks_the_samplers_steps(client: Client) -> None:
    g = Graphs()
    sigmas = g.add("KarrasScheduler", steps=5, sigma_max=14.614642, sigma_min=0.0291675, rho=7.0)
    node = add_schedule(g, sigmas=sigmas)
    (shown,) = client.run_ok(g.graph).images(node.id)
    plain = plot_schedule(Schedule()).numpy() * 255
    steps = np.asarray(MARK)
    assert (np.abs(shown.astype(float) - steps).max(-1) < 8).sum() > 5 * (np.abs(plain - steps).max(-1) < 8).sum() + 50


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "wavy"}, "kind must be one of paper"),
        ({"kind": "keyframes", "keyframes": "0:0.7, half:1"}, "Keyframe 2: 'half:1'"),
        ({"kind": "keyframes", "keyframes": ""}, "no keyframes"),
    ],
)
def test_bad_schedules_are_refused_before_the_run(client: Client, change: dict[str, str], message: str) -> None:
    g = Graphs()
    add_schedule(g, **change)
    result = client.run(g.graph)
    assert result.status == "refused"
    assert result.error is not None
    assert message in result.error.message


def test_keyframes_of_another_kind_are_not_looked_at(client: Client) -> None:
    g = Graphs()
    add_schedule(g, keyframes="not yet")
    client.run_ok(g.graph)


def test_a_schedule_alone_is_nothing_to_run(client: Client) -> None:
    """So a photo or a file that is missing elsewhere in a graph is an error that the page shows."""
    g = Graphs()
    g.add("P3S_WeightSchedule", **SETTINGS)
    assert client.run(g.graph).status == "refused"


def test_load_and_save_keep_every_bit(server: Server, client: Client, folder: Path) -> None:
    original = save_subject(make_subject(2), folder / "sub" / "dog.safetensors")
    name = os.path.join("sub", "dog.safetensors")
    assert name in client.object_info("P3S_LoadSubject")["input"]["required"]["subject_file"][1]["options"]
    result = client.run_ok(copy_graph(name, "../my: dog").graph)
    assert result.outputs["2"]["text"] == [str(folder / "_my_ dog.safetensors")]
    assert (folder / "_my_ dog.safetensors").read_bytes() == original.read_bytes()
    loaded, text = [event.data["text"] for event in result.events if event.type == "text"]
    assert loaded == "For an SD 1.x model"
    saved = os.path.join("models", "p3s", "_my_ dog.safetensors")
    assert text == f"Saved {saved};\n'../my: dog' is not a valid file name; saved as '_my_ dog'"
    description = result.outputs["3"]["text"][0]
    for part in ("an SD 1.x model", "sks", "Größe", "300", "CC BY 4.0"):
        assert part in description
    client.free()
    again = client.run_ok(copy_graph(name, "../my: dog").graph)
    assert again.outputs["2"]["text"] == [str(folder / "_my_ dog_00002.safetensors")]


def test_the_list_says_which_models_a_subject_fits(client: Client, folder: Path) -> None:
    """Of a changed file too; a file of another kind is listed as it is."""
    subject = make_subject()
    families = {"xl": "SDXL", "one": "SD1.x", "two": "SD2.x", "toy": "U-Net 32x64", "odd": "<img src=x>"}

    def save(name: str, family: str) -> None:
        info = replace(subject.info, family=family)
        save_subject(replace(subject, info=info), folder / f"{name}.safetensors", overwrite=True)

    def listed() -> dict[str, str]:
        return {each["file"]: each["family"] for each in client.get_json("/p3s/subjects")}

    for name, family in families.items():
        save(name, family)
    save_file({"a.lora_up.weight": torch.zeros(2, 2)}, folder / "lora.safetensors")
    titles = {"xl": "SDXL", "one": "SD 1.x", "two": "SD 2.x", "toy": "Toy World", "odd": "another kind", "lora": ""}
    assert listed() == {f"{name}.safetensors": title for name, title in titles.items()}
    options = client.object_info("P3S_LoadSubject")["input"]["required"]["subject_file"][1]["options"]
    assert list(listed()) == options
    save("one", "SDXL")
    assert listed()["one.safetensors"] == "SDXL"


def test_a_changed_file_is_loaded_again(client: Client, folder: Path) -> None:
    path = save_subject(make_subject(), folder / "dog.safetensors")
    g = copy_graph(path.name)
    client.run_ok(g.graph)
    assert set(client.run_ok(g.graph).cached) == set(g.graph)
    save_subject(make_subject(identifier="other"), path, overwrite=True)
    result = client.run_ok(g.graph)
    assert "1" in result.executed
    assert same(load_subject(folder / "copy_00002.safetensors"), make_subject(identifier="other"))


@pytest.mark.parametrize("name", ["no.safetensors", "../../../etc/passwd", "", "a\0b", 7])
def test_a_file_that_is_not_there_is_refused(client: Client, folder: Path, name: object) -> None:
    result = client.run(copy_graph(name).graph)
    assert result.status == "refused"
    assert result.error is not None
    assert "is not in models/p3s" in result.error.message


def test_a_damaged_file_says_so_in_plain_words(client: Client, folder: Path) -> None:
    path = save_subject(make_subject(), folder / "dog.safetensors")
    path.write_bytes(path.read_bytes()[:-10])
    result = client.run(copy_graph("dog.safetensors").graph)
    assert result.status == "error"
    assert result.error is not None
    assert result.error.message.startswith("dog.safetensors: the file should hold")
    assert result.error.exception_type == "p3s.SubjectFileError"  # shown above the message


@pytest.mark.parametrize("is_default", [False, True])
def test_extra_model_paths_are_searched(host: Host, tmp_path: Path, is_default: bool) -> None:
    """And written to, if they are to be the default: otherwise models/p3s is."""
    yaml = tmp_path / "extra.yaml"
    default = "  is_default: true\n" if is_default else ""
    yaml.write_text(f"shared:\n  base_path: {tmp_path / 'shared'}\n{default}  p3s: subjects\n")
    save_subject(make_subject(), tmp_path / "shared" / "subjects" / "dog.safetensors")
    (tmp_path / "shared" / "subjects" / "readme.txt").touch()
    server = Server(host, tmp_path / "base", ("--extra-model-paths-config", str(yaml)))
    try:
        options = server.client.object_info("P3S_LoadSubject")["input"]["required"]["subject_file"][1]["options"]
        assert options == ["dog.safetensors"]
        result = server.client.run_ok(copy_graph("dog.safetensors").graph)
        folder = tmp_path / "shared" / "subjects" if is_default else tmp_path / "base" / "models" / "p3s"
        assert result.outputs["2"]["text"] == [str(folder / "copy.safetensors")]
    finally:
        server.stop()
