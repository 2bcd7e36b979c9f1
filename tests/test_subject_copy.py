"""The layer map against the table in docs/method.md, and the copy's features (Eq. 6)."""

import inspect
from dataclasses import asdict, replace

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_unet

from p3s.errors import P3SError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.layer_map import LayerMap
from p3s.network.subject_copy import CopyReader, SubjectCopy
from p3s.network.unet import UNet
from p3s.network.unet_config import Layer, UNetConfig
from p3s.reference.masks import MaskSettings
from p3s.sampling.ddim import generate
from p3s.sampling.settings import SamplingSettings
from p3s.training.settings import TrainSettings

SD15 = UNetConfig.build()

#: docs/method.md: copy block <- base block.
ORIGIN = {
    "input": {0: 0, 1: 1, 2: 3, 3: 4, 4: 6, 5: 7, 6: 9, 7: 10},
    "middle": {0: 0},
    "output": {0: 0, 1: 2, 2: 3, 3: 5, 4: 6, 5: 8, 6: 9, 7: 11},
}
#: The same section: copy block -> base blocks that read its feature.
READERS = {
    ("input", 1): [1, 2],
    ("input", 3): [4, 5],
    ("input", 5): [7, 8],
    ("middle", 0): [0],
    ("output", 2): [3, 4],
    ("output", 3): [5],
    ("output", 4): [6, 7],
    ("output", 5): [8],
    ("output", 6): [9, 10],
    ("output", 7): [11],
}


def test_the_map_of_sd15_is_the_table():
    found = LayerMap.of(SD15)
    assert {side: dict(enumerate(blocks)) for side, blocks in found.origin.items()} == ORIGIN
    expected = {Layer(side, b): Layer(side, block) for (side, block), bases in READERS.items() for b in bases}
    assert found.reads == expected
    assert len(expected) == 16


def test_one_to_one_keeps_ten_base_layers():
    found = LayerMap.of(SD15, "one_to_one")
    assert len(found.reads) == 10
    assert all(found.twin(copy) == base for base, copy in found.reads.items())


def test_the_copy_of_sd15_has_the_known_size_and_every_tensor_a_counterpart():
    base = UNet(SD15, device="meta").state_dict()
    copy = SubjectCopy(SD15, CopySettings(), 1024, device="meta")
    state = copy.unet.state_dict()
    assert len(state) == 442
    assert round(sum(v.numel() for v in state.values()) / 1e6, 1) == 579.4
    assert round(sum(v.numel() for v in copy.zero_self.state_dict().values()) / 1e6, 1) == 8.1
    assert {k: v.shape for k, v in state.items()} == {k: base[copy.map.base_key(k)].shape for k in state}
    assert copy.map.config == UNetConfig.build(res_blocks=1)


def test_a_one_resblock_base_is_copied_as_it_is():
    config = UNetConfig.build(res_blocks=1)
    found = LayerMap.of(config)
    assert found.config == config
    assert all(base == copy for base, copy in found.reads.items())


def test_the_copy_starts_with_the_base_weights_and_zero_convolutions():
    base = random_unet()
    copy = start_copy(base.state_dict(), CopySettings(), TOKEN_DIM)
    state = base.state_dict()
    for key, value in copy.unet.state_dict().items():
        assert torch.equal(value, state[copy.map.base_key(key)])
    for zero in [*copy.zero_self.values(), *copy.zero_cross.values(), copy.image_latent.zero]:
        assert not zero.weight.any()
        assert not zero.bias.any()
    with torch.no_grad():
        copy.unet.out[2].weight.zero_()
    assert base.out[2].weight.any(), "the copy must not share the base's tensors"


def test_identity_start_hands_over_the_norm1_output():
    base = random_unet()
    copy = start_copy(base.state_dict(), CopySettings(), TOKEN_DIM, zero_init="identity")
    args = inputs()
    with torch.no_grad():
        features = copy(*args)
        seen = copy.read(*args, until=copy.last_read)
    for base_layer, layer in copy.map.reads.items():
        assert torch.equal(features.self_attention[base_layer], seen.norm1[layer])
        assert not features.cross_attention[base_layer].any()


def test_an_inpainting_base_gives_a_copy_that_reads_the_latent_alone():
    base = random_unet(UNetConfig.build(model_channels=32, channel_mult=(1, 2, 2, 2), context_dim=24, in_channels=9))
    copy = start_copy(base.state_dict(), CopySettings(), TOKEN_DIM)
    assert copy.unet.config.in_channels == 4
    weight = "input_blocks.0.0.weight"
    assert torch.equal(copy.unet.state_dict()[weight], base.state_dict()[weight][:, :4])


def inputs(size=16, batch=2):
    generator = torch.Generator().manual_seed(5)
    x = torch.randn(batch, 4, size, size, generator=generator)
    context = torch.randn(batch, 7, SMALL.context_dim, generator=generator)
    return x, torch.tensor([500.0] * batch), context, torch.randn(1, 4, size, size, generator=generator)


