"""The file of a training's state: what it holds, older versions, damage, and disks that do not take it."""

import json
import os
import random
from collections.abc import Mapping
from dataclasses import fields, is_dataclass, replace
from pathlib import Path

import pytest
import torch
from small import TOKEN_DIM, random_examples, random_unet, train
from subjects import rewrite

from p3s.errors import DamagedStateError, SubjectFileError, TrainingError
from p3s.network.copy_settings import CopySettings
from p3s.network.copy_start import start_copy
from p3s.network.unet import UNet
from p3s.network.unet_config import UNetConfig
from p3s.safetensors_format import read_header
from p3s.sampling.diffusion import NoiseSchedule
from p3s.training.examples import Example
from p3s.training.settings import TrainSettings
from p3s.training.state import Checkpoints, Divergence, StateHead
from p3s.training.state_file import NOTE_SIZE, load_head, load_state, mark_diverged, save_state

#: Written by the last code that wrote version 2: see ``test_a_state_of_version_2_goes_on_as_it_would_have``.
V2 = Path(__file__).with_name("data") / "state_v2.training"
TINY = UNetConfig.build(32, (1,), res_blocks=1, transformer_depth=(1,), context_dim=8)
NOISE = NoiseSchedule.stable_diffusion()
EMPTY = torch.randn(7, TINY.context_dim, generator=torch.Generator().manual_seed(99))
DIVERGED = Divergence(3, {"learning_rate": "0.001", "precision": "'fp32'"})


def views_of_two_photos():
    """Three examples; the first and the last are views of one photo, and share its tensors."""
    first, second = random_examples(2, size=4, config=TINY)
    return [first, second, replace(first, view=first.latent.flip(2), loss_mask=torch.ones(4, 4))]


EXAMPLES = views_of_two_photos()


@pytest.fixture(scope="module")
def base():
    return random_unet(TINY)


def fresh(base, **settings):
    return start_copy(base.state_dict(), CopySettings(**{"kind": "lora", "rank": 1, **settings}), TOKEN_DIM)


def run(base, copy, stop=None, checkpoints=None, resume=None, callback=None, **settings):
    settings = TrainSettings(**{"steps": 5, "learning_rate": 1e-3, **settings})
    callback = callback or (lambda report: report.step != stop)
    return train(base, copy, EXAMPLES, EMPTY, NOISE, settings, callback, checkpoints, resume)


@pytest.fixture
def kept(tmp_path):
    return Checkpoints(tmp_path / "state.p3s")


@pytest.fixture
def state(base, kept, monkeypatch):
    """A state as it was before it was written to ``kept.path``."""
    states = []
    monkeypatch.setattr(
        "p3s.training.state_keeper.save_state", lambda state, path: states.append(state) or save_state(state, path)
    )
    run(base, fresh(base, weight="learned"), 2, kept, precision="fp16")
    monkeypatch.undo()
    return states[0]


def leaves(value, path=()):
    """All that a state holds, by the way to it; a tensor with the first way to it. (Lists may be tuples.)"""
    if is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return [leaf for key, item in value.items() for leaf in leaves(item, (*path, key))]
    if isinstance(value, (list, tuple)):
        return [leaf for i, item in enumerate(value) for leaf in leaves(item, (*path, i))]
    return [(path, value)]


def same(a, b):
    """Whether two states hold the same, bit for bit, and what is one tensor in one of them is so in the other."""
    ours, theirs = leaves(a), leaves(b)
    first = {}, {}

    def equal(way, x, y):
        if not isinstance(x, torch.Tensor) or not isinstance(y, torch.Tensor):
            return type(x) is type(y) and x == y
        ways = (known.setdefault(id(t), way) for known, t in zip(first, (x, y), strict=True))
        return len(set(ways)) == 1 and x.dtype == y.dtype and torch.equal(x, y)

    return len(ours) == len(theirs) and all(
        way == other and equal(way, x, y) for (way, x), (other, y) in zip(ours, theirs, strict=True)
    )


