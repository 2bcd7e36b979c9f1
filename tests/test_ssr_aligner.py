"""The aligner: equal to its formula, of the released size, and fed with the right hidden states."""

from __future__ import annotations

import pytest
import torch
from ssr_models import by_hand, rand, random_aligner

from p3s.errors import FamilyError, MaskError
from p3s.ssr.aligner import Aligner, chosen_states
from p3s.ssr.embeds import grid_of
from p3s.ssr.vision import clip_vision


@pytest.mark.parametrize(
    ("query", "vision", "inner", "heads", "scales"),
    [(768, 1024, 512, 8, 6), (64, 96, 64, 4, 3), (24, 20, 16, 1, 1), (24, 40, 30, 5, 2)],
)
@pytest.mark.parametrize("batch", [1, 2])
def test_equals_the_formula(query: int, vision: int, inner: int, heads: int, scales: int, batch: int) -> None:
    aligner = random_aligner(query=query, vision=vision, inner=inner, heads=heads, scales=scales)
    states, text = rand(batch, scales, 17, vision), rand(batch, 5, query, seed=1)
    bias = rand(batch, 17, seed=2) * 3
    for given in (None, bias, bias[0]):
        found = aligner(states, text, given)
        assert found.shape == (batch, scales * 5, query)
        for row in range(batch):
            own = given if given is None or given.ndim == 1 else given[row]
            expected = by_hand(aligner.state_dict(), heads, states[row], text[row], own)
            torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_the_released_size() -> None:
    with torch.device("meta"):
        aligner = Aligner()
        assert aligner(torch.empty(1, 6, 257, 1024), torch.empty(1, 77, 768)).shape == (1, 462, 768)
        assert aligner.map(torch.empty(1, 6, 257, 1024), torch.empty(1, 77, 768)).shape == (1, 8, 77, 257)
    assert sum(p.numel() for p in aligner.parameters()) == 6_424_064
    assert len(aligner.state_dict()) == 16


def test_the_map_is_of_the_deepest_state_and_every_scale_of_its_own() -> None:
    aligner, states, text = random_aligner(), rand(1, 3, 17, 20), rand(1, 7, 24, seed=1)
    c = aligner(states, text).unflatten(1, (3, 7))
    for changed in range(3):
        other = states.clone()
        other[:, changed] += 1 + rand(17, 20, seed=9)
        same_map = torch.equal(aligner.map(other, text), aligner.map(states, text))
        assert same_map == (changed != 2)
        if same_map:
            moved = (aligner(other, text).unflatten(1, (3, 7)) != c).flatten(2).any(2)[0]
            assert moved.tolist() == [i == changed for i in range(3)]


def test_which_states_are_read() -> None:
    numbered = torch.arange(1, 25.0)[None, :, None, None].expand(1, 24, 5, 3)
    assert chosen_states(numbered, 6)[0, :, 0, 0].tolist() == [4, 8, 12, 16, 20, 24]
    assert chosen_states(numbered[:, :3], 3)[0, :, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(FamilyError, match=r"6 evenly spaced layers .* has 32 layers, 1280 wide"):
        chosen_states(torch.empty(1, 32, 257, 1280), 6)


def test_the_states_of_transformers() -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=24, num_attention_heads=2, image_size=28, patch_size=7
    )
    model = transformers.CLIPVisionModel(config)
    vision, picture = clip_vision(model), torch.rand(1, 28, 28, 3)
    processor = transformers.CLIPImageProcessor(do_resize=False, do_center_crop=False, do_rescale=False)
    pixels = processor(picture[0].numpy(), return_tensors="pt", input_data_format="channels_last").pixel_values
    with torch.no_grad():
        expected = model(pixel_values=pixels, output_hidden_states=True).hidden_states[4::4]
        zeros = model(pixel_values=torch.zeros_like(pixels), output_hidden_states=True).hidden_states[4::4]
    assert len(expected) == 6
    torch.testing.assert_close(vision.states(picture), torch.stack(expected, 1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(vision.zeros(), torch.stack(zeros, 1), atol=1e-6, rtol=1e-6)
    with pytest.raises(MaskError, match=r"takes pictures \[B, 28, 28, 3\], got \[1, 32, 28, 3\]"):
        vision.states(torch.rand(1, 32, 28, 3))


def test_other_towers_are_refused_with_what_came() -> None:
    aligner = random_aligner(query=768, vision=1024, inner=64, heads=1, scales=6)
    states, text = torch.zeros(1, 6, 257, 1024), torch.zeros(1, 77, 768)
    aligner.check(states, text)
    with pytest.raises(FamilyError, match=r"clip_vision: .* 1024 wide \(CLIP ViT-L/14\).* \[6, 257, 1280\]"):
        aligner.check(torch.zeros(1, 6, 257, 1280), text)
    with pytest.raises(FamilyError, match=r"clip: .* 768 wide .* \[77, 2048\]"):
        aligner.check(states, torch.zeros(1, 77, 2048))
    assert grid_of(states) == 16
    with pytest.raises(FamilyError, match="729 tokens"):  # SigLIP: no class token
        grid_of(torch.zeros(1, 6, 729, 1024))
