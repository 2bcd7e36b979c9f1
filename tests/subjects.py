"""A small trained subject for tests, and equality of two subjects."""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from p3s.reference.points import PointSet
from p3s.subject.file import Subject, SubjectReference
from p3s.subject.info import SubjectInfo


def make_subject(references: int = 1, **changes: Any) -> Subject:
    """The same subject at every call; ``changes`` go to its SubjectInfo."""
    generator = torch.Generator().manual_seed(1)

    def random_tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    info = SubjectInfo(
        family="SD1.x",
        base_fingerprint="ab" * 32,
        copy_settings={"feature": "norm1", "lam": 0.2, "cross_attention": True},
        train_settings={"steps": 300, "lr": 1e-5, "betas": [0.9, 0.999], "resume": None},
        points=(PointSet(((0.25, 0.5),), ((0.75, 0.5),)).to_json(),) * references,
        image_hashes=("cd" * 32,) * references,
        steps=300,
        completed=True,
        identifier="sks",
        prompt="a photo of a sks dog, Größe ½",
        licence="CC BY 4.0",
    )
    return Subject(
        weights={
            "unet.input_blocks.0.0.weight": random_tensor(3, 2, dtype=torch.float16),
            "zero.1.bias": random_tensor(5, dtype=torch.bfloat16),
            "image_latent.to_q.weight": random_tensor(2, 3),
        },
        references=tuple(SubjectReference(random_tensor(4, 2, 3), random_tensor(5, 6)) for _ in range(references)),
        info=dataclasses.replace(info, **changes),
    )


def same(a: Subject, b: Subject) -> bool:
    """Equal to the last bit."""
    return (
        a.info == b.info
        and a.weights.keys() == b.weights.keys()
        and all(a.weights[k].dtype == b.weights[k].dtype and torch.equal(a.weights[k], b.weights[k]) for k in a.weights)
        and len(a.references) == len(b.references)
        and all(
            torch.equal(x.latent, y.latent) and torch.equal(x.tokens, y.tokens)
            for x, y in zip(a.references, b.references, strict=True)
        )
    )


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a file's header (a dict, in place; a returned value replaces it) and keep its data."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])
