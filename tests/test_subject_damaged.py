"""Subject files that are damaged, hostile or something else."""

import json
import random
import struct
import time
import tracemalloc

import pytest
import torch
from safetensors.torch import load, save_file
from subjects import make_subject, rewrite, same

from p3s.errors import SubjectFileError
from p3s.subject.file import load_subject, save_subject


@pytest.fixture
def saved(tmp_path):
    return save_subject(make_subject(), tmp_path / "subject.safetensors")


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
    "newer": (set_metadata(format_version="4"), "format version 4 is newer than version 3"),
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
    from p3s.safetensors_format import write_safetensors
    from p3s.subject.file import _digest

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
