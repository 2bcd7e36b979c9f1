"""Run by test_filing.py inside a host: the file of a training's state, and which subject is not trained again."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from comfyui_p3s.nodes.host import subject_folders
from comfyui_p3s.nodes.training import saved_subjects
from comfyui_p3s.p3s.network.copy_settings import CopySettings
from comfyui_p3s.p3s.sampling.diffusion import NoiseSchedule
from comfyui_p3s.p3s.subject.file import Subject, SubjectReference
from comfyui_p3s.p3s.subject.info import SubjectInfo
from comfyui_p3s.p3s.training.examples import Example
from comfyui_p3s.p3s.training.key import TrainingInputs
from comfyui_p3s.p3s.training.settings import TrainSettings
from comfyui_p3s.p3s.training.state import Divergence, TrainState
from comfyui_p3s.p3s.training.state_file import save_state


def inputs(
    rate: float = 0.5, precision: str = "bf16", photo: str = "dog", latent: float = 1.0, prompt: float = 1.0
) -> TrainingInputs:
    """Those of a training; ``latent`` and ``prompt`` are factors of what was encoded."""
    random = torch.Generator().manual_seed(0)
    example = Example(*(torch.randn(size, generator=random) for size in ((4, 8, 8), (5, 6), (7, 6))))
    example = replace(example, latent=example.latent * latent, prompt=example.prompt * prompt)
    settings = TrainSettings(learning_rate=rate, precision=precision)
    noise = NoiseSchedule.stable_diffusion()
    return TrainingInputs("ab" * 32, [photo], [example], torch.ones(7, 6), noise, CopySettings(), settings)


BEFORE = inputs()


def main(arguments: dict[str, Any]) -> dict[str, Any]:
    folder = Path(subject_folders.save_folder())
    folder.mkdir(parents=True, exist_ok=True)
    old = Path(arguments["old_state"]).read_bytes()
    return {"states": states(folder), "subjects": subjects(), "damage": damage(folder, old)}


def subjects() -> dict[str, bool]:
    """Whether a training is found to be done already."""

    def info(of: TrainingInputs, **changes: Any) -> SubjectInfo:
        found = SubjectInfo("SD1.x", "ab" * 32, {}, {}, ("",), ("cd" * 32,), 2, True, "", "")
        return replace(found, training_key=of.key(), sketches=of.sketches(), **changes)

    def known(**changes: Any) -> bool:
        return saved_subjects.trained_before(info(inputs(**changes)), "dog") is not None

    reference = SubjectReference(torch.zeros(4, 8, 8), torch.zeros(5, 6))
    weights = {"a": torch.zeros(2)}
    saved_subjects.save(Subject(weights, (reference,), info(BEFORE, completed=False)), "dog")
    cancelled = known()
    saved_subjects.save(Subject(weights, (reference,), info(BEFORE)), "dog")
    return {
        "cancelled": cancelled,
        "the same": known(),
        "encoded anew": known(latent=1.001, prompt=0.9995),
        "another prompt": known(prompt=1.1),
        "another mask": known(latent=1.1),
        "another photo": known(photo="cat"),
        "another rate": known(rate=0.1),
    }


def damage(folder: Path, old: bytes) -> dict[str, dict[str, int]]:
    """How often a training finds which file for its state, where one of its own is spoiled at one place; ``old``: the
    file of another version."""
    key, random = BEFORE.state_key(), Random(0)
    path = folder / f"dog_{key}.training"
    remedies = {"learning_rate": "0.5", "precision": "'bf16'"}
    diverged = Divergence(3, remedies)
    save_state(TrainState.untrained(remedies, BEFORE.examples, BEFORE.empty_prompt, diverged), path)
    chosen = {}
    for version, whole in (("old", old), ("new", path.read_bytes())):
        for resumes in (False, True):
            found = Counter[str]()
            for _ in range(150):
                content = bytearray(whole)
                content[random.randrange(len(content))] ^= 1 << random.randrange(8)
                path.write_bytes(content)
                found[saved_subjects.state_file(BEFORE, "cat", resumes)[0].name.split("_")[0]] += 1
            chosen[f"{version}, {resumes}"] = dict(found)
    path.unlink()
    return chosen


def states(folder: Path) -> dict[str, tuple[str, ...]]:
    remedies = {"learning_rate": "0.5", "precision": "'bf16'"}
    exploded = TrainState.untrained(remedies, BEFORE.examples, BEFORE.empty_prompt, Divergence(3, remedies))
    cancelled = replace(exploded, diverged=None)

    def found(
        state: TrainState | bytes, wanted: TrainingInputs, resumes: bool = True, name: str = "cat"
    ) -> tuple[str, ...]:
        """The name chosen, what is told, and all states that there are then, of which "dog" was one before."""
        for old in folder.glob("*.training"):
            old.unlink()
        before, now = BEFORE.state_key(), wanted.state_key()
        path = folder / f"dog_{before}.training"
        if isinstance(state, bytes):
            path.write_bytes(state)
        else:
            save_state(state, path)
        chosen, notes = saved_subjects.state_file(wanted, name, resumes)
        texts = (chosen.name, *notes, *sorted(file.name for file in folder.glob("*.training")))
        short = ((f"_{before}.training", ".before"), (f"_{now}.training", ".now"), (f"{folder}/", ""))
        for long, brief in short:
            texts = tuple(text.replace(long, brief) for text in texts)
        return texts

    lower = inputs(rate=0.1)
    return {
        "the same": found(cancelled, inputs()),
        "the same, encoded anew": found(cancelled, inputs(latent=1.001, prompt=0.9995)),
        "the same, exploded": found(exploded, inputs()),
        "damaged": found(b"PK", inputs()),
        "another prompt": found(cancelled, inputs(prompt=1.1)),
        "another prompt, its name": found(cancelled, inputs(prompt=1.1), name="dog"),
        "another prompt, resume off": found(cancelled, inputs(prompt=1.1), resumes=False),
        "another photo": found(cancelled, inputs(photo="cat")),
        "lower rate": found(exploded, lower),
        "lower rate, encoded anew": found(exploded, inputs(rate=0.1, latent=1.001)),
        "higher rate": found(exploded, inputs(rate=0.9)),
        "more exact": found(exploded, inputs(precision="fp32")),
        "lower rate, resume off": found(exploded, lower, resumes=False),
        "lower rate, only cancelled": found(cancelled, lower),
        "lower rate, another prompt": found(exploded, inputs(rate=0.1, prompt=1.1)),
        "lower rate, another photo": found(exploded, inputs(rate=0.1, photo="cat")),
    }
