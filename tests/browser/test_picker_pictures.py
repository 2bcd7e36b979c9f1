"""What a picker shows before any run, of which files, and what it says when its points belong to another picture."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from browser.editor_page import EMPTY_GRAPH, EditorPage
from browser.pictures import gradient
from host.hosts import REPO
from PIL import Image

OTHER = "The points were placed on a different picture: check them."


def stage(page: EditorPage) -> np.ndarray:
    """The picture as it is drawn, uint8 [H, W, 3]."""
    page.page.mouse.move(5, 700)
    page.settle()
    left, top = page.at(0, 0)
    right, bottom = page.at(1, 1)
    clip = {"x": left + 2, "y": top + 2, "width": right - left - 4, "height": bottom - top - 4}
    with Image.open(io.BytesIO(page.page.screenshot(clip=clip, scale="css"))) as image:
        return np.asarray(image.convert("RGB"))


def choose(page: EditorPage, id: int, **values: object) -> None:
    page.page.evaluate(
        """([id, values]) => {
            for (const widget of app.graph.getNodeById(id).widgets) {
                if (!(widget.name in values)) continue;
                widget.value = values[widget.name];
                widget.callback?.(widget.value);
            }
        }""",
        [id, values],
    )


def test_the_toy_world_is_shown_before_any_run_and_after_a_change_of_scene(editor_page: EditorPage) -> None:
    workflow = json.loads((REPO / "example_workflows" / "try_without_downloads.json").read_text(encoding="utf-8"))
    (picker,) = (node["id"] for node in workflow["nodes"] if node["type"] == "P3S_PointPicker")
    (world,) = (node["id"] for node in workflow["nodes"] if node["type"] == "P3S_ToyWorld")
    editor_page.page.evaluate(
        "() => { window.queued = 0; app.api.addEventListener('execution_start', () => queued++) }"
    )
    editor_page.load(workflow)
    editor_page.id = picker
    editor_page.wait_for_picture((384, 384))
    before = editor_page.value
    editor_page.looked_at_graph()
    assert editor_page.warning() == ""
    choose(editor_page, world, scene=5)
    editor_page.becomes(editor_page.warning, OTHER)
    choose(editor_page, world, scene=4)
    editor_page.becomes(editor_page.warning, "")
    choose(editor_page, world, animal="fish")
    editor_page.becomes(editor_page.warning, OTHER)
    assert editor_page.value == before
    editor_page.page.evaluate(
        """(id) => {
            const node = app.graph.getNodeById(id);
            app.canvas.ds.scale = 1;
            app.canvas.ds.offset = [200 - node.pos[0], 150 - node.pos[1]];
            app.canvas.setDirty(true, true);
        }""",
        picker,
    )
    editor_page.still()
    editor_page.click(0.1, 0.1)  # who clicks has looked
    editor_page.becomes(editor_page.warning, "")
    choose(editor_page, world, animal="dog")
    editor_page.becomes(editor_page.warning, OTHER)
    assert editor_page.page.evaluate("() => window.queued") == 0


def test_points_of_another_picture_of_the_same_shape_are_said_and_of_the_same_in_another_size_not(
    editor_page: EditorPage,
) -> None:
    folder = editor_page.server.base / "input"
    with Image.open(folder / "square.png") as image:
        image.resize((320, 320)).convert("RGB").save(folder / "smaller.jpg", quality=80)
        image.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "flipped.png")
    editor_page.pictures |= {"smaller.jpg": (320, 320), "flipped.png": (640, 640)}
    editor_page.click(0.3, 0.5)
    for name, warning in (("smaller.jpg", ""), ("flipped.png", OTHER), ("square.png", ""), ("flipped.png", OTHER)):
        choose(editor_page, editor_page.id, image=name)
        editor_page.wait_for_picture(name)
        editor_page.becomes(editor_page.warning, warning)
    workflow = json.loads(json.dumps(editor_page.workflow()))
    editor_page.load(EMPTY_GRAPH)
    editor_page.load(workflow)
    editor_page.wait_for_picture("flipped.png")
    editor_page.becomes(editor_page.warning, OTHER)
    editor_page.drag((0.3, 0.5), (0.4, 0.5))
    editor_page.becomes(editor_page.warning, "")


@pytest.mark.parametrize("file", ["turned.webp", "turned.png", "scan.tiff"])
def test_a_turned_picture_stands_upright_as_in_the_run(editor_page: EditorPage, file: str) -> None:
    folder, upright = editor_page.server.base / "input", gradient(400, 200)
    exif = Image.Exif()
    exif[0x0112] = 6
    lossless = {"lossless": True} if file.endswith("webp") else {}
    Image.fromarray(np.rot90(upright).copy()).save(folder / file, exif=exif, **lossless)
    editor_page.pictures[file] = (400, 200)
    for linked in (False, True):
        editor_page.fresh("square.png" if linked else file)
        if linked:
            loader = editor_page.add("LoadImage", (60, 130), {"image": file})
            editor_page.connect(loader, editor_page.id, "linked_image")
            preview = editor_page.add("PreviewImage", (900, 130))
            editor_page.connect(loader, preview, "images")
            sent = editor_page.queue()
            (run,) = sent["history"]["outputs"][str(preview)]["images"]
            with Image.open(io.BytesIO(editor_page.server.client.view(run))) as image:
                expected = np.asarray(image.convert("RGB"))
            editor_page.wait_for_picture((expected.shape[1], expected.shape[0]))
        else:
            expected = upright
        drawn = stage(editor_page)
        small = np.asarray(Image.fromarray(expected).resize(drawn.shape[1::-1], Image.Resampling.BILINEAR))
        assert np.abs(drawn.astype(int) - small).mean() < 12, linked


def test_what_transparency_hides_is_white_in_the_editor_and_said(editor_page: EditorPage) -> None:
    folder = editor_page.server.base / "input"
    picture = Image.fromarray(gradient(640, 640))
    alpha = np.full((640, 640), 255, np.uint8)
    alpha[:, 320:] = 0
    picture.putalpha(Image.fromarray(alpha))
    picture.save(folder / "cut_out.png")
    editor_page.pictures["cut_out.png"] = (640, 640)
    editor_page.fresh("cut_out.png")
    assert editor_page.status().startswith("Transparent areas are shown as white.")
    drawn = stage(editor_page)[:-60]  # above the hint
    half = drawn.shape[1] // 2
    assert drawn[:, half + 8 :].min() > 240
    assert drawn[:, : half - 8].mean() < 200


def test_a_file_that_cannot_be_read_is_named(editor_page: EditorPage) -> None:
    (editor_page.server.base / "input" / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic" + bytes(100))
    choose(editor_page, editor_page.id, image="phone.heic")
    editor_page.becomes(lambda: editor_page.hint().startswith("phone.heic is not in a picture format"), True)
    choose(editor_page, editor_page.id, image="square.png")
    editor_page.wait_for_picture("square.png")
    editor_page.errors.clear()  # some frontends complain about the file themselves
