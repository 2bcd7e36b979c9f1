import dataclasses
import hashlib
import json
import os
import random
import threading
import time

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from subjects import make_subject, rewrite, same

from p3s.errors import SubjectFileError
from p3s.file_writing import free_path, safe_name
from p3s.safetensors_format import MAX_HEADER
from p3s.subject.base_fingerprint import fingerprint
from p3s.subject.file import SubjectReference, load_info, load_subject, save_new_subject, save_subject
from p3s.subject.info import info_from_json, info_to_json


@pytest.fixture
def saved(tmp_path):
    return save_subject(make_subject(), tmp_path / "subject.safetensors")


# Round trip


@pytest.mark.parametrize("references", [1, 3])
def test_round_trip(tmp_path, references):
    subject = make_subject(references)
    path = save_subject(subject, tmp_path / "a.safetensors")
    assert same(subject, load_subject(path))


def test_the_library_reads_the_file(saved):
    subject = make_subject()
    tensors = load_file(saved)
    assert set(tensors) == {f"copy.{key}" for key in subject.weights} | {"reference.0.latent", "reference.0.tokens"}
    for key, tensor in subject.weights.items():
        assert torch.equal(tensors[f"copy.{key}"], tensor)


def test_equal_subjects_give_equal_bytes(tmp_path):
    first = make_subject()
    second = dataclasses.replace(first, weights=dict(reversed(first.weights.items())))
    a, b = save_subject(first, tmp_path / "a.safetensors"), save_subject(second, tmp_path / "b.safetensors")
    assert a.read_bytes() == b.read_bytes()


def test_strided_and_trained_tensors_are_saved_whole(tmp_path):
    subject = make_subject()
    subject.weights["t"] = torch.arange(6.0).reshape(2, 3).T.requires_grad_()
    loaded = load_subject(save_subject(subject, tmp_path / "a.safetensors"))
    assert torch.equal(loaded.weights["t"], torch.tensor([[0.0, 3], [1, 4], [2, 5]]))


def test_loaded_tensors_do_not_depend_on_the_file(saved):
    loaded = load_subject(saved)
    saved.write_bytes(b"\0" * saved.stat().st_size)
    assert same(loaded, make_subject())


def test_unknown_facts_of_the_same_version_are_kept(tmp_path):
    subject = make_subject(extra={"losses": [1.0, 0.5], "note": {"deep": None}})
    path = save_subject(subject, tmp_path / "a.safetensors")
    loaded = load_subject(path)
    assert loaded.info.extra == {"losses": [1.0, 0.5], "note": {"deep": None}}
    again = save_subject(loaded, tmp_path / "b.safetensors")
    assert again.read_bytes() == path.read_bytes()


def test_the_info_is_read_without_the_tensors(saved):
    assert load_info(saved) == make_subject().info
    whole = saved.read_bytes()
    saved.write_bytes(whole[:-1] + b"\xff")
    assert load_info(saved) == make_subject().info
    saved.write_bytes(whole[:-1])
    with pytest.raises(SubjectFileError, match=r"^subject.safetensors: .*cut off"):
        load_info(saved)
    with pytest.raises(SubjectFileError, match="no such file"):
        load_info(saved.parent / "other.safetensors")


def test_facts_that_older_files_lack_are_empty(tmp_path):
    losses = {"loss": [1.0, 0.5], "step": [1, 2]}
    subject = make_subject(training_key="ef" * 32, sketches={"view": [[1.5, -2.0]]}, loss_map=losses)
    path = save_subject(subject, tmp_path / "a.safetensors")
    assert same(load_subject(path), subject)
    old = json.loads(info_to_json(subject.info))
    del old["training_key"], old["sketches"], old["loss_map"]
    assert info_from_json(json.dumps(old)) == make_subject().info


@pytest.mark.parametrize("losses", [{"loss": 1}, {"loss": ["1"]}, {"loss": [1.0], "step": []}, {"loss": [True]}])
def test_losses_that_are_no_lists_of_numbers_are_refused(losses):
    with pytest.raises(SubjectFileError, match="loss_map"):
        info_to_json(make_subject(loss_map=losses).info)


@pytest.mark.parametrize("sketches", [{"view": 1}, {"view": [1.0]}, {"view": [["1"]]}, {"view": [[True]]}])
def test_sketches_that_are_no_lists_of_numbers_are_refused(sketches):
    with pytest.raises(SubjectFileError, match="sketches"):
        info_to_json(make_subject(sketches=sketches).info)


def test_a_model_manager_may_edit_the_title(saved):
    def edit(header):
        assert header["__metadata__"]["modelspec.title"] == "sks"
        assert header["__metadata__"]["modelspec.license"] == "CC BY 4.0"
        header["__metadata__"]["modelspec.title"] = "my dog"
        header["__metadata__"]["modelspec.tags"] = "dog"

    rewrite(saved, edit)
    assert same(load_subject(saved), make_subject())


