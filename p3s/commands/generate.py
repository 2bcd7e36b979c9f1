"""Generate a trained subject from prompts, one picture a prompt and seed. Pictures that exist are not overwritten.

With --schedule fixed --value 0 the subject is off: the plain model's picture from the same noise."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..models.pipeline import apply_subject
from ..network.copy_settings import CopySettings
from ..pictures import write_new_png
from ..sampling.ddim import GUIDANCE, STEPS
from ..sampling.schedule import KINDS, Schedule, parse_keyframes
from ..sampling.settings import default_schedule
from ..subject.file import load_subject
from ..toyworld import world as toy
from .models import add_models, check_prompts, open_models
from .options import add_settings, chosen

SCHEDULE_HELP = {
    "kind": "how strongly the subject acts over the course of denoising; a subject trained with a learned weight uses "
    "that by default",
    "alpha": "of paper: 1 - alpha u^k + beta, where u falls from 1 (noise) to 0; ease has 3 u^2 - 2 u^3 for u^k",
    "beta": "of paper and ease",
    "k": "exponent of paper, increasing and decreasing",
    "value": "weight of fixed, highest weight of increasing and decreasing",
    "keyframes": 'of keyframes: percent:weight pairs, as in "0:0.7, 1:1.2"',
    "start": "fraction of denoising before which the subject is off; a later start leaves the layout to the prompt",
    "end": "fraction of denoising after which the subject is off",
}
#: Fields whose options have other names: a copy has a kind, too.
SCHEDULE_NAMES = {"kind": "schedule"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", type=Path, metavar="SUBJECT", help="a subject file")
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="default: 0")
    parser.add_argument("--out", type=Path, default=Path("generated"), metavar="FOLDER", help="default: %(default)s")
    add_models(parser, precision=True)
    sampling = parser.add_argument_group("sampling")
    for name, kind, text, default, of_toy in (
        ("steps", int, "steps of DDIM", STEPS, toy.STEPS),
        ("guidance", float, "scale of classifier-free guidance", GUIDANCE, toy.GUIDANCE),
    ):
        told = f"{text} (default: {default}; toy world: {of_toy})"
        sampling.add_argument(f"--{name}", type=kind, default=argparse.SUPPRESS, metavar="N", help=told)
    sampling.add_argument(
        "--reference-index",
        type=int,
        default=0,
        metavar="N",
        help="for a subject trained on several photos: which one to use as the reference, counting from 0",
    )
    add_schedule(parser)


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """Schedule as options."""
    kinds, read = {"kind": KINDS}, {"keyframes": parse_keyframes}
    add_settings(parser, "weight of the subject", Schedule(), SCHEDULE_HELP, kinds, SCHEDULE_NAMES, read)


def chosen_schedule(options: argparse.Namespace, settings: CopySettings) -> Schedule:
    """The schedule that the user asked for, or the usual one of a copy with these settings."""
    return chosen(options, default_schedule(settings), SCHEDULE_NAMES)


def run(options: argparse.Namespace) -> None:
    subject = load_subject(options.subject)
    schedule = chosen_schedule(options, CopySettings.from_dict(subject.info.copy_settings))
    models = open_models(options)
    check_prompts(models, options.prompt)
    applied, warnings = apply_subject(models, subject, options.reference_index)
    for warning in warnings:
        print(f"warning: {warning}")
    sampling = {name: vars(options)[name] for name in ("steps", "guidance") if name in options}
    for prompt in options.prompt:
        for seed in options.seeds:
            (picture,) = models.sample(prompt, [seed], applied.copy, applied.condition, schedule, **sampling)
            print(f"wrote {write_new_png(picture, options.out, f'{prompt[:80]} {seed}')}")
