"""The whole way: photo and points -> reference -> training -> subject file -> pictures, and a sheet of it all."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..diffusion import NoiseSchedule
from ..drawing import heat_map, overlay
from ..generate import generate
from ..masks import MaskSettings
from ..points import PointSet
from ..rngr import Encode, Reference, make_reference
from ..schedule import Schedule
from ..subject import Subject, SubjectInfo, SubjectReference, fingerprint, load_subject, save_subject
from ..subject_copy import CopySettings, SubjectCopy
from ..toyworld.scenes import IDENTIFIER, SIDE, prompt, scene
from ..toyworld.world import GUIDANCE, MASKS, click, load_world, picture_of
from ..training import Example, StepReport, TrainResult, TrainSettings, train
from ..unet import UNet
from .sheet import Panel, Row, draw_sheet, loss_curve

#: What is generated for every prompt; weight 0 must give the plain model's picture.
WEIGHTS: Mapping[str, Schedule | None] = {
    "plain model": None,
    "weight 0": Schedule("fixed", value=0.0),
    "weight 0.5 throughout": Schedule("fixed", value=0.5),
    "weight of Eq. 10 (0.7 to 1.2)": Schedule(),
    "weight 1 throughout": Schedule("fixed", value=1.0),
}
ABOUT = (
    "A toy world: drawn animals of 48 x 48 pixels, and small models of the real architecture that were trained on "
    "such drawings in minutes. The prompt never says what the animal looks like."
)


@dataclass(frozen=True)
class World:
    """The models that a demo runs on, the photo, and the prompts."""

    encode: Encode
    image_size: int
    masks: MaskSettings
    unet: UNet
    noise: NoiseSchedule
    encode_text: Callable[[str], Tensor]
    to_latent: Callable[[Tensor], Tensor]
    to_picture: Callable[[Tensor], Tensor]
    guidance: float
    photo: Tensor
    points: PointSet
    training_prompt: str
    prompts: tuple[str, ...]


@dataclass(frozen=True)
class DemoSettings:
    """How long the demo takes, and how it trains."""

    train_steps: int = 250
    batch: int = 4
    sample_steps: int = 25
    learning_rate: float = 5e-4
    zero_init: str = "identity"
    seed: int = 0


#: A held-out scene with two dogs, and which of them is clicked.
SCENE, WANTED = 4, 1


def toy_world() -> World:
    """The stored models of the toy world, with a scene that they never saw."""
    world = load_world()
    drawn = scene("heldout", SCENE, "different", "dog")
    return World(
        world.encode_clip,
        SIDE,
        MASKS,
        world.unet,
        world.noise,
        world.encode_text,
        lambda picture: world.codec.encode(picture[None])[0],
        lambda latent: world.codec.decode(latent[None])[0],
        GUIDANCE,
        picture_of(drawn),
        click(drawn, WANTED),
        prompt("dog", drawn.background, IDENTIFIER),
        tuple(prompt("dog", background, IDENTIFIER) for background in ("beach", "snow", "night")),
    )


def run_demo(folder: Path, settings: DemoSettings | None = None, say: Callable[[str], None] = print) -> Path:
    """Run the chain, write ``sheet.png`` and ``subject.safetensors`` into ``folder``, and return the sheet's path."""
    settings = settings or DemoSettings()
    begin = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    world = toy_world()
    say(f"P3S demo\n{ABOUT}\n")

    say("1/5 masks and clean reference from one positive and one negative point")
    reference = make_reference(world.photo, world.points, world.encode, world.masks, image_size=world.image_size)
    for warning in reference.warnings:
        say(f"    {warning}")
    say(f"    subject {reference.subject_mask.mean():.1%} of the photo, removed {reference.negative_mask.mean():.1%}")

    say(f"2/5 training the copy, {settings.train_steps} steps")
    copy, example, result = train_subject(world, reference, settings)
    say(f"    loss {result.reports[0].loss:.3f} at the first step, {result.reports[-1].loss:.3f} at the last")

    path = save_subject(
        _subject(world, copy, example, reference, settings), folder / "subject.safetensors", overwrite=True
    )
    say(f"3/5 saved {path} ({path.stat().st_size / 2**20:.1f} MiB), and loaded from it again")
    subject = load_subject(path)

    say(f"4/5 generating {len(world.prompts) * len(WEIGHTS)} pictures, {settings.sample_steps} steps each")
    pictures = [generate_row(world, subject, text, settings) for text in world.prompts]
    same = all(torch.equal(row["plain model"], row["weight 0"]) for row in pictures)
    say(f"    weight 0 gives the plain model's pictures: {'yes, bit for bit' if same else 'NO'}")

    seconds = time.monotonic() - begin
    notes = (
        ABOUT,
        f"One photo, one positive and one negative point; {settings.train_steps} training steps; "
        f"{seconds:.0f} s in all on this machine's CPU. Pictures of one prompt start from the same noise.",
    )
    sheet = draw_sheet(
        "P3S: from two clicks to generated pictures",
        notes,
        [
            reference_row(world.photo, reference, result),
            *(
                Row(f'generated for "{text}"', [Panel(name, picture) for name, picture in row.items()])
                for text, row in zip(world.prompts, pictures, strict=True)
            ),
        ],
    )
    write_png(sheet, folder / "sheet.png")
    say(f"5/5 wrote {folder / 'sheet.png'}; done in {time.monotonic() - begin:.0f} s")
    return folder / "sheet.png"


