"""The U-Net against diffusers, and its configuration read from weights."""

import pytest
import torch
from real_models import diffusers_twin
from small import SMALL, SMALL_SDXL, random_unet

from p3s.errors import FamilyError
from p3s.network.hooks import AttentionHooks
from p3s.network.label import SIZE_DIM, Sizes, label_of
from p3s.network.unet import BlockStage, UNet
from p3s.network.unet_config import PREFIXES, SDXL, Layer, UNetConfig, unet_state


def meta_state(config):
    return UNet(config, device="meta").state_dict()


@pytest.mark.parametrize(
    "config",
    [
        UNetConfig.build(),
        UNetConfig.build(res_blocks=1),
        UNetConfig.build(context_dim=1024, linear_projection=True),
        UNetConfig.build(in_channels=9),
        UNetConfig.build(**SDXL),
        SMALL_SDXL,
        UNetConfig.build(model_channels=64, channel_mult=(1, 2), transformer_depth=(0, 2), context_dim=32),
        SMALL,
    ],
)
def test_configuration_is_read_back_from_the_weights(config):
    assert UNetConfig.from_state_dict(meta_state(config)) == config


def test_sd15_has_the_known_size():
    state = meta_state(UNetConfig.build())
    assert len(state) == 686
    assert sum(v.numel() for v in state.values()) == 859_520_964
    assert UNetConfig.build().family == "SD1.x"
    assert UNetConfig.build(context_dim=1024, linear_projection=True).family == "SD2.x"


def test_sdxl_has_the_known_size():
    config = UNetConfig.build(**SDXL)
    state = meta_state(config)
    assert len(state) == 1680
    assert sum(v.numel() for v in state.values()) == 2_567_463_684
    assert len(config.layers()) == 70
    assert config.family == "SDXL"
    assert [config.heads(w) for w in (640, 1280)] == [10, 20]


def test_a_middle_without_attention_is_refused_by_name():
    """As those of SSD-1B and Segmind Vega: one ResBlock."""
    state = meta_state(SMALL_SDXL)
    state = {k: v for k, v in state.items() if not k.startswith(("middle_block.1.", "middle_block.2."))}
    with pytest.raises(
        FamilyError, match=r"no attention in its middle, .* \(SSD-1B, Segmind Vega\); that is not supported"
    ):
        UNetConfig.from_state_dict(state)


def test_what_is_distilled_from_sdxl_is_another_family():
    """Fewer blocks of the same widths."""
    assert UNetConfig.build(**SDXL | {"transformer_depth": (0, 2, 4)}).family == "SDXL of 34 blocks"


@pytest.mark.parametrize("prefix", PREFIXES)
def test_the_prefix_of_a_checkpoint_is_found(prefix):
    state = {prefix + k: v for k, v in meta_state(SMALL).items()} | {"first_stage_model.x": torch.zeros(1)}
    assert set(meta_state(SMALL)) <= set(unet_state(state))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: {}, "found nothing"),
        (lambda s: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, "found double_blocks"),
        (lambda s: s | {"input_blocks.1.1.time_stack.0.x": torch.zeros(1)}, "video"),
        (lambda s: {k: v for k, v in s.items() if not k.startswith("middle_block")}, "middle_block"),
        (lambda s: {k: v for k, v in s.items() if "attn" not in k and "proj_in" not in k}, "spatial transformer"),
        # As when a module was inserted before it: read without it, the levels would be others.
        (lambda s: {k.replace("output_blocks.5.2.", "output_blocks.5.3."): v for k, v in s.items()}, "an upsampling"),
    ],
)
def test_other_families_are_refused_by_name(change, message):
    with pytest.raises(FamilyError, match=message):
        UNetConfig.from_state_dict(change(meta_state(SMALL)))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"model_channels": 384, "context_dim": 1280, "label_dim": 2560}, "SDXL's refiner"),
        ({"context_dim": 1024, "label_dim": 1536}, "unCLIP"),
    ],
)
def test_models_with_a_label_that_are_not_sdxl_are_refused_by_name(numbers, message):
    with pytest.raises(FamilyError, match=message):
        UNetConfig.from_state_dict(meta_state(UNetConfig.build(linear_projection=True, **numbers)))


