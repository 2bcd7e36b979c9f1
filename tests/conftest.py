"""Fixtures of the tests against real ComfyUI hosts; tests that use none of them need no host.

host    a Host: the newest installation found, with --all-hosts every one (host/hosts.py says where)
server  its Server (session-wide, started when a test asks for ``server.client``)
client  the server's connected Client
inside  Inside: Python files run in the host's own environment, without a server

Workers of pytest-xdist (`-n 2 --dist loadgroup`) take one file each, which shares its fixtures, and one of them takes
all tests of a host's server.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import torch
from host.client import Client
from host.hosts import NO_HOST, Host, default_hosts, find_hosts, header
from host.inside import Inside
from host.server import Server
from missing import missing

# The same examples in every run, and no limit of time on a busy machine; `--hypothesis-profile=default` tries others.
hypothesis.settings.register_profile("repeated", derandomize=True, deadline=None)
hypothesis.settings.load_profile("repeated")

HOSTS = pytest.StashKey[list[Host]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--complete", action="store_true", help="fail, and do not skip, where a host or browser is missing"
    )
    parser.addoption("--all-hosts", action="store_true", help="test on every ComfyUI found, not on the newest alone")


def pytest_configure(config: pytest.Config) -> None:
    if hasattr(config, "workerinput"):
        # Workers are as many as cores. The servers that they start inherit it.
        torch.set_num_threads(int(os.environ.setdefault("OMP_NUM_THREADS", "1")))
    try:
        found = find_hosts()
    except FileNotFoundError as error:
        raise pytest.UsageError(str(error)) from None
    config.stash[HOSTS] = found if config.getoption("all_hosts") else default_hosts(found)


def pytest_report_header(config: pytest.Config) -> list[str]:
    return header(find_hosts(), config.stash[HOSTS])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        hosts: list[Host | None] = [*metafunc.config.stash[HOSTS]]
        ids = [host.version for host in hosts if host] or ["no-host"]
        metafunc.parametrize("host", hosts or [None], ids=ids, indirect=True, scope="session")


def _group(item: pytest.Item) -> str:
    """What one worker runs: it starts a server once, and what a file's tests share is made once."""
    params = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    host = getattr(params.get("host"), "version", "")
    return f"server {host}" if "server" in getattr(item, "fixturenames", ()) else f"{item.path.name} {host}"


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by marker
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if "host" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.host)
        if hasattr(config, "workerinput"):
            item.add_marker(pytest.mark.xdist_group(_group(item)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_node_collection_finished(node: Any, ids: list[str]) -> None:
    if node.config.option.dist == "loadgroup" and not all("@" in name for name in ids):
        pytest.exit("these versions of pytest and pytest-xdist ignore groups: install requirements-dev.txt", 3)


def pytest_runtest_setup(item: pytest.Item) -> None:
    # Here and not in the fixture, so that all of them are one line of the summary.
    callspec = getattr(item, "callspec", None)
    if callspec is not None and callspec.params.get("host", item) is None:
        missing(item.config, NO_HOST)


@pytest.fixture(scope="session")
def host(request: pytest.FixtureRequest) -> Host:
    return request.param


@pytest.fixture(scope="session")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(host, tmp_path_factory.mktemp(f"server-{host.version}-"))
    yield server
    server.stop()


@pytest.fixture
def client(server: Server) -> Client:
    return server.client


@pytest.fixture(scope="session")
def inside(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Inside:
    return Inside(host, tmp_path_factory.mktemp(f"inside-{host.version}-"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    server = getattr(item, "funcargs", {}).get("server")
    if report.failed and isinstance(server, Server):
        report.sections.append((f"log of {server.host}", server.log_tail()))
    return report
