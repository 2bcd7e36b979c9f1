"""Writes the files that are made from the code; the tests fail while one of them is stale.

python tests/tools/generate.py imports    the picture in CONTRIBUTING.md
python tests/tools/generate.py locales    locales/en/nodeDefs.json, from the node schemas (needs a ComfyUI)
python tests/tools/generate.py pages      the lists of inputs in web/docs/*.md, from the node schemas (needs a ComfyUI)
python tests/tools/generate.py templates  example_workflows/*.json (needs a ComfyUI)
python tests/tools/generate.py schemas    tests/data/schemas_VERSION.json, once a release (needs a ComfyUI)
python tests/tools/generate.py thumbnails example_workflows/*.jpg
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from host.hosts import NO_HOST, REPO, find_hosts, peer
from host.inside import Inside
from host.schemas import english, read_schemas, snapshot
from host.server import Server, link_pack
from tools import templates
from tools.help_pages import with_rows
from tools.import_graph import with_picture
from tools.thumbnails import thumbnail

import p3s


def schemas() -> dict[str, Any]:
    hosts = find_hosts()
    if not hosts:
        raise SystemExit(NO_HOST)
    with tempfile.TemporaryDirectory() as folder:
        return read_schemas(Inside(hosts[0], Path(folder)))


def write_json(path: Path, tree: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    print(path.relative_to(REPO))


def write_locales() -> None:
    write_json(REPO / "locales" / "en" / "nodeDefs.json", english(schemas()))


def write_pages() -> None:
    for node, info in schemas().items():
        page = REPO / "web" / "docs" / f"{node}.md"
        page.write_text(with_rows(page.read_text(encoding="utf-8"), info), encoding="utf-8")
        print(page.relative_to(REPO))


def write_snapshot() -> None:
    write_json(REPO / "tests" / "data" / f"schemas_{p3s.__version__}.json", snapshot(schemas()))


def write_templates() -> None:
    """Each on the first host that has its nodes: a file without an input of newer hosts opens on all of them."""
    hosts = find_hosts()
    if not hosts:
        raise SystemExit(NO_HOST)
    left = dict.fromkeys(templates.TEMPLATES)
    for host in hosts:
        with tempfile.TemporaryDirectory() as folder:
            server = Server(host, Path(folder))
            for pack in {pack for _, pack in templates.NEEDS.values()}:
                if pack and (found := peer(pack, host)):
                    link_pack(server.base, found)
            try:
                info = server.client.object_info()
            finally:
                server.stop()
        for name in [name for name in left if templates.fits(name, info)]:
            write_json(REPO / "example_workflows" / f"{name}.json", templates.build(name, info))
            del left[name]
    for name in left:
        print(f"{name}: no host has the node {templates.NEEDS[name][0]}")


def write_imports() -> None:
    page = REPO / "CONTRIBUTING.md"
    page.write_text(with_picture(page.read_text(encoding="utf-8")), encoding="utf-8")
    print(page.name)


def write_thumbnails() -> None:
    for name in templates.TEMPLATES:
        file = REPO / "example_workflows" / f"{name}.jpg"
        thumbnail(name).save(file, quality=85, optimize=True)
        print(file.relative_to(REPO))


COMMANDS = {
    "imports": write_imports,
    "locales": write_locales,
    "pages": write_pages,
    "schemas": write_snapshot,
    "templates": write_templates,
    "thumbnails": write_thumbnails,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=sorted(COMMANDS))
    COMMANDS[parser.parse_args().what]()


if __name__ == "__main__":
    main()
