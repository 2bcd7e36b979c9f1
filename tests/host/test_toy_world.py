"""The toy world's models are ordinary ones to a host: it computes with them what the world itself computes."""

from __future__ import annotations

from pathlib import Path

import pytest
from host.client import Client
from host.graphs import Graphs
from host.inside import Inside

from p3s.network.unet_config import family_name
from p3s.toyworld.models import QUESTIONS


@pytest.mark.slow
def test_the_host_computes_the_same(inside: Inside) -> None:
    seen = inside.run(Path(__file__).with_name("inside_toy_world.py"))
    assert (seen["prediction"], seen["tokens"], seen["shape"]) == ("v", [1, 145, 96], [4, 384, 384, 3])
    assert family_name(seen["family"]) == "the Toy World's model"
    assert seen["schedule"] < 1e-6
    assert seen["latent"] < 1e-4
    assert max(seen["differences"]) < 1e-3
    assert seen["preview"] < 0.9
    dog, beach = QUESTIONS["animal"].index("dog"), QUESTIONS["background"].index("beach")
    assert sum(answer == dog for answer in seen["dogs"]) >= 3
    assert sum(answer == beach for answer in seen["beaches"]) >= 3


def test_a_call_of_the_small_model_has_one_thread_and_all_else_what_the_host_has(inside: Inside) -> None:
    seen = inside.run(Path(__file__).with_name("inside_toy_world.py"), {"threads": True})
    assert seen["threads"] == [3, 1, 3]


def test_an_unknown_word_is_named(client: Client) -> None:
    g = Graphs()
    world = g.add("P3S_ToyWorld", animal="cat", scene=0, batch_size=1)
    g.add("PreviewAny", source=g.add("CLIPTextEncode", clip=world[1], text="a photo of a zebra"))
    result = client.run(g.graph)
    assert result.status == "error"
    assert "the toy world does not know 'zebra'" in result.error.message


def test_an_unknown_animal_is_refused(client: Client) -> None:
    g = Graphs()
    g.add("PreviewImage", images=g.add("P3S_ToyWorld", animal="zebra", scene=0, batch_size=1)[4])
    result = client.run(g.graph)
    assert result.error is not None
    assert "zebra" in result.error.message
