"""``python -m benchmarks.gpu`` on tiny models on the CPU, so that it runs where there is a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from host.hosts import REPO, Host, peer
from host.inside import Inside

from benchmarks.gpu.report import report
from benchmarks.gpu.sections import SECTIONS

pytestmark = pytest.mark.slow  # five minutes of one core

EXACT = {"weights": 0.0, "losses": 0.0}


@pytest.fixture(scope="module")
def run(host: Host, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("gpu") / "gpu.json"
    options = ["--size", "tiny", "--minutes", "30", "--comfyui", str(host.path), "--out", str(out)]
    done = subprocess.run([sys.executable, "-m", "benchmarks.gpu", *options], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert done.stdout.strip() == report(found).strip()
    return found


def test_all_sections_are_there_and_none_failed(run: Any) -> None:
    assert {*run["sections"], *run["left_out"]} == set(SECTIONS)
    assert list(run["left_out"]) == ["waits"]
    assert [section["error"] for section in run["sections"].values() if "error" in section] == []
    rows = {name: section["rows"] for name, section in run["sections"].items()}
    assert [(name, row) for name, found in rows.items() for row in found.values() if "error" in row] == []
    assert all(rows.values())


def test_no_figure_of_a_gpu_is_claimed(run: Any, host: Host) -> None:
    assert run["card"] is run["cuda"] is None
    assert run["host"] == f"ComfyUI {host.version}"
    rows = [row for section in run["sections"].values() for row in section["rows"].values()]
    assert all(row.get("memory") is None and row.get("peak") is None for row in rows)
    (eight,) = [row for row in rows if "left_out" in row]
    assert eight == {"left_out": "AdamW in 8 bits needs a GPU"}
    assert "No figures of a GPU" in report(run) and "| met |" not in report(run)


def test_samplers_cost_what_they_compute(run: Any, host: Host) -> None:
    for name in ("sampling", "sampling sdxl"):
        rows = run["sections"][name]["rows"]
        assert ("IPAdapter-plus" in rows) == (peer("ComfyUI_IPAdapter_plus", host) is not None)
        assert rows["plain model"]["work"] == 1 == rows["plain model"]["time"]
        assert rows["P3S, off"]["work"] == pytest.approx(1, abs=1e-3)
        assert rows["P3S, exact"]["work"] > rows["P3S, standard"]["work"] > rows["P3S, fast"]["work"] > 1
        assert rows["P3S, exact"]["work"] > rows["P3S, cached, standard"]["work"]
        assert all(row["own"] == row["work"] and row["finite"] for row in rows.values())
        for row in rows.values():
            low, high = row["times"]
            assert 0 < low <= row["time"] <= high


def test_the_papers_setting_ends_with_a_file_that_loads(run: Any) -> None:
    (row,) = run["sections"]["paper"]["rows"].values()
    assert row["steps"] == 2 * 2  # epochs of photos
    assert row["file_loads"] and row["finite"]
    assert row["seconds"] == pytest.approx(row["prepare"] + row["train"] + row["write"])


def test_training_rows(run: Any) -> None:
    steps, sdxl = (run["sections"][name]["rows"] for name in ("training", "training sdxl"))
    trained = [row for row in steps.values() if "left_out" not in row]
    assert len(trained) == 9 and all(row["seconds"] > 0 for row in [*trained, *sdxl.values()])
    assert steps["small network, full bf16, cached"]["tflop"] < steps["small network, full bf16"]["tflop"]
    assert list(sdxl) == ["lora bf16", "lora bf16, checkpointed"]
    plain, again = sdxl.values()
    assert again["tflop"] > plain["tflop"] and again["estimated"] < plain["estimated"]
    beside = run["sections"]["training beside"]["rows"]
    assert list(beside) == ["P3S full fp32", "P3S lora fp32", "Train LoRA fp32", "DreamBooth fp32"]


def test_on_one_cpu_nothing_is_apart(run: Any) -> None:
    for row in run["sections"]["offloading"]["rows"].values():
        assert row["losses_apart"] == row["weights_apart"] == row["image_apart"] == 0
        assert row["effect"] > 0.01
    for row in run["sections"]["resumed"]["rows"].values():
        assert row["run again"] == row["resumed"] == EXACT
        assert row["trained by"] > 1e-5


def test_the_waits_of_every_step_are_counted(inside: Inside) -> None:
    found = inside.run(Path(__file__).with_name("inside_gpu_waits.py"), timeout=900)
    assert len(found) == 9
    for name, row in found.items():
        assert row == {"waits": 0, "most": 0, "steps": 5, "places": {}}, name
