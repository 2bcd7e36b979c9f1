"""A real ComfyUI server as a child process, with this pack in its custom_nodes and the tests' small models."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
import urllib.request
from pathlib import Path

from host.client import Client
from host.hosts import REPO, Host
from tools import tiny_models

PACK = "ComfyUI-P3S"


def child_environment() -> dict[str, str]:
    """Environment of a host's Python: no byte code into its tree, and threads that sleep while they wait.

    Spinning OpenMP threads make a small model ten times slower on a machine that does anything else as well.
    """
    return {"OMP_WAIT_POLICY": "PASSIVE", **os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}


def prepare_base(base: Path) -> None:
    """A base directory as a user's ComfyUI has it: the pack in custom_nodes, empty input, output and models."""
    for name in ("custom_nodes", "input", "output", "temp", "user", "models"):
        (base / name).mkdir(parents=True, exist_ok=True)
    pack = base / "custom_nodes" / PACK
    if not pack.exists():
        pack.symlink_to(REPO, target_is_directory=True)


def link_pack(base: Path, folder: Path) -> None:
    """Install another pack in a base directory, before its server starts."""
    (base / "custom_nodes" / folder.name).symlink_to(folder, target_is_directory=True)


def link_model(base: Path, name: str) -> str:
    """Make one of tools.tiny_models available below a base directory; returns the file name that loaders list."""
    folder = base / "models" / tiny_models.MODELS[name][0]
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / f"{name}.safetensors"
    if not link.exists():
        link.unlink(missing_ok=True)
        link.symlink_to(tiny_models.make(name))
    return link.name


def free_port() -> int:
    """A free port that no other pytest worker of this run is given, either: it is free until the server takes it."""
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    own = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % workers
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port // 2 % workers == own:  # half of it, because Linux gives out odd ones
            return port


class Server:
    """One server process. ``base`` is its base directory, ``log`` the file with all it printed.

    ``prefix`` is put before its command line and must end in replacing itself by it (as ``nice``, ``unshare`` do).
    """

    def __init__(self, host: Host, base: Path, arguments: tuple[str, ...] = (), prefix: tuple[str, ...] = ()) -> None:
        self.host = host
        self.base = base
        self.arguments = arguments
        self.prefix = prefix
        self.log = base / "server.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._client: Client | None = None
        prepare_base(base)

    @property
    def client(self) -> Client:
        """The connected client; starts the server at first use. A restart brings a new one: do not keep it."""
        if self._client is None:
            self.start()
        assert self._client is not None
        return self._client

    def model(self, name: str) -> str:
        """The file name of a small model (a key of tools.tiny_models.MODELS), linked into this server's models."""
        return link_model(self.base, name)

    def start(self, timeout: float = 600) -> None:
        port = free_port()
        command = [*self.prefix, str(self.host.python), "main.py", "--cpu", "--base-directory", str(self.base)]
        command += ["--listen", "127.0.0.1", "--port", str(port), "--disable-auto-launch", "--disable-api-nodes"]
        command += ["--database-url", "sqlite:///:memory:", *self.arguments]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.host.path,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=child_environment(),
            )
        url = f"http://127.0.0.1:{port}"
        end = time.monotonic() + timeout
        while True:
            self.check_alive()
            try:
                with urllib.request.urlopen(url + "/system_stats", timeout=5):
                    break
            except OSError:
                if time.monotonic() > end:
                    self.stop()
                    raise TimeoutError(f"{self.host} not ready in {timeout} s\n{self.log_tail()}") from None
                time.sleep(0.2)
        self._client = Client(url, self.check_alive)

    def check_alive(self) -> None:
        """Raise with the end of the log when the process has ended."""
        if self._process is None or self._process.poll() is not None:
            code = self._process.returncode if self._process else "not started"
            raise RuntimeError(f"{self.host} has ended ({code})\n{self.log_tail()}")

    def stop(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """The server's process; raises when it has ended."""
        self.check_alive()
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        """End the process at once, as a crash or a power cut does."""
        os.kill(self.pid, signal.SIGKILL)
        assert self._process is not None
        self._process.wait()
        self.stop()

    def restart(self) -> Client:
        """Stop, start again on the same base directory, and connect: files stay, memory and caches do not."""
        self.stop()
        return self.client

    def log_text(self, start: int = 0) -> str:
        """What the server printed, from a byte position on (``log_size`` gives one)."""
        if not self.log.exists():
            return ""
        return self.log.read_bytes()[start:].decode(errors="replace")

    def log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def own_frames(self, start: int = 0) -> list[str]:
        """Lines of tracebacks that name this pack's files; the host's own database complains of itself at times."""
        places = (f"{PACK}/", f"{REPO}/")
        return [
            line
            for line in self.log_text(start).splitlines()
            if line.lstrip().startswith('File "') and any(place in line for place in places)
        ]

    def log_tail(self, lines: int = 60) -> str:
        return "\n".join(self.log_text().splitlines()[-lines:])

    def forget_peak(self) -> None:
        """``peak_memory`` counts from here (Linux)."""
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")

    def peak_memory(self) -> int:
        """The server process's peak resident memory in bytes (Linux)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))
