"""Fixtures of the tests in a real browser: Chromium, driven by Playwright, on the frontend of a real ComfyUI server.

Nothing is downloaded: the browser is the system's (CHROMIUM names another). What is missing is skipped by name.

renderer     "classic" or "nodes2", for each host
frontend     an EditorPage, open for all tests of one renderer
editor_page  the same, with one Point Picker on an empty graph
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from browser.editor_page import EditorPage
from browser.pictures import write_pictures
from host.hosts import Host
from host.server import Server
from missing import missing

ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
# Its experimental Vue renderer draws no widgets of custom types at all.
FRONTENDS_WITHOUT_NODES2 = ("0.3.64",)


@pytest.hookimpl(tryfirst=True)  # before pytest itself selects by marker
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "chromium" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.slow)  # five minutes on two hosts; `make test-browser` runs them


@pytest.fixture(scope="session")
def chromium(pytestconfig: pytest.Config) -> Iterator[Any]:
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing(pytestconfig, "the Python package playwright is not installed")
    path = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        missing(pytestconfig, "no Chromium on this machine (CHROMIUM names one)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session", params=["classic", "nodes2"])
def renderer(request: pytest.FixtureRequest, host: Host) -> str:
    own_frontend = "P3S_FRONTEND" not in os.environ
    if request.param == "nodes2" and own_frontend and host.version in FRONTENDS_WITHOUT_NODES2:
        pytest.skip(f"ComfyUI {host.version} has no Nodes 2.0 that draws custom widgets")
    return request.param


@pytest.fixture(scope="session")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """As in tests/conftest.py; P3S_FRONTEND names a folder of another frontend (comfyui_frontend_package/static)."""
    frontend = os.environ.get("P3S_FRONTEND")
    arguments = ("--front-end-root", frontend) if frontend else ()
    server = Server(host, tmp_path_factory.mktemp(f"browser-{host.version}-"), arguments)
    yield server
    server.stop()


@pytest.fixture(scope="session")
def pictures(server: Server) -> dict[str, tuple[int, int]]:
    """Names in the server's input folder -> (width, height)."""
    return write_pictures(server.base / "input")


@pytest.fixture(scope="session")
def frontend(
    chromium: Any, server: Server, renderer: str, pictures: dict[str, tuple[int, int]]
) -> Iterator[EditorPage]:
    context = chromium.new_context(
        viewport={"width": 1280, "height": 900}, has_touch=True, permissions=["clipboard-read", "clipboard-write"]
    )
    page = EditorPage(context, server, renderer, pictures)
    page.open()
    yield page
    context.close()


@pytest.fixture
def editor_page(frontend: EditorPage) -> Iterator[EditorPage]:
    frontend.fresh()
    yield frontend
    assert frontend.errors == []
