"""Check a subject file and say what it holds."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..subject.describe import describe_in_full
from ..subject.file import load_subject
from .paths import SUBJECT, check_file


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path)


def run(options: argparse.Namespace) -> None:
    check_file("file", options.file, SUBJECT)
    print(describe_in_full(load_subject(options.file)))
