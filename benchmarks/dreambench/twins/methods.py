"""What selects one of two subjects and draws it: the rows of the table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from p3s.errors import MaskError, PointError
from p3s.image_files import read_picture
from p3s.models.pipeline import apply_subject
from p3s.models.stable_diffusion import StableDiffusion
from p3s.reference.masks import MaskSettings
from p3s.reference.rngr import Reference
from p3s.sampling.application import MODE, Application, AppliedSubject
from p3s.sampling.ddim import Over, alone
from p3s.sampling.settings import MODES
from p3s.ssr.file import SSRModel

from ...reference_only import reference_only
from ..protocol import Protocol, Sampler, as_it_is, trained_subject
from ..ssr import subject_of_class
from .pairs import SIDES, Pair


@dataclass(frozen=True)
class Setup:
    """What all methods share."""

    protocol: Protocol
    models: StableDiffusion
    masks: MaskSettings
    ssr: SSRModel | None = None
    say: Callable[[str], None] = print

    def reference(self, pair: Pair, wanted: int) -> Reference:
        """The clean reference of the clicks on one subject. Raises MaskError or PointError, naming photo and side."""
        try:
            return self.models.reference(read_picture(pair.photo), pair.clicks(wanted), self.masks)
        except (MaskError, PointError) as error:
            raise type(error)(f"{pair.name}, {SIDES[wanted]}: {error}") from None

    def sampler(self, subjects: Sequence[AppliedSubject] = (), over: Over = alone) -> Sampler:
        """The models' ``sample`` with the protocol's steps and guidance."""
        steps, guidance = self.protocol.sample_steps, self.protocol.guidance
        return lambda prompt, seeds: self.models.sample(prompt, seeds, subjects, steps, guidance, over)


def _trained(setup: Setup, pair: Pair, wanted: int, folder: Path, clean: bool) -> Sampler:
    def references() -> list[Reference]:
        if clean:
            return [setup.reference(pair, wanted)]
        return [as_it_is(setup.models, read_picture(pair.photo), pair.clicks(wanted))]

    file, name = folder / "subject.safetensors", f"{pair.name}, {SIDES[wanted] if clean else 'as it is'}"
    subject = trained_subject(setup.protocol, setup.models, name, pair.case.kind, references, file, setup.say)
    application = Application(setup.protocol.weight, settings=MODES[MODE.default])
    return setup.sampler([apply_subject(setup.models, subject, application=application)[0]])


def _p3s(setup: Setup, pair: Pair, wanted: int, folder: Path) -> Sampler:
    return _trained(setup, pair, wanted, folder, clean=True)


def _no_rngr(setup: Setup, pair: Pair, wanted: int, folder: Path) -> Sampler:
    return _trained(setup, pair, wanted, folder, clean=False)


def _plain(setup: Setup, pair: Pair, wanted: int, folder: Path) -> Sampler:
    return setup.sampler()


def _reference_only(setup: Setup, pair: Pair, wanted: int, folder: Path) -> Sampler:
    caption = f"a photo of a {pair.case.kind}"
    reference = setup.reference(pair, wanted)
    return setup.sampler(over=reference_only(setup.models, reference.image, caption, setup.protocol.copy.lam))


def _ssr(setup: Setup, pair: Pair, wanted: int, folder: Path) -> Sampler:
    assert setup.ssr is not None
    reference = setup.reference(pair, wanted)
    return setup.sampler(
        over=subject_of_class(setup.models, setup.ssr, pair.case.kind, reference.image, reference.subject_mask)
    )


class Method(NamedTuple):
    """``sampler`` of a pair, the wanted subject and the folder of its pictures; what takes long, it does at once.
    ``identifier``: whether its prompts have the rare word. ``blind``: clicks change nothing, so that the same pictures
    are scored for both subjects; ``of_class``: nor does the photo, so that pictures are the same for all of a class.
    """

    sampler: Callable[[Setup, Pair, int, Path], Sampler]
    identifier: bool = False
    blind: bool = False
    of_class: bool = False


METHODS = {
    "p3s": Method(_p3s, identifier=True),
    "p3s-no-rngr": Method(_no_rngr, identifier=True, blind=True),
    "plain": Method(_plain, blind=True, of_class=True),
    "reference-only": Method(_reference_only),
    "ssr": Method(_ssr),
}
