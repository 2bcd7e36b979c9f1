"""The paper's measures: CLIP-I, CLIP-T, DINOv2, and the variances CLIP-Iv and DINO-v."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from p3s.errors import P3SError
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


class ImageEncoder:
    """An image encoder with its own preprocessing, from a folder for transformers. What it gives is: of CLIP, the
    projected embedding; of others the pooled output, in DINOv2 the class token after the last norm. The folder of
    NearID (arXiv 2604.01973) is read without the code that it holds: it is a SigLIP vision tower under other names.

    Raises P3SError, naming the folder, for files that are none of this.
    """

    def __init__(self, folder: Path, device: str) -> None:
        import transformers

        try:
            with quiet(transformers):
                self.processor: Any = transformers.AutoImageProcessor.from_pretrained(folder)
                self.model, loaded = _load(folder)
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise P3SError(f"{folder}: no image encoder can be read there ({str(error).splitlines()[0]})") from None
        if missing := sorted(loaded["missing_keys"]):
            raise P3SError(f"{folder}: the weights lack {', '.join(missing[:3])}, which would be random")
        self.model.to(device, torch.float32).requires_grad_(False).eval()
        self.device = device

    @torch.no_grad()
    def __call__(self, pictures: Iterable[Tensor]) -> Tensor:
        """Embeddings [n, d], float32 on the CPU, of pictures [H, W, 3], values 0..1, of any sizes."""
        pixels = [(picture * 255).round().to(torch.uint8).numpy() for picture in pictures]
        found = []
        for i in range(0, len(pixels), BATCH):
            prepared = self.processor(images=pixels[i : i + BATCH], return_tensors="pt").to(self.device)
            features = getattr(self.model, "get_image_features", self.model)(**prepared)
            found.append(_pooled(features).float().cpu())
        return torch.cat(found)

    @cached_property
    def fingerprint(self) -> str:
        """What tells these weights from others."""
        return fingerprint(self.model.state_dict())


def _load(folder: Path) -> tuple[Any, dict[str, Any]]:
    """The model of a folder, and what transformers tells of the weights."""
    transformers: Any = import_module("transformers")
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    kind, options = config.get("model_type"), dict[str, Any](output_loading_info=True)
    if kind in ("clip", "clip_vision_model"):
        return transformers.CLIPVisionModelWithProjection.from_pretrained(folder, **options)
    if kind == "nearid":
        tower = transformers.SiglipVisionConfig(**config["vision_config"])
        options |= {"config": tower, "key_mapping": {r"^backbone\.": ""}}
        return transformers.SiglipVisionModel.from_pretrained(folder, **options)
    return transformers.AutoModel.from_pretrained(folder, **options)


def _pooled(features: Any) -> Tensor:
    """The embedding in what a model gave."""
    for name in ("image_embeds", "pooler_output"):
        if isinstance(found := getattr(features, name, None), Tensor):
            return found
    if not isinstance(features, Tensor):
        raise P3SError(f"an encoder gives no pooled embedding of a picture, only {', '.join(features)}")
    return features


class Encoders:
    """CLIP and DINOv2, from folders for transformers."""

    def __init__(self, clip: Path, dino: Path, device: str) -> None:
        transformers: Any = import_module("transformers")
        self.image, self.dino = ImageEncoder(clip, device), ImageEncoder(dino, device)
        with quiet(transformers):
            self.text = transformers.CLIPTextModelWithProjection.from_pretrained(clip)
            self.tokenizer = transformers.CLIPTokenizer.from_pretrained(clip)
        self.text.to(device, torch.float32).requires_grad_(False).eval()
        self.device = device

    def pictures(self, pictures: Sequence[Tensor]) -> Embeddings:
        """Of pictures [H, W, 3], values 0..1, of any sizes."""
        return Embeddings(self.image(pictures), self.dino(pictures))

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> Tensor:
        """CLIP's embeddings of texts, [n, d]."""
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, max_length=77, return_tensors="pt")
        return self.text(**tokens.to(self.device)).text_embeds.cpu()

    def fingerprints(self) -> dict[str, str]:
        """What tells these weights from others."""
        text = fingerprint(self.text.state_dict())
        return {"image": self.image.fingerprint, "text": text, "dino": self.dino.fingerprint}
