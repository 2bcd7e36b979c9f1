"""The memory of a training, before its first step."""

from dataclasses import astuple, replace

import pytest
import torch
from alive import Alive
from small import SMALL_SDXL, TOKEN_DIM, random_examples, random_unet, train

from p3s.errors import TrainingError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet_config import SDXL, UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.examples import Example
from p3s.training.memory import check_memory
from p3s.training.memory_estimate import MemoryEstimate, estimate_memory, upper_bound
from p3s.training.precision import DTYPES
from p3s.training.settings import TrainSettings

GIB = 2**30
TINY = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=24)
EXAMPLES = random_examples(2, size=16, config=TINY)
FULL, LORA = CopySettings(), CopySettings(kind="lora")


def estimate(copy_settings=FULL, examples=EXAMPLES, **settings):
    return estimate_memory(TINY, examples, copy_settings, TrainSettings(**settings))


@pytest.mark.parametrize(
    ("kind", "precision", "checkpointing"),
    [("full", "fp32", False), ("lora", "fp32", True), ("full", "bf16", True)],
)
def test_it_is_what_a_real_training_takes(kind, precision, checkpointing):
    settings = TrainSettings(steps=2, precision=precision, checkpointing=checkpointing, batch_size=2)
    base = random_unet(TINY).to(DTYPES[precision])
    copy = start_copy(base.state_dict(), CopySettings(kind=kind, rank=4), TOKEN_DIM)
    alive = Alive([*base.parameters(), *copy.parameters()])
    networks = alive.now
    with alive:
        train(base, copy, EXAMPLES, torch.zeros(7, TINY.context_dim), NoiseSchedule.stable_diffusion(), settings)
    found = estimate_memory(TINY, EXAMPLES, copy.settings, settings)
    assert found.weights == networks
    assert found.peak == pytest.approx(alive.peak, rel=0.05)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("kind", ["full", "lora"])
def test_on_a_gpu_it_is_what_one_takes_whose_autocast_normalises_in_32_bits(kind, checkpointing, monkeypatch):
    """By torch's list of operations. No GPU is at hand: the CPU's autocast does the rest, and leaves these alone."""
    large = random_examples(2, size=32, config=TINY)
    settings = TrainSettings(steps=2, precision="bf16", checkpointing=checkpointing, batch_size=2)
    copy_settings = CopySettings(kind=kind, rank=4)

    def taken() -> int:
        base = random_unet(TINY).to(torch.bfloat16)
        copy = start_copy(base.state_dict(), copy_settings, TOKEN_DIM)
        alive = Alive([*base.parameters(), *copy.parameters()])
        with alive:
            train(base, copy, large, torch.zeros(7, TINY.context_dim), NoiseSchedule.stable_diffusion(), settings)
        return alive.peak

    found = [estimate_memory(TINY, large, copy_settings, settings, torch.device(d)).peak for d in ("cpu", "cuda:0")]
    assert taken() == pytest.approx(found[0], rel=0.01)
    for name in ("layer_norm", "group_norm"):
        real = getattr(torch.nn.functional, name)

        def wide(x, size, weight, bias, eps, real=real):
            return real(x.float(), size, weight.float(), bias.float(), eps)

        monkeypatch.setattr(torch.nn.functional, name, wide)
    assert taken() == pytest.approx(found[1], rel=0.01)
    assert found[1] > 1.1 * found[0]


def test_in_32_bits_it_is_the_same_on_a_gpu():
    settings = TrainSettings(precision="fp32")
    assert estimate_memory(TINY, EXAMPLES, FULL, settings, torch.device("cuda")) == estimate()


def test_a_training_after_it_is_as_without_it():
    """The condition is resized to the view: what the estimate's tensors without values have left must not be used."""
    viewed = replace(EXAMPLES[0], view=torch.randn(4, 11, 13))
    settings = TrainSettings(steps=1)
    estimate_memory(TINY, [viewed], FULL, settings)
    base = random_unet(TINY)
    copy = start_copy(base.state_dict(), FULL, TOKEN_DIM)
    noise = NoiseSchedule.stable_diffusion()
    result = train(base, copy, [viewed], torch.zeros(7, TINY.context_dim), noise, settings)
    assert result.error is None and result.completed