def head_of(state):
    return StateHead(**{field.name: getattr(state, field.name) for field in fields(StateHead)})


def test_a_state_comes_back_as_it_was(state, kept):
    """Also that views of one photo share its tensors: by that they are told from other photos."""
    loaded, head = load_state(kept.path), load_head(kept.path)
    assert same(loaded, state)
    assert state.weights and state.optimizer["state"] and state.scaler and state.queue
    assert loaded.examples[0].latent is loaded.examples[2].latent is not loaded.examples[1].latent
    assert same(head, head_of(state))


def test_a_training_on_views_of_a_photo_is_resumed_bit_for_bit(base, kept):
    whole, again = fresh(base), fresh(base)
    expected = run(base, whole)
    run(base, fresh(base), 2, kept)
    assert run(base, again, resume=load_state(kept.path)).reports == expected.reports
    assert all(torch.equal(weight, again.state_dict()[key]) for key, weight in whole.state_dict().items())


def test_the_head_is_read_without_the_rest(state, kept):
    content = bytearray(kept.path.read_bytes())
    weights = state.weights["unet.time_embed.0.down.weight"].numpy().tobytes()
    content[content.index(weights)] ^= 1
    kept.path.write_bytes(content)
    assert load_head(kept.path).inputs == state.inputs
    with pytest.raises(DamagedStateError, match=r"state\.p3s is damaged"):
        load_state(kept.path)


# Older versions


def pattern(*shape):
    """Numbers that every machine computes alike."""
    return ((torch.arange(torch.Size(shape).numel()) * 37) % 101 - 50).reshape(shape) / 256


def test_a_state_of_version_2_goes_on_as_it_would_have():
    """The losses of steps 3 to 5 are those that the code of that version gave."""
    base = UNet(TINY)
    with torch.no_grad():
        for p in base.parameters():
            p.copy_(pattern(*p.shape) + (p.ndim == 1))
    photos = [Example(4 * pattern(4, 4, 4) + i, 2 * pattern(5, 6) - i, 3 * pattern(3, 8)) for i in (0, 1)]
    view = replace(photos[0], view=4 * pattern(4, 4, 4).flip(1), loss_mask=torch.ones(4, 4))
    copy = start_copy(base.state_dict(), CopySettings(kind="lora", rank=1, weight="learned"), 6)
    settings = TrainSettings(steps=5, learning_rate=1e-2, precision="fp16")
    result = train(
        base.requires_grad_(False), copy, [*photos, view], pattern(3, 8) * 0, NOISE, settings, resume=load_state(V2)
    )
    assert result.completed
    expected = [3.0562074184417725, 3.3230824, 3.5884871, 3.4704840, 3.4242928]
    assert [report.denoising for report in result.reports] == pytest.approx(expected, rel=1e-3)


def test_a_state_of_version_2_is_written_anew_as_it_is(kept):
    old = load_state(V2)
    save_state(old, kept.path)
    assert same(load_state(kept.path), old)
    assert same(head_of(load_head(V2)), head_of(old))


def test_that_a_state_of_version_2_diverged_is_noted(kept):
    kept.path.write_bytes(V2.read_bytes())
    mark_diverged(kept.path, DIVERGED)
    assert same(load_state(kept.path), replace(load_state(V2), diverged=DIVERGED))


# How it went on


def test_a_note_is_written_in_place_and_nothing_else(state, kept, monkeypatch):
    before = kept.path.read_bytes()
    monkeypatch.setattr("p3s.training.state_file.write_atomic", None)
    for diverged in (DIVERGED, replace(DIVERGED, step=4)):
        mark_diverged(kept.path, diverged)
        assert load_state(kept.path).diverged == load_head(kept.path).diverged == diverged
    after = kept.path.read_bytes()
    assert len(after) == len(before) and after[:-NOTE_SIZE] == before[:-NOTE_SIZE]


