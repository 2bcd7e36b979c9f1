"""The core on two devices: networks on a pretended GPU (tools/pretend_gpu.py), what comes from files and hosts on the
CPU. Results are where the networks are, and those of the CPU."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from small import TOKEN_DIM, random_copy, random_examples, random_unet, train
from subjects import make_subject
from tools.pretend_gpu import GPU, PretendGPU

from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.injection import EffectMask
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet_config import UNetConfig
from p3s.sampling.application import Application, AppliedSubject
from p3s.sampling.ddim import generate
from p3s.sampling.diffusion import NoiseSchedule
from p3s.sampling.schedule import Schedule
from p3s.sampling.settings import EXACT, FAST, SamplingSettings
from p3s.ssr.training import Batch as SSRBatch
from p3s.subject.file import load_subject, save_new_subject
from p3s.training.driver import subject_of
from p3s.training.sample_preview import sample_preview
from p3s.training.settings import TrainSettings
from p3s.training.state import Checkpoints
from p3s.training.state_file import load_state
from p3s.training.step import StepReport

NOISE = NoiseSchedule.stable_diffusion()
FLAT = UNetConfig.build(32, (1,), res_blocks=1, transformer_depth=(1,), context_dim=24)
TINY = UNetConfig.build(32, (1, 2), res_blocks=1, transformer_depth=(1, 1), context_dim=24)
EXAMPLES = random_examples(2, size=8, config=TINY)
EMPTY = torch.zeros(7, TINY.context_dim)
KINDS = {"full": {}, "low rank": {"kind": "lora", "rank": 4}, "learned weight": {"weight": "learned"}}
LEFT = torch.zeros(32, 32)
LEFT[:, :15] = 1
CPU = torch.device("cpu")
SHAPES = ((7, TINY.context_dim), (2, 4, 12, 8), (1, 4, 8, 8), (1, 17, TOKEN_DIM))


@pytest.fixture
def gpu() -> Iterator[PretendGPU]:
    with PretendGPU() as pretended:
        yield pretended


def near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Equal but for rounding, relative to the greatest value: the two devices use other kernels of attention."""
    return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-4 * b.abs().max().item())


def test_the_pretended_gpu_refuses_what_a_real_one_does(gpu: PretendGPU) -> None:
    """So that the tests below can fail."""
    here, there = torch.randn(2, 3), torch.randn(2, 3, device=GPU)
    for mix in (
        lambda: here + there,
        lambda: torch.cat([there, here]),
        lambda: there.add_(here),
        lambda: here[there > 0],
    ):
        with pytest.raises(RuntimeError, match="expected all tensors on one device"):
            mix()
    with pytest.raises(RuntimeError, match="generator"):
        torch.randn(2, device=GPU, generator=torch.Generator())
    with torch.inference_mode(), pytest.raises(RuntimeError, match="expected all tensors on one device"):
        torch.nn.functional.linear(there, here)
    assert (there + here.to(there)).device == (2 * there[:, 0] + torch.tensor(1.0)).device == GPU
    assert there.cpu().device == CPU
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()


def test_the_pretended_gpu_notices_what_waits_for_it(gpu: PretendGPU) -> None:
    there = torch.arange(4.0, device=GPU)
    there.mul_(2).sum()
    assert not gpu.waits
    for wait in (there.sum().item, lambda: bool((there > 0).all()), there.cpu, there.nonzero, lambda: there[there > 2]):
        gpu.waits.clear()
        wait()
        assert len(gpu.waits) == 1


def test_the_pretended_gpu_notices_copies_that_wait(gpu: PretendGPU) -> None:
    here = torch.ones(3)
    here.pin_memory().to(GPU, non_blocking=True)
    assert not gpu.unpinned and not gpu.waits
    for number, wait in enumerate((lambda: here.to(GPU, non_blocking=True), lambda: here.pin_memory().to(GPU))):
        assert wait().device == GPU
        assert len(gpu.unpinned) == number + 1


def test_the_pretended_gpu_leaves_nothing_behind() -> None:
    before = torch.cuda._lazy_init, torch.tensor, torch.__future__.get_overwrite_module_params_on_conversion()
    available = torch.cuda.is_available()
    with pytest.raises(KeyError), PretendGPU():
        torch.nn.Linear(2, 2).to(GPU)(torch.ones(1, 2, device=GPU)).sum().backward()
        raise KeyError
    after = torch.cuda._lazy_init, torch.tensor, torch.__future__.get_overwrite_module_params_on_conversion()
    assert after == before
    assert torch.cuda.is_available() == available
    if not available:
        with pytest.raises((RuntimeError, AssertionError)):
            torch.ones(1, device=GPU)


@dataclass(frozen=True)
class Trained:
    copy: SubjectCopy
    losses: list[float]


def trained(device: torch.device, kept: Checkpoints, settings: TrainSettings, **copy_settings: Any) -> Trained:
    """One step, and the second one from the file of the state after it."""
    base = random_unet(FLAT)
    weights = base.state_dict()
    base.to(device)

    def fresh() -> SubjectCopy:
        return start_copy(weights, CopySettings(**copy_settings), TOKEN_DIM).to(device)

    first, second = fresh(), fresh()
    result = train(base, first, EXAMPLES, EMPTY, NOISE, settings, lambda report: False, kept)
    assert len(result.reports) == 1 and not result.warnings
    result = train(base, second, EXAMPLES, EMPTY, NOISE, settings, resume=load_state(kept.path))
    assert result.completed and len(result.reports) == 2
    return Trained(second, [report.loss for report in result.reports])