def test_what_saves_memory_saves_it():
    full = estimate()
    trained = sum(p.numel() for p in SubjectCopy(TINY, FULL, TOKEN_DIM, device="meta").parameters())
    assert (full.gradients, full.optimizer) == (pytest.approx(4 * trained, rel=0.03), 8 * trained)
    assert full.peak == full.least + full.activations
    assert estimate(optimizer="adamw8bit").optimizer == 2 * trained
    assert estimate(checkpointing=True).activations < full.activations
    assert estimate(LORA).least < 0.6 * full.least
    assert estimate(batch_size=2).activations > 1.2 * full.activations
    larger = random_examples(1, size=32, config=TINY)
    assert estimate(examples=[*EXAMPLES, *larger]) == estimate(examples=larger)


SD15, SD2 = UNetConfig.build(), UNetConfig.build(context_dim=1024, linear_projection=True)
XL = UNetConfig.build(**SDXL)


def compared(config, side, copy_settings=FULL, text=77, reference=None, **settings):
    """The bound relative to the estimate, none of whose parts may be above it."""
    label = torch.zeros(config.label_dim) if config.label_dim else None
    reference = reference or side
    mask = torch.ones(reference, reference) if copy_settings.cached else None
    parts = torch.zeros(4, reference, reference), torch.zeros(257, 1024), torch.zeros(text, config.context_dim)
    view = torch.zeros(4, side, side)
    examples, settings = [Example(*parts, view=view, label=label, subject_mask=mask)], TrainSettings(**settings)
    bound = upper_bound(config, examples, copy_settings, settings)
    found = estimate_memory(config, examples, copy_settings, settings, torch.device("cuda"))
    assert all(least <= most for most, least in zip(astuple(bound), astuple(found), strict=True))
    return bound.peak / found.peak


@pytest.mark.parametrize(
    ("config", "side", "copy_settings", "settings"),
    [
        pytest.param(TINY, 40, FULL, {"attention_layers": "all", "batch_size": 3}, id="full, all maps"),
        pytest.param(TINY, 16, LORA, {"attention_layers": "none"}, id="low-rank, no maps"),
        pytest.param(TINY, 40, LORA, {"precision": "bf16", "checkpointing": True}, id="checkpointed"),
        pytest.param(TINY, 16, CopySettings(copy_input="cached"), {"reference": 48}, id="cached, a larger photo"),
        pytest.param(SMALL_SDXL, 8, LORA, {"batch_size": 8, "text": 385}, id="SDXL, a long prompt"),
    ],
)
def test_the_bound_is_never_below_the_estimate(config, side, copy_settings, settings):
    compared(config, side, copy_settings, **settings)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "side", "kind", "settings"),
    [
        pytest.param(SD15, 64, "lora", {}, id="SD 1.5"),
        pytest.param(SD15, 64, "lora", {"batch_size": 4, "attention_layers": "all"}, id="SD 1.5, all maps"),
        pytest.param(SD15, 128, "lora", {"precision": "fp16"}, id="SD 1.5, 1024 pixels"),
        pytest.param(SD15, 64, "full", {"batch_size": 4}, id="SD 1.5, full"),
        pytest.param(SD2, 96, "lora", {}, id="SD 2.x"),
        pytest.param(XL, 128, "lora", {}, id="SDXL"),
        pytest.param(XL, 16, "lora", {"batch_size": 16, "text": 231}, id="SDXL, small pictures and long prompts"),
        pytest.param(XL, 128, "lora", {"precision": "bf16", "checkpointing": True}, id="SDXL, low-rank, checkpointed"),
    ],
)
def test_the_bound_of_real_models_is_near_enough_to_be_of_use(config, side, kind, settings):
    assert compared(config, side, CopySettings(kind=kind), **settings) < (2.5 if side >= 64 else 6)


#: A bound that fits nowhere, so that the estimate is asked.
NO_BOUND = MemoryEstimate(0, 0, 0, 2**60)


def check(estimate, *room_and_settings):
    return check_memory(NO_BOUND, estimate, *room_and_settings)


