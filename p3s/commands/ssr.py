"""Train an SSR-Encoder, or convert its files."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..ssr.file import load_ssr, save_ssr
from . import ssr_train
from .paths import check_file


def add_options(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION", title="actions")
    about = "check the two files of an SSR-Encoder and write them as one safetensors file"
    convert = actions.add_parser("convert", help=about, description=about)
    convert.add_argument("aligner", type=Path, metavar="ALIGNER", help="pytorch_model.bin, or a safetensors file")
    convert.add_argument("layers", type=Path, metavar="LAYERS", help="pytorch_model_1.bin, or a safetensors file")
    convert.add_argument("out", type=Path, metavar="OUT", help="the file to write; it must not exist yet")
    train = actions.add_parser(
        "train",
        help="train an SSR-Encoder on captioned pictures",
        description=ssr_train.__doc__,
        epilog=ssr_train.EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    ssr_train.add_options(train)


def run(options: argparse.Namespace) -> None:
    if options.action == "train":
        ssr_train.run(options)
        return
    for name in ("aligner", "layers"):
        check_file(name, getattr(options, name), "a file of an SSR-Encoder")
    print(f"wrote {save_ssr(load_ssr(options.aligner, options.layers), options.out)}")