@pytest.mark.parametrize("checkpointing", [False, True], ids=["", "checkpointing"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_resuming_and_the_file(kind: str, checkpointing: bool, tmp_path: Path) -> None:
    settings = TrainSettings(steps=2, batch_size=2, learning_rate=1e-3, checkpointing=checkpointing)
    on_cpu = trained(CPU, Checkpoints(tmp_path / "cpu", 1), settings, **KINDS[kind])
    info = make_subject().info
    with PretendGPU():
        on_gpu = trained(GPU, Checkpoints(tmp_path / "gpu", 1), settings, **KINDS[kind])
        assert {p.device for p in on_gpu.copy.parameters()} == {GPU}
        file = save_new_subject(subject_of(on_gpu.copy, EXAMPLES[:1], info), tmp_path, "subject")
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=1e-4)
    expected, found = subject_of(on_cpu.copy, EXAMPLES[:1], info).weights, load_subject(file).weights
    assert found.keys() == expected.keys()
    far = max((found[key].float() - weight.float()).abs().max().item() for key, weight in expected.items())
    assert far < 0.25 * settings.learning_rate  # which is about how far a step moves each of them


@pytest.mark.parametrize("kind", [*KINDS, "cached"])
def test_a_step_of_training_waits_once(kind: str) -> None:
    """For its losses. The batch comes from pinned memory."""
    base, settings = random_unet(FLAT), TrainSettings(steps=2, batch_size=2)
    copy = start_copy(base.state_dict(), CopySettings(**KINDS.get(kind, {"copy_input": "cached"})), TOKEN_DIM)
    examples = [replace(example, subject_mask=LEFT[:8, 10:18].clone()) for example in EXAMPLES]
    with PretendGPU() as gpu:

        def told(report: StepReport) -> None:
            if report.step == 2:
                assert (gpu.waits, gpu.unpinned) == (["_to_copy"], [])
            gpu.waits.clear()
            gpu.unpinned.clear()

        assert train(base.to(GPU), copy.to(GPU), examples, EMPTY, NOISE, settings, told).completed


def test_a_batch_of_ssr_encoder_comes_from_pinned_memory() -> None:
    with PretendGPU() as gpu:
        there = SSRBatch(*(torch.ones(2) for _ in range(6)), None).to(GPU)
        assert {part.device for part in there if part is not None} == {GPU} and not gpu.unpinned


@pytest.mark.parametrize("kind", KINDS)
def test_preview(kind: str) -> None:
    def look(device: torch.device) -> torch.Tensor:
        base = random_unet(FLAT)
        copy = random_copy(base, CopySettings(**KINDS[kind])).to(device)
        return sample_preview(base.to(device), copy, EXAMPLES[0], EMPTY, NOISE, "fp32")

    with PretendGPU():
        shown = look(GPU)
        assert shown.device == GPU
        shown = shown.cpu()
    assert near(shown, look(CPU))


#: What is applied, as keyword arguments of Application for each subject, and the settings.
CASES: dict[str, tuple[list[dict[str, Any]], SamplingSettings]] = {
    "none": ([], EXACT),
    "exact": ([{}], EXACT),
    "fast": ([{}], FAST),
    "pooled, one to one": ([{}], SamplingSettings(pairing="one_to_one", pool=2)),
    "mask": ([{"mask": EffectMask(LEFT)}], EXACT),
    "two subjects": ([{"mask": EffectMask(LEFT)}, {"mask": EffectMask(1 - LEFT), "strength": 0.5}], FAST),
    "fixed": ([{"schedule": Schedule("fixed", value=0.5)}], EXACT),
    "window": ([{"schedule": Schedule("decreasing", start=0.4)}], EXACT),
    "keyframes": ([{"schedule": Schedule("keyframes", keyframes=((0.0, 0.5), (1.0, 1.5)))}], EXACT),
    "learned": ([{"kind": "learned weight"}], EXACT),
    "low rank": ([{"kind": "low rank", "layers": {TINY.layers()[0]: 0.5}}], EXACT),
}


def sampled(case: str, device: torch.device, steps: int = 2) -> torch.Tensor:
    applied, settings = CASES[case]
    base = random_unet(TINY)
    draw = [torch.randn(s, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(SHAPES)]
    copies = [
        random_copy(base, CopySettings(**KINDS[a.get("kind", "full")]), i).to(device) for i, a in enumerate(applied)
    ]
    base.to(device)
    prompt, latents, latent, tokens = (part.to(device) for part in draw)
    how = [Application(settings=settings, **{k: v for k, v in a.items() if k != "kind"}) for a in applied]
    with torch.no_grad():
        subjects = [
            AppliedSubject(copy, copy.condition(latent, tokens), each) for copy, each in zip(copies, how, strict=True)
        ]
    *_, image = generate(base, prompt, EMPTY.to(device), NOISE, latents, subjects, steps, 7.5)
    return image


@pytest.mark.parametrize("case", CASES)
def test_sampling(case: str) -> None:
    expected = sampled(case, CPU)
    with PretendGPU() as gpu:
        image = sampled(case, GPU)
        assert image.device == GPU
        assert len(gpu.waits) == (4 if case == "learned" else 0)  # the weights of its curve, once a run
        assert near(image.cpu(), expected)
    assert case == "none" or not near(expected, sampled("none", CPU))
