"""Run by test_mask_sources.py inside a host: an input folder that is the root of a drive."""

from __future__ import annotations

from typing import Any

import comfyui_p3s
import folder_paths
from comfyui_p3s.nodes.host.picture_files import find_picture

assert comfyui_p3s


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    folder_paths.set_input_directory("/")
    found = find_picture(arguments["name"])
    folder_paths.set_input_directory("/nowhere")
    return {"found": found, "outside": [find_picture(f"..{found}"), find_picture("/etc/passwd")]}
