"""Load P3S Subject and Save P3S Subject: trained subjects from and to ComfyUI's folder models/p3s."""

from __future__ import annotations

from comfy_api.latest import io

from ..p3s.errors import SubjectFileError
from ..p3s.network.unet_config import family_name
from ..p3s.subject.describe import describe
from ..p3s.subject.file import Subject as TrainedSubject
from ..p3s.subject.file import load_subject, save_new_subject
from .host import subject_folders
from .host.node_text import LINE_BREAK, show_text
from .input_checks import checked
from .wire_types import Subject, build


class LoadSubject(io.ComfyNode):
    """A file of the folder in, the trained subject out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return build(
            io.Schema,
            node_id="P3S_LoadSubject",
            display_name="Load P3S Subject",
            category="P3S",
            description="Load a trained subject from models/p3s.",
            search_aliases=["p3s", "subject", "load"],
            hidden=[io.Hidden.unique_id],
            inputs=[
                io.Combo.Input(
                    "subject_file",
                    options=subject_folders.list_subjects(),
                    tooltip="A subject file (.safetensors) in models/p3s, where Train P3S saves them.",
                ),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                Subject.Output(display_name="subject", tooltip="For Apply P3S."),
                io.String.Output(
                    display_name="description",
                    tooltip="Model family, identifier, training prompt, steps and licence of the subject.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, subject_file=None) -> bool | str:
        if subject_file is None or subject_folders.find_subject(subject_file):  # None: comes from another node
            return True
        return _not_found(subject_file)

    @classmethod
    def fingerprint_inputs(cls, subject_file=None) -> str:
        return subject_folders.SUBJECTS.state(subject_file)

    @classmethod
    def execute(cls, subject_file: str) -> io.NodeOutput:
        path = subject_folders.find_subject(subject_file)
        if path is None:
            raise SubjectFileError(_not_found(subject_file))
        subject = load_subject(path)
        show_text(cls, f"For {family_name(subject.info.family)}")
        return io.NodeOutput(subject, describe(subject.info))


class SaveSubject(io.ComfyNode):
    """A trained subject in, a new file in the folder out."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return build(
            io.Schema,
            node_id="P3S_SaveSubject",
            display_name="Save P3S Subject",
            category="P3S",
            description="Save a trained subject to models/p3s. An existing file is never overwritten.",
            search_aliases=["p3s", "subject", "save"],
            is_output_node=True,
            hidden=[io.Hidden.unique_id],
            inputs=[
                Subject.Input("subject", tooltip="From Train P3S or Load P3S Subject."),
                io.String.Input(
                    "filename",
                    default="subject",
                    tooltip="Name of the file in models/p3s. If it is taken, a number is added: subject_00002.",
                ),
            ],
            outputs=[io.String.Output(display_name="path", tooltip="Where the file was written.")],
        )

    @classmethod
    @checked
    def execute(cls, subject: TrainedSubject, filename: str) -> io.NodeOutput:
        path = str(save_new_subject(subject, subject_folders.save_folder(), filename))
        show_text(cls, subject_folders.short(LINE_BREAK.join([f"Saved {path}", *subject_folders.renamed(filename)])))
        return io.NodeOutput(path, ui={"text": [path]})


def _not_found(name: object) -> str:
    return f"The subject file {name!r} is not in models/p3s. Copy it there and refresh (R), or choose another."
