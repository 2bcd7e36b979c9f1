from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from p3s.errors import MaskError
from p3s.reference.clip import clip_encoder
from p3s.reference.framing import CLIP_MEAN
from p3s.reference.points import PointSet
from p3s.reference.rngr import make_reference

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    torch.manual_seed(0)
    config = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64, patch_size=8
    )
    return transformers.CLIPVisionModel(config)


def test_equals_transformers_own_preprocessing(tiny: torch.nn.Module) -> None:
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    processor = transformers.CLIPImageProcessor(size={"shortest_edge": 64}, crop_size={"height": 64, "width": 64})
    prepared = processor(images=pixels.numpy(), return_tensors="pt")
    with torch.no_grad():
        expected = tiny(**prepared).last_hidden_state
    result = clip_encoder(tiny)(pixels[None].float() / 255)
    assert result.shape == (1, 65, 16) and not result.requires_grad
    torch.testing.assert_close(result, expected, atol=1e-5, rtol=1e-5)


def test_padding_becomes_zero(tiny: torch.nn.Module) -> None:
    seen = []
    handle = tiny.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    clip_encoder(tiny)(torch.tensor(CLIP_MEAN).expand(1, 64, 64, 3))
    handle.remove()
    assert seen[0].shape == (1, 3, 64, 64) and seen[0].abs().max() < 1e-6


def test_a_saved_model_is_loaded_and_makes_references(tiny: torch.nn.Module, tmp_path: Path) -> None:
    tiny.save_pretrained(tmp_path)
    image = torch.zeros(96, 128, 3)
    image[:, :40, 0] = image[:, 90:, 2] = 1
    points = PointSet([(0.1, 0.5)])
    first, second = (
        make_reference(image, points, clip_encoder(model), image_size=64) for model in (tiny, str(tmp_path))
    )
    torch.testing.assert_close(first.tokens, second.tokens)
    assert first.tokens.shape == (65, 16)


def test_half_precision_and_training_mode(tiny: torch.nn.Module) -> None:
    model = transformers.CLIPVisionModel(tiny.config).to(torch.bfloat16).train()
    assert clip_encoder(model)(torch.rand(2, 64, 64, 3)).dtype == torch.bfloat16
    assert not model.training


def test_another_picture_size_is_refused(tiny: torch.nn.Module) -> None:
    with pytest.raises(MaskError, match=r"\[B, 64, 64, 3\], got \[1, 224, 224, 3\].*image_size=64"):
        make_reference(torch.rand(50, 50, 3), PointSet([(0.5, 0.5)]), clip_encoder(tiny))


def test_without_transformers_the_message_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match="needs transformers"):
        clip_encoder("somewhere")
