"""Point Picker: a photo, and the points that say which subject of it is meant."""

from __future__ import annotations

import hashlib
import json
import os
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from PIL import Image

from ..p3s.errors import P3SError, PointError
from ..p3s.image_files import frames
from ..p3s.reference.cutout import Box
from ..p3s.reference.overlay import PREVIEW_SIDE
from ..p3s.reference.points import MAX_SUBJECTS, UNKNOWN, PointSet
from ..p3s.reference.selection import Selection
from .host.clip_patches import know_photo
from .host.picker_pictures import PickerFile
from .host.picture_files import find_picture, load_picture, readable_names
from .input_checks import checked
from .wire_types import BoundingBox, PointEditor, Points, build, core_boxes

LAST_FRAME = 2**20
_UNLINKED: Any = object()  # stands for "not in the prompt"; a linked input is passed as None before the run


class Pictures(list[str]):
    """The names that a combo offers; the host accepts any other name as well. While a picture is linked no file is
    needed, and the mask editor makes files in subfolders. (Naming the input in ``validate_inputs`` would also stop the
    host's check, but the host would show messages about the points beside it.)"""

    def __contains__(self, name: object) -> bool:
        return True


class PointPicker(io.ComfyNode):
    """Picture in, picture and points out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        folder = folder_paths.get_input_directory()
        files = [name for name in os.listdir(folder) if os.path.isfile(os.path.join(folder, name))]
        listed = folder_paths.filter_files_content_types(files, ["image"])
        return build(
            io.Schema,
            node_id="P3S_PointPicker",
            display_name="Point Picker",
            category="P3S",
            description="Click the subject you want, and anything nearby that should be left out.",
            search_aliases=["p3s", "points", "click", "select", "segment", "sam", "pick", "point editor"],
            has_intermediate_output=True,
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.Combo.Input(
                    "image",
                    # Empty first: a picker with a linked picture must not name a file that may be missing.
                    options=Pictures(["", *sorted(readable_names(listed))]),
                    upload=io.UploadType.image,
                    image_folder=io.FolderType.input,
                    tooltip="The photo with the subject, from the input folder. Not used while linked_image is "
                    "connected.",
                ),
                PointEditor.Input(
                    "points",
                    default=PointSet().to_json(),
                    socketless=True,
                    tooltip="Click the subject (+). Right-click what to leave out (-).",
                ),
                io.Image.Input(
                    "linked_image",
                    optional=True,
                    tooltip="Used instead of the file when connected. Of a batch, frame says which image is used.",
                ),
                io.MultiType.Input(
                    "points_in",
                    [Points, io.String, BoundingBox],
                    optional=True,
                    tooltip="Points or boxes to begin with, from another node. What you change in the editor is kept.",
                ),
                build(
                    io.Int.Input,
                    "frame",
                    default=0,
                    min=0,
                    max=LAST_FRAME,
                    optional=True,
                    advanced=True,
                    tooltip="Which image of a linked batch is used, counted from 0.",
                ),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                io.Image.Output(display_name="image", tooltip="The picture that the points belong to, as one image."),
                Points.Output(display_name="points", tooltip="Points of subject 1, for RNGR Mask."),
                io.String.Output(
                    display_name="positive_coords",
                    tooltip="The positive points of subject 1 in pixels, as JSON text that KJNodes and SAM nodes read.",
                ),
                io.String.Output(
                    display_name="negative_coords", tooltip="The negative points of subject 1 in the same form."
                ),
                *(
                    Points.Output(
                        display_name=f"points_{number}", tooltip=f"Points of subject {number}, from tab {number}."
                    )
                    for number in range(2, MAX_SUBJECTS + 1)
                ),
                BoundingBox.Output(
                    display_name="bounding_box",
                    tooltip="The boxes of all subjects, for nodes that take a BOUNDING_BOX, such as SAM3 Detect.",
                ),
                io.String.Output(
                    display_name="boxes",
                    tooltip="The boxes of all subjects in pixels, as JSON text [[x1, y1, x2, y2], ...].",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, points=None, linked_image=_UNLINKED, points_in=_UNLINKED) -> bool | str:
        # The host shows this message beside every input named here, so the file is checked in execute.
        if not isinstance(points, str):  # None: comes from another node
            return points is None or f"Points: expected JSON text, got {type(points).__name__}."
        try:
            chosen = Selection.parse(points, size=UNKNOWN)  # the real size is known in execute only
        except PointError as error:
            return str(error)
        # A linked picture may come without points: it may appear only after a run. Linked points may be all there are.
        bare = linked_image is _UNLINKED and points_in is _UNLINKED
        marked = any(marks.points.positive or marks.boxes for marks in chosen.subjects)
        if bare and not marked:
            return "There is no positive point. Choose a picture, click the subject in it (+), then run again."
        return True

    @classmethod
    def fingerprint_inputs(cls, image=None, points=None, linked_image=_UNLINKED, points_in=None, frame=0) -> str:
        # Only the file's content: a linked image is in the cache key already, and is not known here.
        path = find_picture(image)
        if linked_image is not _UNLINKED or path is None:
            return ""
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    @classmethod
    @checked
    def execute(
        cls,
        image: str,
        points: str,
        linked_image: torch.Tensor | None = None,
        points_in: Any = None,
        frame: int = 0,
    ) -> io.NodeOutput:
        ui: dict[str, Any] = {}
        if linked_image is None:
            path = find_picture(image)
            if path is None:
                missing = f"The image file {image!r} is not in ComfyUI's input folder. Choose or upload another."
                raise P3SError(missing if image else "Choose or upload an image, or connect one to linked_image.")
            picture = load_picture(path)
            know_photo(PickerFile(path), picture[0])
        else:
            batch = frames(linked_image, "linked_image")
            picture = _frame_of(batch, frame)
            ui["p3s_image"] = [{**_save_preview(picture[0], batch=len(batch)), "frame": frame}]
        height, width = picture.shape[1:3]
        chosen = Selection.parse(points, size=(width, height))
        if points_in is not None:
            given = _read_points_in(points_in, width, height, frame)
            chosen = given if chosen.is_untouched else chosen
            ui["p3s_points"] = [given.to_json()]
        first, *others = (chosen.points_of(index) for index in range(MAX_SUBJECTS))
        corners = chosen.boxes_in_pixels(width, height)
        boxes = core_boxes([[Box(x1, y1, x2 - x1, y2 - y1) for x1, y1, x2, y2 in corners]])
        texts = first.to_pixels(width, height)
        return io.NodeOutput(picture, first, *texts, *others, boxes, json.dumps(corners), ui=ui or None)


def _frame_of(batch: torch.Tensor, frame: int) -> torch.Tensor:
    """One picture [1, H, W, 3] of a batch. Raises P3SError where it has no such frame."""
    if frame >= len(batch):
        held = "one image: choose 0" if len(batch) == 1 else f"{len(batch)} images: choose 0 to {len(batch) - 1}"
        raise P3SError(f"frame is {frame}, and linked_image holds {held}.")
    return batch[frame : frame + 1]


def _read_points_in(value: Any, width: int, height: int, frame: int) -> Selection:
    """Raises PointError, which names the input."""
    try:
        return Selection.parse(value, (width, height), frame)
    except PointError as error:
        raise PointError(f"points_in: {error}") from None


def _save_preview(picture: torch.Tensor, batch: int) -> dict[str, Any]:
    """Write the linked picture [H, W, 3] for the widget into the temp folder; return where, and its true size.

    Named by content, so that runs with the same picture neither fill the folder nor change the workflow.
    """
    pixels = (picture.detach().float().cpu().clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    small = Image.fromarray(pixels)
    small.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE))
    name = f"p3s_{hashlib.sha256(small.tobytes()).hexdigest()[:20]}_{small.width}x{small.height}.jpg"
    folder = folder_paths.get_temp_directory()
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, name)
    if not os.path.exists(path):
        small.save(path, quality=92)
    know_photo(PickerFile(os.path.abspath(path)), picture)
    height, width = pixels.shape[:2]
    return {"filename": name, "subfolder": "", "type": "temp", "width": width, "height": height, "batch": batch}
