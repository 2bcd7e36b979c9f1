"""What Eq. 1 may compare beside the last hidden state, each computed once more from the weights alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from vision_models import KINDS, small

from p3s.errors import MaskError
from p3s.reference.framing import CLIP_MEAN, CLIP_STD, Frame
from p3s.reference.layer_states import has_layers, layer_states, surgery_layers
from p3s.reference.masks import FEATURES, MaskSettings, Patches
from p3s.reference.points import PointSet
from p3s.reference.rngr import make_reference
from p3s.reference.vision import PatchVision
from p3s.reference.vision_models import IMAGENET, patch_vision

pytest.importorskip("transformers")

PREFIX = {"clip": 1, "siglip": 0, "dinov2": 1, "dinov2 with registers": 4}
COLOURS = {"clip": (CLIP_MEAN, CLIP_STD), "siglip": ((0.5,) * 3, (0.5,) * 3)}


def normalised(kind: str, picture: Tensor) -> Tensor:
    mean, std = (torch.tensor(values) for values in COLOURS.get(kind, IMAGENET))
    return ((picture - mean) / std).permute(0, 3, 1, 2)


def by_hand(kind: str, model: Any, hidden: tuple[Tensor, ...]) -> Tensor:
    """CLIP Surgery from the hidden states of transformers and the weights: head by head, in plain matrix products."""
    names = dict(model.named_parameters())
    clip = kind in ("clip", "siglip")

    def weight(layer: int, *choices: str) -> Tensor:
        (found,) = [w for n, w in names.items() for c in choices if n.endswith(f".{layer}.{c}")]
        return found

    norm, value, output = (
        ("layer_norm1", "self_attn.v_proj", "self_attn.out_proj")
        if clip
        else ("norm1", "attention.v_proj", "attention.o_proj")
    )
    if not clip and not any("v_proj" in name for name in names):  # transformers before 5
        value, output = "attention.attention.value", "attention.output.dense"
    count, eps = len(hidden) - 1, model.config.layer_norm_eps
    path = hidden[count - 2]  # of three layers the last two
    for layer in range(count - 2, count):
        x = hidden[layer]
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + eps).sqrt()
        x = x * weight(layer, f"{norm}.weight") + weight(layer, f"{norm}.bias")
        v = x @ weight(layer, f"{value}.weight").T + weight(layer, f"{value}.bias")
        heads = []
        for part in v.split(8, -1):
            scores = part @ part.transpose(1, 2) / 8**0.5
            heads.append(scores.exp() / scores.exp().sum(-1, keepdim=True) @ part)
        mixed = torch.cat(heads, -1) @ weight(layer, f"{output}.weight").T + weight(layer, f"{output}.bias")
        path = path + (mixed if clip else mixed * weight(layer, "layer_scale1.lambda1"))
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_is_the_models_own_or_equals_the_formula(kind: str) -> None:
    model, size = small(kind), small(kind).config.image_size
    picture = torch.rand(1, size, size, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        plain = model(pixel_values=normalised(kind, picture), output_hidden_states=True)
        expected = {
            "last": plain.last_hidden_state,
            "penultimate": plain.hidden_states[-2],
            "value-value": by_hand(kind, model, plain.hidden_states),
        }
    vision = patch_vision(model)
    assert vision.features == FEATURES
    for names in (FEATURES, *((name,) for name in FEATURES)):
        found = vision.encode(picture, names)
        assert list(found) == list(names)
        for name in names:
            torch.testing.assert_close(found[name], expected[name], atol=1e-4, rtol=1e-4)
    assert torch.equal(found["value-value"], vision.encode(picture, FEATURES)["value-value"])
    apart = {name: state / state.norm() for name, state in expected.items()}
    assert (apart["value-value"] - apart["penultimate"]).norm() > 0.1 < (apart["last"] - apart["penultimate"]).norm()


@pytest.mark.parametrize("kind", KINDS)
def test_the_tokens_before_the_patches_are_told_from_the_model(kind: str) -> None:
    model = small(kind)
    vision, image = patch_vision(model), torch.rand(30, 40, 3, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        square = Frame(40, 30).clip_input(image, 64 if kind == "siglip" else model.config.image_size, vision.mean)
        if kind == "siglip":  # the patches show 64 pixels of its 65; the rest is padding
            square = functional.pad(square.permute(0, 3, 1, 2), (0, 1, 0, 1), value=0.5).permute(0, 2, 3, 1)
        expected = model(pixel_values=normalised(kind, square)).last_hidden_state[:, PREFIX[kind] :]
    found = vision.read(image)["last"]
    assert found.shape == (1, 16, 16)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    vectors = functional.normalize(expected[0].double(), dim=-1)
    torch.testing.assert_close(vision.patches(image).vectors.view(16, 16), vectors, atol=1e-5, rtol=1e-5)


def test_padding_is_what_the_model_calls_zero() -> None:
    seen: list[Tensor] = []
    model = small("dinov2")
    model.register_forward_pre_hook(lambda _m, _a, given: seen.append(given["pixel_values"]), with_kwargs=True)
    patch_vision(model).read(torch.rand(14, 56, 3))
    assert seen[0].shape == (1, 3, 56, 56)
    assert seen[0][:, :, :14].abs().max() < 1e-6 < seen[0][:, :, 21:35].abs().mean()


def test_the_models_are_left_as_they_were_also_after_an_error() -> None:
    model = small("clip")

    def fail() -> Tensor:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        layer_states(model, fail, FEATURES)
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def test_the_last_six_layers_or_half_of_a_shallow_model() -> None:
    assert [surgery_layers(n) for n in (1, 2, 3, 11, 12, 24, 40)] == [1, 1, 2, 6, 6, 6, 6]


def test_a_saved_model_is_loaded_with_the_normalisation_beside_it(tmp_path: Any) -> None:
    image, model = torch.rand(20, 20, 3), small("dinov2 with registers")
    model.save_pretrained(tmp_path)
    assert torch.equal(patch_vision(tmp_path).read(image)["last"], patch_vision(model).read(image)["last"])
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0, 0.1, 0.2], "image_std": [1, 1, 1]}')
    assert patch_vision(str(tmp_path)).mean == (0, 0.1, 0.2)


def test_c_s_stays_the_last_hidden_state_whatever_is_compared() -> None:
    clip, dino = patch_vision(small("clip")), patch_vision(small("dinov2"))
    image = torch.zeros(96, 128, 3)
    image[:, :40, 0] = image[:, 90:, 2] = 1
    points = PointSet([(0.1, 0.5)])
    plain = make_reference(image, points, clip)
    apart = []
    for features, mask_vision in (("value-value", None), ("penultimate", None), ("last", dino), ("value-value", dino)):
        made = make_reference(image, points, clip, MaskSettings(features=features), mask_vision=mask_vision)
        assert torch.equal(made.tokens, plain.tokens)
        apart.append((made.similarity - plain.similarity).abs().max())
    assert min(apart) > 0.01


def test_known_patches_are_compared_and_nothing_is_read_again() -> None:
    clip, image = patch_vision(small("clip")), torch.rand(64, 64, 3, generator=torch.Generator().manual_seed(3))
    settings, points = MaskSettings(features="value-value", blur=0.3), PointSet([(0.3, 0.3)])
    asked: list[tuple[str, ...]] = []

    def encode(pictures: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        asked.append(names)
        return clip.encode(pictures, names)

    counting = PatchVision(encode, 64, 16)
    known = clip.patches(image, "value-value")
    made = make_reference(image, points, counting, settings, patches=known)
    assert asked == [("last",)]
    assert torch.equal(made.similarity, make_reference(image, points, clip, settings).similarity)


def colours_only(pictures: Tensor) -> Tensor:
    return functional.avg_pool2d(pictures.permute(0, 3, 1, 2), 14).flatten(2).transpose(1, 2)


def test_what_a_model_cannot_give_is_named() -> None:
    image, points = torch.rand(50, 50, 3), PointSet([(0.5, 0.5)])
    with pytest.raises(MaskError, match="features: the CLIP vision model has no value-value; it has last"):
        make_reference(image, points, colours_only, MaskSettings(features="value-value"))
    vision = PatchVision(lambda p, _: {"last": colours_only(p)[:, :200]}, 224, 14, name="DINOv2")
    with pytest.raises(MaskError, match=r"This DINOv2 was expected to give 16 x 16 patches for .* gave \[1, 200, 3\]"):
        vision.read(image)
    with pytest.raises(MaskError, match=r"a square grid of patches .* after a class token or none, but gave"):
        PatchVision(lambda p, _: {"last": colours_only(p)[:, :200]}, 224).read(image)
    assert PatchVision(lambda p, _: {"last": colours_only(p)}, 224).read(image)["last"].shape == (1, 256, 3)
    with pytest.raises(MaskError, match="not finite"):
        PatchVision(lambda p, _: {"last": colours_only(p) / 0}, 224, 14).read(image)
    assert not has_layers(torch.nn.Sequential(torch.nn.Linear(1, 1)))
    with pytest.raises(ValueError, match="Sequential has no layers that give penultimate"):
        layer_states(torch.nn.Sequential(), lambda: torch.zeros(1), ("last", "penultimate"))


def test_a_model_without_a_class_token_masks_what_it_shows() -> None:
    """A colour model of 32 x 32 patches beside a CLIP of 4 x 4: the mask follows its finer grid."""
    fine = PatchVision(
        lambda p, _: {"last": functional.avg_pool2d(p.permute(0, 3, 1, 2), 7).flatten(2).transpose(1, 2) + 1e-3}, 224, 7
    )
    image = torch.zeros(224, 224, 3)
    image[..., 2] = 1
    image[70:112, 49:77] = torch.tensor([1.0, 0, 0])
    made = make_reference(
        image, PointSet([(0.3, 0.4)]), patch_vision(small("clip")), MaskSettings(blur=0), mask_vision=fine
    )
    assert (made.subject_mask != image[..., 0]).sum() < 4 * 7 * 7 / 2, "an outline between cells rounds the corners"
    assert isinstance(fine.patches(image), Patches) and fine.patches(image).grid == 32
