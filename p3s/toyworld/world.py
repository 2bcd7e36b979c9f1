"""The trained toy world in one object: sampling, encoding, and what training a subject needs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..arithmetic import few_threads
from ..network.unet import UNet
from ..optional_packages import import_package
from ..reference.masks import MaskSettings
from ..reference.points import PointSet
from ..reference.rngr import Reference, make_reference
from ..reference.vision import PatchVision
from ..sampling.application import AppliedSubject
from ..sampling.ddim import Over, alone, generate
from ..sampling.diffusion import NoiseSchedule
from ..ssr.embeds import Vision
from ..ssr.file import SSRModel, load_ssr
from ..subject.base_fingerprint import fingerprint
from .codec import Autoencoder
from .models import CLIP_PATCH, PATCH, Clip, Judge, TextEncoder, noise_schedule, tokenize
from .scenes import SIDE, Scene, render

WEIGHTS = Path(__file__).parent / "weights"
SSR_FILE = "ssr.safetensors"
STEPS = 25
#: The grid has 12 x 12 patches instead of 16 x 16, and animals leave an outline: less blur, and a wider removal.
MASKS = MaskSettings(blur=0.4, grow=1.0)
GUIDANCE = 3.0


@dataclass(frozen=True, eq=False)
class ToyWorld:
    """Frozen models, float32 on the CPU. Pictures are [48, 48, 3] (or batches of them), values 0..1."""

    unet: UNet
    text: TextEncoder
    codec: Autoencoder
    clip: Clip
    judge: Judge
    noise: NoiseSchedule
    #: How each part was trained, as JSON text.
    made: dict[str, str]
    #: This world's own SSR-Encoder, which ``p3s.toyworld.ssr`` trains; None before that.
    ssr: SSRModel | None = None

    @property
    def resolution(self) -> int:
        """Side of its pictures, in pixels."""
        return SIDE

    @torch.no_grad()
    def encode_text(self, text: str) -> Tensor:
        """The U-Net's context of a prompt, [14, 64]. Raises ValueError for a word that the world does not know."""
        return self.text(tokenize([text]))[0]

    @torch.no_grad()
    def encode_query(self, text: str) -> Tensor:
        """What the SSR-Encoder reads of a text, [14, 64], from CLIP's text tower, which alone knows the words of looks.
        Raises ValueError as :meth:`encode_text`."""
        return self.clip.text(tokenize([text]))[0]

    @torch.no_grad()
    def encode_clip(self, pictures: Tensor) -> Tensor:
        """CLIP's last hidden state [batch, 145, 96] of pictures [batch, 48, 48, 3], as ``make_reference`` needs it."""
        return self.clip.hidden(pictures)

    @torch.no_grad()
    def encode_clip_layers(self, pictures: Tensor) -> Tensor:
        """The outputs of all of CLIP's layers, [batch, 3, 145, 96]."""
        return torch.stack(self.clip.hidden_states(pictures), 1)

    @torch.no_grad()
    def encode_clip_states(self, pictures: Tensor, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The states of CLIP that Eq. 1 may compare, [batch, 145, 96] each."""
        return self.clip.states(pictures, names)

    def patch_vision(self) -> PatchVision:
        """CLIP as ``make_reference`` needs it."""
        return PatchVision(self.encode_clip_states, SIDE, CLIP_PATCH, name="toy CLIP")

    def vision(self) -> Vision:
        """CLIP's vision tower as :func:`p3s.ssr.embeds.encode` needs it."""
        middle = torch.full((1, SIDE, SIDE, 3), 0.5)  # zero, once normalised
        return Vision(SIDE, self.encode_clip_layers, lambda: self.encode_clip_layers(middle))

    def reference(
        self,
        picture: Tensor,
        points: PointSet | None,
        settings: MaskSettings = MASKS,
        subject_mask: Tensor | None = None,
        negative_mask: Tensor | None = None,
    ) -> Reference:
        """``make_reference`` with this world's CLIP."""
        vision = self.patch_vision()
        return make_reference(picture, points, vision, settings, subject_mask=subject_mask, negative_mask=negative_mask)

    @torch.no_grad()
    def encode_latent(self, picture: Tensor) -> Tensor:
        """The latent [channels, 12, 12] of a picture [h, w, 3], which is resized to the world's size."""
        sized = F.interpolate(picture.movedim(-1, 0)[None], (SIDE, SIDE), mode="bicubic", antialias=True)
        return self.codec.encode(sized.movedim(1, -1).clamp(0, 1))[0]

    def fingerprint(self) -> str:
        """Of all that an SSR-Encoder is trained on."""
        parts = {"unet": self.unet, "text": self.text, "codec": self.codec, "clip": self.clip}
        return fingerprint({f"{name}.{k}": t for name, part in parts.items() for k, t in part.state_dict().items()})

    def start(self, seeds: Sequence[int]) -> Tensor:
        """Starting noise [len(seeds), channels, 12, 12]; each row depends on its own seed alone."""
        shape = (self.unet.config.in_channels, SIDE // PATCH, SIDE // PATCH)
        return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])

    def sample(
        self,
        prompt: str,
        seeds: Sequence[int],
        subjects: Sequence[AppliedSubject] = (),
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        over: Over = alone,
    ) -> Tensor:
        """Pictures [len(seeds), 48, 48, 3] for a prompt; each depends on its own seed alone."""
        texts = self.encode_text(prompt), self.encode_text("")
        run = generate(self.unet, *texts, self.noise, self.start(seeds), subjects, steps, guidance, over)
        with few_threads(self.unet):
            *_, last = run
        return self.codec.decode(last)


