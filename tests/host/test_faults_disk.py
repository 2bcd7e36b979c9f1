"""Disks that do not take a subject, under a real server: full, read-only, and a process killed while it writes.

The server gets file systems of its own (a mount namespace), so that a full or read-only disk is one, for root as well.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
from host.client import Result
from host.hosts import Host
from host.job import Job
from host.server import Server

from p3s.subject.file import load_subject, save_subject

pytestmark = pytest.mark.slow

MIB = 2**20


@cache
def mounts() -> tuple[str, ...] | None:
    """The command that gives a process mounts of its own, where this machine allows it."""
    for command in (("unshare", "-m"), ("unshare", "-rm")):
        try:
            if subprocess.run([*command, "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True).returncode == 0:
                return command
        except FileNotFoundError:
            pass
    return None


@contextmanager
def server_on(host: Host, base: Path, *commands: str) -> Iterator[Server]:
    """A server that sees what shell commands have mounted below its base directory (``$BASE``)."""
    command = mounts()
    if command is None:
        pytest.skip("this machine lets no process mount file systems of its own (unshare, mount)")
    script = " && ".join([f"BASE={shlex.quote(str(base))}", *commands, 'exec "$@"'])
    server = Server(host, base, prefix=(*command, "sh", "-c", script, "sh"))
    (base / "models" / "p3s").mkdir(parents=True)
    try:
        yield server
    finally:
        server.stop()


def seen(server: Server, folder: str) -> Path:
    """A folder below the base directory, as the server sees it."""
    return Path(f"/proc/{server.pid}/root{server.base / folder}")


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def train(server: Server, seed: int = 0) -> tuple[Result, str]:
    """Train "dog" for two steps and generate with it; what became of it, and the last text on the node."""
    job = Job(server, "sd15-micro")
    trained = job.train(job.reference(), steps=2, seed=seed)
    shown = job.image(job.apply(trained))
    result = server.client.run_ok(job.g.graph)
    assert result.images(shown)[0].std() > 1, "the subject leaves the node whatever becomes of its file"
    return result, result.outputs[trained.id]["text"][0]


def test_a_full_disk_costs_nothing(host: Host, tmp_path: Path) -> None:
    """The earlier file stays as it is, nothing half-written is left, and the new one goes to the output folder."""
    with server_on(host, tmp_path, 'mount -t tmpfs -o size=80m none "$BASE/models/p3s"') as server:
        _, told = train(server)
        folder = seen(server, "models/p3s")
        (first,) = folder.iterdir()
        assert (first.name, told) == (
            "dog.safetensors",
            f"2 steps trained, saved to {tmp_path}/models/p3s/dog.safetensors",
        )
        before = digest(first)
        assert 40 * MIB < first.stat().st_size < 80 * MIB, "a second one must not fit"
        _, told = train(server, seed=1)
        assert [digest(path) for path in folder.iterdir()] == [before]
        saved = tmp_path / "output" / "dog.safetensors"
        assert load_subject(saved).info.completed
        assert f"saved to {saved}" in told
        assert "the disk is full" in told


def test_a_read_only_folder_costs_nothing(host: Host, tmp_path: Path) -> None:
    read_only = 'mount --bind "$BASE/models/p3s" "$BASE/models/p3s" && mount -o remount,bind,ro "$BASE/models/p3s"'
    with server_on(host, tmp_path, read_only) as server:
        _, told = train(server)
        assert list((tmp_path / "models" / "p3s").iterdir()) == []
        saved = tmp_path / "output" / "dog.safetensors"
        assert load_subject(saved).info.completed
        assert f"saved to {saved}" in told
        assert "read-only" in told


def test_without_any_disk_the_subject_still_leaves_the_node(host: Host, tmp_path: Path) -> None:
    full = 'mount -t tmpfs -o size=8m none "$BASE/{0}"'
    with server_on(host, tmp_path, full.format("models/p3s"), full.format("output")) as server:
        _, told = train(server)
        assert list(seen(server, "models/p3s").iterdir()) == []
        assert list(seen(server, "output").glob("*.safetensors")) == []
        assert told.startswith("2 steps trained, but NOT SAVED")
        assert told.count("the disk is full") == 2
        assert "Save P3S Subject" in told


def test_killed_while_it_saves(host: Host, tmp_path: Path) -> None:
    """The earlier file stays as it is, what was half-written has no subject's name, and the next run works."""
    server, folder = Server(host, tmp_path), tmp_path / "models" / "p3s"
    try:
        train(server)
        before = digest(folder / "dog.safetensors")
        for attempt in range(1, 6):
            job = Job(server, "sd15-micro")
            job.train(job.reference(), steps=2, seed=attempt)
            server.client.queue(job.g.graph)
            half = _stopped_while_it_writes(server.pid, folder)
            server.kill()
            if half is not None:
                break
        else:
            raise AssertionError("never caught in the middle of a save")
        assert digest(folder / "dog.safetensors") == before
        assert {path.suffix for path in folder.iterdir()} == {".safetensors", ".tmp"}
        for path in folder.glob("*.safetensors"):
            assert load_subject(path).info.completed

        _, told = train(server, seed=99)
        path = Path(told.split("saved to ")[1])
        assert load_subject(path).info.completed
        assert digest(folder / "dog.safetensors") == before
        assert half.name not in server.client.get_json("/models/p3s")
        # What a killed process left is cleared a day later.
        os.utime(half, (time.time() - 25 * 3600,) * 2)
        save_subject(load_subject(path), folder / "later.safetensors")
        assert not half.exists()
    finally:
        server.stop()


def _stopped_while_it_writes(pid: int, folder: Path, timeout: float = 120) -> Path | None:
    """Wait for a half-written file and stop the process; the file, or None if it was finished by then."""
    end = time.monotonic() + timeout
    while time.monotonic() < end:
        for half in folder.glob(".p3s-*.tmp"):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.1)
            return half if half.exists() else None
        time.sleep(0.001)
    raise TimeoutError(f"nothing was written to {folder} in {timeout} s")
