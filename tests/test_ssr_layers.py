"""The subject layers: which tensor of a file belongs to which cross-attention."""

from __future__ import annotations

import pytest
import torch
from real_models import UNET, diffusers_twin
from small import SMALL, random_unet
from ssr_models import random_layers

from p3s.errors import FamilyError
from p3s.network.unet_config import Layer, UNetConfig
from p3s.ssr.layers import SubjectLayers, file_index
from p3s.toyworld.models import unet_config

#: number in the file: (side, block, width), of the released model, as diffusers numbers SD 1.5's processors
SD15 = {
    1: ("input", 1, 320),
    3: ("input", 2, 320),
    5: ("input", 4, 640),
    7: ("input", 5, 640),
    9: ("input", 7, 1280),
    11: ("input", 8, 1280),
    13: ("output", 3, 1280),
    15: ("output", 4, 1280),
    17: ("output", 5, 1280),
    19: ("output", 6, 640),
    21: ("output", 7, 640),
    23: ("output", 8, 640),
    25: ("output", 9, 320),
    27: ("output", 10, 320),
    29: ("output", 11, 320),
    31: ("middle", 0, 1280),
}


def test_the_index_of_sd15_is_the_table() -> None:
    config = UNetConfig.build()
    found = {n: (layer.side, layer.block, config.channels(layer)) for layer, n in file_index(config).items()}
    assert found == SD15


@pytest.mark.parametrize("config", [SMALL, UNET], ids=["SD 1.5's topology", "two levels"])
def test_the_index_is_diffusers_own_order(config: UNetConfig) -> None:
    """Every to_k holds the number of its layer; diffusers' list of processors says at which place that is."""
    net = random_unet(config)
    with torch.no_grad():
        for number, layer in enumerate(config.layers()):
            net.block(layer).attn2.to_k.weight.fill_(number)
    twin = diffusers_twin(net)
    names = [name.removesuffix(".processor") for name in twin.attn_processors]
    cross = [i for i, name in enumerate(names) if name.endswith("attn2")]
    places = {int(twin.get_submodule(names[i]).to_k.weight[0, 0]): i for i in cross}
    assert file_index(config) == {layer: places[number] for number, layer in enumerate(config.layers())}


def test_the_index_of_the_toy_world() -> None:
    config = unet_config()
    numbers = list(file_index(config).items())
    assert [n for _, n in numbers] == list(range(1, 2 * len(config.layers()), 2))
    assert [layer.side for layer, _ in numbers] == ["input"] * 4 + ["output"] * 6 + ["middle"]
    assert numbers[-1][0] == Layer("middle", 0)


def test_the_released_size() -> None:
    layers = SubjectLayers(UNetConfig.build(), device="meta")
    state = layers.state_dict()
    assert sum(p.numel() for p in layers.parameters()) == 19_169_280
    assert len(state) == 32
    assert {key: tuple(state[key].shape) for key in ("5.to_k_SSR.weight", "31.to_v_SSR.weight")} == {
        "5.to_k_SSR.weight": (640, 768),
        "31.to_v_SSR.weight": (1280, 768),
    }


def test_keys_and_values_come_from_the_files_tensors_of_that_layer() -> None:
    state = random_layers().state_dict()
    layers = SubjectLayers.from_state_dict(state, SMALL)
    c = torch.randn(1, 5, SMALL.context_dim)
    for layer, number in file_index(SMALL).items():
        k, v = layers.project(layer, c, 2 * c)
        torch.testing.assert_close(k, c @ state[f"{number}.to_k_SSR.weight"].T)
        torch.testing.assert_close(v, 2 * c @ state[f"{number}.to_v_SSR.weight"].T)
    assert layers.state_dict()["1.to_k_SSR.weight"].data_ptr() == state["1.to_k_SSR.weight"].data_ptr()
    assert (
        SubjectLayers.from_state_dict(state, SMALL, dtype=torch.float16).project(layer, c.half())[0].dtype == torch.half
    )


def test_a_file_read_in_inference_mode_makes_layers_outside_of_it() -> None:
    """As hosts do, which run nodes in inference mode."""
    with torch.inference_mode():
        state = {key: tensor.clone() for key, tensor in random_layers().state_dict().items()}
    layers = SubjectLayers.from_state_dict(state, SMALL)
    assert not any(p.requires_grad for p in layers.parameters())
    k, _ = layers.project(next(iter(file_index(SMALL))), torch.ones(1, 2, SMALL.context_dim))
    torch.testing.assert_close(k, state["1.to_k_SSR.weight"].sum(1).expand(1, 2, -1))


def test_layers_start_from_those_of_the_text() -> None:
    base, layers = random_unet(), random_layers()
    layers.copy_from(base)
    state = layers.state_dict()
    for layer, number in file_index(SMALL).items():
        assert torch.equal(state[f"{number}.to_k_SSR.weight"], base.block(layer).attn2.to_k.weight)
        assert torch.equal(state[f"{number}.to_v_SSR.weight"], base.block(layer).attn2.to_v.weight)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            UNetConfig.build(context_dim=1024, linear_projection=True),
            "an SD 2.x model with 16 cross.* text width of 1024",
        ),
        (unet_config(), "the Toy World's model with 11 cross-attentions, 64, 96 wide, and a text width of 64"),
    ],
)
def test_another_family_is_refused_by_name_and_widths(config: UNetConfig, message: str) -> None:
    state = SubjectLayers(UNetConfig.build(), device="meta").state_dict()
    with pytest.raises(
        FamilyError, match=f"16 cross-attentions, 320, 640, 1280 wide.* 768, but the model is {message}"
    ):
        SubjectLayers.from_state_dict(state, config)
