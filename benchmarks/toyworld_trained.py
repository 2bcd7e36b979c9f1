"""Trained subjects of the toy world, kept in a folder, so that ways of sampling are compared on the same ones."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor

from p3s.network.subject_copy import SubjectCopy
from p3s.sampling.application import Application, AppliedSubject
from p3s.toyworld.scenes import SIDE, Appearance, Placed, Scene, scene
from p3s.toyworld.world import ToyWorld

from .toyworld import Budget, copy_of, reference_of, settings_of, train_one
from .toyworld_methods import METHODS


@dataclass(frozen=True, eq=False)
class Trained:
    """The subject of the ``number``-th held-out scene, and the scene."""

    number: int
    scene: Scene
    copy: SubjectCopy
    condition: Tensor

    @property
    def wanted(self) -> Appearance:
        return clicked(self.scene, self.number).look

    @property
    def left(self) -> bool:
        """Whether the subject is on the left of its photo."""
        return clicked(self.scene, self.number).x < SIDE / 2

    @property
    def other(self) -> Appearance:
        return self.scene.subjects[1 - self.number % 2].look

    def applied(self, **options: Any) -> AppliedSubject:
        """``options``: of its application."""
        return AppliedSubject(self.copy, self.condition, Application(METHODS["p3s"].weight, **options))


def clicked(s: Scene, number: int) -> Placed:
    """The subject of the ``number``-th scene: the first one and the second one in turn."""
    return s.subjects[number % 2]


def trained(world: ToyWorld, number: int, budget: Budget, folder: Path, animal: str | None = None) -> Trained | None:
    """Train a subject as ``benchmarks.toyworld`` trains "p3s", or load it from the folder; None where the points of
    the scene give no mask."""
    method, s = METHODS["p3s"], scene("heldout", number, "different", animal)
    # A scene of a given class is another one than the scene of that number that happens to be of this class.
    name = "-".join(str(part) for part in (number, animal or "any", budget.steps, budget.batch, budget.rate))
    file = folder / f"{name}.safetensors"
    if file.exists():
        state = load_file(file)
        condition = state.pop("condition")
        copy = copy_of(world, method, settings_of(method, budget, number))
        copy.load_state_dict(state)
    else:
        reference = reference_of(world, s, number % 2, method.rngr)
        if reference is None:
            return None
        _, made, _ = train_one(world, method, number, budget, s, reference)
        (subject,) = made["subjects"]
        copy, condition = subject.copy, subject.condition.detach()
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {key: value.contiguous() for key, value in copy.state_dict().items()}
        save_file({**tensors, "condition": condition.contiguous()}, file)
    return Trained(number, s, copy.requires_grad_(False).eval(), condition)
