"""The paper's protocol for one subject after the other, in a folder that a killed run finds again.

    <out>/run.json                     what the results depend on; another run may not go on in this folder
    <out>/ssr.json                     what those of SSR-Encoder depend on besides
    <out>/<subject>/subject.safetensors
    <out>/<subject>/<prompt>-<image>.png
    <out>/<subject>/scores.json
    <out>/<subject>/<method>/          pictures and scores of the methods of SSR-Encoder

Every file is written under another name, flushed and renamed, so one that bears its name is whole; it is checked when
it is read all the same, and made again when it does not pass.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from p3s.errors import MaskError, P3SError, PointError, SubjectFileError
from p3s.file_writing import write_atomic
from p3s.image_files import read_picture, write_png
from p3s.models.pipeline import apply_subject, train_subject
from p3s.models.stable_diffusion import StableDiffusion
from p3s.network.copy_settings import CopySettings
from p3s.reference.framing import Frame
from p3s.reference.points import PointSet
from p3s.reference.rngr import Reference, image_hash
from p3s.sampling.application import Application
from p3s.sampling.ddim import GUIDANCE, STEPS, Over
from p3s.sampling.diffusion import ddim
from p3s.sampling.schedule import Schedule
from p3s.settings import as_before
from p3s.ssr.file import SSRModel
from p3s.subject.base_fingerprint import fingerprint
from p3s.subject.file import Subject, load_subject, save_subject
from p3s.training.progress import progress_bar
from p3s.training.settings import TrainSettings

from .data import Case
from .metrics import Encoders, Scores, score
from .report import picture_name
from .ssr import AUTHORS, P3S, STRENGTH, WAYS, Way, check_ssr, subject_of_class

#: The paper's training, where this repository's defaults go beyond it.
PAPER_TRAINING = TrainSettings(
    zero_init="zero",
    views="whole",
    removed="learned",
    **TrainSettings.ADDED,
)
#: Pictures of a prompt, one a seed.
Sampler = Callable[[str, Sequence[int]], Tensor]
#: Distance between the seeds of two prompts, so that the pictures of a prompt have neighbouring ones.
SEEDS_A_PROMPT = 1000


@dataclass(frozen=True)
class Protocol:
    """What a run does. The defaults are the paper's; it does not say the identifier, nor whether CLIP-T scores the
    prompt with it: by default without, because CLIP does not know the word."""

    train: TrainSettings = PAPER_TRAINING
    copy: CopySettings = field(default_factory=CopySettings)
    weight: Schedule = field(default_factory=Schedule)
    images: int = 4
    sample_steps: int = STEPS
    guidance: float = GUIDANCE
    identifier: str = "sks"
    score_identifier: bool = False


@dataclass(frozen=True)
class Run:
    """A protocol on models, in a folder."""

    protocol: Protocol
    models: StableDiffusion
    encoders: Encoders
    points: Mapping[Path, PointSet]
    #: Tells one points file from another.
    points_name: str
    folder: Path
    methods: Sequence[str] = (P3S,)
    ssr: SSRModel | None = None
    strength: float = STRENGTH.default  # of SSR-Encoder
    say: Callable[[str], None] = print

    def claim_folder(self) -> None:
        """Note in the folder what this run's results depend on. Raises P3SError where other results lie there."""
        claim(self.folder / "run.json", self._facts())
        if self.ssr is not None and self._ways:
            facts = {"SSR-Encoder": self.ssr.sha256, "strength of SSR-Encoder": self.strength}
            claim(self.folder / "ssr.json", facts | {"CLIP": fingerprint(self.models.clip.state_dict())})

    def _facts(self) -> dict[str, Any]:
        facts = facts_of(self.protocol, self.models) | {"points": self.points_name}
        facts["score_identifier"] = self.protocol.score_identifier
        return facts | {f"encoder {name}": value for name, value in self.encoders.fingerprints().items()}

    @property
    def _ways(self) -> list[Way]:
        return [WAYS[method] for method in self.methods if method != P3S]

    def check(self, cases: Sequence[Case]) -> None:
        """Make the references of all photos that have something to leave out, or whose mask a method needs, so that
        points from which no mask follows are found before hours of training. Raises MaskError or PointError, naming the
        photo; FamilyError for an SSR-Encoder that does not fit."""
        if self.ssr is not None and self._ways:
            check_ssr(self.models, self.ssr)
        for case in cases:
            for photo in case.photos:
                if self.points[photo].negative:
                    self._reference(photo)
            if any(way.clean for way in self._ways):
                self._clicked(case.photos[0])

    def scores(self, case: Case, method: str = P3S) -> Scores:
        """Train, generate and score one subject by a method, or what of it is not done yet."""
        folder, name = self.pictures_folder(case, method), case.name if method == P3S else f"{case.name}, {method}"
        count = len(case.prompts) * self.protocol.images
        if (scores := read_scores(folder / "scores.json", count)) is not None:
            self.say(f"{name}: done before")
            return scores
        started = time.monotonic()
        identifier = self.protocol.identifier if method == P3S else ""  # SSR-Encoder does not know it
        prompts = [case.prompt(number, identifier) for number in range(len(case.prompts))]
        pictures = all_pictures(self.protocol, prompts, folder, self._sampler(case, method, folder))
        photos = self.encoders.pictures([read_picture(photo) for photo in case.photos])
        scored = prompts if self.protocol.score_identifier else [case.prompt(i, "") for i in range(len(prompts))]
        rows = self.encoders.prompts(scored).repeat_interleave(self.protocol.images, 0)
        scores = score(self.encoders.pictures(pictures), photos, rows)
        write_text(folder / "scores.json", json.dumps(asdict(scores)))
        self.say(f"{name}: {count} pictures scored, {time.monotonic() - started:.0f} s")
        return scores

    def pictures_folder(self, case: Case, method: str) -> Path:
        """Where a method's pictures of a subject lie."""
        return self.folder / case.name / ("" if method == P3S else method)

    def _sampler(self, case: Case, method: str, folder: Path) -> Sampler:
        """What draws a subject by a method; P3S is trained at once, SSR-Encoder reads its photo when it is needed."""
        models, protocol = self.models, self.protocol
        if method == P3S:
            subject = self._subject(case, folder / "subject.safetensors")
            applied = cache(lambda: apply_subject(models, subject, application=Application(protocol.weight))[0])
            return lambda prompt, seeds: models.sample(
                prompt, seeds, [applied()], protocol.sample_steps, protocol.guidance
            )
        way = WAYS[method]
        over = cache(lambda: self._ssr(case, way))
        steps, guidance, solver = AUTHORS if way.authors else (protocol.sample_steps, protocol.guidance, ddim)
        return lambda prompt, seeds: models.sample(prompt, seeds, (), steps, guidance, over(), solver)

    def _ssr(self, case: Case, way: Way) -> Over:
        assert self.ssr is not None
        if not way.clean:
            photo = read_picture(case.photos[0])
            return subject_of_class(self.models, self.ssr, case.kind, photo, strength=self.strength)
        reference = self._clicked(case.photos[0])
        return subject_of_class(
            self.models, self.ssr, case.kind, reference.image, reference.subject_mask, self.strength
        )

    def _subject(self, case: Case, file: Path) -> Subject:
        references = lambda: [self._reference(photo) for photo in case.photos]  # noqa: E731
        return trained_subject(self.protocol, self.models, case.name, case.kind, references, file, self.say)

    def _reference(self, photo: Path) -> Reference:
        """The clean reference. Where no mask follows from the points and nothing is to be removed, the photo as it is:
        points in the middle of every photo must not stop a run."""
        points = self.points[photo]
        try:
            return self._clicked(photo)
        except (MaskError, PointError):
            if points.negative:
                raise
        self.say(f"{photo}: no mask follows from its points, and none is needed")
        return as_it_is(self.models, read_picture(photo), points)

    def _clicked(self, photo: Path) -> Reference:
        """The clean reference of a photo's points. Raises MaskError or PointError, naming the photo."""
        try:
            return self.models.reference(read_picture(photo), self.points[photo])
        except (MaskError, PointError) as error:
            raise type(error)(f"{photo}: {error}") from None


