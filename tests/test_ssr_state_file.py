"""What is kept of an SSR-Encoder's training: the model, and the state from which it is continued."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import torch
from ssr_runs import same, trained, trainer_on, write_pictures

from p3s.errors import DamagedStateError, SSRFileError, TrainingError
from p3s.safetensors_format import read_header
from p3s.ssr import state_file
from p3s.ssr.file import load_ssr, save_ssr
from p3s.ssr.state_file import Keeper, State, load_state, save_state


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def state(file: Path) -> State:
    trainer = trainer_on(file, steps=1)
    trained(trainer)
    return trainer.state()


def test_the_models_file_is_the_trained_one(file: Path, tmp_path: Path) -> None:
    trainer = trainer_on(file)
    trained(trainer)
    keeper = Keeper(tmp_path / "new" / "ssr.safetensors", pytest.fail)
    keeper.check()
    assert keeper.save_last(trainer.state(), trainer.model(), {"seed": "0"}) == keeper.files.model
    read = load_ssr(keeper.files.model)
    assert read.aligner.heads == 2
    found = {f"aligner.{k}": t for k, t in read.aligner.state_dict().items()}
    found |= {f"layers.{k}": t for k, t in read.layers.items()}
    expected = trainer.trainee.state_dict()
    assert found.keys() == expected.keys() and all(torch.equal(t, expected[k]) for k, t in found.items())
    assert {path.name for path in keeper.files.model.parent.iterdir()} == {"ssr.safetensors", "ssr.state"}


def test_any_damage_of_a_state_is_noticed(state: State, tmp_path: Path) -> None:
    path = save_state(state, tmp_path / "a.state")
    assert same(load_state(path), state)
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    places = [*range(0, length, 97), *range(length, len(whole), len(whole) // 40), len(whole) - 1]
    for place in places:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        try:
            assert same(load_state(path), state), place  # padding, or the metadata's order
        except DamagedStateError as error:
            assert "a.state is damaged, or not the state" in str(error) and "Remove it to start over" in str(error)
    for content in (b"", whole[: len(whole) // 2], b"PK\x03\x04" + whole):
        path.write_bytes(content)
        with pytest.raises(DamagedStateError):
            load_state(path)


def test_what_is_in_the_way_is_refused_before_the_work(state: State, tmp_path: Path, monkeypatch) -> None:
    def refused(path: Path, message: str) -> None:
        with pytest.raises(TrainingError, match=message):
            Keeper(path, pytest.fail).check()

    with pytest.raises(TrainingError, match=r"end its name in \.safetensors"):
        Keeper(tmp_path / "ssr.bin", pytest.fail)
    (tmp_path / "old.safetensors").write_bytes(b"a model")
    refused(tmp_path / "old.safetensors", r"already exists, without old\.state")
    (tmp_path / "a.state").mkdir()
    refused(tmp_path / "a.safetensors", "a.state is a folder")
    refused(tmp_path / "old.safetensors" / "b.safetensors", "nothing can be written there")
    save_state(state, tmp_path / "old.state")
    Keeper(tmp_path / "old.safetensors", pytest.fail).check()
    keeper = Keeper(tmp_path / "new.safetensors", pytest.fail)
    keeper.check_room(1000)
    with pytest.raises(TrainingError, match=r"model and state take .* MiB more, and the disk has .* MiB free"):
        keeper.check_room(10**15)
    assert (tmp_path / "old.safetensors").read_bytes() == b"a model"


def test_a_full_disk_costs_nothing(file: Path, tmp_path: Path, monkeypatch) -> None:
    """On the way it is a warning, at the end a new temporary folder takes both files; those of before stay."""
    spare, told = tmp_path / "spare", list[str]()
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    (tmp_path / "file").write_text("in the way of a folder")
    trainer = trainer_on(file, steps=1)
    trained(trainer)
    rescued: list[Path] = []
    for _ in range(2):
        keeper = Keeper(tmp_path / "file" / "ssr.safetensors", told.append)
        keeper.save(trainer.state(), trainer.model(), {})
        assert "step 1 could not be saved: Could not save in" in told.pop()
        saved = keeper.save_last(trainer.state(), trainer.model(), {})
        assert saved is not None and saved.name == "ssr.safetensors" and saved.parent.parent == spare
        assert f"Model and state of step 1 are in {saved.parent}: move both" in told.pop()
        rescued.append(saved)
    assert rescued[0] != rescued[1]
    for saved in rescued:
        assert same(load_state(saved.with_suffix(".state")), trainer.state()) and load_ssr(saved)


def test_a_state_without_its_model_is_told_apart(file: Path, tmp_path: Path, monkeypatch) -> None:
    """The disk is full between the two, everywhere."""
    told, spare = list[str](), tmp_path / "spare"
    spare.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(spare))
    keeper, trainer = Keeper(tmp_path / "ssr.safetensors", told.append), trainer_on(file)
    kept = trainer_on(file)
    kept.restore(after(file, 1))
    keeper.save(kept.state(), kept.model(), {})
    trained(trainer, 2)

    def full(*_: Any, **__: Any) -> None:
        raise SSRFileError("Could not save: the disk is full.")

    steps = "ssr.state has step 2, ssr.safetensors has step 1"
    with monkeypatch.context() as patch:
        patch.setattr(state_file, "save_ssr", full)
        keeper.save(trainer.state(), trainer.model(), {})
        assert steps in told.pop()
        with pytest.raises(TrainingError, match=f"the disk is full. {steps}") as caught:
            keeper.save_last(trainer.state(), trainer.model(), {})
    (folder,) = spare.iterdir()
    assert f"{folder}: ssr.state has step 2, ssr.safetensors has no step" in str(caught.value)
    assert keeper.save_last(trainer.state(), trainer.model(), {}) == tmp_path / "ssr.safetensors"
    assert keeper.steps == "ssr.state has step 2, ssr.safetensors has step 2" and not told


def after(file: Path, steps: int) -> State:
    trainer = trainer_on(file)
    trained(trainer, steps)
    return trainer.state()


@pytest.mark.parametrize("kind", ["older", "cut off", "of another program"])
def test_a_model_that_is_not_of_its_states_step_is_written_again(file: Path, tmp_path: Path, kind: str) -> None:
    """A process was killed between the state and the model."""
    path, trainer = tmp_path / "ssr.safetensors", trainer_on(file)
    keeper = Keeper(path, pytest.fail)
    trained(trainer, 1)
    keeper.save(trainer.state(), trainer.model(), {"seed": "0"})
    trainer = trainer_on(file)
    trained(trainer, 2)
    if kind == "older":
        save_state(trainer.state(), tmp_path / "ssr.state")
    else:
        keeper.save(trainer.state(), trainer.model(), {"seed": "0"})
        if kind == "cut off":
            path.write_bytes(path.read_bytes()[:-1])
        else:
            save_ssr(trainer.model(), path, overwrite=True)
    again = Keeper(path, pytest.fail)
    state = again.load()
    assert state is not None and state.step == 2
    continued = trainer_on(file)
    continued.restore(state)
    assert again.save_last(continued.state(), continued.model(), {"seed": "0"}) == path
    made = json.loads(read_header(path)[0]["made"])
    assert made == {"seed": "0", "trained_steps": 2, "trained_samples": 4}
    found, weights = load_ssr(path), trainer.trainee.state_dict()
    assert all(torch.equal(tensor, weights[f"layers.{name}"]) for name, tensor in found.layers.items())


def test_what_is_on_the_disk_is_not_written_again(state: State, file: Path, tmp_path: Path, monkeypatch) -> None:
    keeper, model = Keeper(tmp_path / "ssr.safetensors", pytest.fail), trainer_on(file).model()
    keeper.save(state, model, {})
    restored = Keeper(tmp_path / "ssr.safetensors", pytest.fail)
    restored.load()
    files = [tmp_path / "ssr.safetensors", tmp_path / "ssr.state"]
    before = [path.stat().st_ino for path in files]
    for each in (keeper, restored):
        each.save_last(state, model, {})
    assert [path.stat().st_ino for path in files] == before  # a file that is written again is another one
    files[0].unlink()  # the model is made again from its state
    restored.save_last(state, model, {})
    assert files[0].is_file()


def test_before_the_first_step_nothing_is_written_and_such_a_state_is_none(file: Path, tmp_path: Path) -> None:
    keeper, trainer = Keeper(tmp_path / "ssr.safetensors", pytest.fail), trainer_on(file)
    keeper.save(trainer.state(), trainer.model(), {})
    assert keeper.save_last(trainer.state(), trainer.model(), {}) is None and not list(tmp_path.iterdir())
    save_state(trainer.state(), tmp_path / "ssr.state")
    assert keeper.load() is None
