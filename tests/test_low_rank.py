"""The low-rank copy: the base's own layers plus small trained changes."""

import gc
from dataclasses import replace

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_copy, random_examples, random_unet, train
from subjects import make_subject, same
from torch import nn

from p3s.errors import P3SError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.low_rank import Borrowed, LowRankLayer
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet_config import UNetConfig
from p3s.safetensors_format import read_header
from p3s.sampling.application import AppliedSubject
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule
from p3s.subject.file import V1_COPY_SETTINGS, check_weights, load_subject, save_subject
from p3s.training.settings import TrainSettings
from p3s.training.step import batch_losses, draw_batch

NOISE = NoiseSchedule.stable_diffusion()
EMPTY = torch.randn(7, SMALL.context_dim, generator=torch.Generator().manual_seed(99))
LORA = CopySettings(kind="lora", rank=4)
SCALED = CopySettings(kind="lora", rank=4, alpha=10.0)
scaled_or_not = pytest.mark.parametrize("settings", [LORA, SCALED], ids=["alpha 0", "alpha 10"])


@pytest.fixture(scope="module")
def base():
    return random_unet()


def fresh(base, settings=LORA, **kwargs):
    return start_copy(base.state_dict(), settings, TOKEN_DIM, **kwargs)


def trained(base, settings=LORA, **kwargs):
    """A copy whose every weight differs from its start, as after training."""
    copy = fresh(base, settings, **kwargs)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for p in copy.parameters():
            p.add_(torch.randn(p.shape, generator=generator) * 0.2 * p.shape[-1] ** -0.5)
    return copy.requires_grad_(False).eval()


def batch_of(examples, settings):
    generator = torch.Generator().manual_seed(0)
    return draw_batch(examples, range(len(examples)), EMPTY, NOISE, settings, generator)


def inputs(size=16, batch=2):
    generator = torch.Generator().manual_seed(5)
    x, context = (torch.randn(s, generator=generator) for s in ((batch, 4, size, size), (batch, 7, SMALL.context_dim)))
    return x, torch.tensor([500.0] * batch), context, torch.randn(1, 4, size, size, generator=generator)


def merged(copy, base):
    """The full copy with the same function: each change added to its base layer's weight."""
    state, own = base.state_dict(), dict(copy.state_dict())
    scale = {LORA: 1.0, SCALED: 2.5}[copy.settings]
    weights = {k: v for k, v in own.items() if not k.startswith(("unet.", "zero_"))}
    full = SubjectCopy(SMALL, CopySettings(), TOKEN_DIM)
    for key in full.state_dict():
        name, _, last = key.rpartition(".")
        if key.startswith("unet."):
            weights[key] = state[copy.map.base_key(key.removeprefix("unet."))].clone()
            change = own.get(f"{name}.up.weight")
            if last == "weight" and change is not None:
                down = own[f"{name}.down.weight"]
                weights[key] += scale * (change.flatten(1) @ down.flatten(1)).view(weights[key].shape)
        elif key.startswith("zero_") and last == "weight":
            change = own[f"{name}.up.weight"] @ own[f"{name}.down.weight"]
            weights[key] = own[f"{name}.diagonal.weight"].diag() + scale * change
        elif key.startswith("zero_"):
            weights[key] = own[f"{name}.diagonal.bias"]
    full.load_state_dict(weights)
    return full.requires_grad_(False).eval()


