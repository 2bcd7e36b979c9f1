import dataclasses
import hashlib
import json
import os
import random
import struct
import threading
import time
import tracemalloc

import numpy as np
import pytest
import torch
from safetensors.torch import load, load_file, save_file
from subjects import make_subject, same

from p3s.errors import FamilyError, SubjectFileError
from p3s.files import MAX_HEADER, safe_name
from p3s.subject import (
    SubjectReference,
    check_family,
    check_weights,
    fingerprint,
    free_path,
    load_info,
    load_subject,
    save_new_subject,
    save_subject,
)
from p3s.subject_info import info_from_json, info_to_json


@pytest.fixture
def saved(tmp_path):
    return save_subject(make_subject(), tmp_path / "subject.safetensors")


def rewrite(path, change):
    """Change a file's header (a dict, in place; a returned value replaces it) and keep its data."""
    raw = path.read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + length])
    header = change(header) or header
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + raw[8 + length :])


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
    subject = make_subject(training_key="ef" * 32, loss_map=losses)
    path = save_subject(subject, tmp_path / "a.safetensors")
    assert same(load_subject(path), subject)
    old = json.loads(info_to_json(subject.info))
    del old["training_key"], old["loss_map"]
    assert info_from_json(json.dumps(old)) == make_subject().info


@pytest.mark.parametrize("losses", [{"loss": 1}, {"loss": ["1"]}, {"loss": [1.0], "step": []}, {"loss": [True]}])
def test_losses_that_are_no_lists_of_numbers_are_refused(losses):
    with pytest.raises(SubjectFileError, match="loss_map"):
        info_to_json(make_subject(loss_map=losses).info)


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
    with pytest.raises(SubjectFileError, match="exists already"):
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
        ({"prompt": "\ud800"}, "cannot be written as JSON"),
        ({"licence": "x" * MAX_HEADER}, "are allowed"),
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
    with pytest.raises(SubjectFileError, match="reference 2 has another number of channels"):
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


# Damaged and hostile files


def check_refused(path, message):
    with pytest.raises(SubjectFileError, match=message) as error:
        load_subject(path)
    assert str(error.value).startswith(path.name)


def test_missing_file_and_folder(tmp_path):
    check_refused(tmp_path / "no.safetensors", "there is no such file")
    (tmp_path / "folder.safetensors").mkdir()
    check_refused(tmp_path / "folder.safetensors", "there is no such file")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes: it is cut off"),
        (b"abc", "3 bytes: it is cut off"),
        (b"PK\x03\x04" + b"x" * 100, "pickle"),
        (b"\x80\x02}q\x00" + b"x" * 100, "pickle"),
        (b"<!DOCTYPE html><html>", "web page"),
        (b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
        (struct.pack("<Q", 2**63) + b"{}", "header should have 9223372036854775808 bytes"),
        (struct.pack("<Q", 50) + b"{}", "header should have 50 bytes, but the file has 10"),
        (struct.pack("<Q", 2) + b"{}", "not a P3S subject"),
        (struct.pack("<Q", 2) + b"[]", "header is damaged"),
        (struct.pack("<Q", 0), "header is damaged"),
        (struct.pack("<Q", 4) + b"\xff\xfe{}", "header is damaged"),
        (struct.pack("<Q", 60_000) + b"[" * 60_000, "header is damaged"),
        (struct.pack("<Q", 9000) + b'{"a":' + b"9" * 8994 + b"}", "header is damaged|not a P3S subject"),
        (struct.pack("<Q", 15) + b'{"a":1,"a":NaN}', "header is damaged"),
    ],
)
def test_files_that_are_something_else(tmp_path, content, message):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    check_refused(path, message)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lora_unet_down_blocks_0.lora_down.weight", "a LoRA, not a P3S subject"),
        ("model.diffusion_model.input_blocks.0.0.weight", "a checkpoint or U-Net, not a P3S subject"),
        ("something", "another kind, not a P3S subject"),
    ],
)
def test_other_models_are_named(tmp_path, name, message):
    path = tmp_path / "x.safetensors"
    save_file({name: torch.zeros(2, dtype=torch.float8_e4m3fn)}, path, {"format": "pt"})
    check_refused(path, message)


