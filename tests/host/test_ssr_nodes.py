"""SSR Encode and Apply SSR in the host's process: values of the core, identities, and what a user is told."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from host.inside import Inside


@pytest.fixture(scope="module")
def facts(inside: Inside) -> Any:
    names = {"model": "sd15-micro", "topo": "sd15-topo", "slim": "sd15-slim", "sd2": "sd2-micro"}
    arguments = {key: inside.model(name) for key, name in names.items()}
    return inside.run(Path(__file__).with_name("inside_ssr_nodes.py"), arguments, timeout=900)


NETWORK = ("both", "conditional", "a mask for each image", "chained", "two nodes", "layers")


@pytest.mark.parametrize("name", NETWORK)
def test_the_hosts_u_net_equals_the_cores(facts: Any, name: str) -> None:
    found = facts["network"][name]
    assert found["error"] < 1e-4 < 0.01 < found["effect"]
    assert found["first half plain"] == (name == "conditional")


def test_the_order_of_the_chunks_does_not_matter(facts: Any) -> None:
    assert facts["network"]["swapped"]["error"] < 1e-4


def test_identities(facts: Any) -> None:
    wrong = [name for name, holds in facts["identities"].items() if not holds]
    assert wrong == [] and len(facts["identities"]) >= 19


def test_pictures_are_those_of_the_equations(facts: Any) -> None:
    wrong = {name: error for name, error in facts["values"].items() if not error < 1e-3}
    assert wrong == {} and len(facts["values"]) == 10


def test_every_weight_of_a_chain_acts(facts: Any) -> None:
    assert facts["weights"] == {"the first": True, "the second": True, "each in its way": True}


def test_apply_p3s_beside_it(facts: Any) -> None:
    found = facts["with P3S"]
    assert found["orders"] and found["P3S alone"] and found["SSR alone"]
    assert found["P3S acts"] > 0.01 and found["SSR acts"] > 0.01
    # P3S's first attention is computed once for both branches of guidance, as without SSR.
    assert found["rows of P3S's first attention"] == [[1], [1]]


def test_the_layer_is_linear_in_strength_and_mask(facts: Any) -> None:
    found = facts["layer"]
    assert found["acts"] > 0.01
    assert found["masked right"]
    assert max(found["linear"], found["masked left"], found["soft"]) < 1e-4


def test_the_layers_go_with_the_model(facts: Any) -> None:
    assert facts["freed"]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "another encoder",
            "FamilyError: model: this SSR-Encoder was made for a U-Net with 11 cross-att",
        ),
        ("SD 2", r"FamilyError: .*SD 2"),
        ("window", r"P3SError: start_percent \(0\.5\) must not be greater than end_percent \(0\.2\): swap them"),
        ("strength", r"P3SError: strength must be a number in 0\.\.2; got nan"),
        ("layers", "P3SError: layer_strengths: output 99 has no attention"),
        ("masks", r"MaskError: mask holds 3 masks, and 1 image\(s\) are sampled"),
        ("area", r"P3SError: the mask of Apply SSR does not work together with Conditioning \(Set Area\)"),
        ("several GPUs", "P3SError: Apply SSR does not work with several GPUs at once: remove the multi-GPU node"),
        ("several devices", "Apply SSR does not work with several GPUs .*choose the model's device before Apply SSR"),
        (
            "rows",
            r"P3SError: Apply SSR does not work together with a node that multiplies .*\(from 4 to 5 here",
        ),
        (
            "timesteps",
            "P3SError: Apply SSR with a start_percent or end_percent works with models whose timesteps go up to 1000; "
            "this one samples with ModelSampling.*, whose go up to 1.096",
        ),
        ("timesteps without a window", "no error"),
    ],
)
def test_what_apply_ssr_refuses(facts: Any, name: str, said: str) -> None:
    assert re.match(said, facts["refusals"][name]), facts["refusals"][name]


def test_a_query_is_the_text_encoders_last_state_whatever_clip_skip_says(facts: Any) -> None:
    found = facts["query"]
    assert found["not loaded"] == [] and found["error"] < 1e-4
    assert found["another layer is another query"] and found["clip skip"] and found["skipping is left alone"]
    assert found["words"] == [[1, 4], None, [1, 76]]
    assert found["shapes"] == [[1, 77, 768]] * 3
    assert found["warnings"] == [[], [], ["query is long: its first 77 tokens are read, the rest is not."]]


def test_states_are_those_of_the_tower_and_those_of_zeros_are_kept(facts: Any) -> None:
    found = facts["tower"]
    assert found["states"] < 1e-5 and found["zeros"] and found["zeros of another node"]
    assert (found["calls"], found["size"]) == (2, 28)
    assert found["another depth"].startswith("FamilyError: clip_vision: this SSR-Encoder reads 7 evenly spaced layers")
    assert found["no tower"].startswith("FamilyError: clip_vision: load CLIP ViT-L/14 with Load CLIP Vision; got")


def test_ssr_encode_is_the_core_on_the_toy_worlds_models(facts: Any) -> None:
    found = facts["encode"]
    same = ("plain", "crop", "masked", "a mask acts", "focus", "ones", "reference", "chained", "unconditional")
    assert [name for name in (*same, "photos differ", "attention under the mask", "nameless") if not found[name]] == []
    assert found["weight"] == 0.5
    assert found["attention"] == [[1, 384, 256, 3], True]
    assert found["warning"] == [
        "query is empty: the mask alone selects, for which SSR-Encoder was not trained. Name the subject as well."
    ]


def test_the_heat_map_is_highest_under_a_masked_point(facts: Any) -> None:
    row, column, *under = facts["encode"]["patch under the point"]
    assert under == [row, column]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("neither", "MaskError: Connect either image or reference; neither came"),
        ("both", "MaskError: Connect either image or reference; both came"),
        ("mask of a reference", "MaskError: mask goes with image; a reference has a mask of its own"),
        ("empty", "MaskError: query: it is empty"),
        ("proportions", "MaskError: mask: it is 256 x 256 pixels, the photo 256 x 384"),
        ("masks", r"MaskError: mask: expected one mask for one photo, \[height, width\], got \[2, 384, 256\]"),
        ("NaN", "MaskError: mask holds values that are not finite"),
        ("no mask", "MaskError: mask: it is empty"),
        ("embeds", "FamilyError: embeds: the subjects of one chain were encoded by two different SSR-Encoders"),
        ("another clip", r"FamilyError: clip: this SSR-Encoder reads a query 64 wide; .*\[77, 2048\]"),
    ],
)
def test_what_ssr_encode_refuses(facts: Any, name: str, said: str) -> None:
    assert re.match(said, facts["encode"]["said"][name]), facts["encode"]["said"][name]


def test_the_toy_worlds_model_takes_an_encoder_of_its_widths(facts: Any) -> None:
    assert facts["toy"]["error"] < 1e-3 and facts["toy"]["effect"] > 0.01
