"""Train an SSR-Encoder on captioned pictures, on the weights of Stable Diffusion and CLIP.

DATA has one JSON object a line, as that of the authors' example_data.jsonl:
  {"file_name": "dogs/1.png", "text": ["a brown dog", "a dog on grass"]}
A picture lies beside DATA, or is named by its full path; of several captions one is drawn in each step. The defaults
are the published settings.

OUT is a model for Load SSR-Encoder. It is written every --save-every steps, and beside it a file that ends in .state.
Ctrl-C stops after the step and saves; the same command then continues, to the numbers of a training that was never
stopped. The state can be deleted when no more steps are wanted."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ..errors import P3SError, TrainingError
from ..models.ssr import (
    arithmetic,
    bytes_besides_the_unet,
    check_memory,
    estimate_memory,
    facts,
    free_memory,
    frozen_models,
    shapes_of,
    told,
)
from ..models.stable_diffusion import StableDiffusion
from ..ssr.dataset import CaptionedPictures, Reader
from ..ssr.processes import Alone, launched
from ..ssr.state_file import Keeper
from ..ssr.trainer import Report, RunSettings, Trainer
from ..ssr.training import SSRTrainSettings, start
from ..training.memory import free_cached_memory, is_out_of_memory
from ..training.memory_estimate import bytes_of
from .interrupt import interruptible
from .models import open_stable_diffusion
from .options import add_settings, chosen

EXAMPLES = """\
examples:
  python -m p3s ssr train pictures.jsonl ssr.safetensors --model sd15.safetensors --clip clip-vit-large-patch14
  python -m p3s ssr train pictures.jsonl ssr.safetensors --model sd15.safetensors --clip clip-vit-large-patch14 \\
      --precision bf16 --checkpointing --batch-size 8 --steps 20000
  accelerate launch --multi_gpu --num_processes 4 -m p3s ssr train pictures.jsonl ssr.safetensors ...