@pytest.mark.parametrize("feature", ["norm1", "attn1"])
def test_features_are_the_zero_convolution_of_what_the_layer_reads_or_gives(feature):
    """Eq. 6, by hand: run the copy as a plain U-Net on x_t + I'' and apply Z."""
    copy = random_copy(random_unet(), CopySettings(feature=feature))
    x, t, context, condition = inputs()
    reader = CopyReader()
    with torch.no_grad():
        features = copy(x, t, context, condition)
        copy.unet(x + condition, t, context, reader)
    for base_layer, layer in copy.map.reads.items():
        hidden = getattr(reader, feature)[layer]
        weight, bias = copy.zero_self[str(layer)].weight, copy.zero_self[str(layer)].bias
        torch.testing.assert_close(features.self_attention[base_layer], hidden @ weight.T + bias)
        weight, bias = copy.zero_cross[str(layer)].weight, copy.zero_cross[str(layer)].bias
        torch.testing.assert_close(features.cross_attention[base_layer], reader.norm2[layer] @ weight.T + bias)
        assert features.grids[base_layer] == reader.grids[layer]


def test_without_the_cross_attention_part_the_copy_stops_at_its_last_norm1():
    copy = random_copy(random_unet(), CopySettings(cross_attention=False))
    block = copy.unet.block(Layer("output", 7))
    with torch.no_grad():
        for part in (block.attn1, block.attn2, block.ff, copy.unet.out):
            for p in part.parameters():
                p.fill_(float("nan"))
        features = copy(*inputs())
    assert not features.cross_attention
    assert all(torch.isfinite(f).all() for f in features.self_attention.values())


def test_reference_input_does_not_see_the_noisy_latent():
    copy = random_copy(random_unet(), CopySettings(copy_input="reference"))
    x, t, context, condition = inputs()
    with torch.no_grad():
        one, two = (copy(y, t, context, condition).self_attention for y in (x, x + 1))
        noisy = [random_copy(random_unet())(y, t, context, condition).self_attention for y in (x, x + 1)]
    assert all(torch.equal(one[layer], two[layer]) for layer in one)
    assert not any(torch.equal(noisy[0][layer], noisy[1][layer]) for layer in one)


def test_the_defaults_are_the_specification():
    copy, train = CopySettings(), TrainSettings()
    assert (copy.feature, copy.pairing, copy.copy_input, copy.cross_attention) == ("norm1", "level", "noisy", True)
    assert (copy.lam, copy.image_dim) == (0.2, 64)
    assert (train.zero_init, train.pairs, train.attention_layers, train.attention_norm) == (
        "identity",
        "other",
        "last",
        "mean",
    )
    assert (train.gamma, train.epochs, train.learning_rate, train.prompt_dropout) == (0.1, 60, 1e-5, 0.1)
    masks = MaskSettings()
    assert (masks.fill_region, masks.value_range, masks.fill) == ("negative", "clip", "telea")
    sampling = inspect.signature(generate).parameters
    assert [sampling[name].default for name in ("steps", "guidance")] == [50, 7.5]
    assert SamplingSettings().branches == "both"


@pytest.mark.parametrize(
    "bad",
    [
        {"feature": "norm3"},
        {"pairing": "x"},
        {"copy_input": ""},
        {"cross_attention": "no"},
        {"lam": "x"},
        {"lam": float("nan")},
        {"image_dim": "64"},
        {"image_dim": 0},
        {"image_dim": 10**18},
        {"image_dim": 1.5},
    ],
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(P3SError, match=next(iter(bad))):
        CopySettings(**bad)


def test_settings_of_a_file_must_be_known_and_complete():
    whole = asdict(CopySettings(lam=0.5))
    assert CopySettings.from_dict(whole) == CopySettings(lam=0.5)
    with pytest.raises(P3SError, match=r"do not fit this version of P3S; unknown or missing: wings$"):
        CopySettings.from_dict(whole | {"wings": 2})
    del whole["lam"]
    with pytest.raises(P3SError, match=r"do not fit this version of P3S; unknown or missing: lam$"):
        CopySettings.from_dict(whole)


@pytest.mark.parametrize("settings", [CopySettings(), CopySettings(kind="lora", rank=4)])
def test_depth_stride_is_in_a_file_only_where_layers_are_left_out(settings):
    """Files without it mean what they meant; versions that do not know it refuse the others by its name."""
    sparse = replace(settings, depth_stride=2)
    assert "depth_stride" not in settings.to_dict()
    assert sparse.to_dict() == settings.to_dict() | {"depth_stride": 2}
    assert CopySettings.from_dict(settings.to_dict()) == settings
    assert CopySettings.from_dict(sparse.to_dict()) == sparse