# Saving


def test_does_not_overwrite_unless_asked(saved):
    before = saved.read_bytes()
    other = make_subject(identifier="other")
    with pytest.raises(SubjectFileError, match="already exists"):
        save_subject(other, saved)
    assert saved.read_bytes() == before
    save_subject(other, saved, overwrite=True)
    assert load_subject(saved).info.identifier == "other"
    assert os.listdir(saved.parent) == [saved.name]


def test_folders_are_made_and_the_umask_is_respected(tmp_path):
    path = save_subject(make_subject(), tmp_path / "a" / "b" / "s.safetensors")
    plain = tmp_path / "plain"
    plain.touch()
    assert path.stat().st_mode == plain.stat().st_mode


class FullDisk:
    """Stands in for a file on a disk that has room for a few bytes only."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def __getattr__(self, name):
        return getattr(self.file, name)

    def __enter__(self):
        self.file.__enter__()
        return self

    def __exit__(self, *exception):
        return self.file.__exit__(*exception)

    def write(self, data):
        self.room -= len(data)
        if self.room < 0:
            self.file.write(bytes(data)[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return self.file.write(data)


@pytest.mark.parametrize("share", [0, 0.2, 0.99])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(saved, monkeypatch, share):
    before = saved.read_bytes()
    room = int(share * len(before))
    real_open = open
    monkeypatch.setattr("builtins.open", lambda *a, **k: FullDisk(real_open(*a, **k), room))
    with pytest.raises(SubjectFileError, match=r"the disk is full.*unchanged"):
        save_subject(make_subject(prompt="a longer prompt" * 10), saved, overwrite=True)
    monkeypatch.undo()
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


@pytest.mark.parametrize("name", ["fsync", "replace"])
def test_a_failure_late_in_saving_leaves_the_old_file(saved, monkeypatch, name):
    before = saved.read_bytes()

    def fail(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, name, fail)
    with pytest.raises(SubjectFileError, match="not permitted"):
        save_subject(make_subject(prompt="new"), saved, overwrite=True)
    assert saved.read_bytes() == before
    assert os.listdir(saved.parent) == [saved.name]


def test_an_interrupt_while_writing_leaves_nothing(tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_subject(make_subject(), tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SubjectFileError, match="Could not save in"):
        save_subject(make_subject(), tmp_path / "file" / "a.safetensors")


def test_without_hard_links(tmp_path, monkeypatch):
    def unsupported(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", unsupported)
    first = save_new_subject(make_subject(), tmp_path, "s")
    second = save_new_subject(make_subject(), tmp_path, "s")
    assert [first.name, second.name] == ["s.safetensors", "s_00002.safetensors"]
    assert sorted(os.listdir(tmp_path)) == [first.name, second.name]


def test_savers_at_the_same_time_get_names_of_their_own(tmp_path):
    paths = []
    threads = [
        threading.Thread(target=lambda i=i: paths.append(save_new_subject(make_subject(steps=i), tmp_path, "s")))
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(paths)) == 8
    assert {load_subject(path).info.steps for path in paths} == set(range(8))
    assert len(os.listdir(tmp_path)) == 8


def test_leftovers_of_a_killed_process_go_after_a_day(tmp_path):
    old, new = tmp_path / ".p3s-00.tmp", tmp_path / ".p3s-01.tmp"
    old.touch()
    new.touch()
    os.utime(old, (time.time() - 2 * 86400,) * 2)
    save_subject(make_subject(), tmp_path / "a.safetensors")
    assert sorted(os.listdir(tmp_path)) == [new.name, "a.safetensors"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"points": ()}, "1 references but 0 point sets"),
        ({"image_hashes": ("a", "b")}, "1 references but 2 image hashes"),
        ({"points": ("{",)}, "points of reference 1"),
        ({"prediction": "x0"}, "neither eps nor v"),
        ({"steps": -1}, "negative"),
        ({"steps": 1.5}, "'steps' is not of type int"),
        ({"train_settings": {"lr": float("nan")}}, "cannot be written as JSON"),
        ({"train_settings": {"x": object()}}, "cannot be written as JSON"),
        ({"prompt": "\ud800"}, "prompt must be text that a file can hold"),
        ({"identifier": None}, "identifier must be text; got None"),
        ({"licence": "x" * MAX_HEADER}, "licence has 16777216 characters; a subject file holds at most 65536"),
        ({"train_settings": {"x": "x" * MAX_HEADER}}, "are allowed"),
    ],
)
def test_what_would_not_load_is_not_saved(tmp_path, changes, message):
    with pytest.raises(SubjectFileError, match=message):
        save_subject(make_subject(**changes), tmp_path / "a.safetensors")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_not_saved(tmp_path, value):
    subject = make_subject()
    subject.weights["zero.1.bias"][2] = value
    with pytest.raises(SubjectFileError, match=r"'zero\.1\.bias' holds values that are not finite"):
        save_subject(subject, tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    ("latent", "tokens", "message"),
    [
        (torch.zeros(4, 2, 2, dtype=torch.float16), torch.zeros(5, 6), "not float32"),
        (torch.zeros(1, 4, 2, 2), torch.zeros(5, 6), "latent of reference 1"),
        (torch.zeros(4, 2, 2), torch.zeros(1, 5, 6), "tokens of reference 1"),
        (torch.zeros(4, 2, 2), torch.zeros(6, 6), "square grid"),
        (torch.full((4, 2, 2), torch.nan), torch.zeros(5, 6), "not finite"),
    ],
)
def test_bad_references_are_not_saved(tmp_path, latent, tokens, message):
    subject = dataclasses.replace(make_subject(), references=(SubjectReference(latent, tokens),))
    with pytest.raises(SubjectFileError, match=message):
        save_subject(subject, tmp_path / "a.safetensors")


def test_references_of_different_width_are_not_saved(tmp_path):
    subject = make_subject(2)
    narrow = SubjectReference(subject.references[0].latent, torch.zeros(5, 3))
    with pytest.raises(SubjectFileError, match="reference 2 does not have as many channels as reference 1"):
        save_subject(dataclasses.replace(subject, references=(subject.references[0], narrow)), tmp_path / "a")


# Names


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("my dog", "my dog"),
        ("my dog.safetensors", "my dog"),
        ("../../etc/passwd", "_.._etc_passwd"),
        ("a/b\\c:d", "a_b_c_d"),
        ("C:\\x", "C__x"),
        ("..", "subject"),
        ("  . ", "subject"),
        ("", "subject"),
        ("a\0b\nc\u202ed", "a_b_c_d"),
        ("CON", "_CON"),
        ("con.txt", "_con.txt"),
        ("Lpt9 .x", "_Lpt9 .x"),
        ("CONE", "CONE"),
        ("犬" * 200, "犬" * 40),
        ("\ud800", "_"),
        ("Größe", "Größe"),
    ],
)
def test_safe_names(typed, name):
    assert safe_name(typed) == name


def test_any_name_stays_in_its_folder(tmp_path):
    rng = random.Random(3)
    letters = './\\:*?"<>|~ \0\n\taA\u202e\ud800犬CONcom1'
    for _ in range(2000):
        path = free_path(tmp_path, "".join(rng.choice(letters) for _ in range(rng.randrange(40))))
        assert path.parent == tmp_path
        assert len(path.name.encode()) < 200
        assert not path.name.startswith(".")
    save_new_subject(make_subject(), tmp_path, "a" * 5000)


def test_free_path_counts_up_and_minds_dangling_links(tmp_path):
    assert free_path(tmp_path, "x").name == "x.safetensors"
    (tmp_path / "x.safetensors").touch()
    (tmp_path / "x_00002.safetensors").symlink_to(tmp_path / "nowhere")
    assert free_path(tmp_path, "x").name == "x_00003.safetensors"


# What tells bases apart


def test_fingerprint_is_the_same_for_half_and_full_precision():
    generator = torch.Generator().manual_seed(0)
    shapes = ((320, 4, 3, 3), (70, 33), (1,), (0,), (), (256,), (257,))
    # A float32 checkpoint and the float16 file made from it; values from tiny to overflowing.
    full = {f"w{i}": torch.randn(s, generator=generator) * 10.0 ** (2 * i - 7) for i, s in enumerate(shapes)}
    half = {name: tensor.half() for name, tensor in reversed(full.items())}
    assert fingerprint(full) == fingerprint(half)
    assert fingerprint({name: tensor.float() for name, tensor in half.items()}) == fingerprint(full)


def test_fingerprint_sees_names_shapes_and_values():
    base = {"a": torch.arange(12.0).reshape(3, 4), "b": torch.ones(1000)}
    changed = [
        {"c": base["a"], "b": base["b"]},
        {"a": base["a"].reshape(4, 3), "b": base["b"]},
        {"a": base["a"] + 0.5, "b": base["b"]},
        {"a": base["a"], "b": base["b"] * 1.01},
        {"a": base["a"]},
    ]
    assert len({fingerprint(state) for state in [base, *changed]}) == 6
    transposed = {"a": base["a"].T.contiguous().T, "b": base["b"]}
    assert fingerprint(transposed) == fingerprint(base)


def test_fingerprint_is_fixed_for_ever():
    a, b = np.arange(1000, dtype=np.float32).reshape(10, 100) / 7, np.float32([0.1])
    picked = a.reshape(-1)[np.arange(256) * 999 // 255].astype(np.float16)
    expected = hashlib.sha256(b" a 10 x 100 " + picked.tobytes() + b" b 1 " + np.float16([0.1]).tobytes()).hexdigest()
    assert fingerprint({"b": torch.from_numpy(b), "a": torch.from_numpy(a)}) == expected
