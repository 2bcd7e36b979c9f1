"""Generate a trained subject from prompts, one picture a prompt and seed. Pictures that exist are not overwritten.

With --schedule fixed --value 0 the subject is off: the plain model's picture from the same noise."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..models.pipeline import apply_subject
from ..network.copy_settings import CopySettings
from ..pictures import write_new_png
from ..sampling.ddim import GUIDANCE, STEPS
from ..sampling.schedule import Schedule, parse_keyframes
from ..sampling.settings import default_schedule
from ..subject.file import REFERENCE_INDEX, load_subject
from ..toyworld import world as toy
from .options import add_settings, chosen
from .worlds import add_world, check_prompts, open_world

#: Fields whose options have other names: a copy has a kind, too.
SCHEDULE_NAMES = {"kind": "schedule"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("subject", type=Path, metavar="SUBJECT", help="a subject file")
    parser.add_argument("--prompt", action="append", required=True, metavar="TEXT", help="may be repeated")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], metavar="N", help="default: 0")
    parser.add_argument("--out", type=Path, default=Path("generated"), metavar="FOLDER", help="default: %(default)s")
    add_world(parser, precision=True)
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
        default=REFERENCE_INDEX.default,
        metavar="N",
        help=REFERENCE_INDEX.help,
    )
    add_schedule(parser)


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """Schedule as options."""
    usual = "Without --schedule: the curve learned with the subject if there is one, else paper."
    read = {"keyframes": parse_keyframes}
    add_settings(parser, "weight of the subject", Schedule(), SCHEDULE_NAMES, read, description=usual)


def chosen_schedule(options: argparse.Namespace, settings: CopySettings) -> Schedule:
    """The schedule that the user asked for, or the usual one of a copy with these settings."""
    return chosen(options, default_schedule(settings), SCHEDULE_NAMES)


def run(options: argparse.Namespace) -> None:
    subject = load_subject(options.subject)
    schedule = chosen_schedule(options, CopySettings.from_dict(subject.info.copy_settings))
    world = open_world(options)
    check_prompts(world, options.prompt)
    applied, warnings = apply_subject(world, subject, options.reference_index)
    for warning in warnings:
        print(f"warning: {warning}")
    sampling = {name: vars(options)[name] for name in ("steps", "guidance") if name in options}
    for prompt in options.prompt:
        for seed in options.seeds:
            (picture,) = world.sample(prompt, [seed], applied.copy, applied.condition, schedule, **sampling)
            print(f"wrote {write_new_png(picture, options.out, f'{prompt[:80]} {seed}')}")
