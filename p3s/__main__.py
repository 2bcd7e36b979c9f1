"""The command line: ``python -m p3s --help``. A command is loaded only when it is asked for."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from . import __version__
from .errors import P3SError

#: The order is that of a user's way through them.
COMMANDS = {
    "demo": "the whole chain on a drawn scene and small trained models, in a minute or two",
    "mask": "look at the masks that points give on your own photo",
    "train": "train a subject from photos and points",
    "generate": "generate a trained subject from prompts",
    "info": "what a subject file holds",
    "ssr": "train an SSR-Encoder, or convert its files",
}
EXAMPLES = """\
examples:
  python -m p3s demo
  python -m p3s mask dogs.jpg --positive 0.25,0.6 --negative 0.74,0.6 --clip models/clip-vit-large-patch14
  python -m p3s train --image demo-output/photo.png --points demo-output/points.json --prompt "a photo of a sks dog"
  python -m p3s generate subject.safetensors --prompt "a photo of a sks dog on the beach" --seeds 0 1 2
  python -m p3s train --image dogs.jpg --positive 0.25,0.6 --negative 0.74,0.6 --prompt "a photo of a sks dog" \\
      --model sd15.safetensors --clip clip-vit-large-patch14
  python -m p3s info subject.safetensors

Every command has its own --help.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; the exit status. Errors that a user can fix are one line, without a traceback."""
    arguments = sys.argv[1:] if arguments is None else arguments
    options = _parser(arguments).parse_args(arguments)
    try:
        options.run(options)
    except (P3SError, OSError, ImportError) as error:
        print(f"p3s {options.command}: {_said(error)}", file=sys.stderr)
        return 1
    return 0


def _said(error: Exception) -> str:
    """An error in words; of the system's, the file and the reason without its number."""
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m p3s",
        description="P3S-Diffusion without ComfyUI: select a subject in a photo by points, train it, generate it.",
        epilog=EXAMPLES,
        formatter_class=plain,
    )
    parser.add_argument("--version", action="version", version=f"p3s {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", title="commands")
    for name, about in COMMANDS.items():
        command = commands.add_parser(name, help=about, formatter_class=plain)
        if name in arguments:  # importing them all would load torch for the sake of --help
            module = import_module(f".commands.{name}", __package__)
            command.description = module.__doc__
            module.add_options(command)
            command.set_defaults(run=module.run)
    return parser


if __name__ == "__main__":
    sys.exit(main())
