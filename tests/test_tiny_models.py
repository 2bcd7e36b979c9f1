"""The command that makes the tests' models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from safetensors import safe_open
from tools.tiny_models import MODELS, make

SCRIPT = Path(__file__).with_name("tools") / "tiny_models.py"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def test_without_names_it_lists_the_models() -> None:
    done = run()
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()] == list(MODELS)


def test_a_name_makes_its_model(tmp_path: Path) -> None:
    done = run("lora-micro", "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    (made,) = tmp_path.glob("lora-micro-*.safetensors")
    assert str(made) in done.stdout
    with safe_open(made, framework="pt") as file:
        assert all("lora" in key or key.endswith("alpha") for key in file.keys())  # noqa: SIM118


def test_what_another_checkout_has_made_stays_for_a_day(tmp_path: Path) -> None:
    used, forgotten = (tmp_path / f"lora-micro-{digit * 8}.safetensors" for digit in "01")
    for file in (used, forgotten):
        file.touch()
    os.utime(forgotten, (0, 0))
    made = make("lora-micro", tmp_path)
    assert set(tmp_path.glob("*.safetensors")) == {made, used}


def test_an_unknown_name_is_refused_in_one_line(tmp_path: Path) -> None:
    done = run("lora-micro", "sd15-giant", "--out", str(tmp_path))
    assert done.returncode == 2
    assert "there is no sd15-giant; there are sd15-micro, " in done.stderr.splitlines()[-1]
    assert list(tmp_path.iterdir()) == []
