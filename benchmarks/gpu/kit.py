"""A kit: what a machine needs for ``python -m benchmarks.gpu`` beside this repository and torch, in one folder.

    host/       the Python files of a ComfyUI
    peers/      those of ComfyUI_IPAdapter_plus, if it is there
    packages/   wheels of what its modules import and torch does not bring, in the versions that it is installed with
    kit.json    what it was made of and for

Left out are frontend, templates and the like, and packages of which the host imports names and no section of the
benchmark calls any (STAND_INS): ``site/sitecustomize.py`` stands in for those that are not installed.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
#: Of a host's requirements (not those of torch's): what the modules that are used do not import at all.
UNUSED = {
    "comfyui-frontend-package",
    "comfyui-workflow-templates",
    "comfyui-embedded-docs",
    "alembic",
    "sqlalchemy",
    "kornia",
    "spandrel",
    "sentencepiece",
    "pydantic",
    "pydantic-settings",
    "pyopengl",
    "comfy-angle",
    "hf-xet",
}
#: Imported without being named among the requirements.
UNNAMED = ("packaging",)
#: Imported and never called, and large.
STAND_INS = ("av", "scipy", "tokenizers", "torchaudio", "torchvision", "transformers")
#: Compiled parts that take most of a kit and have others in Python: package -> the files left out.
COMPILED = {"comfy_kitchen": ".so"}
#: Of a host's folder, what is imported.
SOURCES = ("comfy", "comfy_api", "comfy_config", "comfy_execution", "comfy_extras", "app", "utils", "middleware")
PLATFORMS = ("manylinux2014", "manylinux2010", "manylinux1", *(f"manylinux_2_{n}" for n in (5, 12, 17, 24, 27, 28, 31)))
READ = {".py", ".json", ".yaml"}
VOCABULARY = 100_000  # bytes; what is larger and no program is a text encoder's

#: Run by the host's own Python: name -> version of what its requirements need, with what those need, but not torch's.
CLOSURE = """
import importlib.metadata as metadata, json, re, sys
from packaging.requirements import Requirement

def name_of(text):
    return re.sub(r"[-_.]+", "-", text).lower()

def needed(roots, without):
    found, left = {}, [name_of(root) for root in roots]
    while left:
        name = left.pop()
        if name in found or name in without:
            continue
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        needs = map(Requirement, metadata.requires(name) or ())
        left += [name_of(r.name) for r in needs if r.marker is None or r.marker.evaluate({"extra": ""})]
    return found

lines = [line.partition("#")[0].strip() for line in open("requirements.txt", encoding="utf-8")]
without = set(json.loads(sys.argv[1])) | set(needed(["torch"], ()))
roots = [*(Requirement(line).name for line in lines if line), *json.loads(sys.argv[2])]
print(json.dumps(needed(roots, without)))
"""


def pack(host: Any, peer: Path | None, out: Path, python: str) -> dict[str, Any]:
    """Make a kit in the folder ``out``, which must be new, of a host (``tests/host/hosts.py``) and for a version of
    Python ("3.12") on 64-bit Linux; what its ``kit.json`` says. pip fetches the wheels."""
    out.mkdir(parents=True)
    for folder in SOURCES:
        if (host.path / folder).is_dir():
            copy_sources(host.path / folder, out / "host" / folder)
    for file in [*host.path.glob("*.py"), host.path / "requirements.txt"]:
        shutil.copy(file, out / "host")
    if peer is not None:
        copy_sources(peer, out / "peers" / peer.name)
    without = json.dumps(sorted(UNUSED | set(STAND_INS)))
    asked = [str(host.python), "-c", CLOSURE, without, json.dumps(UNNAMED)]
    listed = subprocess.run(asked, cwd=host.path, check=True, stdout=subprocess.PIPE)
    versions = json.loads(listed.stdout)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    command += ["--python-version", python, "--implementation", "cp", "--dest", str(out / "packages")]
    command += [option for name in PLATFORMS for option in ("--platform", f"{name}_x86_64")]
    subprocess.run([*command, *(f"{name}=={version}" for name, version in sorted(versions.items()))], check=True)
    for wheel in (out / "packages").glob("*.whl"):
        ending = COMPILED.get(wheel.name.partition("-")[0])
        if ending:
            without_files(wheel, ending)
    facts = {"host": host.version, "python": python, "packages": versions, "stand_ins": list(STAND_INS)}
    (out / "kit.json").write_text(json.dumps(facts, indent=1) + "\n")
    return facts


def copy_sources(folder: Path, to: Path) -> None:
    """Python files, and settings beside them."""

    def is_other(file: Path) -> bool:
        if file.is_dir():
            return file.name in ("__pycache__", ".git")
        return file.suffix not in READ or (file.suffix != ".py" and file.stat().st_size > VOCABULARY)

    def others(place: str, names: list[str]) -> list[str]:
        return [name for name in names if is_other(Path(place) / name)]

    shutil.copytree(folder, to, ignore=others)


def without_files(wheel: Path, ending: str) -> None:
    """Take files with this ending out of a wheel."""
    with tempfile.TemporaryDirectory() as folder:
        smaller = Path(folder) / wheel.name
        with zipfile.ZipFile(wheel) as before, zipfile.ZipFile(smaller, "w", zipfile.ZIP_DEFLATED) as after:
            for entry in before.infolist():
                if not entry.filename.endswith(ending):
                    after.writestr(entry, before.read(entry))
        shutil.move(smaller, wheel)


def size_of(kit: Path) -> int:
    """Bytes."""
    return sum(file.stat().st_size for file in kit.rglob("*") if file.is_file())


@contextmanager
def opened(kit: Path) -> Iterator[dict[str, Any]]:
    """Within, this process and those that it starts find a kit's packages; what its ``kit.json`` says. They need no
    pip: wheels are unpacked. Exits with a message where there is no kit or it is for another Python."""
    if not (kit / "kit.json").is_file():
        raise SystemExit(f"{kit} holds no kit: make one with python -m benchmarks.gpu pack --comfyui FOLDER")
    facts = json.loads((kit / "kit.json").read_text())
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if facts["python"] != own:
        raise SystemExit(f"{kit} was made for Python {facts['python']}, and this is {own}: pack it with --python {own}")
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", "P3S_STAND_INS", "P3S_PEERS")}
    with tempfile.TemporaryDirectory() as folder:
        for wheel in (kit / "packages").glob("*.whl"):
            with zipfile.ZipFile(wheel) as packed:
                packed.extractall(folder)
        paths = [folder, str(HERE / "site"), *filter(None, [before["PYTHONPATH"]])]
        os.environ |= {
            "PYTHONPATH": os.pathsep.join(paths),
            "P3S_STAND_INS": ",".join(facts["stand_ins"]),
            "P3S_PEERS": str((kit / "peers").absolute()),
        }
        sys.path.insert(1, folder)
        try:
            yield facts
        finally:
            sys.path.remove(folder)
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})
