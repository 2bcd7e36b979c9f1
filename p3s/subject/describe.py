"""What a subject file holds, in words."""

from __future__ import annotations

from ..network.unet_config import family_name
from .file import Subject
from .info import SubjectInfo


def describe(info: SubjectInfo) -> str:
    """A few lines about a subject, for people."""
    once = info.copy_settings.get("copy_input") == "cached"
    lines = [
        f"Trained on: {family_name(info.family)} ({info.prediction} prediction)",
        *(["Subject network: runs once (copy_input cached)"] if once else []),
        f"Identifier: {info.identifier or 'none'}",
        *([f"Prompt: {info.prompt}"] if info.prompt else []),
        f"Steps: {info.steps}{'' if info.completed else ' (training was not finished)'}",
        f"References: {len(info.points)}",
        f"Licence: {info.licence or 'not stated'}",
        f"Made by: {info.created_by}",
    ]
    return "\n".join(lines)


def describe_in_full(subject: Subject) -> str:
    """``describe``, plus everything the file says about tensors, settings, points, photos and base."""
    info, weights = subject.info, subject.weights.values()
    types = sorted({str(weight.dtype).removeprefix("torch.") for weight in weights})
    lines = [
        describe(info),
        f"Weights: {len(weights)} tensors, {sum(w.numel() for w in weights):,} parameters, {', '.join(types)}",
        f"Base model: fingerprint {info.base_fingerprint}",
    ]
    for title, settings in (("Copy", info.copy_settings), ("Training", info.train_settings)):
        lines.append(f"{title} settings: " + ", ".join(f"{name} = {value}" for name, value in settings.items()))
    for i, reference in enumerate(subject.references):
        latent, tokens = ("x".join(map(str, t.shape)) for t in (reference.latent, reference.tokens))
        lines.append(f"Reference {i}: latent {latent}, CLIP tokens {tokens}, photo {info.image_hashes[i][:16]}...")
        lines.append(f"    points {info.points[i]}")
        if info.given_masks and info.given_masks[i]:
            lines.append(f"    made elsewhere: {', '.join(info.given_masks[i])}")
    lines += [f"{name}: {value}" for name, value in info.extra.items()]
    return "\n".join(lines)
