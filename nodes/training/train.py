"""Train P3S: references and a prompt in, a trained subject out, which is also saved to models/p3s."""

from __future__ import annotations

import logging
import time
from functools import partial
from typing import Any

from comfy_api.latest import io

from ...p3s.file_writing import safe_name
from ...p3s.reference.rngr import Reference as CleanReference
from ...p3s.training.loss_map import loss_map
from ...p3s.training.sample_preview import EVERY
from ...p3s.training.state import Checkpoints
from ..host import subject_folders
from ..host.node_text import LINE_BREAK, show_text
from ..host.progress import tell
from ..input_checks import checked
from ..wire_types import Subject, build
from . import execution, saved_subjects
from . import inputs as train_inputs
from .prepare import prepared

log = logging.getLogger("p3s")


class Train(io.ComfyNode):
    """Train the subject network: the copy of the U-Net that carries one subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return build(
            io.Schema,
            node_id="P3S_Train",
            display_name="Train P3S",
            category="P3S",
            description="Train a subject from its references. The result is written to models/p3s.",
            search_aliases=["p3s", "dreambooth", "finetune", "reference", "personalize", "subject"],
            is_output_node=True,  # so that a subject can be trained without sampling
            hidden=[io.Hidden.unique_id],
            inputs=train_inputs.inputs(),
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                Subject.Output(display_name="subject", tooltip="For Apply P3S."),
                io.LossMap.Output(display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."),
                io.String.Output(display_name="path", tooltip="The subject file that was written."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, retrain=False, **_: Any) -> int:
        return time.time_ns() if retrain else 0

    @classmethod
    @checked
    def execute(
        cls,
        model: Any,
        vae: Any,
        reference: tuple[CleanReference, ...],
        positive: Any,
        empty: Any,
        name: str,
        resolution: int,
        identifier: str = "",
        licence: str = "",
        preview_every: int = EVERY,
        retrain: bool = False,
        checkpoint_every: int = train_inputs.CHECKPOINT_EVERY,
        resume: bool = True,
        **values: Any,
    ) -> io.NodeOutput:
        inputs, info = prepared(
            model,
            vae,
            reference,
            positive,
            empty,
            resolution,
            *train_inputs.settings(values),
            partial(tell, cls),
            identifier=identifier,
            licence=licence,
        )
        filed = None if retrain else saved_subjects.trained_before(info, name)
        if filed is not None:
            filed = filed.with_messages(*subject_folders.renamed(name))
            return _output(cls, filed, filed.subject.info.loss_map)

        resumes = resume and not retrain
        state, notes = saved_subjects.state_file(inputs, name, resumes)
        checkpoints = Checkpoints(state, checkpoint_every)
        outcome = execution.run(cls, model, inputs, info, preview_every, checkpoints, resumes)
        filed = saved_subjects.save(outcome.subject, safe_name(name) + outcome.ending)
        if outcome.result.completed and filed.path:
            checkpoints.discard()
        saved = (*filed.told, *subject_folders.renamed(name), *notes)
        filed = filed._replace(told=outcome.told(saved, checkpoints.path, resumes))
        shown = _output(cls, filed, loss_map(outcome.result.reports))
        outcome.raise_if_ended_early("; ".join(filed.told))
        return shown


def _output(node: Any, filed: saved_subjects.SavedSubject, losses: dict[str, list[float]]) -> io.NodeOutput:
    told = "; ".join(filed.told)
    log.info("Train P3S: %s", told)
    show_text(node, subject_folders.short(LINE_BREAK.join(filed.told)))  # in lines: the box on the node is small
    return io.NodeOutput(filed.subject, losses, filed.path, ui={"text": [told]})
