"""Runs of the commands of benchmarks.dreambench that count what they do, and stop as a killed one does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from benchmarks.dreambench import protocol
from p3s.models.stable_diffusion import StableDiffusion


class Watch:
    """Counts trainings and sampled pictures, and stops the run after some pictures."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, stop_after: int = 10**9) -> None:
        self.trained, self.sampled, self.prompts = 0, 0, list[str]()
        train, sample = protocol.train_subject, StableDiffusion.sample

        def counted_train(*args: Any, **kwargs: Any) -> Any:
            self.trained += 1
            return train(*args, **kwargs)

        def counted_sample(models: StableDiffusion, prompt: str, seeds: list[int], *args: Any) -> Any:
            if self.sampled >= stop_after:
                raise KeyboardInterrupt
            self.sampled += len(seeds)
            self.prompts.append(prompt)
            return sample(models, prompt, seeds, *args)

        monkeypatch.setattr(protocol, "train_subject", counted_train)
        monkeypatch.setattr(StableDiffusion, "sample", counted_sample)


def counted(main: Callable[[list[str]], int], given: list[str], out: Path, stop_after: int = 10**9) -> Watch:
    """Run a command into ``out``, and stop it after so many pictures."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        watch = Watch(monkeypatch, stop_after)
        try:
            assert main([*given, f"--out={out}"]) == 0
        except KeyboardInterrupt:
            assert watch.sampled == stop_after
        return watch