def test_a_disk_that_does_not_take_the_note_leaves_the_state(base, kept, monkeypatch):
    run(base, fresh(base), 2, kept)
    before = load_state(kept.path)

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("p3s.training.gradients.read", lambda *_: ([0.0] * 3, False))
    monkeypatch.setattr(os, "fsync", full)
    result = run(base, fresh(base), checkpoints=kept, resume=before)
    assert result.diverged
    assert any("could not be recorded" in warning and "No space left" in warning for warning in result.warnings)
    assert same(replace(load_state(kept.path), diverged=None), before)


def test_a_note_that_does_not_fit_is_refused(state, kept):
    with pytest.raises(SubjectFileError, match="too long"):
        mark_diverged(kept.path, Divergence(3, {"learning_rate": "1" * NOTE_SIZE, "precision": "'fp32'"}))
    assert same(load_state(kept.path), state)


# Damage


def damaged(content, rng):
    """One of the ways in which a file is spoiled: a flipped bit, bytes of garbage, a hole, or a cut."""
    content, at = bytearray(content), rng.randrange(len(content))
    how = rng.randrange(5)
    if how == 0:
        content[at] ^= 1 << rng.randrange(8)
    elif how == 1:
        content[at : at + 40] = rng.randbytes(rng.randrange(80))
    elif how == 2:
        content[at : at + 4096] = bytes(len(content[at : at + 4096]))
    elif how == 3:
        del content[at:]
    else:
        for _ in range(20):
            content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


def few_layers(weights, optimizer):
    """Three of the weights, and their moments: a file that is read and checked alike, in a tenth of the time."""
    return {
        "weights": dict(list(weights.items())[:3]),
        "optimizer": {**optimizer, "state": {number: optimizer["state"][number] for number in range(3)}},
    }


@pytest.mark.parametrize("version", [2, 3, "3, noted"])
def test_any_damage_is_noticed_or_harmless(base, kept, version):
    """Harmless are dates and padding of the archive that version 2 is, and what happens to be equal."""
    content = torch.load(V2, weights_only=True)
    torch.save({**content, **few_layers(content["weights"], content["optimizer"])}, kept.path)
    if version != 2:
        save_state(load_state(kept.path), kept.path)
    if version == "3, noted":
        mark_diverged(kept.path, DIVERGED)
    whole, content = load_state(kept.path), kept.path.read_bytes()
    rng, refused, heads = random.Random(0), 0, 0
    for _ in range(400):
        kept.path.write_bytes(damaged(content, rng))
        try:
            assert same(load_state(kept.path), whole)
        except DamagedStateError as error:
            assert str(error).startswith(kept.path.name)
            refused += 1
        try:
            assert same(head_of(load_head(kept.path)), head_of(whole))
        except DamagedStateError:
            heads += 1
    assert refused > (250 if version == 2 else 380)
    assert heads > 100


def test_a_bit_that_flips_in_what_is_read_first_is_noticed(state, kept):
    """Of the head's JSON, of each of its tensors, and of all bytes of the note: the rest, which has a checksum of its
    own, is not read then."""
    state = replace(state, **few_layers(state.weights, state.optimizer))
    save_state(state, kept.path)
    mark_diverged(kept.path, DIVERGED)
    whole = kept.path.read_bytes()
    metadata, entries, data_size = read_header(kept.path)
    start, head = len(whole) - data_size, json.dumps(metadata["head"])[1:-1].encode()
    tensors = [start + entry["data_offsets"][0] for name, entry in entries.items() if name.startswith("head.")]
    assert len(tensors) > 5
    places = [whole.index(head) + head.index(b"0.001") + 4, *tensors, *range(len(whole) - NOTE_SIZE, len(whole))]
    for at in places:
        kept.path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(DamagedStateError, match=r"state\.p3s is damaged"):
            load_head(kept.path)
    kept.path.write_bytes(whole)
    assert same(load_head(kept.path), replace(head_of(state), diverged=DIVERGED))


