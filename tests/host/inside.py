"""Runs a Python file inside a host's own environment, with ComfyUI's modules and this pack importable, no server.

The file defines ``main(arguments: dict) -> object``; arguments and result travel as JSON, tensors through files. It
runs under torch.inference_mode(), as every node does. The pack is importable as ``comfyui_p3s``, with all below it
(``comfyui_p3s.nodes``), so its ``nodes`` never stands in the way of ComfyUI's own module of that name.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from host.hosts import REPO, Host
from host.server import child_environment, link_model, prepare_base


class Inside:
    """A host's Python; ``base`` is the base directory that its folder_paths sees."""

    def __init__(self, host: Host, base: Path) -> None:
        self.host = host
        self.base = base
        prepare_base(base)

    def model(self, name: str) -> str:
        """The full path of a small model (a key of tools.tiny_models.MODELS), also listed by folder_paths."""
        link_model(self.base, name)
        return str(next((self.base / "models").glob(f"*/{name}.safetensors")))

    def run(
        self,
        script: Path | str,
        arguments: dict[str, Any] | None = None,
        timeout: float | None = 300,
        options: Sequence[str] = ("--cpu",),
    ) -> Any:
        """What ``main(arguments)`` of a file returned; AssertionError with its output when it failed. ``options`` are
        ComfyUI's own."""
        result = self.base / "result.json"
        result.unlink(missing_ok=True)
        job = {"repo": str(REPO), "script": str(script), "arguments": arguments or {}, "result": str(result)}
        command = [str(self.host.python), str(Path(__file__).with_name("inside_main.py")), json.dumps(job)]
        command += [*options, "--base-directory", str(self.base), "--disable-api-nodes"]
        done = subprocess.run(
            command,
            cwd=self.host.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=timeout,
            env=child_environment(),
            check=False,
        )
        text = done.stdout.decode(errors="replace")
        if done.returncode or not result.exists():
            raise AssertionError(f"{script} in {self.host} failed ({done.returncode}):\n{text[-6000:]}")
        print(text, file=sys.stderr)
        return json.loads(result.read_text())
