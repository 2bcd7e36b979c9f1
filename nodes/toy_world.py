"""Toy World: models and a photo that come with the pack, to try the other nodes without any download."""

from __future__ import annotations

from comfy_api.latest import io

from ..p3s.toyworld.scenes import CLASSES
from .input_checks import checked
from .wire_types import SSRModel, build


class ToyWorld(io.ComfyNode):
    """Nothing in, everything out that the pack's nodes need."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return build(
            io.Schema,
            node_id="P3S_ToyWorld",
            display_name="Toy World",
            category="P3S",
            description="Small models of drawn animals, and a drawn photo, to try P3S without any download.",
            search_aliases=["p3s", "demo", "try", "example", "toy"],
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.Combo.Input(
                    "animal", options=list(CLASSES), default=CLASSES[0], tooltip="Species of the two animals."
                ),
                io.Int.Input(
                    "scene", default=4, min=0, max=9999, tooltip="Scene number; each gives a different photo."
                ),
                io.Int.Input("batch_size", default=4, min=1, max=64, tooltip="How many pictures to generate at once."),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                io.Model.Output(display_name="model", tooltip="Use instead of Load Checkpoint's model."),
                io.Clip.Output(display_name="clip", tooltip="For CLIP Text Encode and SSR Encode. It knows few words."),
                io.Vae.Output(display_name="vae", tooltip="Use instead of Load Checkpoint's VAE."),
                io.ClipVision.Output(display_name="clip_vision", tooltip="For RNGR Mask and SSR Encode."),
                io.Image.Output(display_name="photo", tooltip="Two animals that look different, for Point Picker."),
                io.Latent.Output(display_name="latent", tooltip="Empty, for KSampler."),
                SSRModel.Output(display_name="ssr", tooltip="For SSR Encode, instead of Load SSR-Encoder's."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, animal: str, scene: int, batch_size: int) -> io.NodeOutput:
        from .host import toy_world

        photo = toy_world.photo(animal, scene)
        latent = {"samples": toy_world.empty_latents(batch_size)}
        models = toy_world.model(), toy_world.Text(), toy_world.Vae(), toy_world.Vision()
        return io.NodeOutput(*models, photo, latent, toy_world.world().ssr)
