"""Training in less memory: gradient checkpointing, running out of memory, 16 bits, optimisers of 8 bits."""

import sys
import types
import weakref
from functools import cache

import pytest
import torch
from small import SMALL, TOKEN_DIM, random_examples, random_unet, train

from p3s.errors import TrainingError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.unet import ResBlock, SpatialTransformer
from p3s.network.unet_config import UNetConfig
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training import step
from p3s.training.memory import explained, is_out_of_memory, ways_to_save
from p3s.training.optimizer import make_optimizer
from p3s.training.precision import DTYPES
from p3s.training.settings import TrainSettings
from p3s.training.step import Batch, batch_losses, draw_batch

NOISE = NoiseSchedule.stable_diffusion()
TINY = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=24)
EMPTY = torch.randn(7, TINY.context_dim, generator=torch.Generator().manual_seed(99))
EXAMPLES = random_examples(2, size=8, config=TINY)


@pytest.fixture
def base():
    return random_unet(TINY)


def fresh(base, **settings):
    return start_copy(base.state_dict(), CopySettings(**settings), TOKEN_DIM, zero_init="identity")


def run(base, copy, callback=None, **settings):
    settings = TrainSettings(**{"steps": 3, "learning_rate": 1e-3, **settings})
    return train(base, copy, EXAMPLES, EMPTY, NOISE, settings, callback)


@cache
def trained(kind="full", **settings):
    """A copy trained without a mishap, and what became of it; other tests compare with it."""
    base = random_unet(TINY)
    copy = fresh(base, kind=kind)
    return copy, run(base, copy, **settings)


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[k], b[k]) for k in a)


def batch_of(settings, examples=EXAMPLES, empty=EMPTY):
    generator = torch.Generator().manual_seed(0)
    return draw_batch(examples, range(len(examples)), empty, NOISE, settings, generator)


# Gradient checkpointing


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("layers", ["last", "all", "none"])
@pytest.mark.parametrize("cross", [True, False])
def test_checkpointing_gives_the_same_gradients_bit_for_bit(kind, layers, cross):
    base = random_unet()  # the topology of SD 1.5: every kind of block
    settings = TrainSettings(prompt_dropout=0.0, attention_layers=layers)
    batch = batch_of(settings, random_examples(2), torch.zeros(7, SMALL.context_dim))
    found = []
    for on in (False, True):
        copy = fresh(base, kind=kind, cross_attention=cross, weight="learned")
        base.checkpointing = copy.unet.checkpointing = on
        parts = batch_losses(base, copy, batch, settings)
        sum(parts).backward()
        found.append((parts, {name: p.grad for name, p in copy.named_parameters()}))
    assert found[0][0] == found[1][0]
    for name, gradient in found[0][1].items():
        other = found[1][1][name]
        assert (gradient is None and other is None) or torch.equal(gradient, other), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_training_with_checkpointing_gives_the_same_weights_bit_for_bit(base, precision):
    one, two = fresh(base), fresh(base)
    state = torch.get_rng_state()
    assert (
        run(base, one, precision=precision).reports == run(base, two, precision=precision, checkpointing=True).reports
    )
    assert same(one, two)
    assert torch.equal(torch.get_rng_state(), state)


