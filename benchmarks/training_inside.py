"""Run by benchmarks/training.py inside a ComfyUI: steps of trainings, one after the other in one process."""

from __future__ import annotations

import gc
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import comfy.sd
import comfy_extras.nodes_train as nodes_train
import torch
import torch.nn.functional as F
from attention_flops import counter
from comfy.model_management import get_torch_device, soft_empty_cache
from comfyui_p3s.nodes.host import base_model
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.network.unet import UNet
from comfyui_p3s.p3s.network.unet_config import UNetConfig
from comfyui_p3s.p3s.training.driver import new_copy
from comfyui_p3s.p3s.training.examples import Example
from comfyui_p3s.p3s.training.key import TrainingInputs
from comfyui_p3s.p3s.training.loop import train
from comfyui_p3s.p3s.training.precision import DTYPES, autocast
from comfyui_p3s.p3s.training.settings import TrainSettings
from random_models import random_model

RANK = 16


class Clock:
    """Looks at the time and the work whenever AdamW has made a step, as all of these trainings do. On a GPU it looks at
    the memory instead of the work: to count that takes longer than the step."""

    def __init__(self, device: torch.device) -> None:
        self.marks: list[tuple[float, float, int]] = []
        self.on_gpu = device.type == "cuda"
        self.count = counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        real = torch.optim.AdamW.step

        def step(optimizer: Any, *args: Any, **kwargs: Any) -> Any:
            result = real(optimizer, *args, **kwargs)
            if self.on_gpu:
                torch.cuda.synchronize()
            self.marks.append((time.perf_counter(), time.process_time(), self.count.get_total_flops()))
            return result

        torch.optim.AdamW.step = step  # type: ignore[method-assign, assignment]
        if self.on_gpu:
            torch.cuda.reset_peak_memory_stats()
        try:
            with nullcontext() if self.on_gpu else self.count:
                yield
        finally:
            torch.optim.AdamW.step = real  # type: ignore[method-assign]

    def found(self) -> dict[str, float]:
        """Per step, the quickest one after the first."""
        pairs = list(zip(self.marks, self.marks[1:], strict=False))
        wall, cpu, flops = min(tuple(b - a for a, b in zip(first, second, strict=True)) for first, second in pairs)
        more = {"peak": torch.cuda.max_memory_allocated()} if self.on_gpu else {"tflop": flops / 1e12}
        return {"seconds": wall, "cpu_seconds": cpu, **more}


def p3s(
    kind: str,
    model: Any,
    latent: torch.Tensor,
    prompt: torch.Tensor,
    steps: int,
    checkpointing: bool,
    precision: str = "fp32",
) -> None:
    device, state = get_torch_device(), base_model.base_weights(model)
    base = UNet.from_state_dict(state, dtype=DTYPES[precision]).to(device)
    shown = Example(latent[0], torch.randn(257, 1024), prompt[0])
    settings = TrainSettings(steps=steps, checkpointing=checkpointing, precision=precision)
    copy_settings, noise = CopySettings(kind=kind, rank=RANK), base_model.noise_schedule(model)
    inputs = TrainingInputs("", ("",), [shown], prompt[0], noise, copy_settings, settings)
    result = train(base, new_copy(state, inputs).to(device), inputs)
    assert result.completed, result.error


def train_lora(
    model: Any,
    latent: torch.Tensor,
    prompt: torch.Tensor,
    steps: int,
    checkpointing: bool,
    precision: str = "fp32",
) -> None:
    """ComfyUI's own node, with its default algorithm on all layers."""
    given = {
        "model": model,
        "latents": {"samples": latent},
        "positive": [[prompt, {}]],
        "batch_size": 1,
        "steps": steps,
        "grad_accumulation_steps": 1,
        "learning_rate": 5e-4,
        "rank": RANK,
        "optimizer": "AdamW",
        "loss_function": "MSE",
        "seed": 0,
        "training_dtype": precision,
        "lora_dtype": precision,
        "algorithm": "LoRA",
        "gradient_checkpointing": checkpointing,
        "existing_lora": "[None]",
        # Of newer versions:
        "quantized_backward": False,
        "checkpoint_depth": 1,
        "offloading": False,
        "bucket_mode": False,
        "bypass_mode": False,
    }
    if not hasattr(nodes_train.TrainLoraNode, "execute"):
        names = inspect.signature(nodes_train.TrainLoraNode.train).parameters
        nodes_train.TrainLoraNode().train(**{name: value for name, value in given.items() if name in names})
        return
    names = inspect.signature(nodes_train.TrainLoraNode.execute).parameters
    listed = {name: [value] for name, value in given.items() if name in names}  # as a node whose inputs are lists
    listed["positive"] = [given["positive"]]
    nodes_train.TrainLoraNode.execute(**listed)


def dreambooth(
    model: Any,
    latent: torch.Tensor,
    prompt: torch.Tensor,
    steps: int,
    checkpointing: bool,
    precision: str = "fp32",
) -> None:
    """All weights of our U-Net, trained on the denoising loss."""
    device = get_torch_device()
    net = UNet.from_state_dict(base_model.base_weights(model)).requires_grad_(True).to(device)
    net.checkpointing = checkpointing
    noise, optimizer = base_model.noise_schedule(model), torch.optim.AdamW(net.parameters(), lr=1e-6)
    for _ in range(steps):
        t, eps = torch.randint(1000, (1,)), torch.randn_like(latent)
        x, target = noise.add_noise(latent, eps, t).to(device), noise.target(latent, eps, t).to(device)
        with autocast(precision, device):
            loss = F.mse_loss(net(x, t.to(device), prompt.to(device)).float(), target)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


RUNS: dict[str, Callable[..., None]] = {
    "P3S full": partial(p3s, "full"),
    "P3S lora": partial(p3s, "lora"),
    "Train LoRA": train_lora,
    "DreamBooth": dreambooth,
}


def made(arguments: dict[str, Any]) -> Any:
    """The MODEL of a checkpoint, or a random one of the shapes of SD 1.5 or, tiny, of its first level."""
    if arguments["model"]:
        return comfy.sd.load_checkpoint_guess_config(arguments["model"], output_vae=False, output_clip=False)[0]
    return random_model(UNetConfig.build(320, (1,), 1, (1,)) if arguments["tiny"] else UNetConfig.build())


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    found = {}
    with torch.inference_mode(False):
        side = arguments["size"] // 8
        latent, prompt = torch.randn(1, 4, side, side), torch.randn(1, 77, 768)
        precision = arguments.get("precision", "fp32")
        for name in arguments["inside"]:
            model = made(arguments)
            clock = Clock(get_torch_device())
            with clock.running():
                RUNS[name](model, latent, prompt, 1 + arguments["steps"], arguments["checkpointing"], precision)
            found[name] = clock.found()
            print(name, found[name], flush=True)
            del model
            gc.collect()
            soft_empty_cache()
    return found
