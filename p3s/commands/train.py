"""Train a subject from photos and the points on them, and write it to a subject file.

Points belong to the photo named before them:
  python -m p3s train --image a.jpg --positive 0.25,0.6 --negative 0.74,0.6 --image b.jpg --positive 0.5,0.5 ...
Ctrl-C stops the training and saves the subject as trained so far."""

from __future__ import annotations

import argparse
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import gettempdir

from torch import Tensor

from ..demo.chain import TRAINING
from ..errors import P3SError, SubjectFileError, TrainingError
from ..files import SUFFIX
from ..models.pipeline import ModelBundle, train_subject
from ..network.copy_settings import CopySettings
from ..reference.masks import MaskSettings
from ..reference.points import PointSet
from ..reference.rngr import Reference
from ..subject.file import Subject, save_new_subject
from ..toyworld.world import MASKS
from ..training.progress import progress_bar
from ..training.settings import TrainSettings
from ..training.step import StepReport
from .models import TOY, add_models, check_prompts, fit_photo, open_models
from .options import NamesPhoto, Photo, add_mask_settings, add_points, add_settings, chosen

TRAIN_HELP = {
    "epochs": "passes over the photos, when --steps is 0",
    "steps": "training steps; 0 follows --epochs. With a single photo, 200 to 300 match the paper",
    "batch_size": "photos per step",
    "learning_rate": "lower it if the loss becomes NaN; raise it if the subject does not come through",
    "weight_decay": "of AdamW",
    "weight_learning_rate": "learning rate of a learned weight (see --weight)",
    "seed": "fixes every random choice",
    "precision": "arithmetic of a step; the trained weights stay in fp32",
    "optimizer": "adamw8bit needs a quarter of adamw's memory, and the package bitsandbytes",
    "checkpointing": "less memory for about a third more time, and the same result",
    "gamma": "weight of the attention consistency loss",
    "prompt_dropout": "fraction of steps trained without the prompt, for classifier-free guidance",
    "attention_layers": "cross-attention layers that the attention consistency loss compares",
    "attention_norm": "normaliser of that loss: the mean attention, or the sum as in the paper, which makes it almost "
    "0",
    "zero_init": "how the zero convolutions start: identity (the copy's own features), or zero (the paper)",
    "pairs": "with several photos: a random other photo is the condition, or the photo itself",
    "views": "what is learned from a photo: all of it, or also a crop around the subject",
    "removed": "whether the filled-in area of a removed subject is learned like the rest, or ignored by the loss",
}
COPY_HELP = {
    "feature": "what the copy hands over: the input (norm1) or output (attn1) of its self-attention",
    "pairing": "level: every attention layer of the model reads the subject; one_to_one: fewer do, faster",
    "copy_input": "what the copy sees: the noisy image plus the reference, or only the reference",
    "cross_attention": "let the subject also steer the queries of cross-attention",
    "lam": "lambda: how much of the subject's features is added to the values of self-attention",
    "image_dim": "inner size of the attention between the reference and its CLIP features",
    "weight": "weight of the subject during training: 1, as in the paper, or a curve that is learned along with it",
    "kind": "full: weights of its own, as in the paper; lora: low-rank changes to the model's own, a small file",
    "rank": "rank of lora's changes",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--image", action=NamesPhoto, required=True, metavar="PHOTO", help="may be repeated")
    parser.add_argument("--prompt", required=True, metavar="TEXT", help='such as "a photo of a sks dog"')
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("subject.safetensors"),
        metavar="FILE",
        help="default: %(default)s; if it exists, the next free number is added to the name",
    )
    parser.add_argument(
        "--identifier", default="", metavar="WORD", help="stored in the file: the rare word, such as sks"
    )
    parser.add_argument("--licence", default="", metavar="TEXT", help="stored in the file: what others may do with it")
    add_models(parser)
    add_points(parser)
    add_settings(parser, "training", TrainSettings(), TRAIN_HELP, TrainSettings.CHOICES, toy=TRAINING)
    add_settings(parser, "the copy, stored in the subject", CopySettings(), COPY_HELP, CopySettings.CHOICES)
    add_mask_settings(parser, toy=MASKS)


def run(options: argparse.Namespace) -> None:
    toy = options.model == TOY
    settings = chosen(options, TRAINING if toy else TrainSettings())
    copy_settings, masks = chosen(options, CopySettings()), chosen(options, MASKS if toy else MaskSettings())
    photos = [photo.read(options.pixels) for photo in options.photos]
    models = open_models(options)
    check_prompts(models, [options.prompt])
    references = [_reference(models, *given, masks) for given in zip(options.photos, photos, strict=True)]

    with progress_bar() as show, _interruptible() as interrupted:

        def callback(report: StepReport) -> bool:
            show(report)
            return not interrupted()

        subject, result = train_subject(
            models, references, options.prompt, settings, copy_settings, options.identifier, options.licence, callback
        )
    ending = "" if result.completed else "_stopped" if result.error else "_cancelled"
    last = result.reports[-1]
    told = f"{last.step} of {last.total} steps, loss {last.loss:.3f}: {_save(subject, options.out, ending)}"
    if result.error is not None:
        raise TrainingError(f"{result.error} ({told})") from result.error
    if not result.completed:
        raise TrainingError(f"cancelled; {told}")
    print(told)


def _reference(models: ModelBundle, photo: Photo, read: tuple[Tensor, PointSet], masks: MaskSettings) -> Reference:
    picture, points = read
    try:
        reference = models.reference(fit_photo(models, picture), points, masks)
    except P3SError as error:
        raise type(error)(f"{photo.path}: {error}") from None
    for warning in reference.warnings:
        print(f"warning: {photo.path}: {warning}")
    return reference


def _save(subject: Subject, path: Path, ending: str) -> str:
    """Where the subject is now. A disk that does not take it must not cost the training: the folder for temporary
    files is tried next."""
    problem, name = "", path.name.removesuffix(SUFFIX) + ending
    for folder in (path.parent, Path(gettempdir())):
        try:
            return f"{problem}saved to {save_new_subject(subject, folder, name)}"
        except SubjectFileError as error:
            problem += f"{error}; "
    raise SubjectFileError(f"{problem}the training is lost")


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within, the first Ctrl-C only makes the given function return True; the second works as ever."""
    pressed = False

    def ask(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
