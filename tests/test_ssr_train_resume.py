"""``python -m p3s ssr train`` again: after what ended it, with what its message advises; from a trained SSR-Encoder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from ssr_models import random_aligner, random_model
from ssr_runs import command, write_files, write_pictures

from p3s.__main__ import main
from p3s.commands import ssr_train
from p3s.image_files import write_png
from p3s.safetensors_format import read_header
from p3s.ssr.dataset import CaptionedPictures, Reader
from p3s.ssr.file import SSRModel, load_ssr, save_ssr
from p3s.ssr.state_file import load_state


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_files(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="module")
def trained(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out") / "ssr.safetensors"
    assert main(command(files, out)) == 0
    return out


def test_a_model_older_than_its_state_is_made_again(files, trained: Path, tmp_path: Path, capsys) -> None:
    """The process was killed between the two, at the last step."""
    out = tmp_path / "ssr.safetensors"
    assert main(command(files, out, "--steps", "2")) == 0
    shutil.copy(trained.with_suffix(".state"), tmp_path)
    assert main(command(files, out)) == 0
    assert f"3 of 3 steps: saved to {out}" in capsys.readouterr().out
    assert out.read_bytes() == trained.read_bytes()


@pytest.mark.parametrize("done", [0, 1])
def test_out_of_memory_advises_what_then_works(files, tmp_path: Path, monkeypatch, capsys, done: int) -> None:
    out, plain = tmp_path / "ssr.safetensors", ssr_train.Trainer.batch

    def batch(self: Any, samples: Any, numbers: Any) -> Any:
        if self.done == done and not (len(samples) == 1 and self.run.checkpointing and self.run.precision == "bf16"):
            raise RuntimeError("CUDA out of memory")
        return plain(self, samples, numbers)

    monkeypatch.setattr(ssr_train.Trainer, "batch", batch)
    assert main(command(files, out)) == 1
    said = capsys.readouterr().err
    ways = "out of memory: try a smaller --batch-size (now 2), --checkpointing, --precision bf16"
    assert (f"{ways}, a smaller --resolution (CUDA" if not done else f"{ways} (CUDA") in said
    assert ("(0 of 3 steps, nothing to save)" if not done else f"(1 of 3 steps: saved to {out})") in said
    assert len(list(tmp_path.iterdir())) == 2 * done
    assert main(command(files, out, "--batch-size", "1", "--checkpointing", "--precision", "bf16")) == 0
    said = capsys.readouterr().out
    assert ("continues after step 1, with precision bf16 (was fp32), batch_size 1 (was 2)" in said) == bool(done)
    assert load_state(tmp_path / "ssr.state").samples == (3 if not done else 4)
    made = json.loads(read_header(out)[0]["made"])
    assert (made["trained_steps"], made["precision"], made["batch_size"]) == (3, "bf16", "1")


def test_a_loss_of_nan_advises_what_then_works(files, tmp_path: Path, monkeypatch, capsys) -> None:
    out, plain = tmp_path / "ssr.safetensors", ssr_train.Trainer.batch

    def batch(self: Any, samples: Any, numbers: Any) -> Any:
        found, broken = plain(self, samples, numbers), self.done == 1 and self.settings.learning_rate == 0.01
        return found._replace(x=found.x * torch.nan) if broken else found

    monkeypatch.setattr(ssr_train.Trainer, "batch", batch)
    assert main(command(files, out)) == 1
    assert f"the loss is nan: lower the learning rate (1 of 3 steps: saved to {out})" in capsys.readouterr().err
    assert main(command(files, out, "--learning-rate", "0.001")) == 0
    assert "continues after step 1, with learning_rate 0.001 (was 0.01)" in capsys.readouterr().out


@pytest.mark.parametrize("gone", [False, True])
def test_a_bad_picture_is_replaced_as_the_message_says(files, tmp_path: Path, capsys, gone: bool) -> None:
    """The list stays as it is. A picture that is gone is also missed at the start."""
    data, out = write_pictures(tmp_path, 6), tmp_path / "out" / "ssr.safetensors"
    with Reader(CaptionedPictures(data), 0, 2, 8, 8) as reader:
        bad = reader.data[reader.row(4)]  # the first of the third step
    bad.picture.write_bytes(b"no picture")
    arguments = command(files, out, data=data)
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert f"line {bad.line}: {bad.picture} is not in a picture format" in said and "(2 of 3 steps: saved to" in said
    assert "Replace it with another picture of the same name, then continue." in said
    if gone:
        bad.picture.unlink()
        assert main(arguments) == 1
        assert "To continue a training, keep the lines and put the pictures there" in capsys.readouterr().err
    write_png(torch.rand(40, 40, 3), bad.picture)
    assert main(arguments) == 0
    assert "continues after step 2\n" in capsys.readouterr().out


def test_nothing_is_lost_where_nothing_can_be_saved_either(files, tmp_path: Path, monkeypatch, capsys) -> None:
    """Both problems are named."""

    def save_last(*_: Any) -> None:
        raise ssr_train.TrainingError("the disk is full")

    monkeypatch.setattr(ssr_train.Keeper, "save_last", save_last)
    monkeypatch.setattr(ssr_train.Trainer, "batch", lambda *_: (_ for _ in ()).throw(RuntimeError("out of memory")))
    assert main(command(files, tmp_path / "ssr.safetensors")) == 1
    assert "(out of memory); and then: the disk is full" in capsys.readouterr().err


# from a trained one

STILL = ("--learning-rate", "0", "--weight-decay", "0", "--steps", "1")  # a training that changes nothing


def tensors(model: SSRModel) -> dict[str, torch.Tensor]:
    return {**model.aligner.state_dict(), **model.layers}


@pytest.mark.parametrize("container", ["one file", "two files", "three scales"])
def test_training_starts_from_a_trained_one(files, trained: Path, tmp_path: Path, container: str) -> None:
    origin, out, given = load_ssr(trained), tmp_path / "new.safetensors", [str(trained)]
    if container == "two files":
        given = [str(tmp_path / name) for name in ("ssr_aligner.safetensors", "ssr_layers.safetensors")]
        save_file(origin.aligner.state_dict(), given[0])
        save_file({name: tensor.half() for name, tensor in origin.layers.items()}, given[1])
        origin = load_ssr(*given)
    elif container == "three scales":
        aligner = random_aligner(query=origin.aligner.to_q.in_features, vision=64)
        given = [str(save_ssr(SSRModel(aligner, origin.layers, ""), tmp_path / "three.safetensors"))]
        origin = load_ssr(*given)
    assert main(command(files, out, "--from", *given, *STILL)) == 0
    found, expected = load_ssr(out), tensors(origin)
    assert found.aligner.heads == origin.aligner.heads and tensors(found).keys() == expected.keys()
    assert all(torch.equal(tensor, expected[name].float()) for name, tensor in tensors(found).items())
    assert json.loads(read_header(out)[0]["made"])["start"] == f"from {origin.sha256[:16]}"


def test_it_is_a_fact_which_one_a_training_started_from(files, trained: Path, tmp_path: Path, capsys) -> None:
    out, once = tmp_path / "new.safetensors", command(files, tmp_path / "new.safetensors", "--from", str(trained))
    assert main([*once, "--steps", "2"]) == 0
    other = save_ssr(SSRModel(load_ssr(trained).aligner, load_ssr(out).layers, ""), tmp_path / "other.safetensors")
    sha, another = (load_ssr(path).sha256[:16] for path in (trained, other))
    for arguments, now in (
        (command(files, out, "--from", str(other)), f"from {another}"),
        (command(files, out), "random"),
    ):
        assert main(arguments) == 1
        assert f"start was from {sha}, and is {now} now" in capsys.readouterr().err
    assert main(once) == 0
    assert "continues after step 2\n" in capsys.readouterr().out


def test_one_that_does_not_fit_is_refused_before_the_work(files, trained: Path, tmp_path: Path, monkeypatch, capsys):
    origin = load_ssr(trained)
    narrow = random_aligner(query=origin.aligner.to_q.in_features, vision=20)
    monkeypatch.setattr(ssr_train, "facts", lambda *_: pytest.fail("the work has begun"))
    for model, message in (
        (random_model(), "this SSR-Encoder was made for a U-Net with"),
        (SSRModel(narrow, origin.layers, ""), "this SSR-Encoder reads 3 states, 20 wide"),
    ):
        (tmp_path / "other.safetensors").unlink(missing_ok=True)
        other = save_ssr(model, tmp_path / "other.safetensors")
        assert main(command(files, tmp_path / "ssr.safetensors", "--from", str(other))) == 1
        assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["other.safetensors"]
