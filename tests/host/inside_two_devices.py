"""Run by test_two_devices.py inside a host that takes itself to have a GPU: sampling and training with subjects."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import comfy.clip_vision
import comfy.model_management as management
import comfy.utils
import torch
from comfyui_p3s.nodes.host import apply_subject, base_model, encoders, progress
from comfyui_p3s.nodes.host.clip_token_cache import ClipTokenCache
from comfyui_p3s.nodes.training import execution
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.injection import EffectMask
from comfyui_p3s.p3s.reference.rngr import clip_tokens
from comfyui_p3s.p3s.sampling.schedule import Schedule
from comfyui_p3s.p3s.sampling.settings import FAST
from comfyui_p3s.p3s.training.examples import Example
from comfyui_p3s.p3s.training.key import TrainingInputs
from comfyui_p3s.p3s.training.settings import TrainSettings
from comfyui_p3s.p3s.training.state import Checkpoints
from inside_ssr_subjects import apply_ssr, embeds_of, encoder_for
from inside_subjects import apply, difference, draw, load, sample, subject_for

sys.path.append(str(Path(__file__).parents[1] / "tools"))
from pretend_gpu import GPU, PretendGPU

GIB = 2**30
HALF = torch.zeros(16, 16)
HALF[:, 8:] = 1
LEFT, RIGHT = EffectMask(1 - HALF), EffectMask(HALF)
KINDS: dict[str, dict[str, Any]] = {"full": {}, "lora": {"kind": "lora"}, "cached": {"copy_input": "cached"}}

#: What the host and the nodes ask of torch.cuda.
CUDA: dict[str, Callable[..., Any]] = {
    "memory_stats": lambda device=None: {"active_bytes.all.current": 0, "reserved_bytes.all.current": 0},
    "get_device_name": lambda device=None: "a GPU that is not there",
    "get_device_properties": lambda device=None: SimpleNamespace(major=9, minor=0, name="", total_memory=80 * GIB),
    "current_device": lambda: 0,
    "max_memory_allocated": lambda device=None: GIB,
    **dict.fromkeys(
        ("empty_cache", "ipc_collect", "set_device", "synchronize", "reset_peak_memory_stats"), lambda *_: None
    ),
}


@contextmanager
def pretended_machine(free: int = 40 * GIB) -> Iterator[PretendGPU]:
    """The host computes on the pretended GPU, of whose memory so many bytes are free."""
    management.unload_all_models()
    stand_ins = [(torch.cuda, name, value) for name, value in CUDA.items()]
    stand_ins += [(torch.cuda, "mem_get_info", lambda device=None: (free, 80 * GIB))]
    stand_ins += [(management, "get_torch_device", lambda: GPU), (management, "cpu_state", management.CPUState.GPU)]
    stand_ins += [(management, "vram_state", management.VRAMState.NORMAL_VRAM)]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in stand_ins]
    for owner, name, value in stand_ins:
        setattr(owner, name, value)
    try:
        with PretendGPU() as gpu:
            yield gpu
            management.unload_all_models()
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


def images(model: Any) -> dict[str, Callable[[], torch.Tensor]]:
    """What is sampled, by name."""
    one, two = subject_for(model, 1), subject_for(model, 2)
    ssr = embeds_of(encoder_for(model), 1)
    applied = {
        "plain": model,
        "subject": apply(model, one),
        "mask": apply(model, one, mask=LEFT),
        "fast": apply(model, one, settings=FAST),
        "window": apply(model, one, schedule=Schedule("fixed").within(0.0, 0.6)),
        "two subjects": apply(apply(model, one, mask=LEFT), two, mask=RIGHT),
        "isolated, weights on attention": apply(
            apply(model, one, 0.5, mask=LEFT, weight_on="attention", isolate=1.0),
            two,
            0.5,
            mask=RIGHT,
            weight_on="attention",
        ),
        "low rank": apply(model, subject_for(model, 3, kind="lora")),
        "runs once": apply(model, subject_for(model, 5, copy_input="cached")),
        "runs once, masked, weights on attention": apply(
            model, subject_for(model, 6, copy_input="cached"), 0.5, mask=LEFT, weight_on="attention", settings=FAST
        ),
        "learned": apply(model, subject_for(model, 4, weight="learned"), schedule=Schedule("learned")),
        "SSR-Encoder": apply_ssr(model, ssr, 2.0),
        "SSR-Encoder, masked, in a window": apply_ssr(model, ssr, 2.0, mask=LEFT, end=0.6, guidance="conditional"),
    }
    return {name: partial(sample, patched) for name, patched in applied.items()}


def sampling(path: str) -> dict[str, float]:
    """Errors of the GPU's images against the CPU's."""
    expected = {name: image() for name, image in images(load(path)).items()}
    with pretended_machine():
        model = load(path)
        assert model.load_device == GPU, model.load_device
        errors = {name: difference(image().cpu(), expected[name]) for name, image in images(model).items()}
        places = {p.device for p in model.model.diffusion_model.parameters()}
    assert places == {GPU}, places
    return errors


def little_memory(path: str) -> dict[str, Any]:
    """Images of models that fit into the GPU only in part, against the CPU's."""
    found: dict[str, Any] = {}
    for kind, settings in KINDS.items():
        model = load(path)
        expected = sample(apply(model, subject_for(model, **settings)))
        with pretended_machine(GIB // 10):
            model = load(path)
            applied = apply(model, subject_for(model, **settings))
            (copy,) = applied.get_additional_models_with_key(apply_subject.KEY)
            error = difference(sample(applied).cpu(), expected)
            places = {
                name: {w.device.type for w in p.model.parameters()} for name, p in (("model", applied), ("copy", copy))
            }
            found[kind] = {"error": error, **{name: sorted(types) for name, types in places.items()}}
    return found


def trained(model: Any, state: Path, kind: str) -> tuple[Any, list[Any]]:
    """One step as the node runs it, and the previews that it showed."""
    shown: list[Any] = []

    def hook(value: int, total: int, preview: Any, **_: Any) -> None:
        shown.extend([preview] if preview else [])

    comfy.utils.set_progress_bar_global_hook(hook)
    progress.show_text = lambda *_: None
    example = Example(draw(4, 16, 16, seed=7), draw(17, 20, seed=8), draw(77, 768, seed=9))
    copy_settings, settings = CopySettings(kind=kind, rank=4), TrainSettings(steps=1)
    noise, base = base_model.noise_schedule(model), base_model.base_fingerprint(model, patched=True)
    inputs = TrainingInputs(base, ("",), [example], torch.zeros(77, 768), noise, copy_settings, settings)
    info = subject_for(model, 1, kind=kind, rank=4).info
    outcome = execution.run(SimpleNamespace(), model, inputs, info, 1, Checkpoints(state, 1), False)
    assert outcome.result.completed, outcome
    return outcome, shown


def training(path: str, folder: Path, kind: str) -> dict[str, Any]:
    """A training on each device: the losses, and images with the subject."""
    found: dict[str, Any] = {}
    model = load(path)
    on_cpu, _ = trained(model, folder / f"cpu {kind}", kind)
    expected = sample(apply(model, on_cpu.subject))
    with pretended_machine():
        model = load(path)
        sample(model)  # so that the training finds the model on the GPU
        outcome, shown = trained(model, folder / f"gpu {kind}", kind)
        found["weights"] = sorted({str(w.device) for w in outcome.subject.weights.values()})
        found["image"] = difference(sample(apply(model, outcome.subject)).cpu(), expected)
        found["previews"] = len(shown)
        found["notes"] = [*outcome.notes, *outcome.result.warnings]
    found["losses"] = [[r.loss for r in o.result.reports] for o in (on_cpu, outcome)]
    return found


def clip(path: str) -> dict[str, float]:
    """Tokens of a photo by a run and by the route, against the CPU's."""
    photo = draw(64, 96, 3).sigmoid()
    vision = comfy.clip_vision.load(path)
    expected = ClipTokenCache().tokens(photo, vision)
    with pretended_machine():
        vision = comfy.clip_vision.load(path)
        by_run = ClipTokenCache().tokens(photo, vision)
        in_place = encoders.clip_encoder_in_place(vision)
        assert in_place is not None
        by_route = clip_tokens(photo, in_place, encoders.clip_image_size(vision))
        return {"run": difference(by_run.cpu(), expected), "route": difference(by_route.cpu(), expected)}


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    path, folder = arguments["model"], Path(arguments["folder"])
    return {
        "sampling": sampling(path),
        "training": {kind: training(path, folder, kind) for kind in ("full", "lora")},
        "little memory": {name: little_memory(arguments[name]) for name in ("larger", "sdxl")},
        "clip": clip(arguments["vision"]),
    }
