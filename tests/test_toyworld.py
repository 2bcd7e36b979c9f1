"""The toy world: scenes that repeat exactly and never overlap between streams, and models that fit them."""

import numpy as np
import pytest
import torch

from benchmarks.toybase import blockiness
from p3s.network.layer_map import LayerMap
from p3s.network.unet import UNet
from p3s.network.unet_config import UNetConfig
from p3s.toyworld.codec import CHANNELS
from p3s.toyworld.losses import individuals, patch_errors, truth
from p3s.toyworld.models import PATCH, TextEncoder, noise_schedule, tokenize, unet_config
from p3s.toyworld.scenes import (
    BACKGROUNDS,
    CLASSES,
    IDENTIFIER,
    PALETTE,
    STREAMS,
    all_looks,
    looks_of,
    prompt,
    render,
    scene,
    vocabulary,
)
from p3s.toyworld.world import WEIGHTS, click, load_world, picture_of

stored = pytest.mark.skipif(not (WEIGHTS / "base.safetensors").exists(), reason="no trained weights are stored")


def test_a_scene_repeats_exactly():
    for stream in STREAMS:
        again = scene(stream, 7)
        assert again == scene(stream, 7)
        for first, second in zip(render(again), render(scene(stream, 7)), strict=True):
            assert np.array_equal(first, second)


def test_streams_share_no_picture_and_held_out_looks_are_only_there():
    drawn = {stream: {render(scene(stream, i))[0].tobytes() for i in range(40)} for stream in STREAMS}
    assert sum(len(d) for d in drawn.values()) == len(set().union(*drawn.values())) == 40 * len(STREAMS)
    kept = set(looks_of("heldout"))
    assert kept and not kept & set(looks_of("train")) and looks_of("train") == looks_of("test")
    assert kept | set(looks_of("train")) == set(all_looks())
    for i in range(40):
        assert scene("heldout", i, "single").subjects[0].look.names in kept
    # Every single colour and pattern of a held-out individual has been seen in training.
    for place in range(3):
        assert {look[place] for look in kept} <= {look[place] for look in looks_of("train")}


def test_captions_name_class_number_and_background_but_no_appearance():
    for i in range(60):
        s = scene("train", i)
        words = set(s.caption(IDENTIFIER).split())
        assert words <= set(vocabulary()) and not words & set(PALETTE)
        assert ("two" in words) == (len(s.subjects) == 2)
        assert BACKGROUNDS[s.background] in s.caption()
    twins = scene("train", 0, "twins")
    assert twins.subjects[0].look.body in twins.caption(looks=True)
    assert not set(scene("train", 0, "different").caption(looks=True).split()) & set(PALETTE)
    assert prompt("dog", "beach", IDENTIFIER) == "a photo of a sks dog on the beach"


def test_different_individuals_share_no_colour_and_twins_are_alike():
    for i in range(60):
        one, two = (p.look for p in scene("heldout", i, "different").subjects)
        assert not {one.body, one.mark} & {two.body, two.mark}
        one, two = (p.look for p in scene("heldout", i, "twins").subjects)
        assert one == two


@pytest.mark.parametrize("animal", CLASSES)
def test_drawn_colours_are_the_individuals_own(animal):
    s = next(x for i in range(99) if (x := scene("test", i, "single", animal)).subjects[0].look.pattern == "belly")
    picture, owner = render(s)
    inside = picture[owner == 1].astype(float)
    look = s.subjects[0].look
    for rgb in (look.body_rgb, look.mark_rgb):
        near = (np.abs(inside - rgb).max(-1) < 12).mean()
        assert near > 0.12, "a colour of the individual can hardly be seen"


def test_points_lie_on_the_animals():
    for i in range(30):
        s = scene("heldout", i, "different")
        owner, points = render(s)[1], click(s, i % 2)
        assert len(points.positive) == len(points.negative) == 1
        for (x, y), number in ((points.positive[0], i % 2 + 1), (points.negative[0], 2 - i % 2)):
            assert owner[int(y * 48), int(x * 48)] == number


@stored
def test_stored_codec_keeps_the_picture_without_blocks():
    pictures = torch.stack([picture_of(scene("heldout", i)) for i in range(30)])
    codec = load_world().codec
    latents = codec.encode(pictures)
    assert latents.shape == (30, CHANNELS, 12, 12)
    variance, mean = torch.var_mean(latents, (0, 2, 3))
    assert mean.abs().max() < 0.2 and (variance - 1).abs().max() < 0.3
    shaken = latents + 0.1 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    for decoded in (codec.decode(latents), codec.decode(shaken)):
        assert (decoded - pictures).square().mean().sqrt() < 0.045
        assert abs(blockiness(decoded) / blockiness(pictures) - 1) < 0.03
    colours = pictures.unflatten(1, (12, PATCH)).unflatten(3, (12, PATCH)).mean((2, 4))
    rough = latents.movedim(1, -1) @ codec.preview[:-1] + codec.preview[-1]
    assert (rough - colours).abs().mean() < 0.8 * (colours - colours.mean((0, 1, 2))).abs().mean()


