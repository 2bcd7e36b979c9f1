"""What the commands of this folder have in common on the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from p3s.commands.generate import add_schedule, chosen_schedule
from p3s.commands.models import add_computing
from p3s.commands.options import add_settings, chosen
from p3s.errors import P3SError
from p3s.ssr.file import SSRModel, load_ssr

from .protocol import Protocol

#: Options with another name than the setting: a weight schedule has an alpha, too.
COPY_NAMES = {"alpha": "lora_alpha"}


def ended(name: str, run: Callable[[argparse.Namespace], None], options: argparse.Namespace) -> int:
    """Run a command; its exit status. Errors that a user can fix are one line, without a traceback."""
    try:
        run(options)
    except (P3SError, OSError, ImportError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1
    return 0


def add_base(parser: argparse.ArgumentParser) -> argparse._ArgumentGroup:
    """--model, --clip and what they run on."""
    models = parser.add_argument_group("models")
    models.add_argument(
        "--model",
        "--world",
        required=True,
        metavar="MODELS",
        help="Stable Diffusion 1.5: a .safetensors checkpoint, or a folder as diffusers writes it. --world is an older "
        "name of this option",
    )
    models.add_argument("--clip", required=True, metavar="FOLDER", help="openai/clip-vit-large-patch14")
    add_computing(models)
    return models


def add_ssr(models: argparse._ArgumentGroup) -> None:
    """--ssr."""
    models.add_argument(
        "--ssr",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="the weights of an SSR-Encoder: its two files, or the one that python -m p3s ssr convert writes",
    )


def open_ssr(options: argparse.Namespace) -> SSRModel | None:
    """The SSR-Encoder that the user named. Raises SSRFileError for other files, P3SError for more than two."""
    if options.ssr and len(options.ssr) > 2:
        raise P3SError(f"--ssr: expected one file or two; got {len(options.ssr)}")
    return load_ssr(*options.ssr) if options.ssr else None


def chosen_methods(options: argparse.Namespace, ssr: SSRModel | None) -> list[str]:
    """The methods that the user asked for, without those that need weights that were not given. Raises P3SError where
    none is left."""
    methods = [method for method in options.methods if ssr is not None or not method.startswith("ssr")]
    if not methods:
        raise P3SError(
            f"--methods {' '.join(options.methods)} needs the weights of an SSR-Encoder: give --ssr FILE as well"
        )
    return methods


def left_out(options: argparse.Namespace, methods: Sequence[str]) -> list[str]:
    """For readers of the tables, the methods that are not there."""
    missing = [method for method in options.methods if method not in methods]
    return [f"{method} is left out: no --ssr with its weights was given" for method in missing]


def add_generating(parser: argparse.ArgumentParser, title: str, standard: Protocol) -> argparse._ArgumentGroup:
    """What of a protocol is no setting of training, copy or schedule."""
    work = parser.add_argument_group(title)
    for name, kind, text in (
        ("images", int, "pictures a prompt"),
        ("sample_steps", int, "steps of DDIM"),
        ("guidance", float, "scale of classifier-free guidance"),
        ("identifier", str, "the rare word of the prompts"),
    ):
        default = getattr(standard, name)
        work.add_argument(
            f"--{name.replace('_', '-')}", type=kind, default=default, metavar="N", help=f"{text} (default: {default})"
        )
    return work


def add_method(parser: argparse.ArgumentParser, standard: Protocol) -> None:
    """The settings of training, copy and schedule."""
    add_settings(parser, "training", standard.train)
    add_settings(parser, "the copy", standard.copy, COPY_NAMES)
    add_schedule(parser)


def protocol_of(options: argparse.Namespace, standard: Protocol) -> Protocol:
    """The protocol that the user asked for. Raises P3SError for a wrong value."""
    copy = chosen(options, standard.copy, COPY_NAMES)
    return Protocol(
        chosen(options, standard.train),
        copy,
        chosen_schedule(options, copy),
        options.images,
        options.sample_steps,
        options.guidance,
        options.identifier,
        getattr(options, "score_identifier", False),
    )


def changes(protocol: Protocol, standard: Protocol) -> list[str]:
    """The settings that are not ``standard``'s."""
    pairs = [
        (f"{name} = {value}", value != getattr(usual, name))
        for ours, usual in (
            (protocol.train, standard.train),
            (protocol.copy, standard.copy),
            (protocol.weight, standard.weight),
        )
        for name, value in asdict(ours).items()
    ]
    return [text for text, differs in pairs if differs]