def test_a_header_of_absurd_length_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", 200 * 2**20))
        file.truncate(300 * 2**20)  # sparse: large on paper only
    tracemalloc.start()
    check_refused(path, "header should have 209715200 bytes")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def set_entry(**values):
    return lambda header: header["copy.image_latent.to_q.weight"].update(values)


def set_metadata(**values):
    return lambda header: header["__metadata__"].update(values)


def set_info(drop=(), **values):
    def change(header):
        info = json.loads(header["__metadata__"]["p3s"])
        for name in drop:
            del info[name]
        header["__metadata__"]["p3s"] = json.dumps({**info, **values})

    return change


def rename(old, new):
    return lambda header: header.update({new: header.pop(old)})


LARGE = 2**40

BAD_HEADERS = {
    "dtype": (set_entry(dtype="F64"), "has type F64; allowed are F32, F16, BF16"),
    "dtype kind": (set_entry(dtype=["F32"]), "has type"),
    "huge shape": (set_entry(shape=[LARGE, LARGE]), "does not fit its shape"),
    "huge and consistent": (set_entry(shape=[LARGE], data_offsets=[0, 4 * LARGE]), "overlaps|cut off"),
    "overflow": (set_entry(shape=[2**62, 4]), "does not fit its shape"),
    "negative": (set_entry(shape=[-2, -3]), "bad shape"),
    "rank": (set_entry(shape=[1] * 9), "bad shape"),
    "scalar": (set_entry(shape=[]), "bad shape"),
    "empty": (set_entry(shape=[0, 3], data_offsets=[0, 0]), "bad shape"),
    "float shape": (set_entry(shape=[2.0, 3]), "bad shape"),
    "bool shape": (set_entry(shape=[True, 6]), "bad shape"),
    "offsets": (set_entry(data_offsets=[0]), "does not fit its shape"),
    "reversed": (set_entry(data_offsets=[24, 0]), "does not fit its shape"),
    "overlap": (set_entry(data_offsets=[24, 48]), "overlaps another"),
    "more": (set_entry(more=1), "entry of tensor"),
    "entry": (lambda header: header.update({"copy.x": 3}), "entry of tensor"),
    "other shape": (set_entry(shape=[3, 2]), "checksum"),
    "other key": (rename("copy.zero.1.bias", "copy.zero.2.bias"), "checksum"),
    "metadata kind": (lambda header: header.update(__metadata__=[]), "header is damaged"),
    "metadata value": (set_metadata(x=1), "header is damaged"),
    "no metadata": (lambda header: header.pop("__metadata__") and None, "not a P3S subject"),
    "newer": (set_metadata(format_version="3"), "format version 3 is newer than version 2"),
    "version": (set_metadata(format_version="one"), "no valid format version"),
    "old version": (set_metadata(format_version="0"), "no valid format version"),
    "no info": (lambda header: header["__metadata__"].pop("p3s") and None, "metadata of the subject is missing"),
    "info": (set_metadata(p3s="{"), "not valid JSON"),
    "info depth": (set_metadata(p3s="[" * 100_000), "not valid JSON"),
    "info kind": (set_metadata(p3s="[]"), "not a JSON object"),
    "missing fields": (set_info(drop=["family", "steps"]), "lacks family, steps"),
    "field kind": (set_info(completed=1), "'completed' is not of type bool"),
    "field kind 2": (set_info(steps=True), "'steps' is not of type int"),
    "list item": (set_info(image_hashes=[1]), "not a list of texts"),
    "edited": (set_info(identifier="other"), "checksum"),
    "no checksum": (lambda header: header["__metadata__"].pop("sha256") and None, "checksum"),
    "no header": (lambda header: b"{}", "not a P3S subject"),
    "no tensors": (lambda header: {"__metadata__": header["__metadata__"]}, "should hold 0 bytes"),
}


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_bad_headers(saved, case):
    change, message = BAD_HEADERS[case]
    rewrite(saved, change)
    tracemalloc.start()
    check_refused(saved, message)
    assert tracemalloc.get_traced_memory()[1] < 8 * 2**20
    tracemalloc.stop()


def with_valid_checksum(path, change):
    """Write a file whose checksum is right although its content is not, as a hostile writer would."""
    from p3s.files import write_safetensors
    from p3s.subject import _digest

    raw = path.read_bytes()
    metadata = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])["__metadata__"]
    tensors = load(raw)
    change(tensors, metadata)
    metadata["sha256"] = _digest(tensors, metadata["p3s"], metadata["format_version"])
    with open(path, "wb") as file:
        write_safetensors(file, tensors, metadata)


