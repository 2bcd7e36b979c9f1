"""SSR-Encoder as a method of the toy world's tables: nothing is trained on the reference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from p3s.errors import P3SError
from p3s.network.injection import EffectMask
from p3s.network.unet_config import UNetConfig
from p3s.reference.rngr import Reference
from p3s.sampling.ddim import Over
from p3s.ssr.attend import AppliedSSR, SubjectRun, over_sampling
from p3s.ssr.embeds import SubjectEmbeds, encode
from p3s.ssr.file import SSRModel
from p3s.ssr.layers import SubjectLayers
from p3s.ssr.query import QuerySettings
from p3s.toyworld.models import words
from p3s.toyworld.scenes import Appearance, look_words
from p3s.toyworld.world import SSR_FILE, ToyWorld

#: Of 0.5, 0.65, 0.8 and 1, chosen on references that are in no table (README.md says how).
STRENGTH = 1.0


@dataclass(frozen=True)
class SSRWay:
    """How the subject is selected and shown. ``look``: the query names the look as well, not the class alone.
    ``clean``: the photo is RNGR's clean reference. ``mask``: RNGR's subject mask selects, "soft" or "strict"; "" is no
    mask."""

    look: bool = False
    clean: bool = False
    mask: str = ""
    strength: float = STRENGTH
    guidance: str = "both"

    @property
    def clicked(self) -> bool:
        """Whether it needs the clicks."""
        return self.clean or bool(self.mask)


def encoder(world: ToyWorld) -> SSRModel:
    """The world's own. Raises P3SError where its weights have none."""
    if world.ssr is None:
        raise P3SError(f"these weights hold no SSR-Encoder ({SSR_FILE}): train it by python -m p3s.toyworld.train ssr")
    return world.ssr


def embeds(
    world: ToyWorld, way: SSRWay, photo: Tensor, reference: Reference | None, animal: str, look: Appearance
) -> SubjectEmbeds:
    """The subject of a photo [48, 48, 3], with what the clicks gave where the way needs it."""
    text = look_words(animal, look) if way.look else animal
    mask = None
    if reference is not None:
        photo = reference.image if way.clean else photo
        mask = reference.subject_mask if way.mask else None
    settings = QuerySettings(mask_mode=way.mask or "soft")
    query, empty = world.encode_query(text)[None], world.encode_query("")[None]
    return encode(
        encoder(world), query, empty, photo, world.vision(), mask, settings, words=slice(0, len(words(text)))
    ).embeds


def sampling(
    world: ToyWorld, way: SSRWay, subjects: Sequence[SubjectEmbeds], masks: Sequence[EffectMask | None]
) -> Over:
    """What lets subjects act, each in its own attention and where its mask says; a chain of them is one subject."""
    config = UNetConfig.from_state_dict(world.unet.state_dict())
    layers = SubjectLayers.from_state_dict(encoder(world).layers, config, dtype=next(world.unet.parameters()).dtype)
    applied = [
        AppliedSSR(subject, way.strength, way.guidance, mask=mask)
        for subject, mask in zip(subjects, masks, strict=True)
    ]
    return over_sampling([SubjectRun(one, layers) for one in applied])
