"""The figures of training in README, benchmarks/README.md and other texts are those of the committed results."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from published import PAGE, README, RESULTS, ROOT, cells, numbers, variants

from benchmarks import training, training_step
from benchmarks.training_work import TOKEN_DIM
from p3s.network.copy_settings import CopySettings
from p3s.network.subject_copy import SubjectCopy
from p3s.network.unet_config import SDXL, UNetConfig


def training_rows() -> dict[tuple[str, int], dict[str, Any]]:
    rows = training.load(RESULTS / "training.jsonl")
    return {
        (training.describe(entry["row"]), entry["row"]["size"]): entry["found"]
        for entry in rows
        if "inside" not in entry["row"]
    }


def test_the_work_of_a_training_step_relative_to_a_plain_pass() -> None:
    plain = variants("sampling.json")["plain model"]["tflop"] / 2  # its step has two passes
    (said,) = numbers(cells(README, "one training step of one photo")[1])
    assert said == round(training_rows()["full fp32", 512]["tflop"] / plain, 2)


def test_what_compiling_costs_and_gives() -> None:
    found = json.loads((RESULTS / "compiled.json").read_text())["found"]
    section = " ".join(PAGE[PAGE.index("### torch.compile") : PAGE.index("### Training on SDXL")].split())
    assert f"Compiling took {found['compiling']:.0f} s." in section
    low, high = found["times"]
    assert f"A step then took {found['time']:.2f} times as long ({low:.2f}-{high:.2f};" in section
    low, high = found["processors"]
    assert f"of the processor's time {found['processor']:.2f}, {low:.2f}-{high:.2f})" in section
    assert f"losses equal to {found['apart']:.0e}" in section


@pytest.mark.parametrize("kind", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_table_of_training(kind: str, precision: str) -> None:
    name = f"{kind} {precision}"
    rows = training_rows()
    plain, checkpointed = rows[name, 512], rows[f"{name}, checkpointed", 512]

    def memory(found: dict[str, float]) -> float:
        return round(found.get("peak", found["estimated"]) / 2**30, 1)  # that of full bf16 is estimated

    said = cells(README, f"{kind}, {precision}")[1:]
    assert numbers(said[0]) == [round(plain["tflop"], 2)]
    assert numbers(said[1]) == [memory(plain)]
    assert numbers(said[2]) == [round(checkpointed["tflop"], 2)]
    eight = rows["full bf16, adamw8bit, checkpointed", 512]
    more = [memory(eight), 8] if name == "full bf16" else []  # the 8 of adamw8bit's name
    assert numbers(said[3]) == [memory(checkpointed), *more]
    size = rows[f"{kind} fp32", 512]["file"]
    assert said[4] == (f"{size / 1e9:.2f} GB" if size > 1e9 else f"{size / 1e6:.0f} MB")


def test_what_more_a_gpu_takes_in_16_bits() -> None:
    """Most in this row: full has larger weights, and with checkpointing fewer numbers are kept."""
    row = {"kind": "lora", "precision": "bf16", "checkpointing": False, "size": 512, "dry": True}
    cpu, gpu = (training_step.measured({**row, "device": device})["estimated"] for device in ("cpu", "cuda"))
    assert f"on a GPU *bf16* takes up to {(gpu - cpu) / 2**30:.1f} GiB more" in README


def test_memory_in_the_text() -> None:
    found = re.search(
        r"about ([\d.]+) GiB of GPU memory .*, or ([\d.]+) GiB with .*\*lora\*: ([\d.]+) GiB, or ([\d.]+) GiB with "
        r"\*bf16\*; `checkpointing` lowers these to ([\d.]+) and ([\d.]+) GiB",
        README,
    )
    assert found is not None
    rows = training_rows()
    names = [
        "full fp32",
        "full bf16",
        *(f"lora {kind}{more}" for more in ("", ", checkpointed") for kind in ("fp32", "bf16")),
    ]
    peaks = [rows[name, 512].get("peak", rows[name, 512]["estimated"]) for name in names]  # full bf16 is estimated
    assert [float(number) for number in found.groups()] == [round(peak / 2**30, 1) for peak in peaks]


def test_sizes_of_files_in_the_text() -> None:
    rows = training_rows()
    full, low_rank = rows["full fp32", 512]["file"], rows["lora fp32", 512]["file"]
    assert f"stored in 16 bits: {full / 1e9:.2f} GB" in README
    assert README.count(f"about {full / 1e9:.1f} GB in 16 bits, or {low_rank / 1e6:.0f} MB") == 1


def test_sizes_on_sdxl_and_of_states_in_the_text() -> None:
    """A number takes 2 bytes in a subject's file, and 12 in a state: it and what the optimiser keeps, in 32 bits."""

    def count(config: UNetConfig, kind: str) -> int:
        copy = SubjectCopy(config, CopySettings(kind=kind), TOKEN_DIM, device="meta")
        return sum(p.numel() for p in copy.parameters())

    def state(config: UNetConfig) -> tuple[str, str]:
        low_rank = round(12 * count(config, "lora") / 1e6, -1)
        return f"{12 * count(config, 'full') / 1e9:.0f} GB", f"{low_rank:.0f} MB"

    sd15, sdxl = UNetConfig.build(), UNetConfig.build(**SDXL)
    help_page = (ROOT / "web" / "docs" / "P3S_Train.md").read_text(encoding="utf-8")
    file = f"{2 * count(sdxl, 'full') / 1e9:.1f} GB", f"{2 * count(sdxl, 'lora') / 1e6:.0f} MB"
    assert README.count("; on SDXL {}, or {}".format(*file)) == 2
    assert "on SDXL {} and {}".format(*file) in help_page
    (full, low_rank), (full_xl, low_rank_xl) = state(sd15), state(sdxl)
    assert f"(up to {full}, on SDXL up to {full_xl})" in README
    assert f"{full} with *full*, {low_rank} with *lora* (on SDXL {full_xl} and {low_rank_xl})" in help_page


def test_the_tables_of_training() -> None:
    printed = training.tables(training.load(RESULTS / "training.jsonl")).splitlines()
    assert len(printed) > 30
    assert [line for line in printed if line not in PAGE.splitlines()] == []
