"""Generate trained subjects from prompts, one picture a prompt and seed. Pictures that exist are not overwritten.

With --strength 0 the subject is off: the plain model's picture from the same noise."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ..errors import P3SError
from ..image_files import read_picture, write_new_png
from ..models.pipeline import apply_subject
from ..network.copy_settings import CopySettings
from ..network.injection import EffectMask
from ..sampling.application import EFFECT_MASK, MODE, Application, application
from ..sampling.ddim import GUIDANCE, STEPS
from ..sampling.layer_strengths import LAYER_STRENGTHS
from ..sampling.schedule import Schedule, parse_keyframes
from ..sampling.settings import SamplingSettings, default_schedule
from ..settings import Setting, settings_of
from ..subject.file import REFERENCE_INDEX, load_subject
from ..toyworld import world as toy
from .models import add_models, check_prompts, open_models
from .options import add_settings, chosen
from .paths import PICTURE, SUBJECT, check_file

#: Fields whose options have other names: a copy has a kind, too.
SCHEDULE_NAMES = {"kind": "schedule"}

#: How subjects are applied, as on the node Apply P3S. Each of PER_SUBJECT may be given once for every subject.
PER_SUBJECT: dict[str, tuple[type, Setting]] = {
    "strength": (float, settings_of(Application)["strength"]),
    "mask": (Path, EFFECT_MASK),
    "layer_strengths": (str, LAYER_STRENGTHS),
    "reference_index": (int, REFERENCE_INDEX),
    "isolate": (float, settings_of(Application)["isolate"]),
}
OF_ALL = {
    "mode": MODE,
    "branches": settings_of(SamplingSettings)["branches"],
    "weight_on": settings_of(Application)["weight_on"],
}
METAVARS = {float: "X", int: "N", Path: "PICTURE", str: "TEXT"}


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "subject", type=Path, nargs="+", metavar="SUBJECT", help="a subject file, or several for one picture"
    )
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
    add_application(parser)
    add_schedule(parser)


def add_application(parser: argparse.ArgumentParser) -> None:
    """How subjects are applied, as options."""
    group = parser.add_argument_group(
        "applying the subject", "With several subjects: one value for all of them, or one for each, in their order."
    )
    for name, (kind, setting) in PER_SUBJECT.items():
        told = setting.help.replace("%", "%%")
        if setting.default not in (None, ""):
            told += f" (default: {setting.default})"
        if kind is Path:
            told += " A picture: white where it acts, black where not."
        option = f"--{name.replace('_', '-')}"
        group.add_argument(option, type=kind, nargs="+", default=[setting.default], metavar=METAVARS[kind], help=told)
    for name, setting in OF_ALL.items():
        told = f"{setting.help.replace('%', '%%')} (default: %(default)s)"
        group.add_argument(f"--{name.replace('_', '-')}", choices=setting.choices, default=setting.default, help=told)


def add_schedule(parser: argparse.ArgumentParser) -> None:
    """Schedule as options."""
    usual = "Without --schedule: the curve learned with the subject if there is one, else paper."
    read = {"keyframes": parse_keyframes}
    add_settings(parser, "weight of the subject", Schedule(), SCHEDULE_NAMES, read, description=usual)


def chosen_schedule(options: argparse.Namespace, settings: CopySettings) -> Schedule:
    """The schedule that the user asked for, or the usual one of a copy with these settings."""
    return chosen(options, default_schedule(settings), SCHEDULE_NAMES)


def run(options: argparse.Namespace) -> None:
    for path in options.subject:
        check_file("subject", path, SUBJECT)
    subjects = [load_subject(path) for path in options.subject]
    given = {name: _one_each(name, getattr(options, name), len(subjects)) for name in PER_SUBJECT}
    given["mask"] = [None if path is None else _mask(path) for path in given["mask"]]
    models = open_models(options)
    check_prompts(models, options.prompt)
    applied = []
    of_all = {name: getattr(options, name) for name in OF_ALL}
    for number, subject in enumerate(subjects):
        own = {name: values[number] for name, values in given.items()}
        index = own.pop("reference_index")
        schedule = chosen_schedule(options, CopySettings.from_dict(subject.info.copy_settings))
        how = application(models.unet.config, schedule, **own, **of_all)
        each, warnings = apply_subject(models, subject, index, how)
        applied.append(each)
        for warning in warnings:
            print(f"warning: {warning}")
    sampling = {name: vars(options)[name] for name in ("steps", "guidance") if name in options}
    for prompt in options.prompt:
        for seed in options.seeds:
            (picture,) = models.sample(prompt, [seed], applied, **sampling)
            print(f"wrote {write_new_png(picture, options.out, f'{prompt[:80]} {seed}')}")


def _one_each(name: str, values: list[Any], count: int) -> list[Any]:
    """The value of an option for each of ``count`` subjects."""
    if len(values) not in (1, count):
        raise P3SError(
            f"--{name.replace('_', '-')} has {len(values)} values for {count} subject(s): give one for all of them, or "
            "one for each"
        )
    return values * count if len(values) == 1 else values


def _mask(path: Path) -> EffectMask:
    """The mean of a picture's channels as a mask."""
    check_file("--mask", path, PICTURE)
    mask = EffectMask(read_picture(path).mean(2))
    if mask.nowhere:
        print(f"warning: {path} is black everywhere, so its subject is off")
    return mask
