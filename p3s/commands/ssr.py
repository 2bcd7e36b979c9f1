"""The files of an SSR-Encoder."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..ssr.file import load_ssr, save_ssr


def add_options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    about = "check the two files of an SSR-Encoder and write them as one safetensors file"
    convert = actions.add_parser("convert", help=about, description=about)
    convert.add_argument("aligner", type=Path, metavar="ALIGNER", help="pytorch_model.bin, or a safetensors file")
    convert.add_argument("layers", type=Path, metavar="LAYERS", help="pytorch_model_1.bin, or a safetensors file")
    convert.add_argument("out", type=Path, metavar="OUT", help="the file to write; it must not exist yet")


def run(options: argparse.Namespace) -> None:
    print(f"wrote {save_ssr(load_ssr(options.aligner, options.layers), options.out)}")
