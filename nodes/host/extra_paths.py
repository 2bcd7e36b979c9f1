"""What the user's extra_model_paths.yaml says about a kind of files that the host did not know when it read it."""

from __future__ import annotations

import os
from functools import lru_cache
from itertools import chain

import folder_paths
import yaml
from comfy.cli_args import args


@lru_cache(maxsize=1)
def has_default_folder(kind: str) -> bool:
    """Whether a section with ``is_default`` names a folder for ``kind``. The host has it in its list then, but forgets
    that it is to come before the folder that a pack adds later."""
    beside_the_host = os.path.join(os.path.dirname(folder_paths.__file__), "extra_model_paths.yaml")
    files = [beside_the_host, *chain(*(args.extra_model_paths_config or ()))]
    return any(_is_default(file, kind) for file in files if os.path.isfile(file))


def _is_default(file: str, kind: str) -> bool:
    with open(file, encoding="utf-8") as stream:
        sections = (yaml.safe_load(stream) or {}).values()  # the host has read it already: it is well formed
    return any(section.get("is_default") and kind in section for section in sections if section)
