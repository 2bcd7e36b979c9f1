"""The paper's measures: CLIP-I, CLIP-T, DINOv2, and the variances CLIP-Iv and DINO-v."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from p3s.reference.clip import quiet
from p3s.subject.base_fingerprint import fingerprint

BATCH = 16


@dataclass(frozen=True)
class Scores:
    """One value per generated picture of a subject: its mean cosine to all reference photos in CLIP and in DINOv2,
    and its cosine to its prompt in CLIP."""

    clip_i: tuple[float, ...]
    clip_t: tuple[float, ...]
    dino: tuple[float, ...]


@dataclass(frozen=True)
class Embeddings:
    """Of pictures: CLIP's image embedding [n, d] and DINOv2's class token after its last norm [n, e]."""

    clip: Tensor
    dino: Tensor


def score(pictures: Embeddings, photos: Embeddings, prompts: Tensor) -> Scores:
    """Scores of ``pictures`` against all reference ``photos`` of their subject; ``prompts`` [n, d] are CLIP's text
    embeddings, one for each picture. Embeddings may have any length."""
    return Scores(
        tuple(mean_cosine(pictures.clip, photos.clip).tolist()),
        tuple(F.cosine_similarity(pictures.clip, prompts).tolist()),
        tuple(mean_cosine(pictures.dino, photos.dino).tolist()),
    )


def mean_cosine(ours: Tensor, references: Tensor) -> Tensor:
    """The mean cosine of every row of ``ours`` [n, d] to all rows of ``references`` [m, d]: [n]."""
    return (F.normalize(ours, dim=-1) @ F.normalize(references, dim=-1).T).mean(1)


def summary(subjects: Iterable[Scores]) -> dict[str, float]:
    """A row of Table I: means over all pictures of all subjects, and the (population) variances of the pictures'
    CLIP-I and DINOv2 scores."""
    subjects = list(subjects)
    clip_i, clip_t, dino = (
        np.array([value for scores in subjects for value in getattr(scores, name)])
        for name in ("clip_i", "clip_t", "dino")
    )
    return {
        "CLIP-I": float(clip_i.mean()),
        "CLIP-T": float(clip_t.mean()),
        "DINOv2": float(dino.mean()),
        "CLIP-Iv": float(clip_i.var()),
        "DINO-v": float(dino.var()),
    }


class Encoders:
    """CLIP and DINOv2 with their own preprocessing, from folders for transformers."""

    def __init__(self, clip: Path, dino: Path, device: str) -> None:
        import transformers

        with quiet(transformers):
            self.image: Any = transformers.CLIPVisionModelWithProjection.from_pretrained(clip)
            self.text: Any = transformers.CLIPTextModelWithProjection.from_pretrained(clip)
            self.dino: Any = transformers.Dinov2Model.from_pretrained(dino)
            self.tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)
            self.clip_processor = transformers.AutoImageProcessor.from_pretrained(clip)
            self.dino_processor = transformers.AutoImageProcessor.from_pretrained(dino)
        self.device = device
        models: tuple[Any, ...] = (self.image, self.text, self.dino)
        for model in models:
            model.to(device, torch.float32).requires_grad_(False).eval()

    @torch.no_grad()
    def pictures(self, pictures: Iterable[Tensor]) -> Embeddings:
        """Of pictures [H, W, 3], values 0..1, of any sizes."""
        found: list[tuple[Tensor, Tensor]] = []
        pixels = [(picture * 255).round().to(torch.uint8).numpy() for picture in pictures]
        for i in range(0, len(pixels), BATCH):
            part = pixels[i : i + BATCH]
            clip = self.image(pixel_values=self._prepared(self.clip_processor, part)).image_embeds
            dino = self.dino(pixel_values=self._prepared(self.dino_processor, part)).pooler_output
            found.append((clip.cpu(), dino.cpu()))
        return Embeddings(torch.cat([clip for clip, _ in found]), torch.cat([dino for _, dino in found]))

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """CLIP's embeddings of texts, [n, d]."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        return self.text(**tokens.to(self.device)).text_embeds.cpu()

    def fingerprints(self) -> dict[str, str]:
        """What tells these weights from others."""
        return {name: fingerprint(getattr(self, name).state_dict()) for name in ("image", "text", "dino")}

    def _prepared(self, processor: Any, pixels: Sequence[np.ndarray]) -> Tensor:
        return processor(images=list(pixels), return_tensors="pt").pixel_values.to(self.device)