def same_features(a, b, exact=False):
    for part in ("self_attention", "cross_attention"):
        ours, theirs = getattr(a, part), getattr(b, part)
        assert ours.keys() == theirs.keys()
        for layer in ours:
            if exact:
                assert torch.equal(ours[layer], theirs[layer]), layer
            else:
                torch.testing.assert_close(ours[layer], theirs[layer], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("zero_init", ["zero", "identity"])
def test_before_training_it_is_the_full_copy(base, zero_init):
    lora, full = fresh(base, zero_init=zero_init), fresh(base, CopySettings(), zero_init=zero_init)
    lora.borrow(base)
    with torch.no_grad():
        same_features(lora(*inputs()), full(*inputs()), exact=True)


@scaled_or_not
def test_after_training_it_is_the_full_copy_with_the_changes_merged(base, settings):
    lora = trained(base, settings)
    lora.borrow(base)
    with torch.no_grad():
        same_features(lora(*inputs()), merged(lora, base)(*inputs()))


@scaled_or_not
def test_the_losses_are_those_of_the_merged_copy(base, settings):
    training = TrainSettings(prompt_dropout=0.0, attention_layers="all")
    lora, batch = trained(base, settings), batch_of(random_examples(2), training)
    with torch.no_grad():
        ours, theirs = (
            batch_losses(base, lora, batch, training),
            batch_losses(base, merged(lora, base), batch, training),
        )
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


@scaled_or_not
def test_sampling_is_that_of_the_merged_copy(base, settings):
    lora, (x, _, context, condition) = trained(base, settings), inputs(batch=1)

    def picture(copy):
        *_, x0 = generate(base, context[0], EMPTY, NOISE, x, [AppliedSubject(copy, condition)], steps=2)
        return x0

    torch.testing.assert_close(picture(lora), picture(merged(lora, base)), rtol=1e-3, atol=1e-3)


def test_the_base_weights_are_shared_in_training_and_in_sampling(base):
    """Every weight that the copy reads lies where the base's lies, and all its own together are small."""

    def check(copy):
        borrowed = {name: layer for name, layer in copy.unet.named_modules() if isinstance(layer, Borrowed)}
        assert len(borrowed) == len(
            [m for m in SubjectCopy(SMALL, CopySettings(), TOKEN_DIM).unet.modules() if is_layer(m)]
        )
        for name, layer in borrowed.items():
            lent = base.get_submodule(copy.map.base_key(name))
            if name == "input_blocks.0.0":
                continue  # called through a function that pads; its parameters are checked by their number below
            assert layer._lender[0] is lent
            assert layer._lender[0].weight.data_ptr() == lent.weight.data_ptr()
        pointers = {p.data_ptr() for p in base.parameters()}
        assert not pointers & {p.data_ptr() for p in copy.parameters()}

    def is_layer(module):
        return isinstance(module, (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm))

    copy = fresh(base)
    train(base, copy, random_examples(), EMPTY, NOISE, TrainSettings(steps=1))
    check(copy)
    x, _, context, condition = inputs(batch=1)
    list(generate(base, context[0], EMPTY, NOISE, x, [AppliedSubject(copy, condition)], steps=1))
    check(copy)
    whole = sum(p.numel() for p in SubjectCopy(SMALL, CopySettings(), TOKEN_DIM).unet.parameters())
    assert sum(p.numel() for p in copy.unet.parameters()) < whole / 4


def test_it_follows_the_base_that_it_runs_on(base):
    """What happens to the base's weights, such as a LoRA, happens to the copy's."""
    other, copy = random_unet(seed=5), trained(base)
    copy.borrow(base)
    with torch.no_grad():
        before = copy(*inputs())
        copy.borrow(other)
        same_features(copy(*inputs()), merged(copy, other)(*inputs()))
        copy.borrow(base)
        same_features(copy(*inputs()), before, exact=True)


def test_without_a_base_it_says_what_to_do(base):
    with pytest.raises(P3SError, match="borrow"):
        fresh(base)(*inputs())


def test_the_base_is_neither_kept_alive_twice_nor_saved(base):
    lent, copy = random_unet(seed=5), trained(base)
    copy.borrow(lent)
    assert not any("weight" in key and ".down" not in key and ".up" not in key for key in copy.unet.state_dict())
    assert len(list(copy.unet.parameters())) == 2 * sum(isinstance(m, LowRankLayer) for m in copy.unet.modules())
    first = next(lent.parameters())
    del lent
    copy.borrow(base)
    gc.collect()
    assert len(gc.get_referrers(first)) <= 1, "a base that is no longer borrowed must go"


def test_alpha_as_large_as_the_rank_is_alpha_0_bit_for_bit(base):
    """Also in training. Another alpha starts at the same place, without a change, and trains to another one."""
    states = []
    for alpha in (0.0, 4.0, 8.0):
        copy = fresh(base, replace(LORA, alpha=alpha))
        train(base, copy, random_examples(), EMPTY, NOISE, TrainSettings(steps=2, learning_rate=1e-3))
        states.append(copy.state_dict())
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not all(torch.equal(states[0][k], states[2][k]) for k in states[0])


def test_alpha_is_in_a_file_only_where_it_scales_and_never_forgotten():
    """Files and keys without it mean what they meant."""
    assert "alpha" not in LORA.to_dict() and CopySettings().to_dict().keys() == V1_COPY_SETTINGS
    assert CopySettings.from_dict(LORA.to_dict()) == LORA
    assert SCALED.to_dict() == LORA.to_dict() | {"alpha": 10.0}
    assert CopySettings.from_dict(SCALED.to_dict()) == SCALED
    assert (LORA.change_scale, SCALED.change_scale, replace(LORA, alpha=1.0).change_scale) == (1.0, 2.5, 0.25)


UNREAD = ("unet.out.", "unet.output_blocks.7.1.proj_out.")
LAST = "unet.output_blocks.7.1.transformer_blocks.0."


@pytest.mark.parametrize("zero_init", ["zero", "identity"])
def test_all_that_is_read_is_trained_and_the_base_is_left_alone(base, zero_init):
    before = {k: v.clone() for k, v in base.state_dict().items()}
    copy = fresh(base, zero_init=zero_init)
    start = {k: v.clone() for k, v in copy.state_dict().items()}
    settings = TrainSettings(steps=5, learning_rate=1e-3, weight_decay=0.0, prompt_dropout=0.0)
    assert train(base, copy, random_examples(), EMPTY, NOISE, settings).completed
    still = {k for k, v in copy.state_dict().items() if torch.equal(v, start[k])}
    # With 32 channels a normalisation over 32 groups takes away what a time embedding adds to a channel.
    still -= {k for k in still if ".emb_layers." in k and start[k.replace(".down.", ".up.")].shape[0] == 32}
    unread = (*UNREAD, LAST + "ff.", LAST + "attn2.to_v.", LAST + "attn2.to_out.")
    assert still == {k for k in start if k.startswith(unread)}
    assert all(torch.equal(v, before[k]) for k, v in base.state_dict().items())
    assert not any(p.requires_grad for p in base.parameters())


def test_it_trains_with_16_bits_on_a_base_of_16_bits(base):
    half, copy = random_unet().to(torch.bfloat16), fresh(base)
    result = train(half, copy, random_examples(), EMPTY, NOISE, TrainSettings(steps=3, precision="bf16"))
    assert result.completed
    assert {p.dtype for p in copy.parameters()} == {torch.float32}


def test_equal_seeds_give_equal_weights(base):
    states = []
    for _ in range(2):
        copy = fresh(base, seed=3)
        train(base, copy, random_examples(), EMPTY, NOISE, TrainSettings(steps=2))
        states.append(copy.state_dict())
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
    assert not torch.equal(fresh(base, seed=3).unet.state_dict()[key()], fresh(base, seed=4).unet.state_dict()[key()])


def key():
    return "middle_block.0.in_layers.2.down.weight"


def test_an_inpainting_base_lends_its_first_convolution_too(base):
    wide = random_unet(UNetConfig.build(model_channels=32, channel_mult=(1, 2, 2, 2), context_dim=24, in_channels=9))
    narrow = {k: v.clone() for k, v in wide.state_dict().items()}
    narrow["input_blocks.0.0.weight"] = narrow["input_blocks.0.0.weight"][:, :4].clone()
    ordinary = random_unet()
    ordinary.load_state_dict(narrow)
    copy = trained(ordinary)
    with torch.no_grad():
        copy.borrow(ordinary)
        expected = copy(*inputs())
        copy.borrow(wide)
        same_features(copy(*inputs()), expected)


@scaled_or_not
def test_the_file_round_trip(tmp_path, base, settings):
    copy = trained(base, settings)
    subject = replace(
        make_subject(copy_settings=settings.to_dict()),
        weights={k: v.detach().to(torch.float16) for k, v in copy.state_dict().items()},
    )
    path = save_subject(subject, tmp_path / "a.safetensors")
    assert read_header(path)[0]["format_version"] == "2"
    loaded = load_subject(path)
    assert same(loaded, subject)
    again = SubjectCopy(SMALL, CopySettings.from_dict(loaded.info.copy_settings), TOKEN_DIM, device="meta")
    check_weights(loaded, {k: v.shape for k, v in again.state_dict().items()})
    again.load_state_dict({k: v.float() for k, v in loaded.weights.items()}, assign=True)
    again.borrow(base)
    copy.borrow(base)
    with torch.no_grad():
        for layer, f in again(*inputs()).self_attention.items():
            torch.testing.assert_close(f, copy(*inputs()).self_attention[layer], rtol=2e-2, atol=2e-2)


def test_a_file_for_sd15_has_at_most_32_mb():
    copy = SubjectCopy(UNetConfig.build(), CopySettings(kind="lora", weight="learned"), 1024, device="meta")
    weights = 2 * sum(v.numel() for v in copy.state_dict().values())
    reference = 4 * (4 * 64 * 64 + 257 * 1024)
    assert weights + 4 * reference < 32e6


def test_a_rank_is_never_larger_than_a_layer(base):
    copy = fresh(base, CopySettings(kind="lora", rank=1024))
    full = CopySettings()
    for name, layer in copy.unet.named_modules():
        if isinstance(layer, LowRankLayer):
            rank, *fan_in = layer.down.weight.shape
            assert rank == min(torch.Size(fan_in).numel(), layer.up.weight.shape[0]), name
    assert full.kind == "full"


def test_a_full_copy_needs_no_base(base):
    copy = random_copy(base)
    copy.borrow(nn.Module())
    assert not any(isinstance(m, Borrowed) for m in copy.modules())


@pytest.mark.parametrize(
    "bad", [{"kind": "half"}, {"rank": 0}, {"rank": 1.5}, {"rank": 10**6}, {"alpha": -1.0}, {"alpha": 5000.0}]
)
def test_values_out_of_range_are_refused(bad):
    with pytest.raises(P3SError, match=next(iter(bad))):
        CopySettings(**bad)
