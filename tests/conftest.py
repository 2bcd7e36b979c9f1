"""Fixtures of the tests against real ComfyUI hosts; tests that use none of them need no host.

host    a Host, once per installation found (host/hosts.py says where)
server  its Server (session-wide, started when a test asks for ``server.client``)
client  the server's connected Client
inside  Inside: Python files run in the host's own environment, without a server
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from host.client import Client
from host.hosts import NO_HOST, Host, find_hosts
from host.inside import Inside
from host.server import Server
from missing import missing


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--complete", action="store_true", help="fail, and do not skip, where a host or browser is missing"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "host" in metafunc.fixturenames:
        try:
            hosts: list[Host | None] = list(find_hosts())
        except FileNotFoundError as error:
            raise pytest.UsageError(str(error)) from None
        ids = [host.version for host in hosts if host] or ["no-host"]
        metafunc.parametrize("host", hosts or [None], ids=ids, indirect=True, scope="session")


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "host" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.host)


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