def claim(file: Path, facts: Mapping[str, Any]) -> None:
    """Note in a file what the results in its folder depend on. Raises P3SError where it names something else."""
    facts = json.loads(json.dumps(facts))
    if not file.exists():
        write_text(file, json.dumps(facts, indent=1))
        return
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = {}
    if differing := [key for key in facts | found if facts.get(key) != found.get(key)]:
        raise P3SError(
            f"{file.parent} holds the results of another run, which differs in {', '.join(differing)}: "
            "choose another --out"
        )


def facts_of(protocol: Protocol, models: StableDiffusion) -> dict[str, Any]:
    """What trained subjects and their pictures depend on, besides photos and points."""
    train = as_before(asdict(protocol.train), TrainSettings.ADDED)
    copy = as_before(asdict(protocol.copy), CopySettings.ADDED)
    facts = {f"train {name}": value for name, value in train.items()}
    facts |= {f"copy {name}": value for name, value in copy.items()}
    facts |= {"weight": repr(protocol.weight), "resolution": models.resolution}
    for name in ("sample_steps", "guidance", "identifier"):
        facts[name] = getattr(protocol, name)
    return facts | {"precision of sampling": models.precision, "U-Net": fingerprint(models.unet.state_dict())}


def trained_subject(
    protocol: Protocol,
    models: StableDiffusion,
    name: str,
    kind: str,
    references: Callable[[], Sequence[Reference]],
    file: Path,
    say: Callable[[str], None] = print,
) -> Subject:
    """The subject in a file if that is whole; else it is trained, as "a photo of a sks dog" for the class (``kind``)
    dog, and written there."""
    if file.exists():
        try:
            return load_subject(file)
        except SubjectFileError as error:
            say(f"{name}: {error}; trained again")
    photos = references()
    prompt = f"a photo of a {protocol.identifier} {kind}"
    with progress_bar() as show:
        subject, result = train_subject(
            models, photos, prompt, protocol.train, protocol.copy, protocol.identifier, callback=show
        )
    if result.error is not None:
        raise result.error
    save_subject(subject, file, overwrite=True)
    say(f"{name}: {len(photos)} photos, {len(result.reports)} steps, loss {result.reports[-1].loss:.3f}")
    return subject


