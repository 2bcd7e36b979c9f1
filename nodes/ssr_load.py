"""Load SSR-Encoder: from the files in ComfyUI's folder models/ssr."""

from __future__ import annotations

from comfy_api.latest import io

from ..p3s.errors import SSRFileError
from ..p3s.ssr.file import describe, load_ssr
from .host.model_folder import SSR
from .wire_types import SSRModel, build


class LoadSSR(io.ComfyNode):
    """One or two files of the folder in, the encoder out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = SSR.files()
        return build(
            io.Schema,
            node_id="P3S_LoadSSR",
            display_name="Load SSR-Encoder",
            category="P3S",
            description="Load an SSR-Encoder from models/ssr: it draws a subject from a photo without any training.",
            search_aliases=["p3s", "ssr", "encoder", "subject", "load"],
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.Combo.Input(
                    "aligner_file",
                    options=files,
                    tooltip="The file with the aligner: pytorch_model.bin or ssr_aligner.safetensors, or one that "
                    "holds both halves.",
                ),
                io.Combo.Input(
                    "layers_file",
                    options=files,
                    tooltip="The file with the subject layers: pytorch_model_1.bin or ssr_layers.safetensors, or the "
                    "same one that holds both halves.",
                ),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                SSRModel.Output(display_name="ssr", tooltip="For SSR Encode."),
                io.String.Output(display_name="description", tooltip="Widths and parameters of the two halves."),
            ],
        )

    @classmethod
    def validate_inputs(cls, aligner_file=None, layers_file=None) -> bool | str:
        missing = [name for name in (aligner_file, layers_file) if name is not None and SSR.find(name) is None]
        return _not_found(missing[0]) if missing else True  # None: comes from another node

    @classmethod
    def fingerprint_inputs(cls, aligner_file=None, layers_file=None) -> str:
        return f"{SSR.state(aligner_file)} {SSR.state(layers_file)}"

    @classmethod
    def execute(cls, aligner_file: str, layers_file: str) -> io.NodeOutput:
        paths = []
        for name in (aligner_file, layers_file):
            path = SSR.find(name)
            if path is None:
                raise SSRFileError(_not_found(name))
            paths.append(path)
        encoder = load_ssr(*paths)
        return io.NodeOutput(encoder, describe(encoder))


def _not_found(name: object) -> str:
    return f"The SSR-Encoder file {name!r} is not in models/ssr. Copy it there and refresh (R), or choose another."
