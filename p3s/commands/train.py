"""Train a subject from photos and the points on them, and write it to a subject file.

Points belong to the photo named before them:
  python -m p3s train --image a.jpg --positive 0.25,0.6 --negative 0.74,0.6 --image b.jpg --positive 0.5,0.5 ...
Ctrl-C stops the training and saves the subject as trained so far."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path
from tempfile import gettempdir

from ..demo.chain import TRAINING
from ..errors import P3SError, SubjectFileError, TrainingError
from ..file_writing import SUFFIX
from ..models.pipeline import ModelBundle, train_subject
from ..network.copy_settings import CopySettings
from ..reference.masks import MaskSettings
from ..reference.rngr import Reference
from ..subject.file import Subject, save_new_subject
from ..subject.info import IDENTIFIER, LICENCE
from ..toyworld.world import MASKS
from ..training.progress import progress_bar
from ..training.settings import TrainSettings
from ..training.step import StepReport
from .interrupt import interruptible
from .models import TOY, add_models, check_prompts, fit_photo, open_models
from .options import NamesPhoto, Photo, Read, add_mask_settings, add_points, add_settings, chosen


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
    parser.add_argument("--identifier", default=IDENTIFIER.default, metavar="WORD", help=IDENTIFIER.help)
    parser.add_argument("--licence", default=LICENCE.default, metavar="TEXT", help=LICENCE.help)
    add_models(parser)
    add_points(parser)
    add_settings(parser, "training", TrainSettings(), toy=TRAINING)
    add_settings(parser, "the subject network, stored in the subject", CopySettings())
    add_mask_settings(parser, toy=MASKS)


def run(options: argparse.Namespace) -> None:
    toy = options.model == TOY
    settings = chosen(options, TRAINING if toy else TrainSettings())
    copy_settings, masks = chosen(options, CopySettings()), chosen(options, MASKS if toy else MaskSettings())
    photos = [photo.read(options.pixels) for photo in options.photos]
    models = open_models(options)
    check_prompts(models, [options.prompt])
    references = [_reference(models, *given, masks) for given in zip(options.photos, photos, strict=True)]

    with progress_bar() as show, interruptible(signal.SIGINT) as interrupted:

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


def _reference(models: ModelBundle, photo: Photo, read: Read, settings: MaskSettings) -> Reference:
    picture, points, given = read
    masks = {name: None if m is None else fit_photo(models, m[..., None])[..., 0] for name, m in given.items()}
    try:
        reference = models.reference(fit_photo(models, picture), points, settings, **masks)
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