def load_world(folder: Path = WEIGHTS) -> ToyWorld:
    """Load the weights of a folder; what is not in the weights' names and shapes is in the classes."""
    from safetensors import safe_open

    made, states = {}, dict[str, dict[str, Tensor]]()
    for path in sorted(folder.glob("*.safetensors")):
        with safe_open(path, framework="pt") as file:
            made[path.stem] = file.metadata()["made"]
            if path.name == SSR_FILE:
                continue
            for key in file.keys():  # noqa: SIM118
                module, name = key.split(".", 1)
                states.setdefault(module, {})[name] = file.get_tensor(key).float()
    unet, codec = UNet.from_state_dict(states["unet"]), Autoencoder.from_state_dict(states["codec"])
    text, clip, judge = TextEncoder(), Clip(), Judge()
    modules = torch.nn.ModuleDict({"unet": unet, "text": text, "codec": codec, "clip": clip, "judge": judge})
    for name, module in modules.items():
        module.load_state_dict(states[name])
    modules.requires_grad_(False).train(False)
    ssr = load_ssr(folder / SSR_FILE) if (folder / SSR_FILE).exists() else None
    return ToyWorld(unet, text, codec, clip, judge, noise_schedule(), made, ssr)


def picture_of(scene: Scene) -> Tensor:
    """A drawn scene as a picture [48, 48, 3], values 0..1."""
    return torch.from_numpy(render(scene)[0]).float() / 255


def click(scene: Scene, wanted: int) -> PointSet:
    """What a careful person clicks on a scene of two: one point in the thick of each, the wanted one (0 or 1) first."""
    owner = render(scene)[1]
    points = [_thickest(owner == number) for number in range(1, len(scene.subjects) + 1)]
    return PointSet((points[wanted],), tuple(p for i, p in enumerate(points) if i != wanted))


def _thickest(mask: np.ndarray) -> tuple[float, float]:
    ndimage = import_package("scipy.ndimage", "scipy", "The toy world needs")

    depth = ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(depth.argmax(), depth.shape)
    return (column + 0.5) / mask.shape[1], (row + 0.5) / mask.shape[0]
