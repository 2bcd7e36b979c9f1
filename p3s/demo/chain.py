"""The whole way: photo and points -> reference -> training -> subject file -> pictures, and a sheet of it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..image_files import write_png
from ..models.pipeline import ModelBundle, apply_subject, train_subject
from ..network.copy_settings import CopySettings
from ..reference.overlay import heat_map, overlay
from ..reference.rngr import Reference
from ..sampling.application import Application, AppliedSubject, application
from ..subject.file import load_subject, save_subject
from ..toyworld.scenes import IDENTIFIER, prompt, scene
from ..toyworld.world import STEPS, click, load_world, picture_of
from ..training.loop import TrainResult
from ..training.progress import progress_bar
from ..training.settings import TrainSettings
from .contact_sheet import Panel, Row, draw_sheet, loss_curve

#: What is generated for every prompt: the mode in which the subject is applied (None: without it), and whether from the
#: first seed or the second.
COLUMNS: Mapping[str, tuple[str | None, int]] = {
    "plain model": (None, 0),
    "with the subject": ("standard", 0),
    "another seed": ("standard", 1),
    "mode fast": ("fast", 0),
    "mode exact": ("exact", 0),
}
ABOUT = (
    "A toy world: drawn animals of 48 x 48 pixels, and small models of the real architecture that were trained on "
    "such drawings in hours. The prompt never says what the animal looks like."
)


#: A held-out scene with two dogs, which of them is clicked, and where the subject is then generated.
SCENE, WANTED = 4, 1
BACKGROUNDS = ("grass", "forest", "room")
#: How a subject of the toy world is trained within the time of a demo.
TRAINING = TrainSettings(steps=100, batch_size=4, learning_rate=4e-4)


def run_demo(
    folder: Path, settings: TrainSettings = TRAINING, sample_steps: int = STEPS, say: Callable[[str], None] = print
) -> Path:
    """Run the chain, write ``sheet.png``, ``subject.safetensors``, ``photo.png`` and ``points.json`` (the scene, for
    the other commands) into ``folder``, and return the sheet's path."""
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    models, drawn = load_world(), scene("heldout", SCENE, "different", "dog")
    photo, points = picture_of(drawn), click(drawn, WANTED)
    write_png(photo, folder / "photo.png")
    (folder / "points.json").write_text(points.to_json(), encoding="utf-8")
    say(f"P3S demo\n{ABOUT}\n")

    say("1/5 masks and clean reference from one positive and one negative point")
    reference = models.reference(photo, points)
    for warning in reference.warnings:
        say(f"    {warning}")
    say(f"    subject {reference.subject_mask.mean():.1%} of the photo, removed {reference.negative_mask.mean():.1%}")

    say(f"2/5 training the copy, {settings.steps} steps")
    with progress_bar() as show:
        subject, result = train_subject(
            models,
            [reference],
            prompt(drawn.animal, drawn.background, IDENTIFIER),
            settings,
            CopySettings(),
            IDENTIFIER,
            callback=show,
        )
    say(f"    loss {result.reports[0].loss:.3f} at the first step, {result.reports[-1].loss:.3f} at the last")

    path = save_subject(subject, folder / "subject.safetensors", overwrite=True)
    say(f"3/5 saved {path} ({path.stat().st_size / 2**20:.1f} MiB), and loaded from it again")
    subject = load_subject(path)

    texts = [prompt(drawn.animal, background, IDENTIFIER) for background in BACKGROUNDS]
    say(f"4/5 generating {len(texts) * len(COLUMNS) + 1} pictures, {sample_steps} steps each")
    applied, _ = apply_subject(models, subject)
    pictures = [generate_row(models, applied, text, settings.seed, sample_steps) for text in texts]
    off = [replace(applied, application=Application(strength=0.0))]
    same = torch.equal(models.sample(texts[0], [settings.seed], off, sample_steps)[0], pictures[0]["plain model"])
    say(f"    at strength 0 the picture is the plain model's: {'yes, bit for bit' if same else 'NO'}")

    seconds = time.monotonic() - begin
    notes = (
        ABOUT,
        f"One photo, one positive and one negative point; {settings.steps} training steps; "
        f"{seconds:.0f} s in all on this machine's CPU. Pictures of one prompt start from the same noise, except for "
        "another seed.",
    )
    sheet = draw_sheet(
        "P3S: from two clicks to generated pictures",
        notes,
        [
            reference_row(photo, reference, result),
            *(
                Row(f'generated for "{text}"', [Panel(name, picture) for name, picture in row.items()])
                for text, row in zip(texts, pictures, strict=True)
            ),
        ],
    )
    write_png(sheet, folder / "sheet.png")
    say(f"5/5 wrote {folder / 'sheet.png'}; done in {time.monotonic() - begin:.0f} s")
    return folder / "sheet.png"


def generate_row(models: ModelBundle, applied: AppliedSubject, text: str, seed: int, steps: int) -> dict[str, Tensor]:
    """The pictures [H, W, 3] of a prompt, by the names of ``COLUMNS``."""
    pictures = {}
    for name, (mode, further) in COLUMNS.items():
        how = None if mode is None else application(models.unet.config, mode=mode)
        subjects = [] if how is None else [replace(applied, application=how)]
        (pictures[name],) = models.sample(text, [seed + further], subjects, steps)
    return pictures


def reference_row(photo: Tensor, reference: Reference, result: TrainResult) -> Row:
    """What was made of the photo: points, likeness, masks, the clean reference; and the training's loss."""
    reference = enlarged(reference)
    photo = enlarge(photo)
    nothing = torch.zeros_like(reference.subject_mask)
    clicked = replace(reference, subject_mask=nothing, negative_mask=nothing)
    return Row(
        "",
        [
            Panel("photo and points", overlay(clicked, photo, radius=POINT)),
            Panel("likeness to the click", heat_map(reference)),
            Panel("selected, removed", overlay(reference, photo)),
            Panel("clean reference", reference.image),
            Panel("training loss and its mean", loss_curve([report.loss for report in result.reports])),
        ],
    )


ENLARGED = 8  # times, so that points and outlines are finer than the picture's pixels
POINT = 11  # radius of a point, so that it is seen in a small panel


def enlarge(picture: Tensor) -> Tensor:
    """A small picture, pixel by pixel."""
    return picture.repeat_interleave(ENLARGED, 0).repeat_interleave(ENLARGED, 1)


def enlarged(reference: Reference) -> Reference:
    """The reference of a small picture, pixel by pixel."""
    return replace(
        reference,
        image=enlarge(reference.image),
        subject_mask=enlarge(reference.subject_mask),
        negative_mask=enlarge(reference.negative_mask),
        similarity=enlarge(reference.similarity),
    )
