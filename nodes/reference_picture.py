"""Reference Picture: from a clean reference to a picture of the subject for any other node."""

from __future__ import annotations

from comfy_api.latest import io, ui

from ..p3s.errors import MaskError
from ..p3s.reference.cutout import PictureSettings, reference_picture
from ..p3s.reference.overlay import PREVIEW_SIDE, reduced
from ..p3s.reference.rngr import Reference as CleanReference
from ..p3s.settings import settings_of
from .input_checks import checked
from .wire_types import BoundingBox, Reference, build, core_boxes, input_of


class ReferencePicture(io.ComfyNode):
    """References in; of each a picture, its mask, and where the subject is in it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        how = settings_of(PictureSettings)
        return build(
            io.Schema,
            node_id="P3S_ReferencePicture",
            display_name="Reference Picture",
            category="P3S",
            description="The clicked subject as a picture for other nodes, such as FLUX Kontext or IPAdapter.",
            search_aliases=["p3s", "crop", "cut out", "remove background", "reference", "kontext", "ipadapter"],
            is_output_node=True,  # so that a picture can be checked without sampling
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                Reference.Input("reference", tooltip="The clean reference, from RNGR Mask."),
                *(input_of(name, how[name]) for name in ("view", "margin", "background", "colour", "multiple")),
                io.Int.Input(
                    "photo",
                    default=0,
                    min=0,
                    max=1000,
                    optional=True,
                    tooltip="Of several photos in the reference, the one of this number; 0 gives all, as a list.",
                ),
                *(input_of(name, how[name], optional=True, advanced=True) for name in ("mask_grow", "feather")),
            ],
            # Lists: pictures of several photos differ in size. The outputs have no ids: those must differ from the
            # inputs' ids.
            outputs=[
                io.Image.Output(display_name="image", is_output_list=True, tooltip="The picture of the subject."),
                io.Mask.Output(
                    display_name="mask", is_output_list=True, tooltip="Of the picture: white is the subject."
                ),
                BoundingBox.Output(
                    display_name="bounding_box", is_output_list=True, tooltip="Where the subject is in the picture."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls,
        reference: tuple[CleanReference, ...],
        view: str,
        margin: float,
        background: str,
        colour: str,
        multiple: int,
        photo: int = 0,
        mask_grow: int = PictureSettings.mask_grow,
        feather: int = PictureSettings.feather,
    ) -> io.NodeOutput:
        settings = PictureSettings(view, margin, background, colour, multiple, mask_grow, feather)
        pictures = [reference_picture(each, settings) for each in of_number(reference, photo)]
        shown = [reduced(each.image, PREVIEW_SIDE) for each in pictures]
        return io.NodeOutput(
            [each.image[None] for each in pictures],
            [each.mask[None] for each in pictures],
            [core_boxes([[each.box]]) for each in pictures],
            ui=ui.PreviewImage(shown, cls=cls),
        )


def of_number(references: tuple[CleanReference, ...], number: int) -> tuple[CleanReference, ...]:
    """All references for 0, else the one of that number, from 1. Raises MaskError where there is none."""
    if not references:
        raise MaskError("reference holds no photo. Connect RNGR Mask")
    if number > len(references):
        raise MaskError(f"photos in reference: {len(references)}; there is no photo {number}. 0 gives all of them")
    return references[number - 1 : number] if number else references