HOSTILE = {
    "nan": (lambda t, m: t["copy.zero.1.bias"].fill_(torch.nan), r"'zero\.1\.bias' holds values that are not finite"),
    "no weights": (lambda t, m: [t.pop(k) for k in list(t) if k.startswith("copy.")], "has no weights"),
    "no reference": (lambda t, m: t.pop("reference.0.tokens"), "number 1 is missing"),
    "more references": (lambda t, m: t.update({"reference.1.latent": torch.zeros(4, 2, 2)}), "the file holds more"),
    "foreign": (lambda t, m: t.update({"foreign": torch.zeros(1)}), "no place in a subject file"),
    "no key": (lambda t, m: t.update({"copy.": torch.zeros(1)}), "no place in a subject file"),
    "index": (lambda t, m: t.update({"reference.00.latent": torch.zeros(1)}), "no place in a subject file"),
    "latent rank": (lambda t, m: t.update({"reference.0.latent": torch.zeros(4)}), "latent of reference 1"),
    "latent type": (lambda t, m: t.update({"reference.0.latent": torch.zeros(4, 2, 2).half()}), "not float32"),
    "token grid": (lambda t, m: t.update({"reference.0.tokens": torch.zeros(7, 6)}), "square grid"),
    "points": (lambda t, m: m.update(p3s=m["p3s"].replace("0.25", "7")), "points of reference 1"),
    "no points": (lambda t, m: m.update(p3s=json.dumps(json.loads(m["p3s"]) | {"points": []})), "file holds more"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_with_a_right_checksum(saved, case):
    change, message = HOSTILE[case]
    with_valid_checksum(saved, change)
    check_refused(saved, message)


def test_any_damage_is_noticed_or_harmless(tmp_path):
    subject = make_subject(2)
    path = save_subject(subject, tmp_path / "a.safetensors")
    raw = path.read_bytes()
    rng = random.Random(0)
    loaded, refused = 0, 0
    start = time.perf_counter()
    for i in range(2000):
        damaged = bytearray(raw)
        if i % 3 == 0:
            damaged = damaged[: rng.randrange(len(raw))]
        for _ in range(rng.choice((1, 1, 2, 8)) if i % 3 else rng.randrange(2)):
            if damaged:
                damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            result = load_subject(path)
        except SubjectFileError:
            refused += 1
        else:
            assert same(result, subject)
            loaded += 1
    assert refused > 1700
    assert loaded > 4  # the same byte again, or a byte of the title
    assert time.perf_counter() - start < 60


def test_every_truncation_and_every_appended_byte_is_refused(saved):
    raw = saved.read_bytes()
    for length in range(0, len(raw), 7):
        saved.write_bytes(raw[:length])
        with pytest.raises(SubjectFileError):
            load_subject(saved)
    saved.write_bytes(raw + b"\0")
    check_refused(saved, "should hold")


# Does it fit the model?


def test_check_weights():
    subject = make_subject()
    expected = {key: tensor.shape for key, tensor in subject.weights.items()}
    check_weights(subject, expected)
    with pytest.raises(SubjectFileError, match=r"zero\.1\.bias is 5, expected 7 x 2"):
        check_weights(subject, {**expected, "zero.1.bias": torch.Size([7, 2])})
    with pytest.raises(SubjectFileError, match="new is missing"):
        check_weights(subject, {**expected, "new": torch.Size([1])})
    expected.pop("zero.1.bias")
    with pytest.raises(SubjectFileError, match=r"zero\.1\.bias is unexpected"):
        check_weights(subject, expected)
    with pytest.raises(SubjectFileError, match=r"and 9 more"):
        check_weights(subject, {f"x{i}": torch.Size([1]) for i in range(10)})


def test_check_family():
    subject = make_subject()
    assert check_family(subject, "SD1.x", "ab" * 32) == ()
    (warning,) = check_family(subject, "SD1.x", "00" * 32)
    assert "other weights of the same family" in warning
    with pytest.raises(FamilyError, match=r"SD1\.x.*SDXL"):
        check_family(subject, "SDXL", "ab" * 32)


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