@pytest.mark.parametrize("size", [(16, 16), (24, 16)])
@pytest.mark.parametrize(
    "config",
    [
        SMALL,
        UNetConfig.build(model_channels=32, channel_mult=(1, 2, 2, 2), context_dim=24, res_blocks=1),
        UNetConfig.build(model_channels=64, channel_mult=(1, 2, 2, 2), context_dim=24, linear_projection=True),
    ],
    ids=["full", "one ResBlock", "linear projections"],
)
def test_equals_diffusers(config, size):
    net = random_unet(config)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, *size, generator=generator)
    t = torch.tensor([981.0, 13.0])
    context = torch.randn(2, 7, config.context_dim, generator=generator)
    with torch.no_grad():
        ours = net(x, t, context)
        theirs = diffusers_twin(net)(x, t, context).sample
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("size", [(16, 16), (24, 20)])
def test_sdxl_equals_diffusers(size):
    """Also in how pooled text and sizes become its label."""
    net = random_unet(SMALL_SDXL)
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(2, 4, *size, generator=generator)
    t = torch.tensor([981.0, 13.0])
    context = torch.randn(2, 7, SMALL_SDXL.context_dim, generator=generator)
    pooled = torch.randn(2, SMALL_SDXL.label_dim - 6 * SIZE_DIM, generator=generator)
    sizes = Sizes(512, 768, 128, 64, 1024, 1152), Sizes.of(1024, 1024)
    label = torch.stack([label_of(p, s) for p, s in zip(pooled, sizes, strict=True)])
    given = {"text_embeds": pooled, "time_ids": torch.tensor(sizes)}
    with torch.no_grad():
        ours = net(x, t, context, label=label)
        theirs = diffusers_twin(net)(x, t, context, added_cond_kwargs=given).sample
        assert not torch.allclose(ours, net(x, t, context, label=label.flip(0)), atol=1e-3)
    assert ours.std() > 0.1
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_label_of_each_side_of_guidance_is_the_same_as_two_passes():
    net = random_unet(SMALL_SDXL)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([5.0, 900.0])
    context, label = torch.randn(4, 3, SMALL_SDXL.context_dim), torch.randn(4, SMALL_SDXL.label_dim)
    with torch.no_grad():
        both = net(x, t, context, label=label)
        apart = [net(x, t, context[i : i + 2], label=label[i : i + 2]) for i in (0, 2)]
        shared = net(x, t, context, label=label[:2])
        same = net(x, t, context, label=label[:2].repeat(2, 1))
    torch.testing.assert_close(both, torch.cat(apart), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(shared, same, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("config", "label", "message"),
    [
        (SMALL_SDXL, None, "1556 numbers of pooled text and sizes beside the prompt; none came"),
        (SMALL_SDXL, torch.zeros(1, 5), r"1556 .* \(1, 5\) came"),
        (SMALL, torch.zeros(1, 5), r"no pooled text and sizes beside the prompt; \(1, 5\) came"),
    ],
)
def test_a_label_that_does_not_fit_is_refused(config, label, message):
    x, context = torch.randn(1, 4, 8, 8), torch.randn(1, 3, config.context_dim)
    with pytest.raises(FamilyError, match=message):
        random_unet(config)(x, torch.tensor([5.0]), context, label=label)


def test_odd_latent_sizes_keep_their_size():
    with torch.no_grad():
        out = random_unet()(torch.randn(1, 4, 13, 18), torch.tensor([5.0]), torch.randn(1, 3, SMALL.context_dim))
    assert out.shape == (1, 4, 13, 18)


@pytest.mark.parametrize("stage", list(BlockStage))
def test_a_pass_ends_where_it_is_told(stage):
    """Nothing behind the stage is computed: weights behind it may be NaN, those before it may not."""
    from p3s.network.subject_copy import CopyReader

    net, layer = random_unet(), Layer("output", 11)
    block = net.block(layer)
    behind = {
        BlockStage.NORM1: [block.attn1, block.attn2, block.norm2],
        BlockStage.ATTN1: [block.attn2, block.norm2],
        BlockStage.NORM2: [block.attn2],
    }[stage]
    with torch.no_grad():
        for part in [*behind, block.ff, block.norm3, net.out]:
            for p in part.parameters():
                p.fill_(float("nan"))
        reader = CopyReader()
        args = torch.randn(1, 4, 16, 16), torch.tensor([5.0]), torch.randn(1, 3, SMALL.context_dim)
        assert net(*args, reader, until=(layer, stage)) is None
    seen = {BlockStage.NORM1: reader.norm1, BlockStage.ATTN1: reader.attn1, BlockStage.NORM2: reader.norm2}[stage]
    assert torch.isfinite(seen[layer]).all()
    assert (layer in reader.norm2) == (stage is BlockStage.NORM2)


def test_loading_shares_tensors_that_need_no_cast():
    state = random_unet().state_dict()
    net = UNet.from_state_dict({f"model.diffusion_model.{k}": v for k, v in state.items()})
    key = "out.2.weight"
    assert net.state_dict()[key].data_ptr() == state[key].data_ptr()
    assert UNet.from_state_dict(state, dtype=torch.float16).out[2].weight.dtype == torch.float16


def test_what_the_output_projection_of_cross_attention_reads_can_be_changed():
    class Doubled(AttentionHooks):
        def __init__(self):
            self.seen = {}

        def cross_attention_result(self, layer, out, q, heads, grid):
            self.seen[layer] = out, q, heads, grid
            return 2 * out if layer == Layer("output", 11) else out

    net, hooks = random_unet(), Doubled()
    x, t, context = torch.randn(2, 4, 16, 24), torch.tensor([5.0, 7.0]), torch.randn(2, 3, SMALL.context_dim)
    block, inputs = net.block(Layer("output", 11)), []
    block.attn2.register_forward_pre_hook(lambda _, args: inputs.append(args))
    outputs = []
    block.attn2.register_forward_hook(lambda _, args, out: outputs.append(out))
    with torch.no_grad():
        plain = net(x, t, context)
        changed = net(x, t, context, hooks)
        assert list(hooks.seen) == list(SMALL.layers())
        out, q, heads, grid = hooks.seen[Layer("output", 11)]
        assert (heads, grid) == (8, (16, 24))
        z, text, _ = inputs[-1]
        assert torch.equal(q, block.attn2.to_q(z))
        by_hand = block.attn2.attention_map(z, text) @ block.attn2.split(block.attn2.to_v(text))
        torch.testing.assert_close(out, by_hand.transpose(1, 2).flatten(2), atol=1e-5, rtol=1e-5)
        assert torch.equal(outputs[-1], block.attn2.to_out(2 * out))
        assert not torch.equal(changed, plain)