"""
EVERY = 50  # steps between two lines about the losses
PUBLISHED = "The defaults are the published values."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="the captioned pictures, as above")
    parser.add_argument("out", type=Path, metavar="OUT", help="the .safetensors file to write, or to continue")
    group = parser.add_argument_group("models")
    group.add_argument(
        "--model",
        required=True,
        metavar="FILE",
        help="Stable Diffusion 1.5, or a fine-tune of it: a .safetensors checkpoint, or a folder as diffusers writes "
        "it (needs: pip install diffusers transformers)",
    )
    group.add_argument(
        "--clip",
        required=True,
        metavar="FOLDER",
        help="openai/clip-vit-large-patch14; its vision tower reads the pictures, and a checkpoint also needs its "
        "tokenizer",
    )
    group.add_argument("--device", metavar="NAME", help="default: cuda if there is one, else cpu")
    group.add_argument(
        "--resolution",
        type=int,
        default=StableDiffusion.resolution,
        metavar="PIXELS",
        help="the side of the squares that are trained on; CLIP always sees its own size (default: %(default)s)",
    )
    add_settings(parser, "the method", SSRTrainSettings(), description=PUBLISHED)
    add_settings(parser, "the run", RunSettings())


def run(options: argparse.Namespace) -> None:
    settings, run = chosen(options, SSRTrainSettings()), chosen(options, RunSettings())
    processes, options.device = launched(options.device)
    with processes:
        _run(options, settings, run, processes)


def _run(options: argparse.Namespace, settings: SSRTrainSettings, run: RunSettings, processes: Alone) -> None:
    first = processes.rank == 0
    say: Any = print if first else _silent
    keeper = Keeper(options.out, lambda text: print(f"warning: {text}", file=sys.stderr, flush=True))
    if first:
        keeper.check()
    data = CaptionedPictures(options.data)
    models = open_stable_diffusion(options)
    found = facts(models, data, settings, run, processes)
    frozen, others = frozen_models(models, run.precision), bytes_besides_the_unet(models)
    width = frozen.vision.zeros().shape[-1]
    trainee = start(frozen.base, width, settings, run.seed)
    if first:
        keeper.check_room(sum(p.numel() for p in trainee.parameters()))
    state = processes.first(keeper.load() if first else None)

    say(f"{len(data):,} pictures, {run.batch_size * processes.count} in each of {run.steps:,} steps")
    factor = 2 ** (len(models.vae.config.block_out_channels) - 1)
    estimate = estimate_memory(frozen.base.config, shapes_of(frozen, run, factor), trainee.aligner, run, others)
    say(told(estimate), flush=True)
    free_cached_memory(models.device)
    loaded = others + bytes_of(list(frozen.base.parameters()))
    warning = check_memory(estimate, loaded, free_memory(models.device), run)
    if warning:
        say(f"warning: {warning}", flush=True)

    clip = frozen.vision.size
    reader = Reader(
        data, run.seed, run.batch_size, frozen.resolution, clip, run.workers, processes.rank, processes.count
    )
    trainer = Trainer(
        trainee, frozen, reader, settings, run, found, processes, arithmetic(run.precision, models.device)
    )
    if state is not None:
        trainer.restore(state)
        if state.step > run.steps:
            raise TrainingError(f"{options.out} has {state.step:,} steps already, and --steps asks for {run.steps:,}")
        keeper.saved = state.step
        say(f"continues after step {state.step:,}", flush=True)
    signals = (signal.SIGINT, signal.SIGTERM)
    with reader, interruptible(*signals, again=processes.count == 1) as interrupted:
        _train(trainer, keeper, interrupted, say)


def _train(trainer: Trainer, keeper: Keeper, interrupted: Any, say: Any) -> None:
    first = trainer.processes.rank == 0
    seen: list[Report] = []
    started = time.monotonic()
    problem: Exception | None = None
    try:
        for report in trainer.steps(interrupted):
            seen.append(report)
            if len(seen) == EVERY or report.step == report.total:
                say(_line(seen, time.monotonic() - started), flush=True)
                seen, started = [], time.monotonic()
            if first and report.step % trainer.run.save_every == 0 and report.step < report.total:
                keeper.save(trainer.state(), trainer.model(), _notes(trainer))
    except Exception as error:  # whatever it is, what is trained is kept
        problem = error
    if not trainer.whole:
        raise TrainingError(
            f"step {trainer.done + 1} was interrupted halfway ({problem}); {keeper.path.name} has step {keeper.saved}"
        ) from problem
    told = f"{trainer.done:,} of {trainer.run.steps:,} steps"
    if first:
        told += f": saved to {keeper.save_last(trainer.state(), trainer.model(), _notes(trainer))}"
    if problem is not None and is_out_of_memory(problem):
        problem = TrainingError(
            f"out of memory: lower --batch-size (now {trainer.run.batch_size}), or use --checkpointing, or --precision "
            f"bf16 ({problem})"
        )
    if isinstance(problem, P3SError):
        raise type(problem)(f"{problem} ({told})") from problem
    if problem is not None:
        say(told, flush=True)
        raise problem
    if trainer.done < trainer.run.steps:
        raise TrainingError(f"stopped; {told}; the same command continues")
    say(told)


def _line(reports: list[Report], seconds: float) -> str:
    denoising, consistency = (
        sum(getattr(report, name) for report in reports) / len(reports) for name in ("denoising", "consistency")
    )
    last = reports[-1]
    return (
        f"step {last.step} of {last.total}: denoising loss {denoising:.4f}, consistency loss {consistency:.4f}, "
        f"{seconds / len(reports):.2f} s a step"
    )


def _notes(trainer: Trainer) -> dict[str, str]:
    """How a model was made, for its metadata."""
    made = {**trainer.facts, "trained_steps": trainer.done, **asdict(trainer.settings), "torch": torch.__version__}
    return {"made": json.dumps(made, sort_keys=True)}


def _silent(*_: object, **__: object) -> None:
    """Said by the first process only."""
