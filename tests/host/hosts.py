"""Finding ComfyUI installations to test against."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]
NAMED = "COMFYUI_PATH"
#: Folder with the repositories of other packs. One that a host is too old for lies, in an older version, in a folder
#: named by the host's version there.
PEERS = Path(os.environ.get("P3S_PEERS") or Path.home() / "comfy" / "peers")
NO_HOST = (
    "no ComfyUI found; name one or several folders (with their own .venv where they have one) in COMFYUI_PATH, "
    "separated by '" + os.pathsep + "'"
)


@dataclass(frozen=True)
class Host:
    """One ComfyUI installation: its folder, its version and the Python that runs it."""

    path: Path
    version: str
    python: Path

    def __str__(self) -> str:
        return f"ComfyUI {self.version} ({self.path})"

    @property
    def release(self) -> tuple[int, ...]:
        """The version's numbers, which compare as versions do."""
        return tuple(map(int, re.findall(r"\d+", self.version)))


def peer(name: str, host: Host) -> Path | None:
    """Where another pack is, for a host."""
    folders = (PEERS / host.version / name, PEERS / name)
    return next((folder for folder in folders if (folder / "__init__.py").is_file()), None)


def host_at(path: Path) -> Host | None:
    """The host in a folder, or None when the folder holds none."""
    version_file = path / "comfyui_version.py"
    if not version_file.is_file() or not (path / "main.py").is_file():
        return None
    version = re.search(r'__version__\s*=\s*"([^"]+)"', version_file.read_text(encoding="utf-8"))
    own = (path / ".venv/bin/python", path / "venv/bin/python", path / ".venv/Scripts/python.exe")
    python = next((file for file in own if file.is_file()), Path(sys.executable))
    return Host(path, version.group(1) if version else "unknown", python)


def find_hosts() -> list[Host]:
    """The hosts of COMFYUI_PATH; without it the one that this repository is installed in, and ~/comfy/ComfyUI*.

    An empty COMFYUI_PATH means none. A folder named there that holds no ComfyUI raises FileNotFoundError.
    """
    named = os.environ.get(NAMED)
    if named is not None:
        hosts = []
        for text in filter(None, named.split(os.pathsep)):
            host = host_at(Path(text).expanduser().absolute())
            if host is None:
                raise FileNotFoundError(
                    f"COMFYUI_PATH names {text}, which holds no ComfyUI (main.py, comfyui_version.py)"
                )
            hosts.append(host)
        return hosts
    folders = [REPO.parent.parent] if REPO.parent.name == "custom_nodes" else []
    folders += sorted((Path.home() / "comfy").glob("ComfyUI*"))
    found = [host_at(folder) for folder in folders]
    return list({host.path: host for host in found if host}.values())


def chosen_host(folder: Path | None) -> Host:
    """The host in a folder that an option of a command names; without it the first that is found. Raises SystemExit
    where there is none."""
    host = host_at(folder.expanduser().absolute()) if folder else next(iter(find_hosts()), None)
    if host is None:
        raise SystemExit(f"{folder} holds no ComfyUI" if folder else NO_HOST)
    return host


def default_hosts(found: list[Host]) -> list[Host]:
    """Those that a quick run tests on: all that COMFYUI_PATH names, else the newest that was found."""
    return found if NAMED in os.environ else sorted(found, key=lambda host: host.release)[-1:]


def header(found: list[Host], used: list[Host]) -> list[str]:
    """What pytest's header says of the hosts."""
    left = [host for host in found if host not in used]
    lines = [f"hosts: {', '.join(map(str, used))}" if used else f"hosts: {'none' if NAMED in os.environ else NO_HOST}"]
    if left:
        lines.append(f"hosts found and left out: {', '.join(map(str, left))}; --all-hosts (make test-hosts) runs all")
    return lines
