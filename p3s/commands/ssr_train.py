"""Train an SSR-Encoder on captioned pictures, on the weights of Stable Diffusion and CLIP.

DATA has one JSON object a line, as that of the authors' example_data.jsonl:
  {"file_name": "dogs/1.png", "text": ["a brown dog", "a dog on grass"]}
A picture lies beside DATA, or is named by its full path; of several captions one is drawn in each step. The defaults
are the published settings.

OUT is a model for Load SSR-Encoder. It is written every --save-every steps, and beside it a file that ends in .state.
Ctrl-C stops after the step and saves; the same command then continues, to the numbers of a training that was never
stopped. --learning-rate, --weight-decay, --precision, --batch-size, the number of processes and what does not change a
step may be different then; no picture is repeated or left out. DATA, the models and all other settings have to be the
same. The state can be deleted when no more steps are wanted."""

from __future__ import annotations

import argparse
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
    check_fits,
    check_memory,
    described,
    estimate_memory,
    facts,
    free_memory,
    frozen_models,
    shapes_of,
    ways_to_save,
)
from ..models.stable_diffusion import StableDiffusion
from ..ssr.dataset import CaptionedPictures, Reader
from ..ssr.file import load_ssr
from ..ssr.processes import Alone, launched
from ..ssr.state_file import Keeper
from ..ssr.trainer import Report, RunSettings, Trainer
from ..ssr.training import SSRTrainSettings, start, start_from
from ..training.memory import free_cached_memory, is_out_of_memory
from ..training.memory_estimate import bytes_of
from .interrupt import interruptible
from .models import open_stable_diffusion
from .options import add_settings, chosen
from .paths import check_file

EXAMPLES = """\
examples:
  python -m p3s ssr train pictures.jsonl ssr.safetensors --model sd15.safetensors --clip clip-vit-large-patch14
  python -m p3s ssr train pictures.jsonl ssr.safetensors --model sd15.safetensors --clip clip-vit-large-patch14 \\
      --precision bf16 --checkpointing --batch-size 8 --steps 20000
  python -m p3s ssr train pictures.jsonl mine.safetensors --model sd15.safetensors --clip clip-vit-large-patch14 \\
      --from pytorch_model.bin pytorch_model_1.bin --consistency 0.001
  accelerate launch --multi_gpu --num_processes 4 -m p3s ssr train pictures.jsonl ssr.safetensors ...
"""
EVERY = 50  # steps between two lines about the losses
PUBLISHED = "The defaults are the published values."


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DATA", help="the captioned pictures, as above")
    parser.add_argument("out", type=Path, metavar="OUT", help="the .safetensors file to write, or to continue")
    parser.add_argument(
        "--from",
        dest="begin",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="an SSR-Encoder to fine-tune, instead of --start: one file, or the aligner's and the subject layers'. The "
        "authors fine-tune with --consistency 0.001",
    )
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
    if options.begin and "start" in options:
        raise P3SError("--start is how untrained weights begin, and --from has trained ones: leave one out")
    if options.begin and len(options.begin) > 2:
        raise P3SError(f"--from takes one file or two; got {len(options.begin)}")
    for path in options.begin or ():
        check_file("--from", path, "a file of an SSR-Encoder")
    processes, options.device = launched(options.device)
    with processes:
        _run(options, settings, run, processes)


def _run(options: argparse.Namespace, settings: SSRTrainSettings, run: RunSettings, processes: Alone) -> None:
    first = processes.rank == 0
    say: Any = print if first else _silent
    keeper = Keeper(options.out, lambda text: print(f"warning: {text}", file=sys.stderr, flush=True))
    if first:
        keeper.check()
    begin = load_ssr(*options.begin) if options.begin else None
    data = CaptionedPictures(options.data)
    models = open_stable_diffusion(options)
    if begin is not None:
        check_fits(begin, models)
    found = facts(models, data, settings, run, begin)
    frozen = frozen_models(models, run.precision, **({} if begin is None else {"scales": begin.aligner.scales}))
    others, unet = bytes_besides_the_unet(models), bytes_of(list(frozen.base.parameters()))
    if begin is None:
        trainee = start(frozen.base, frozen.vision.zeros().shape[-1], settings, run.seed)
    else:
        trainee = start_from(begin, frozen.base.config)
    if first:
        keeper.check_room(sum(p.numel() for p in trainee.parameters()))
    state = processes.first(keeper.load() if first else None)

    say(f"{len(data):,} pictures, {run.batch_size * processes.count} in each of {run.steps:,} steps")
    factor = 2 ** (len(models.vae.config.block_out_channels) - 1)
    estimate = estimate_memory(
        frozen.base.config, shapes_of(frozen, run, factor), trainee.aligner, run, others, models.device
    )
    say(described(estimate), flush=True)
    free_cached_memory(models.device)
    warning = check_memory(estimate, others + unet, unet, free_memory(models.device), run, begun=state is not None)
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
        changed = state.changed(trainer.adjustable)
        say(f"continues after step {state.step:,}{', with ' * bool(changed)}{', '.join(changed)}", flush=True)
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
                keeper.save(trainer.state(), trainer.model(), _made(trainer))
    except Exception as error:  # whatever it is, what is trained is kept
        problem = error
    if problem is not None and is_out_of_memory(problem):
        advice = ways_to_save(trainer.run, begun=trainer.done > 0)
        problem = TrainingError(f"out of memory: {advice} ({problem})")
    if not trainer.whole:
        kept = f"; {keeper.steps}" if first else ""
        raise TrainingError(f"step {trainer.done + 1} was interrupted halfway ({problem}){kept}") from problem
    outcome = f"{trainer.done:,} of {trainer.run.steps:,} steps"
    if first:
        outcome += _saved(trainer, keeper, problem)
    if isinstance(problem, P3SError):
        raise type(problem)(f"{problem} ({outcome})") from problem
    if problem is not None:
        say(outcome, flush=True)
        raise problem
    if trainer.done < trainer.run.steps:
        raise TrainingError(
            f"stopped; {outcome}; the same command {'continues' if trainer.done else 'starts it again'}"
        )
    say(outcome)


def _saved(trainer: Trainer, keeper: Keeper, problem: Exception | None) -> str:
    """Save at the end, and say where. Raises TrainingError where that fails, naming also the ``problem`` that ended the
    training."""
    try:
        path = keeper.save_last(trainer.state(), trainer.model(), _made(trainer))
    except P3SError as error:
        raise TrainingError(str(error) if problem is None else f"{problem}; and then: {error}") from problem
    return ", nothing to save" if path is None else f": saved to {path}"


def _line(reports: list[Report], seconds: float) -> str:
    denoising, consistency = (
        sum(getattr(report, name) for report in reports) / len(reports) for name in ("denoising", "consistency")
    )
    last = reports[-1]
    return (
        f"step {last.step} of {last.total}: denoising loss {denoising:.4f}, consistency loss {consistency:.4f}, "
        f"{seconds / len(reports):.2f} s a step"
    )


def _made(trainer: Trainer) -> dict[str, object]:
    """How a model was made, for its metadata; the adjustable settings as they were last."""
    made = {**trainer.facts, **trainer.adjustable, **asdict(trainer.settings), "torch": torch.__version__}
    return {**made, "start": trainer.facts["start"]}


def _silent(*_: object, **__: object) -> None:
    """Only the first process prints."""