def train_subject(
    world: World, reference: Reference, settings: DemoSettings
) -> tuple[SubjectCopy, Example, TrainResult]:
    """Train a copy on one reference, with a progress bar."""
    latent = world.to_latent(reference.image)
    example = Example(latent, reference.tokens, world.encode_text(world.training_prompt))
    train_settings = _train_settings(settings)
    copy = SubjectCopy.from_base(
        world.unet.state_dict(), CopySettings(), reference.tokens.shape[1], train_settings.zero_init, settings.seed
    )
    with progress_bar(settings.train_steps) as callback:
        # One reference, so a batch holds it several times, with other noise.
        examples = [example] * settings.batch
        result = train(world.unet, copy, examples, world.encode_text(""), world.noise, train_settings, callback)
    return copy, example, result


def generate_row(world: World, subject: Subject, text: str, settings: DemoSettings) -> dict[str, Tensor]:
    """One picture [H, W, 3] for each of ``WEIGHTS``, all from the same noise."""
    reference = subject.references[0]
    copy = SubjectCopy(world.unet.config, CopySettings.from_dict(subject.info.copy_settings), reference.tokens.shape[1])
    copy.load_state_dict({key: weight.float() for key, weight in subject.weights.items()})
    copy.requires_grad_(False).eval()
    condition = copy.condition(reference.latent[None], reference.tokens[None].float())
    generator = torch.Generator().manual_seed(settings.seed)
    start = torch.randn(1, *reference.latent.shape, generator=generator)
    context, empty = world.encode_text(text), world.encode_text("")
    pictures = {}
    for name, weight in WEIGHTS.items():
        used = None if weight is None else copy
        *_, latent = generate(
            world.unet,
            context,
            empty,
            world.noise,
            start,
            used,
            condition,
            weight,
            steps=settings.sample_steps,
            guidance=world.guidance,
        )
        pictures[name] = world.to_picture(latent[0])
    return pictures


def reference_row(photo: Tensor, reference: Reference, result: TrainResult) -> Row:
    """What was made of the photo: points, likeness, masks, the clean reference; and the training's loss."""
    reference = _enlarged(reference)
    photo = _enlarge(photo)
    nothing = torch.zeros_like(reference.subject_mask)
    clicked = replace(reference, subject_mask=nothing, negative_mask=nothing)
    return Row(
        "",
        [
            Panel("photo and points", overlay(clicked, photo)),
            Panel("likeness to the click", heat_map(reference)),
            Panel("selected, removed", overlay(reference, photo)),
            Panel("clean reference", reference.image),
            Panel("training loss and its mean", loss_curve([report.loss for report in result.reports])),
        ],
    )


ENLARGED = 8  # times, so that points and outlines are finer than the picture's pixels


def _enlarge(picture: Tensor) -> Tensor:
    return picture.repeat_interleave(ENLARGED, 0).repeat_interleave(ENLARGED, 1)


def _enlarged(reference: Reference) -> Reference:
    return replace(
        reference,
        image=_enlarge(reference.image),
        subject_mask=_enlarge(reference.subject_mask),
        negative_mask=_enlarge(reference.negative_mask),
        similarity=_enlarge(reference.similarity),
    )


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[StepReport], bool | None]]:
    """A callback for ``train`` that shows progress: with tqdm where it is installed, else ten plain lines."""
    try:
        from tqdm import tqdm
    except ImportError:

        def line(report: StepReport) -> None:
            if report.step % max(1, total // 10) == 0:
                print(f"    step {report.step} of {total}, loss {report.loss:.3f}", flush=True)

        yield line
        return
    with tqdm(total=total, unit="step", leave=False) as bar:

        def update(report: StepReport) -> None:
            bar.set_postfix(loss=f"{report.loss:.3f}", refresh=False)
            bar.update()

        yield update


def write_png(picture: Tensor, path: Path) -> None:
    """Write [H, W, 3] or a mask [H, W], values in 0..1."""
    from PIL import Image

    Image.fromarray((picture.clamp(0, 1) * 255).round().to(torch.uint8).numpy()).save(path)


def _train_settings(settings: DemoSettings) -> TrainSettings:
    return TrainSettings(
        steps=settings.train_steps,
        batch_size=settings.batch,
        learning_rate=settings.learning_rate,
        zero_init=settings.zero_init,
        seed=settings.seed,
    )


def _subject(
    world: World, copy: SubjectCopy, example: Example, reference: Reference, settings: DemoSettings
) -> Subject:
    info = SubjectInfo(
        family=world.unet.config.family,
        base_fingerprint=fingerprint(world.unet.state_dict()),
        copy_settings=asdict(copy.settings),
        train_settings=asdict(_train_settings(settings)),
        points=(reference.points.to_json(),),
        image_hashes=(reference.image_hash,),
        steps=settings.train_steps,
        completed=True,
        identifier=IDENTIFIER,
        prompt=world.training_prompt,
        prediction=world.noise.prediction,
    )
    weights = {key: weight.detach().to(torch.float16) for key, weight in copy.state_dict().items()}
    return Subject(weights, (SubjectReference(example.latent, example.tokens),), info)