def test_checkpointing_runs_every_block_twice_and_keeps_less(base):
    settings = TrainSettings(prompt_dropout=0.0)
    batch, counts, kept = batch_of(settings), {}, {}
    for on in (False, True):
        copy = fresh(base)
        base.checkpointing = copy.unet.checkpointing = on
        calls, storages = [], {}
        handles = [
            part.register_forward_pre_hook(lambda *_, calls=calls: calls.append(0))
            for part in base.modules()
            if isinstance(part, (ResBlock, SpatialTransformer))
        ]

        def pack(tensor, storages=storages):
            storages[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            parts = batch_losses(base, copy, batch, settings)
        kept[on] = sum(storages.values()) - sum(
            p.untyped_storage().nbytes() for p in [*base.parameters(), *copy.parameters()]
        )
        sum(parts).backward()
        counts[on] = len(calls)
        for handle in handles:
            handle.remove()
    assert counts[True] == 2 * counts[False] - 1  # no gradient flows before the first injection
    assert kept[True] < kept[False] / 2


def test_it_is_off_again_after_training_and_in_sampling(base):
    copy = fresh(base)
    run(base, copy, checkpointing=True)
    assert not base.checkpointing and not copy.unet.checkpointing


def test_no_gradient_is_recorded_before_the_first_injection(base):
    recorded = {}
    for name in ("input_blocks.0.0", "input_blocks.1.0", "input_blocks.1.1"):
        layer = base.get_submodule(name)
        layer.register_forward_hook(lambda m, a, out, name=name: recorded.update({name: out.requires_grad}))
    settings = TrainSettings(prompt_dropout=0.0)
    batch_losses(base, fresh(base), batch_of(settings), settings)
    assert recorded == {"input_blocks.0.0": False, "input_blocks.1.0": False, "input_blocks.1.1": True}


# Running out of memory


class Scarce:
    """Makes ``losses`` run out of memory at given calls of it, as a GPU's or the CPU's allocator says so."""

    def __init__(self, monkeypatch, *calls, error=None):
        self.calls, self.real, self.seen = calls, step.batch_losses, []
        self.error = error or torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        monkeypatch.setattr("p3s.training.gradients.batch_losses", self)

    def __call__(self, base, *arguments):
        self.seen.append(base.checkpointing)
        result = self.real(base, *arguments)
        if len(self.seen) in self.calls:
            self.graph = weakref.ref(result[0])
            raise self.error
        return result


@pytest.mark.parametrize(
    "error",
    [
        None,
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: not enough memory: you tried to"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        RuntimeError("MPS backend out of memory (MPS allocated: 5 GB)"),
        MemoryError(),
    ],
    ids=["cuda", "windows", "linux", "mps", "python"],
)
def test_a_step_that_runs_out_of_memory_is_made_again_with_checkpointing(base, monkeypatch, error):
    whole, copy = trained(checkpointing=True, steps=4)[0], fresh(base)
    scarce = Scarce(monkeypatch, 3, error=error)
    result = run(base, copy, steps=4)
    assert result.completed and result.error is None
    assert scarce.seen == [False, False, False, True, True]
    assert same(whole, copy)
    assert result.warnings == ("step 3 ran out of memory: gradient checkpointing was turned on",)


def test_the_memory_of_the_failed_pass_is_free_before_the_next(base, monkeypatch):
    scarce = Scarce(monkeypatch, 2)
    seen, real = [], scarce.real

    def look(*arguments):
        if len(scarce.seen) == 3:  # the second try
            seen.append(scarce.graph() is None)
        return real(*arguments)

    scarce.real = look
    assert run(base, fresh(base)).completed
    assert seen == [True]


def test_out_of_memory_twice_ends_the_training_and_keeps_what_is_trained(base, monkeypatch):
    expected, copy = fresh(base), fresh(base)
    run(base, expected, callback=lambda report: report.step < 2, steps=9)
    Scarce(monkeypatch, 3, 4)
    result = run(base, copy, steps=9)
    assert isinstance(result.error, TrainingError)
    assert "out of memory at step 3 of 9, even with gradient checkpointing" in str(result.error)
    assert 'kind = "lora"' in str(result.error) and "resolution" in str(result.error)
    assert len(result.reports) == 2
    assert same(copy, expected)


def test_out_of_memory_in_the_first_step_is_raised(base, monkeypatch):
    Scarce(monkeypatch, 1, 2)
    with pytest.raises(TrainingError, match="out of memory at step 1"):
        run(base, fresh(base))


@pytest.mark.parametrize("failing", [[3], [3, 4]])
def test_out_of_memory_while_a_batch_is_moved_is_out_of_memory_in_the_step(base, monkeypatch, failing):
    whole, copy, moves = trained(checkpointing=True, steps=4 if failing == [3] else 2)[0], fresh(base), []
    move = Batch.to

    def scarce(batch, device):
        moves.append(0)
        if len(moves) in failing:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return move(batch, device)

    monkeypatch.setattr(Batch, "to", scarce)
    result = run(base, copy, steps=4)
    assert result.warnings == ("step 3 ran out of memory: gradient checkpointing was turned on",)
    assert same(whole, copy)
    assert result.completed == (failing == [3])
    assert result.completed or "out of memory at step 3 of 4, even with gradient checkpointing" in str(result.error)


def test_out_of_memory_before_the_first_step_says_what_to_change():
    def fail(error):
        with explained("moving", CopySettings(), TrainSettings()):
            raise error

    with pytest.raises(
        TrainingError, match=r'out of memory while moving: train low-rank changes only .*"bf16".* \(CUDA out'
    ):
        fail(torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    with pytest.raises(RuntimeError, match="shapes"):
        fail(RuntimeError("shapes cannot be multiplied"))


@pytest.mark.parametrize("good", [0, 2])
def test_out_of_memory_in_the_optimizer_says_what_to_do(base, monkeypatch, good):
    """Where a full copy on a GPU runs out first: AdamW's moments are allocated in its first step."""
    step, done = torch.optim.AdamW.step, []

    def scarce(self, *args, **kwargs):
        if len(done) == good:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 4.44 GiB")
        done.append(0)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(torch.optim.AdamW, "step", scarce)
    advice = "out of memory in the optimizer at step .* low-rank"
    if not good:
        with pytest.raises(TrainingError, match=advice):
            run(base, fresh(base))
        return
    result = run(base, fresh(base))
    assert len(result.reports) == 2
    with pytest.raises(TrainingError, match=advice):
        raise result.error
    assert any("interrupted halfway" in warning for warning in result.warnings)


@pytest.mark.parametrize(
    "text",
    [
        "CUDA out of memory. Tried to allocate 20.00 MiB",
        "[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to allocate",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    ],
)
def test_it_is_known_by_what_torch_says(text):
    assert is_out_of_memory(RuntimeError(text))
    assert not is_out_of_memory(RuntimeError("CUDA error: device-side assert triggered"))


def test_with_checkpointing_there_is_no_second_try(base, monkeypatch):
    scarce = Scarce(monkeypatch, 2)
    result = run(base, fresh(base), checkpointing=True)
    assert "out of memory at step 2" in str(result.error)
    assert scarce.seen == [True, True]


def test_other_errors_are_not_taken_for_it(base, monkeypatch):
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    scarce = Scarce(monkeypatch, 2, error=RuntimeError("shapes cannot be multiplied"))
    assert "multiplied" in str(run(base, fresh(base)).error)
    assert len(scarce.seen) == 2


def test_only_what_is_not_yet_done_is_advised():
    full = ways_to_save(CopySettings(), TrainSettings(batch_size=4))
    for word in ("lora", "batch_size (now 4)", "checkpointing", "bf16", "adamw8bit", "resolution"):
        assert word in full
    lean = TrainSettings(checkpointing=True, precision="bf16", optimizer="adamw8bit")
    assert ways_to_save(CopySettings(kind="lora"), lean) == "lower the resolution"


@pytest.mark.skipif(sys.platform != "linux", reason="other systems lend more memory than they have")
def test_what_the_allocator_of_this_machine_says_is_known():
    with pytest.raises(RuntimeError) as raised:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(raised.value)


# 16 bits


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp16", torch.float16)])
@pytest.mark.parametrize("layers", ["last", "none"])
def test_16_bits_keep_the_weights_in_32(base, kind, precision, dtype, layers):
    assert DTYPES[precision] == dtype
    copy, half = fresh(base, kind=kind), base.to(dtype)
    settings = {"steps": 4, "attention_layers": layers}
    _, expected = trained(kind, **settings)
    result = run(half, copy, precision=precision, **settings)
    assert result.completed
    assert all(p.dtype == torch.float32 for p in copy.parameters())
    for ours, theirs in zip(result.reports, expected.reports, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=0.1)


def test_fp16_skips_steps_until_its_scale_fits(base, monkeypatch):
    """Scaled gradients that overflow are no error: the scale is halved, and the weights stay as they are."""
    copy = fresh(base)
    before = {k: v.clone() for k, v in copy.state_dict().items()}
    moved = []
    real = torch.amp.GradScaler

    def scaler(*arguments, **keywords):
        return real(*arguments, **keywords, init_scale=2.0**28)

    monkeypatch.setattr(torch.amp, "GradScaler", scaler)
    result = run(
        base,
        copy,
        lambda report: moved.append(any(not torch.equal(v, before[k]) for k, v in copy.state_dict().items())) or True,
        precision="fp16",
        steps=10,
    )
    assert result.completed
    assert moved[0] is False and moved[-1] is True


def test_fp16_stops_when_no_scale_fits(base):
    result = run(base, fresh(base), precision="fp16", steps=40, learning_rate=1.0)
    assert isinstance(result.error, TrainingError)
    assert "train in fp32 (now fp16)" in str(result.error)


# Optimisers


def test_adamw8bit_says_what_to_install(base, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(TrainingError, match="pip install bitsandbytes"):
        run(base, fresh(base), optimizer="adamw8bit")


def test_adamw8bit_is_that_of_bitsandbytes(base, monkeypatch):
    class AdamW8bit(torch.optim.AdamW):
        pass

    module = types.ModuleType("bitsandbytes.optim")
    module.AdamW8bit = AdamW8bit
    monkeypatch.setitem(sys.modules, "bitsandbytes", types.ModuleType("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", module)
    copy = fresh(base, weight="learned")
    settings = TrainSettings(optimizer="adamw8bit", learning_rate=3e-4, weight_decay=0.02, weight_learning_rate=0.1)
    optimizer = make_optimizer(copy, settings)
    assert type(optimizer) is AdamW8bit
    assert [(g["lr"], g["weight_decay"]) for g in optimizer.param_groups] == [(3e-4, 0.02), (3e-4, 0.0), (0.1, 0.0)]
    assert sum(len(g["params"]) for g in optimizer.param_groups) == len(list(copy.parameters()))
