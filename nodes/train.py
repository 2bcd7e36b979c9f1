"""Train P3S: references and a prompt in, a trained subject out, saved to models/p3s on the way."""

from __future__ import annotations

import logging
from dataclasses import asdict, fields, replace
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io

from ..p3s.errors import P3SError, SubjectFileError, TrainingError
from ..p3s.files import safe_name
from ..p3s.rngr import Reference as CleanReference
from ..p3s.subject import Subject as TrainedSubject
from ..p3s.subject import SubjectInfo, SubjectReference, save_new_subject
from ..p3s.subject_copy import CopySettings, SubjectCopy
from ..p3s.training import Example, TrainResult, TrainSettings, check_base, check_examples, train
from ..p3s.unet import UNet
from . import folders
from .host import conditions, run, weights
from .types import Reference, Subject, build

log = logging.getLogger("p3s")

COPY, TRAIN = CopySettings(), TrainSettings()


def _choice(settings: Any, name: str, tooltip: str) -> Any:
    return build(
        io.Combo.Input,
        name,
        options=list(settings.CHOICES[name]),
        default=getattr(settings, name),
        optional=True,
        advanced=True,
        tooltip=tooltip,
    )


class Train(io.ComfyNode):
    """Fine-tune the copy of the U-Net that carries one subject."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return build(
            io.Schema,
            node_id="P3S_Train",
            display_name="Train P3S",
            category="P3S",
            description="Train a subject from its references. The result is written to models/p3s.",
            search_aliases=["p3s", "train subject", "fine-tune", "dreambooth", "personalize"],
            is_output_node=True,  # so that a subject can be trained without sampling
            hidden=[io.Hidden.unique_id],
            # The order of the inputs is the order of the values in saved workflows: append only.
            inputs=[
                io.Model.Input("model", tooltip="An SD 1.x model. LoRAs before this node become part of the base."),
                io.Vae.Input("vae", tooltip="The VAE of that model."),
                Reference.Input("reference", tooltip="From RNGR Mask: one photo, or several chained ones."),
                io.Conditioning.Input(
                    "positive",
                    tooltip='The training prompt with a rare identifier, such as "a photo of a sks dog".',
                ),
                io.Conditioning.Input("empty", tooltip="An empty prompt, encoded with the same CLIP."),
                io.String.Input("name", default="subject", tooltip="Name of the file in models/p3s."),
                io.Int.Input(
                    "epochs",
                    default=TRAIN.epochs,
                    min=1,
                    max=10000,
                    tooltip="Passes over the photos. The paper trains 60 epochs of 3 to 5 photos.",
                ),
                io.Int.Input(
                    "steps",
                    default=TRAIN.steps,
                    min=0,
                    max=1000000,
                    tooltip="Training steps; 0 follows epochs. With a single photo, 200 to 300 steps match the paper.",
                ),
                io.Int.Input("batch_size", default=TRAIN.batch_size, min=1, max=64, tooltip="Photos in one step."),
                io.Float.Input(
                    "learning_rate",
                    default=TRAIN.learning_rate,
                    min=1e-8,
                    max=1.0,
                    step=1e-6,
                    round=False,
                    tooltip="Size of a step: lower it if the loss becomes NaN, raise it if the subject does not show.",
                ),
                io.Int.Input(
                    "seed",
                    default=TRAIN.seed,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    # A seed that changed by itself would train anew with every queue.
                    control_after_generate=False,
                    tooltip="Fixes every random choice (on a GPU to the last bit only with ComfyUI's --deterministic).",
                ),
                io.Combo.Input(
                    "precision",
                    options=list(TRAIN.CHOICES["precision"]),
                    default=TRAIN.precision,
                    tooltip="fp32, or bf16: faster and smaller on recent GPUs; the trained weights stay in fp32.",
                ),
                io.Int.Input(
                    "resolution",
                    default=512,
                    min=128,
                    max=2048,
                    step=64,
                    tooltip="Photos are trained at about this many pixels squared, uncropped, in their proportions.",
                ),
                io.Float.Input(
                    "gamma",
                    default=TRAIN.gamma,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    tooltip="Weight of the attention consistency loss.",
                ),
                io.Float.Input(
                    "lam",
                    default=COPY.lam,
                    min=-10.0,
                    max=10.0,
                    step=0.01,
                    tooltip="Lambda: how much of the subject's features is added to the values of self-attention.",
                ),
                io.String.Input(
                    "identifier",
                    default="",
                    optional=True,
                    tooltip="Kept in the file: the rare word that stands for the subject in prompts.",
                ),
                io.String.Input(
                    "licence",
                    default="",
                    optional=True,
                    tooltip="Kept in the file: what others may do with this subject.",
                ),
                build(
                    io.Float.Input,
                    "prompt_dropout",
                    default=TRAIN.prompt_dropout,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Share of the steps that train without the prompt, for classifier-free guidance.",
                ),
                _choice(
                    TRAIN,
                    "zero_init",
                    "Start of the zero convolutions: zero (the paper), or identity (the copy's own features).",
                ),
                _choice(
                    TRAIN,
                    "attention_layers",
                    "Cross-attention layers that the attention consistency loss compares.",
                ),
                _choice(
                    TRAIN,
                    "attention_norm",
                    "Normaliser of that loss: the mean attention, or the sum as printed in the paper (almost 0).",
                ),
                _choice(
                    TRAIN,
                    "pairs",
                    "With several photos: the condition is a random other one, or the photo itself.",
                ),
                _choice(
                    COPY,
                    "feature",
                    "What the copy hands over: the input (norm1) or output (attn1) of its self-attention.",
                ),
                _choice(
                    COPY,
                    "pairing",
                    "level: all 16 attention layers of the model read the subject. one_to_one: 10 of them, cheaper.",
                ),
                _choice(
                    COPY,
                    "copy_input",
                    "What the copy sees: the noisy image plus the reference, or only that.",
                ),
                build(
                    io.Boolean.Input,
                    "cross_attention",
                    default=COPY.cross_attention,
                    optional=True,
                    advanced=True,
                    tooltip="Let the subject also steer the cross-attention's queries.",
                ),
                build(
                    io.Int.Input,
                    "image_dim",
                    default=COPY.image_dim,
                    min=1,
                    max=1024,
                    optional=True,
                    advanced=True,
                    tooltip="Inner size of the attention between the reference and its CLIP features.",
                ),
            ],
            # The outputs have no ids: those must differ from the inputs' ids.
            outputs=[
                Subject.Output(display_name="subject", tooltip="For Apply P3S."),
                io.LossMap.Output(display_name="loss_map", tooltip="The loss of every step, for Plot Loss Graph."),
                io.String.Output(display_name="path", tooltip="The subject file that was written."),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        precision=None,
        zero_init=None,
        attention_layers=None,
        attention_norm=None,
        pairs=None,
        feature=None,
        pairing=None,
        copy_input=None,
    ) -> bool | str:
        given = {
            "precision": precision,
            "zero_init": zero_init,
            "attention_layers": attention_layers,
            "attention_norm": attention_norm,
            "pairs": pairs,
            "feature": feature,
            "pairing": pairing,
            "copy_input": copy_input,
        }
        given = {name: value for name, value in given.items() if value is not None}
        try:
            _settings(TrainSettings, given)
            _settings(CopySettings, given)
        except P3SError as error:
            return str(error)
        return True

    @classmethod
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
        **settings: Any,
    ) -> io.NodeOutput:
        copy_settings, train_settings = _settings(CopySettings, settings), _settings(TrainSettings, settings)
        config, noise = weights.unet_config(model), weights.noise_schedule(model)
        check_base(config)
        prompts = conditions.prompts(positive, len(reference), "positive")
        *texts, no_text = conditions.equally_long([*prompts, *conditions.prompts(empty, 1, "empty")])
        latents = [conditions.encode_latent(vae, model, r.image, resolution) for r in reference]
        with torch.inference_mode(False):
            # Cloned, because a reference may have been made in the host's inference mode.
            tokens = [r.tokens.clone() for r in reference]
        examples = [Example(*parts) for parts in zip(latents, tokens, texts, strict=True)]
        check_examples(config, examples, no_text)
        info = SubjectInfo(
            family=config.family,
            base_fingerprint=weights.base_fingerprint(model),
            copy_settings=asdict(copy_settings),
            train_settings=asdict(train_settings) | {"resolution": resolution},
            points=tuple(r.points.to_json() for r in reference),
            image_hashes=tuple(r.image_hash for r in reference),
            steps=0,
            completed=False,
            identifier=identifier,
            prompt="",
            licence=licence,
            prediction=noise.prediction,
        )
        name = safe_name(name)

        copy, result, progress = _train(model, examples, no_text, noise, train_settings, copy_settings)
        info = replace(info, steps=len(result.reports), completed=result.completed)
        ending = "" if result.completed else "_cancelled" if progress.cancelled else "_stopped"
        subject = _subject(copy, latents, tokens, info)
        path, told = _save(subject, name + ending)
        log.info("Train P3S: %s", told)
        run.show_text(cls, told)
        progress.reraise()
        if result.error is not None:
            raise TrainingError(f"{result.error} ({told})") from result.error
        losses = {"loss": [report.loss for report in result.reports]}
        return io.NodeOutput(subject, losses, path, ui={"text": [told]})


def _save(subject: TrainedSubject, name: str) -> tuple[str, str]:
    """The path of the new file, and what to tell the user. A disk that does not take it must not cost the training:
    the output folder is tried next, and without any file the subject still leaves the node."""
    steps = f"{subject.info.steps} steps trained"
    problems = []
    for folder in (folders.save_folder(), folder_paths.get_output_directory()):
        try:
            path = str(save_new_subject(subject, folder, name))
        except SubjectFileError as error:
            problems.append(f"{folder}: {error}")
        else:
            return path, "; ".join([f"{steps}, saved to {path}", *problems])
    return "", f"{steps}, but NOT SAVED: {'; '.join(problems)}. Free some space, then queue a Save P3S Subject node."


def _settings(kind: type, values: dict[str, Any]) -> Any:
    return kind(**{f.name: values[f.name] for f in fields(kind) if f.name in values})


def _train(
    model: Any,
    examples: list[Example],
    empty: torch.Tensor,
    noise: Any,
    settings: TrainSettings,
    copy_settings: CopySettings,
) -> tuple[SubjectCopy, TrainResult, run.Progress]:
    """Run the training outside the host's inference mode, with a progress bar and the cancel button."""
    progress, device = run.Progress(), run.device()
    with torch.inference_mode(False):
        state = weights.base_weights(model)
        run.free_memory()
        copy = SubjectCopy.from_base(
            state, copy_settings, examples[0].tokens.shape[-1], settings.zero_init, settings.seed
        ).to(device)
        base = UNet.from_state_dict(state, dtype=torch.bfloat16 if settings.precision == "bf16" else None)
        del state
        base.to(device)
        result = train(
            base,
            copy,
            examples,
            empty,
            noise,
            settings,
            callback=lambda report: progress.update(report.step, report.total),
        )
    return copy, result, progress


def _subject(
    copy: SubjectCopy, latents: list[torch.Tensor], tokens: list[torch.Tensor], info: SubjectInfo
) -> TrainedSubject:
    """The trained subject as its file will hold it, so that a loaded one gives the same images, bit for bit.

    Weights are stored in 16 bits, except those that do not fit into them.
    """

    def stored(weight: torch.Tensor) -> torch.Tensor:
        weight = weight.detach().cpu()
        half = weight.to(torch.float16)
        return half if torch.isfinite(half).all() else weight

    references = tuple(SubjectReference(*parts) for parts in zip(latents, tokens, strict=True))
    return TrainedSubject({k: stored(v) for k, v in copy.state_dict().items()}, references, info)
