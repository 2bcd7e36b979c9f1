"""What a widget would refuse is refused in a run, too: values over a wire, as null, or from an older host's queue."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from host.client import Client
from host.graphs import Graphs
from host.inside import Inside
from host.job import Job
from host.server import Server


@pytest.fixture(scope="session")
def facts(inside: Inside) -> dict[str, Any]:
    return inside.run(Path(__file__).with_name("inside_values.py"))


def test_every_widget_of_every_node_refuses_what_it_could_not_hold(facts: dict[str, Any]) -> None:
    """The error names the input, what is expected, and what came."""
    assert len(facts["wrong"]) > 400
    # Nothing is expected of the name of a file but that there is one.
    expected = r"must be (one of .+|(a|a whole) number in \S+\.\.\S+|true or false|text( that a file can hold.*)?); got"
    files = r"The (image|subject|SSR-Encoder) file .* is not in|Choose or upload an image"
    for where, name, value, said in facts["wrong"]:
        if name in ("image", "subject_file", "aligner_file", "layers_file"):
            assert re.match(files, said), (where, value, said)
        else:
            assert re.match(rf"{name} {expected}", said), (where, value, said)
            assert said.endswith(f"got {value}"), (where, value, said)


def test_the_limits_themselves_are_taken(facts: dict[str, Any]) -> None:
    assert facts["right"] == []


def test_a_wire_that_carries_nothing_is_named(facts: dict[str, Any]) -> None:
    ours = ("P3S_Apply.subject", "P3S_Train.reference", "P3S_SaveSubject.subject", "P3S_SSREncode.ssr")
    ours += ("P3S_ApplySSR.embeds", "P3S_ReferencePicture.reference")
    for where, name, value, said in facts["wires"]:
        if where in ours:
            sources = "Train P3S|RNGR Mask|Load SSR-Encoder|SSR Encode"
            assert re.match(rf"{name} must come from ({sources}).*; got {value}$", said), (where, said)
        elif where in ("P3S_RNGRMask.image", "P3S_RNGRMask.points"):
            continue  # several kinds: see test_pictures.py and test_points.py
        elif value == "None":
            assert said.startswith(f"{name} is empty: "), (where, said)
    assert {where for where, *_ in facts["wires"]} > {*ours, "P3S_Train.model", "P3S_Apply.model", "P3S_Train.vae"}


@pytest.mark.parametrize("strength", [1e18, float("nan"), -0.5])
def test_a_strength_over_a_wire_is_checked(server: Server, client: Client, strength: float) -> None:
    """A huge one gave black pictures, with success."""
    job = Job(server, "sd15-micro")
    wire = job.g.add("PrimitiveFloat", value=strength)
    job.image(job.apply(job.train(job.reference(), steps=1), strength=wire), steps=1)
    result = client.run(job.g.graph)
    assert result.error is not None
    assert result.error.message == f"strength must be a number in 0..10; got {strength!r}"
    assert result.error.node_type == "P3S_Apply"


@pytest.mark.parametrize("name", ["identifier", "licence"])
@pytest.mark.parametrize(
    ("value", "message"),
    [("sks \ud83d", "must be text that a file can hold"), ("x" * 70_000, "has 70000 characters")],
)
def test_notes_that_no_file_can_hold_are_refused_before_the_first_step(
    server: Server, client: Client, name: str, value: str, message: str
) -> None:
    """All was trained, and then could not be saved, with success."""
    job = Job(server, "sd15-micro")
    trained = job.train(job.reference(), name="noted", **{name: value})
    result = client.run(job.g.graph)
    assert result.error is not None
    assert result.error.message.startswith(f"{name} {message}")
    assert result.progress(trained.id) == []
    assert list((server.base / "models" / "p3s").glob("noted*")) == []


def test_a_wrong_value_is_shown_once(client: Client) -> None:
    """The host shows what a node says of its values beside every input that its validate_inputs names."""
    g = Graphs()
    g.add("P3S_RNGRMask", image=g.add("P3S_PointPicker", image="", points="{}"), points=["1", 1])
    _, answer = client.post("/prompt", {"prompt": g.graph, "client_id": client.id})
    shown = answer["node_errors"]["1"]["errors"]
    assert [error["extra_info"]["input_name"] for error in shown] == ["points"]
    assert shown[0]["details"].startswith("points - There is no positive point. Choose a picture")
