"""The example workflows with another pack's nodes, as one sees them where that pack is installed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browser.editor_page import EditorPage
from browser.pictures import write_pictures
from browser.test_templates import test_a_workflow_opens_tidy as opens_tidy
from browser.test_templates import wide_page  # noqa: F401, of the server below
from host.hosts import PEERS, Host, peer
from host.server import Server, link_pack
from tools.templates import NEEDS

OF_PACKS = {name: pack for name, (_, pack) in NEEDS.items() if pack}


@pytest.fixture(scope="module")
def server(host: Host, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(host, tmp_path_factory.mktemp(f"packs-{host.version}-"))
    for pack in sorted({*OF_PACKS.values()}):
        folder = peer(pack, host)
        if folder is None:
            pytest.skip(f"{pack} is not in {PEERS}; P3S_PEERS names another folder")
        link_pack(server.base, folder)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def pictures(server: Server) -> dict[str, tuple[int, int]]:
    return write_pictures(server.base / "input")


@pytest.mark.parametrize("name", OF_PACKS)
def test_it_opens_tidy(wide_page: EditorPage, name: str) -> None:  # noqa: F811
    opens_tidy(wide_page, name)