def always(*parts):
    """Whatever the settings."""
    return lambda copy_settings, settings: MemoryEstimate(*parts)


def test_nothing_is_told_where_there_is_room():
    assert check(always(GIB, GIB, GIB, GIB), 5 * GIB, 8 * GIB, FULL, TrainSettings()) is None


def test_where_the_bound_fits_nothing_is_estimated():
    def estimate(*_):
        raise AssertionError

    fits, close = MemoryEstimate(GIB, GIB, GIB, GIB), MemoryEstimate(GIB, GIB, GIB, 2 * GIB)
    assert check_memory(fits, estimate, 5 * GIB, 5 * GIB, FULL, TrainSettings()) is None
    for bound, largest in ((close, 5 * GIB), (fits, 2 * GIB)):
        with pytest.raises(AssertionError):
            check_memory(bound, estimate, 5 * GIB, largest, FULL, TrainSettings())


def test_what_is_close_is_told_and_may_be_tried():
    told = check(always(GIB, GIB, GIB, 5 * GIB), 4 * GIB, 4 * GIB, FULL, TrainSettings(batch_size=2))
    for part in ("about 8.0 GiB", "4.0 GiB is free", 'kind = "lora"', "batch_size", "checkpointing", "bf16"):
        assert part in told


def test_what_cannot_work_is_refused_with_what_would_help():
    needed = always(3 * GIB, 2 * GIB, 4 * GIB, 0)
    with pytest.raises(TrainingError, match=r"take 9\.0 GiB, but the device has 8\.0 GiB") as refused:
        check(needed, 0, 8 * GIB, FULL, TrainSettings())
    for part in ('kind = "lora"', "bf16", "adamw8bit"):
        assert part in str(refused.value)
    assert "resolution" not in str(refused.value), "it would not help"
    with pytest.raises(TrainingError, match="a device with more memory"):
        check(needed, 0, 8 * GIB, LORA, TrainSettings(precision="bf16", checkpointing=True))
    assert check(always(2 * GIB, 2 * GIB, 4 * GIB, 0), 0, 8 * GIB, FULL, TrainSettings()) is not None


def told_or_refused(largest, copy_settings, settings):
    """What a device with nothing free says of a training on EXAMPLES; 1 MiB of it counts as 1 GiB."""

    def of(*choice):
        return MemoryEstimate(*(1024 * part for part in astuple(estimate_memory(TINY, EXAMPLES, *choice))))

    try:
        return check(of, 0, largest, copy_settings, settings)
    except TrainingError as refused:
        return str(refused)


@pytest.mark.parametrize(
    ("largest", "copy_settings", "settings", "changes", "leanest"),
    [
        (2**50, FULL, {}, 'kind "lora", precision "bf16" and checkpointing', {"precision": "bf16"}),
        (0, FULL, {}, 'kind "lora", precision "bf16" and checkpointing', {"precision": "bf16"}),
        (2**50, FULL, {"precision": "fp16", "checkpointing": True}, 'kind "lora"', {"precision": "fp16"}),
        (2**50, LORA, {"precision": "bf16"}, "checkpointing", {"precision": "bf16"}),
        (
            2**50,
            LORA,
            {"batch_size": 2, "checkpointing": True},
            'precision "bf16"',
            {"batch_size": 2, "precision": "bf16"},
        ),
    ],
)
def test_the_leanest_choice_comes_with_what_it_needs(largest, copy_settings, settings, changes, leanest):
    """With the batch as asked for; in a warning, and where the training is refused."""
    needed = estimate(LORA, checkpointing=True, **leanest).peak / 2**20
    assert told_or_refused(largest, copy_settings, TrainSettings(**settings)).endswith(
        f"; with {changes} a step needs about {needed:.1f} GiB"
    )


def test_where_no_change_helps_no_other_choice_is_named():
    told = told_or_refused(2**50, LORA, TrainSettings(precision="bf16", checkpointing=True))
    assert told.endswith("If it fails or is very slow: lower the resolution")
    refused = told_or_refused(0, LORA, TrainSettings(precision="bf16"))
    assert refused.endswith("it needs a device with more memory"), "checkpointing makes no weights smaller"