@pytest.mark.parametrize("version", [2, 3])
def test_what_cannot_be_read_now_is_not_called_damaged(base, kept, monkeypatch, version):
    """It may be whole: the node begins anew, over it, where a state is damaged."""
    kept.path.write_bytes(V2.read_bytes())
    if version == 3:
        save_state(load_state(V2), kept.path)

    def fail(*_, **__):
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, "empty" if version == 3 else "load", fail)
    with pytest.raises(TrainingError, match=r"cannot be read: .*can't allocate memory.* turn resume off") as error:
        load_state(kept.path)
    assert not isinstance(error.value, DamagedStateError)
    monkeypatch.undo()
    with pytest.raises(TrainingError, match="cannot be read: No such file") as error:
        load_state(kept.path.with_name("nowhere"))
    assert not isinstance(error.value, DamagedStateError)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"x" * 100])
def test_other_files_are_refused(tmp_path, content):
    path = tmp_path / "state.p3s"
    path.write_bytes(content)
    for load in (load_state, load_head):
        with pytest.raises(DamagedStateError, match=r"state\.p3s is damaged"):
            load(path)


def test_states_of_other_versions_and_other_contents_are_refused(state, kept):
    torch.save({"state_dict": {}}, kept.path)
    with pytest.raises(DamagedStateError, match="not the state of a training"):
        load_state(kept.path)
    torch.save({"format_version": 99}, kept.path)
    with pytest.raises(DamagedStateError, match="another version"):
        load_state(kept.path)
    save_state(state, kept.path)
    rewrite(kept.path, lambda header: header["__metadata__"].update(format_version="4"))
    with pytest.raises(DamagedStateError, match="another version"):
        load_head(kept.path)
    before = {name: getattr(EXAMPLES[0], field) for field, name in Example.STORED.items()}  # None where it has none
    old = {"format_version": 2, "inputs": {}, "examples": [before], "empty_prompt": EMPTY, "reports": []}
    old |= {"diverged": None, "weights": {}, "optimizer": {}, "scaler": {}, "generator": EMPTY, "queue": []}
    torch.save(old, kept.path)
    assert load_head(kept.path).examples[0].tokens.shape == EXAMPLES[0].tokens.shape
    for wrong in (
        {"examples": [{**before, "latent": 3}]},
        {"inputs": {"seed": 3}},
        {"diverged": {"step": 3, "inputs": {}}},
        {"more": 3},
    ):
        torch.save(old | wrong, kept.path)
        with pytest.raises(DamagedStateError, match="damaged, or not the state"):
            load_head(kept.path)


def test_a_file_cannot_run_code(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "made"),)

    torch.save({"format_version": 2, "weights": Evil()}, tmp_path / "state.p3s")
    with pytest.raises(DamagedStateError, match="damaged"):
        load_state(tmp_path / "state.p3s")
    assert not (tmp_path / "made").exists()


# Disks


def test_a_disk_that_does_not_take_the_state_does_not_stop_the_training(base, kept, monkeypatch):
    run(base, fresh(base), 2, kept)
    before = kept.path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    result = run(base, fresh(base), 3, replace(kept, every=1))
    assert len(result.reports) == 3 and result.error is None
    assert any("the disk is full" in warning for warning in result.warnings)
    assert kept.path.read_bytes() == before
    assert os.listdir(kept.path.parent) == [kept.path.name]


@pytest.mark.skipif(os.name == "nt", reason="needs limits of file sizes")
@pytest.mark.parametrize("room", [1, 1000, 100_000])
def test_a_disk_that_is_full_in_the_middle_of_the_state_is_a_warning(base, kept, room):
    import resource

    run(base, fresh(base), 2, kept)
    before, copy = kept.path.read_bytes(), fresh(base)
    assert len(before) > room
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        result = run(base, copy, 3, replace(kept, every=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(result.reports) == 3 and result.error is None
    assert result.warnings and all("File too large" in warning for warning in result.warnings)
    assert kept.path.read_bytes() == before
    assert os.listdir(kept.path.parent) == [kept.path.name]


def test_saving_says_when_the_disk_does_not_take_it(state, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SubjectFileError, match="Could not save"):
        save_state(state, tmp_path / "file" / "state.p3s")
