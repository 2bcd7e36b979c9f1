"""The work of a training step, as benchmarks/training.py counts it, and its rows on a small network."""

import json
import sys

import pytest

from benchmarks.training import STEPS, describe, main, tables
from benchmarks.training_step import CONFIGS
from benchmarks.training_work import Step


@pytest.mark.parametrize(("kind", "tflop"), [("full", 3.69), ("lora", 3.26)])
def test_a_step_of_sd15_computes_hardly_more_than_it_needs(kind, tflop):
    step = Step(CONFIGS["full"], 512, kind, checkpointing=False)
    assert step.computed() == pytest.approx(tflop, abs=0.01)
    assert step.computed() <= 1.15 * step.needed()


def test_the_need_is_that_of_the_layers():
    """Counted by hand: all of a trained U-Net's layers cost one product forward and two backward, but for the inputs of
    the network, which nothing trained comes before."""
    config = CONFIGS["small"]
    step = Step(config, 64, "dreambooth", checkpointing=False)
    assert step.needed() == pytest.approx(step.computed(), rel=1e-3)
    again = Step(config, 64, "dreambooth", checkpointing=True)
    assert again.needed() == step.needed()
    assert 1.2 < again.computed() / again.needed() < 1.34, "the forward pass twice"


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds is read from /proc")
def test_a_row_of_a_small_network(tmp_path, monkeypatch, capsys):
    out = tmp_path / "rows.jsonl"
    options = ["--scale", "small", "--size", "64", "--limit", "1", "--only", "lora bf16, checkpointed"]
    monkeypatch.setattr(sys, "argv", ["training", *options, "--out", str(out)])
    main()
    first = capsys.readouterr().out
    (entry,) = map(json.loads, out.read_text().splitlines())
    assert describe(entry["row"]) == "small network, lora bf16, checkpointed"
    assert entry["found"]["tflop"] > 1.1 * entry["found"]["needed"]
    assert 0 < entry["found"]["estimated"] < 2**30
    assert entry["found"]["file"] > 1e6
    main()
    again = capsys.readouterr().out
    assert again == first, "a row that is there is not measured again"
    assert "lora bf16, checkpointed" in again


def test_tables():
    found = {
        "tflop": 4.8,
        "needed": 4.0,
        "peak": 2**30,
        "estimated": 2**31,
        "file": 27e6,
        "seconds": 60,
        "cpu_seconds": 59,
    }
    inside = {"P3S lora": found, "Train LoRA": {**found, "seconds": 30.0}}
    row = {"inside": list(inside), "host": "1", "checkpointing": True}
    first, second = ({**step, "scale": "full", "size": 512} for step in STEPS[:2])
    small = {**STEPS[0], "scale": "small", "size": 512}
    rows = [{"row": r, "found": found} for r in (small, second, first)]
    text = tables([*rows, {"row": row, "found": inside}])
    assert [line.split(" |")[0] for line in text.splitlines()[2:5]] == [
        "| full fp32",
        "| full fp32, checkpointed",
        "| small network, full fp32",
    ]
    assert "| full fp32 | 512 | 4.80 | 1.20 | 2.00 | 1.00 | 27 | 60 | 59 |" in text
    assert "| P3S lora, checkpointed | 4.80 | 60.0 | 59.0 | 80 | 0.50 |" in text
