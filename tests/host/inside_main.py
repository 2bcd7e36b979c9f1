"""The other end of inside.py, run by the host's Python: python inside_main.py JOB_JSON [ComfyUI's options]"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType


def load(name: str, file: Path, package: Path | None = None) -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        name, file, submodule_search_locations=[str(package)] if package else None
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def main() -> None:
    job = json.loads(sys.argv.pop(1))
    sys.path[0] = os.getcwd()  # the host's folder instead of this file's, as for its main.py
    import comfy.options

    comfy.options.enable_args_parsing()
    import folder_paths
    import torch
    import utils.extra_config  # noqa: F401  as main.py: later, ComfyUI's nodes.py puts another utils on the path
    from comfy.cli_args import args

    folder_paths.set_output_directory(os.path.join(args.base_directory, "output"))
    repo = Path(job["repo"])
    if (repo / "__init__.py").exists():
        load("comfyui_p3s", repo / "__init__.py", repo)
    sys.path.append(str(Path(job["script"]).parent))  # for what scripts share; the host's own modules come first
    script = load("inside_script", Path(job["script"]))
    with torch.inference_mode():
        result = script.main(job["arguments"])
    Path(job["result"]).write_text(json.dumps(result))


main()