def as_it_is(models: StableDiffusion, picture: Tensor, points: PointSet) -> Reference:
    """A photo [H, W, 3] as a reference from which nothing is removed, without masks."""
    frame = Frame(picture.shape[1], picture.shape[0])
    tokens = models.encode_clip(frame.clip_input(picture, models.clip.config.image_size))
    nothing = torch.zeros(picture.shape[:2])
    return Reference(picture, tokens[0].float().cpu(), nothing, nothing, nothing, points, image_hash(picture))


def all_pictures(
    protocol: Protocol,
    prompts: Sequence[str],
    folder: Path,
    sample: Sampler,
) -> list[Tensor]:
    """The pictures in a folder, prompt by prompt; those that are missing are sampled from a prompt and seeds."""
    found = []
    for number, prompt in enumerate(prompts):
        files = [folder / picture_name(number, image) for image in range(protocol.images)]
        pictures = [_whole_picture(file) for file in files]
        missing = [image for image, picture in enumerate(pictures) if picture is None]
        if missing:
            made = sample(prompt, [protocol.train.seed + SEEDS_A_PROMPT * number + image for image in missing])
            for image, picture in zip(missing, made, strict=True):
                write_png(picture, files[image])
        # As a later run will read them.
        found += [read_picture(file) if p is None else p for p, file in zip(pictures, files, strict=True)]
    return found


def write_text(file: Path, text: str) -> None:
    """Write a file all or nothing, over what was there."""
    write_atomic(file, lambda out: out.write(text.encode()), overwrite=True)


def read_scores(file: Path, count: int) -> Scores | None:
    """The scores in a file, if they are ``count`` finite numbers of each sort."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        scores = Scores(**{name: tuple(map(float, given)) for name, given in values.items()})
    except (OSError, ValueError, TypeError, AttributeError):
        return None
    kinds = (scores.clip_i, scores.clip_t, scores.dino)
    return scores if all(len(kind) == count and all(map(math.isfinite, kind)) for kind in kinds) else None


def _whole_picture(file: Path) -> Tensor | None:
    try:
        return read_picture(file)
    except (FileNotFoundError, MaskError):
        return None