def test_noise_ends_without_a_rest_of_the_picture():
    noise = noise_schedule()
    assert noise.prediction == "v" and noise.alphas_cumprod[-1] == 0
    assert noise.alphas_cumprod[0] > 0.999 and (noise.alphas_cumprod.diff() < 0).all()


def test_unknown_words_and_long_texts_are_refused():
    assert tokenize(["a photo of a sks dog", ""]).shape == (2, 14)
    with pytest.raises(ValueError, match="'horse'"):
        tokenize(["a photo of a horse"])
    with pytest.raises(ValueError, match="has 15"):
        tokenize([" ".join(["dog"] * 15)])


def test_the_base_has_every_path_of_the_method():
    config = unet_config()
    with torch.device("meta"):
        state = UNet(config).state_dict()
    assert UNetConfig.from_state_dict(state) == config
    layers = LayerMap.of(config)
    assert {layer.side for layer in layers.reads} == {"input", "middle", "output"}
    assert len(set(layers.reads.values())) < len(layers.reads), "several base layers read one feature"
    assert TextEncoder()(tokenize([""])).shape[-1] == config.context_dim


def test_patch_targets_tell_individuals_apart():
    different, twins = scene("train", 1, "different"), scene("train", 1, "twins")
    owners = torch.from_numpy(np.stack([render(s)[1] for s in (different, twins)])).long()
    who = individuals([different, twins], owners)
    assert who.shape == (2, 144)
    assert set(who[0].tolist()) == {-1, 0, 1, 2} and set(who[1].tolist()) == {-1, 0, 1}
    ideal = torch.zeros(2, 144, 3)
    ideal[..., 0] = (who <= 0).float()
    ideal[..., 1] = (who > 0).float()
    tilted = torch.tensor([0.0, 0.3, (1 - 0.3**2) ** 0.5])
    ideal[who == 2] = tilted
    assert patch_errors(ideal, who) < 1e-6 < 0.1 < patch_errors(torch.ones(2, 144, 3), who)


def test_truth_leaves_out_an_appearance_that_is_not_one():
    assert "body" not in truth(scene("train", 3, "different"))
    assert {"animal", "background", "count", "body", "pattern", "mark"} == set(truth(scene("train", 3, "twins")))


@stored
def test_stored_world_is_small_and_says_how_it_was_made():
    assert sum(f.stat().st_size for f in WEIGHTS.glob("*.safetensors")) < 20 * 2**20
    world = load_world()
    assert all('"seed"' in made and '"seconds"' in made for made in world.made.values())


@stored
def test_stored_base_draws_what_the_prompt_says():
    world = load_world()
    right = 0
    for i, (animal, background) in enumerate(zip(CLASSES * 2, BACKGROUNDS, strict=True)):
        pictures = world.sample(prompt(animal, background), [i, 100 + i], steps=12)
        told = world.judge(pictures)
        right += int((told["animal"].argmax(-1) == CLASSES.index(animal)).sum())
    assert right >= 12, f"the class is right in {right} of 16 samples"


def test_the_states_that_masks_may_compare_are_the_towers_own() -> None:
    world, pictures = load_world(), torch.rand(2, 48, 48, 3, generator=torch.Generator().manual_seed(0))
    layers = world.encode_clip_layers(pictures)
    states = world.encode_clip_states(pictures, ("last", "penultimate", "value-value"))
    assert torch.equal(states["last"], layers[:, 2]) and torch.equal(states["penultimate"], layers[:, 1])
    path = layers[:, 0]  # of three layers the last two
    with torch.no_grad():
        for number in (1, 2):
            layer = world.clip.layers[number]
            attention = layer.self_attn
            normed = layer.norm1(layers[:, number - 1])
            values = normed @ attention.in_proj_weight[192:].T + attention.in_proj_bias[192:]
            heads = [(v @ v.transpose(1, 2) / 24**0.5).softmax(-1) @ v for v in values.split(24, -1)]
            path = path + torch.cat(heads, -1) @ attention.out_proj.weight.T + attention.out_proj.bias
    torch.testing.assert_close(states["value-value"], path, atol=1e-5, rtol=1e-5)
