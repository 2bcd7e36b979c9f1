"""The frozen base that reads its own hidden states of a reference, against a sampling loop of its own."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmarks.reference_only import SEED, reference_only
from p3s.network.hooks import AttentionHooks
from p3s.network.unet_config import Layer
from p3s.sampling.diffusion import ddim
from p3s.toyworld.scenes import scene
from p3s.toyworld.world import GUIDANCE, load_world, picture_of

LAM = 0.2


class Reader(AttentionHooks):
    def __init__(self) -> None:
        self.read: dict[Layer, Tensor] = {}

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        self.read[layer] = z
        return z, z, z


class Eq7(AttentionHooks):
    """K' = W_K [z, r] and V' = W_V [z + lambda r, r]."""

    def __init__(self, read: dict[Layer, Tensor]) -> None:
        self.read = read

    def self_attention(self, layer: Layer, z: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        r = self.read[layer].expand(len(z), -1, -1)
        return z, torch.cat([z, r], 1), torch.cat([z + LAM * r, r], 1)


@torch.no_grad()
def test_it_is_equation_7_with_the_base_in_place_of_the_copy() -> None:
    world, drawn = load_world(), scene("heldout", 3, "single")
    picture, caption, text, seeds = picture_of(drawn), drawn.caption(), "a photo of a dog in the snow", [5, 6]
    latent = world.encode_latent(picture)[None]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(SEED))
    own, words, empty = (world.encode_text(words)[None] for words in (caption, text, ""))

    def predict(x: Tensor, t: int) -> Tensor:
        reader, one, two = Reader(), torch.full((1,), t), torch.full((2,), t)
        abar = world.noise.alphas_cumprod[t]
        world.unet(abar.sqrt() * latent + (1 - abar).sqrt() * noise, one, own, reader)
        unconditional, conditional = (
            world.unet(x, two, context.expand(2, -1, -1), Eq7(reader.read)) for context in (empty, words)
        )
        return unconditional + GUIDANCE * (conditional - unconditional)

    *_, last = ddim(predict, world.noise, world.start(seeds), 4)
    found = world.sample(text, seeds, steps=4, over=reference_only(world, picture, caption, LAM))
    torch.testing.assert_close(found, world.codec.decode(last), atol=1e-3, rtol=0)
    assert (found - world.sample(text, seeds, steps=4)).abs().max() > 0.05
