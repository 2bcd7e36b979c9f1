"""The figures of SDXL that README and benchmarks/README.md print are those of the committed results."""

from __future__ import annotations

from typing import Any

import pytest
from published import PAGE, README, RESULTS, cells, numbers, variants

from benchmarks import flops, sampling, training, training_step


def test_the_work_of_sdxl_by_our_own_unet() -> None:
    """The first row and the last; no results are kept of what is counted on shapes. ComfyUI's U-Net does the same."""
    host = variants("sampling_sdxl.json")
    conditional = "P3S, exact, conditional half"
    names = {"exact": "P3S, exact", "conditional": conditional, "reuse 3": f"{conditional}, reuse 3"}
    for stride in (flops.STRIDES[0], flops.STRIDES[-1]):
        found = flops.sdxl(1024, stride)
        _, layers, *steps, file = cells(PAGE, f"{stride} | {found['layers']} of 70")
        assert numbers(layers) == [found["layers"], 70]
        assert [float(cell) for cell in steps] == [round(found[name], 2) for name in (*flops.SDXL_STEPS, "training")]
        assert numbers(file) == [round(2 * found["millions"])]
        assert f"{found['plain']:.2f} TFLOP" in PAGE
        theirs = names if stride == 1 else {"exact": "P3S, exact, depth_stride 10"}
        for name, row in theirs.items():
            assert found[name] == pytest.approx(host[row]["work"], rel=1e-3)


def sdxl_training() -> dict[str, dict[str, Any]]:
    rows = training.load(RESULTS / "training_sdxl.jsonl")
    return {training.describe(entry["row"]).removeprefix("SDXL, "): entry for entry in rows}


def test_the_tables_of_sdxl() -> None:
    rows = training.tables(list(sdxl_training().values())).splitlines()
    rows += sampling.table(variants("sampling_sdxl.json")).splitlines()
    assert len(rows) > 25
    assert [row for row in rows if row not in PAGE.splitlines()] == []


def test_a_row_of_sdxls_training_is_what_is_counted_and_estimated_now() -> None:
    entry = sdxl_training()["lora bf16, checkpointed"]
    now = training_step.measured({**entry["row"], "dry": True})
    assert now == {name: entry["found"][name] for name in now}
    assert {"tflop", "needed", "plain", "stored", "estimated"} == set(now)


def test_sdxl_in_the_readme() -> None:
    counted = variants("sampling_sdxl.json")
    trained = {name: entry["found"] for name, entry in sdxl_training().items()}

    def work(*names: str) -> list[float]:
        return [round(counted[name]["work"], 2) for name in names]

    def memory(*names: str) -> list[float]:
        return [round(trained[name]["estimated"] / 2**30, 1) for name in names]

    def said(row: str) -> list[float]:
        return numbers(cells(README, row)[1])

    modes = "P3S, standard", "P3S, fast", "P3S, exact", "P3S, exact, conditional half"
    assert said("work of Apply P3S, x plain: `mode` standard; fast; exact; exact with") == work(*modes)
    others = "ControlNet", "IPAdapter-plus", "reference-only"
    assert said(f"work beside it: {'; '.join(others)}") == work(*others)
    lean, full = trained["lora bf16, checkpointed"], trained["full bf16"]
    assert said("work of a training step with `checkpointing`") == [round(lean["tflop"] / lean["plain"], 2)]
    assert said("memory of training in bf16") == memory("lora bf16", "lora bf16, checkpointed")
    stored = round(full["stored"] / 1e9, 1)
    assert said("the same with `kind` full") == [*memory("full bf16", "full bf16, checkpointed"), stored]
    assert f"(a file of {lean['stored'] / 1e6:.0f} MB)" in README
    (least,) = memory("lora bf16, checkpointed")
    assert f"*bf16* and `checkpointing`: {least} GiB." in README
    assert f"with checkpointing is estimated at {least} GiB" in PAGE
