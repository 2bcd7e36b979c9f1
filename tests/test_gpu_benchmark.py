"""Parts of ``python -m benchmarks.gpu`` that need neither a host nor a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import warnings
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import training_step
from benchmarks.gpu import kit
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.report import report, targets
from benchmarks.gpu.rows_inside import attempted
from benchmarks.gpu.sections import FULL, RESULTS, SECTIONS, TINY, VARIANTS
from benchmarks.gpu.waits import WARNING, Waits
from benchmarks.training import describe
from benchmarks.training_step import CONFIGS
from p3s.training.loop import TrainResult

LEAN = {"kind": "lora", "precision": "bf16", "checkpointing": True, "scale": "small sdxl", "size": 64}
OWN = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_waits_are_counted_step_by_step_without_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []
    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    waits = Waits()
    with waits.counting():
        for number in (5, 1, 3):
            for _ in range(number):
                warnings.warn(f"{WARNING} (Triggered internally at somewhere)", stacklevel=1)
            warnings.warn("something else", stacklevel=1)
            waits.after_step()
    found = waits.found()
    assert modes == ["warn", "default"]
    assert {key: found[key] for key in ("waits", "most", "steps")} == {"waits": 2, "most": 3, "steps": 2}
    ((place, by_step),) = found["places"].items()
    assert place.split(":")[0].endswith("tests/test_gpu_benchmark.py") and by_step == 2


def test_targets_say_what_is_met_and_what_is_missed() -> None:
    sampled = {"P3S, exact": {"time": 1.9, "own": 1.7}, "P3S, cached, standard": {"time": 1.2}}
    sections = {
        "sampling": sampled,
        "paper": {"bf16": {"seconds": 29.0}, "fp32": {"error": "out of memory"}},
        "training sdxl": {
            "SDXL, lora bf16": {"left_out": "a step needs about 15.1 GiB, and 15.0 GiB is free"},
            "SDXL, lora bf16, checkpointed": {"peak": 8_400_000_000, "estimated": 8_000_000_000},
        },
        "waits": {"sampling, plain model": {"waits": 1}, "training, full fp32": {"waits": 4}},
        "offloading": {"full": {"losses_apart": 0.001, "image_apart": 0.2}},
        "resumed": {"full fp32": {"trained by": 1e-3, "resumed": {"weights": 1e-5}}},
    }
    run: dict[str, Any] = {"card": "one", "sections": {name: {"rows": rows} for name, rows in sections.items()}}
    assert targets(run)[2:] == [
        "| the paper's setting, bf16 | 30 s | 29 | met |",
        "| the paper's setting, fp32 | 30 s |  | not measured |",
        "| sampling, P3S, exact: time | 1.15 x its work | 1.9 | met |",
        "| sampling, P3S, cached, standard: time | 1.1 | 1.2 | missed |",
        "| SDXL, lora bf16, checkpointed: peak, GB | 12 | 8.4 | met |",
        "| SDXL, lora bf16, checkpointed: peak apart from the estimate | 0.03 | 0.05 | missed |",
        "| waits for the GPU in a step, training, full fp32 | none | 4 | missed |",
        "| offloaded, full: losses apart from the CPU's | 0.01 | 0.001 | met |",
        "| offloaded, full: image apart from the CPU's | 0.05 | 0.2 | missed |",
        "| resumed, full fp32: weights apart from the uninterrupted | 0.1 of what was trained | 1e-05 | met |",
    ]
    assert targets({**run, "card": None}) == ["not compared: they are for a GPU"]
    (row,) = [row for row in sections["training sdxl"] if row.endswith("checkpointed")]
    for failed in ({"left_out": "a step needs about 7.2 GiB, and 7.0 GiB is free"}, {"error": "out of memory"}):
        alone = {"training sdxl": {"rows": {row: failed}}}
        assert targets({"card": "one", "sections": alone})[2:] == [
            f"| {row}: peak, GB | 12 |  | not measured |",
            f"| {row}: peak apart from the estimate | 0.03 |  | not measured |",
        ]


def test_the_trainings_of_sdxl_are_its_true_shapes_at_1024_pixels() -> None:
    rows = SECTIONS["training sdxl"].arguments(FULL)["rows"]
    assert [describe(row) for row in rows] == ["SDXL, lora bf16", "SDXL, lora bf16, checkpointed"]
    assert all(CONFIGS[row["scale"]].family == "SDXL" and row["size"] == 1024 for row in rows)


def test_work_in_full_size_is_that_of_the_results_and_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, family in (("sampling", "sampling.json"), ("sampling sdxl", "sampling_sdxl.json")):
        given = SECTIONS[name].arguments(FULL)["counted"]
        stored = json.loads((RESULTS / family).read_text())["variants"]
        known = [variant for variant in VARIANTS if variant in stored]
        assert len(known) >= 9 and all(given[n]["tflop"] == stored[n]["tflop"] > 1 for n in known)
        assert given["P3S, cached, standard"]["first"] == stored["P3S, cached, standard"]["first"]
        assert SECTIONS[name].arguments(TINY)["counted"] == {}
    rows = [*SECTIONS["training"].arguments(FULL)["rows"], *SECTIONS["training sdxl"].arguments(FULL)["rows"]]
    assert [describe(row) for row in rows if not row["work"]] == ["full bf16, cached", "lora bf16, cached"]

    def again(*_: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(training_step, "Step", again)
    row = {"kind": "dreambooth", "precision": "fp32", "checkpointing": False, "scale": "small", "size": 64}
    work = {"tflop": 3.0, "needed": 2.0}
    assert training_step.measured({**row, "work": work, "dry": True}) == work
    with pytest.raises(AssertionError):
        training_step.measured({**row, "work": {}, "dry": True})


def test_a_training_that_the_card_is_too_small_for_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    row = {**LEAN, "counted": {"estimated": 3 * 2**30}, "device": "cuda"}
    for free, told in ((0, "0.0"), (3.2, "3.2")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free: (free * 2**30, 2**40))
        assert attempted(row) == {"left_out": f"a step needs about 3.0 GiB, and {told} GiB is free"}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (4 * 2**30, 2**40))
    assert "left_out" not in attempted(row)  # but tried, which fails without a GPU


def test_a_training_that_was_changed_on_the_way_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = TrainResult((), True, warnings=("step 2 ran out of memory: gradient checkpointing was turned on",))
    monkeypatch.setattr("benchmarks.training_step.train", lambda *_: changed)
    found = attempted({**LEAN, "checkpointing": False, "counted": {"estimated": 1}, "device": "cpu"})
    assert found == {"error": f"SystemExit: not the training that was asked for: {changed.warnings[0]}"}


def test_what_is_over_its_time_is_left_out_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "main.py").touch()
    (tmp_path / "comfyui_version.py").write_text('__version__ = "1"\n')
    out = tmp_path / "gpu.json"
    main(["--size", "tiny", "--minutes", "0", "--comfyui", str(tmp_path), "--out", str(out)])
    found = json.loads(out.read_text())
    assert found["sections"] == {}
    assert found["left_out"].pop("waits") != found["left_out"]["paper"] == "the 0 minutes were over"
    assert "- paper: the 0 minutes were over" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="there is no section papers"):
        main(["--only", "papers"])


def test_a_section_that_fails_costs_no_other() -> None:
    failed = {"title": "One", "seconds": 1.0, "rows": {"a": {"seconds": 2.0}}, "error": "Traceback\nValueError: x"}
    whole = {"title": "Two", "seconds": 1.0, "rows": {"b": {"peak": 2**30}, "c": {"error": "y"}}}
    facts = {"date": "d", "card": "one", "torch": "t", "cuda": "c", "python": "p", "host": "h", "left_out": {}}
    text = report({**facts, "sections": {"resumed": failed, "training": whole}})
    assert "ended early: ValueError: x" in text and "| a | 2 |" in text
    assert "| b | 1.00 |" in text and "- c: failed, y" in text


def made(folder: Path, python: str = OWN) -> Path:
    """A kit with one package."""
    (folder / "packages").mkdir(parents=True)
    with zipfile.ZipFile(folder / "packages" / "carried-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("carried/__init__.py", "VALUE = 7\n")
        wheel.writestr("carried/fast.so", "compiled")
    facts = {"host": "1", "python": python, "packages": {}, "stand_ins": ["left_out"]}
    (folder / "kit.json").write_text(json.dumps(facts))
    return folder


def in_a_process(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def test_a_kits_packages_are_found_without_pip_and_those_left_out_are_stood_in_for(tmp_path: Path) -> None:
    before = dict(os.environ)
    with kit.opened(made(tmp_path / "kit")):
        use = "import carried, left_out.part; from left_out import Base; "
        use += "Kind = type(Base)('Kind', (Base,), {}); print(carried.VALUE, isinstance(Kind, type), Base | None)"
        done = in_a_process(use)
        assert done.stdout.split()[:2] == ["7", "True"], done.stderr
        called = in_a_process("import left_out; left_out.part.load('file')")
        assert "ImportError: left_out.part.load is called, and the kit has left its package out" in called.stderr
        assert "No module named 'another'" in in_a_process("import another").stderr
    assert dict(os.environ) == before


def test_compiled_parts_are_taken_out_of_a_wheel(tmp_path: Path) -> None:
    (wheel,) = (made(tmp_path / "kit") / "packages").glob("*.whl")
    kit.without_files(wheel, ".so")
    with zipfile.ZipFile(wheel) as packed:
        assert packed.namelist() == ["carried/__init__.py"]


def test_a_kit_for_another_python_and_no_kit_are_refused(tmp_path: Path) -> None:
    with (
        pytest.raises(SystemExit, match=f"was made for Python 2.7, and this is {OWN}"),
        kit.opened(made(tmp_path / "kit", "2.7")),
    ):
        pass
    with pytest.raises(SystemExit, match="holds no kit"), kit.opened(tmp_path):
        pass


def test_sources_are_programs_and_settings(tmp_path: Path) -> None:
    for name, size in {"a.py": kit.VOCABULARY + 1, "b.json": 10, "c.json": kit.VOCABULARY + 1, "d.png": 10}.items():
        (tmp_path / "from" / "__pycache__").mkdir(parents=True, exist_ok=True)
        (tmp_path / "from" / name).write_bytes(bytes(size))
    kit.copy_sources(tmp_path / "from", tmp_path / "to")
    assert sorted(file.name for file in (tmp_path / "to").iterdir()) == ["a.py", "b.json"]
